# What `zmlx::build_info()` reports.

set(ZMLX_SOURCE_COMMIT "" CACHE STRING "The commit of sources that are not a checkout")
find_package(Git QUIET)
set(ZMLX_GIT_COMMIT "${ZMLX_SOURCE_COMMIT}")
if(GIT_FOUND AND EXISTS "${PROJECT_SOURCE_DIR}/.git")
  execute_process(COMMAND "${GIT_EXECUTABLE}" rev-parse --short=12 HEAD
                  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE ZMLX_GIT_COMMIT
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set_source_files_properties(src/runtime.cpp PROPERTIES COMPILE_DEFINITIONS
  "ZMLX_VERSION=\"${ZMLX_VERSION}\";ZMLX_GIT_COMMIT=\"${ZMLX_GIT_COMMIT}\";ZMLX_BUILD_TYPE=\"${CMAKE_BUILD_TYPE}\"")
