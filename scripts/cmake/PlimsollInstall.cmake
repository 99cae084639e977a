# What `cmake --install` puts where: the binary, the libraries and headers, and what find_package(plimsoll) reads.
# Headers keep their paths below include/plimsoll, so that "runtime/core/error.hpp" means the same inside and outside.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/plimsoll)
install(TARGETS plimsoll plimsoll_flags plimsoll_runtime plimsoll_kernels plimsoll_comm plimsoll_optim plimsoll_parallel plimsoll_launch
  EXPORT plimsollTargets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/plimsoll)
install(EXPORT plimsollTargets NAMESPACE plimsoll:: DESTINATION ${package_dir})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/plimsollConfig.cmake.in ${PROJECT_BINARY_DIR}/plimsollConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/plimsollConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/plimsollConfig.cmake ${PROJECT_BINARY_DIR}/plimsollConfigVersion.cmake DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
