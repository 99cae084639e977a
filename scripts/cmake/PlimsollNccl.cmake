# PLIMSOLL_NCCL: the headers of NCCL and of the CUDA runtime (NCCL_INCLUDE, CUDART_INCLUDE) for comm/nccl_*.cpp. The library
# itself is opened when a run asks for it, so a program that was built with it starts where it is not installed. The default is
# ON where the headers are found.

find_path(NCCL_INCLUDE nccl.h HINTS ENV NCCL_HOME ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES include PATHS /usr/local/cuda/include)
find_path(CUDART_INCLUDE cuda_runtime_api.h HINTS ${NCCL_INCLUDE} ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES include
  PATHS /usr/local/cuda/include)
set(nccl_found OFF)
if(NCCL_INCLUDE AND CUDART_INCLUDE)
  set(nccl_found ON)
endif()
option(PLIMSOLL_NCCL "Build the NCCL transport" ${nccl_found})
if(PLIMSOLL_CUDA AND NOT nccl_found AND NOT PLIMSOLL_NCCL)
  message(WARNING "NCCL (nccl.h and cuda_runtime_api.h) was not found: the ranks of runs with device: cuda will exchange tensors "
    "through host memory. Install it, or give -DNCCL_INCLUDE=… and -DCUDART_INCLUDE=….")
endif()
if(PLIMSOLL_NCCL AND NOT nccl_found)
  message(FATAL_ERROR "PLIMSOLL_NCCL=ON needs nccl.h and cuda_runtime_api.h: give -DNCCL_INCLUDE=… and -DCUDART_INCLUDE=…, or "
    "build without it (-DPLIMSOLL_NCCL=OFF).")
endif()
