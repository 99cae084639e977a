# PLIMSOLL_CUDA: the language CUDA and the libraries of the toolkit for kernels/cuda. Stops where there is no compiler.
# CMAKE_CUDA_ARCHITECTURES chooses other devices than the data centre's of today: Ampere and Hopper, and what comes after Hopper
# by the driver's compiler.

include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  file(GLOB toolkits LIST_DIRECTORIES true /usr/local/cuda-*)
  list(SORT toolkits COMPARE NATURAL ORDER DESCENDING)
  list(TRANSFORM toolkits APPEND /bin)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin ${toolkits})
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "PLIMSOLL_CUDA=ON needs nvcc of the CUDA toolkit (13.0 or later), and none was found: put it into PATH, give "
    "-DCMAKE_CUDA_COMPILER=/path/to/nvcc, or build without it (preset release, or -DPLIMSOLL_CUDA=OFF).")
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
endif()
# One runtime for the module and for the libraries that it uses.
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
enable_language(CUDA)
if(CMAKE_VERSION VERSION_LESS 3.26)  # these do not know that nvcc takes C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
find_package(CUDAToolkit 13.0 REQUIRED)
