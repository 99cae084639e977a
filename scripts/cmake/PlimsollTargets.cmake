# What every target of the project shares: warnings, sanitizers, include root. One library per top-level folder.

add_library(plimsoll_flags INTERFACE)
target_include_directories(plimsoll_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
target_compile_features(plimsoll_flags INTERFACE cxx_std_20)
target_compile_options(plimsoll_flags INTERFACE
  $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow>>)
# GCC 12 sees overflows and overlaps inside inlined library code (std::string, fmt) that cannot happen.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(plimsoll_flags INTERFACE
    $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow;-Wno-restrict;-Wno-array-bounds>>)
endif()
if(PLIMSOLL_WERROR)
  target_compile_options(plimsoll_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:-Werror>>)
endif()
if(PLIMSOLL_NATIVE)
  target_compile_options(plimsoll_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:-march=native>>)
endif()
if(PLIMSOLL_SANITIZE)
  target_compile_options(plimsoll_flags INTERFACE -fsanitize=${PLIMSOLL_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(plimsoll_flags INTERFACE -fsanitize=${PLIMSOLL_SANITIZE})
endif()

# plimsoll_library(NAME DEPENDS lib… [PRIVATE lib…] [EXCLUDE regex…]): every .cpp below the calling folder; its headers are installed.
# The sources are globbed so that a new op is a new file and nothing else.
function(plimsoll_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;PRIVATE;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.hpp)
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER headers EXCLUDE REGEX ${pattern})
  endforeach()
  add_library(plimsoll_${name} ${sources})
  target_sources(plimsoll_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${headers})
  add_library(plimsoll::${name} ALIAS plimsoll_${name})
  set_target_properties(plimsoll_${name} PROPERTIES EXPORT_NAME ${name})
  target_link_libraries(plimsoll_${name} PUBLIC plimsoll_flags ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE})
endfunction()
