# What a wheel or `cmake --install` holds: the library, its headers and its CMake package. In a wheel
# all of it lies in the Python package's folder, so `python -m zmlx --cmake-dir` finds it.

include(CMakePackageConfigHelpers)

if(SKBUILD)
  set(ZMLX_INSTALL_PREFIX zmlx)
  # Beside this package in site-packages.
  set_target_properties(zmlx PROPERTIES INSTALL_RPATH "${ZMLX_ORIGIN}/../../mlx/lib")
else()
  set(ZMLX_INSTALL_PREFIX .)
  get_target_property(mlx_location mlx LOCATION)
  get_filename_component(mlx_folder "${mlx_location}" DIRECTORY)
  set_target_properties(zmlx PROPERTIES INSTALL_RPATH "${mlx_folder}")
endif()

target_include_directories(zmlx PUBLIC $<INSTALL_INTERFACE:${ZMLX_INSTALL_PREFIX}/include>)
install(TARGETS zmlx EXPORT zmlxTargets
        LIBRARY DESTINATION ${ZMLX_INSTALL_PREFIX}/lib
        RUNTIME DESTINATION ${ZMLX_INSTALL_PREFIX}/bin)
install(DIRECTORY include/zmlx DESTINATION ${ZMLX_INSTALL_PREFIX}/include)
install(EXPORT zmlxTargets NAMESPACE zmlx:: DESTINATION ${ZMLX_INSTALL_PREFIX}/share/cmake/zmlx)
configure_package_config_file(cmake/zmlxConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/zmlxConfig.cmake
                              INSTALL_DESTINATION ${ZMLX_INSTALL_PREFIX}/share/cmake/zmlx)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/zmlxConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/zmlxConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/zmlxConfigVersion.cmake
        DESTINATION ${ZMLX_INSTALL_PREFIX}/share/cmake/zmlx)
