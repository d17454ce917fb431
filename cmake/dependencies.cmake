# MLX, from the Python that CMake finds unless MLX_ROOT says otherwise; Highway, from the system or
# fetched; threads.

find_package(Python 3.10 COMPONENTS Interpreter Development.Module REQUIRED)
if(NOT MLX_ROOT)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m mlx --cmake-dir
                  OUTPUT_VARIABLE MLX_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT MLX_ROOT)
  message(FATAL_ERROR "MLX was not found by ${Python_EXECUTABLE}. Install it (pip install 'mlx[cpu]' "
                      "on Linux without a GPU), or set MLX_ROOT to the folder that "
                      "`python -m mlx --cmake-dir` prints.")
endif()
find_package(MLX CONFIG REQUIRED)

find_package(Threads REQUIRED)

find_package(hwy 1.0.3 CONFIG QUIET)
if(hwy_FOUND)
  add_library(zmlx_hwy INTERFACE)
  target_link_libraries(zmlx_hwy INTERFACE hwy::hwy)
else()
  message(STATUS "Highway was not found (Debian: libhwy-dev); fetching its source")
  include(FetchContent)
  set(HWY_ENABLE_TESTS OFF CACHE BOOL "" FORCE)
  set(HWY_ENABLE_EXAMPLES OFF CACHE BOOL "" FORCE)
  set(HWY_ENABLE_INSTALL OFF CACHE BOOL "" FORCE)
  FetchContent_Declare(highway GIT_REPOSITORY https://github.com/google/highway.git GIT_TAG 1.0.7)
  FetchContent_MakeAvailable(highway)
  add_library(zmlx_hwy INTERFACE)
  target_link_libraries(zmlx_hwy INTERFACE hwy)
endif()
