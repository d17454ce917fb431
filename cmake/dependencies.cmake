# MLX, from the Python that CMake finds unless MLX_ROOT says otherwise; Highway, from the system or
# fetched; threads.

if(CMAKE_CROSSCOMPILING AND APPLE)
  include(macos_python)
else()
  find_package(Python 3.10 COMPONENTS Interpreter Development.Module REQUIRED)
endif()
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
if(APPLE)
  # MLX's package names Apple's frameworks by their paths in the SDK that MLX itself was built with.
  # ZMLX calls none of them.
  set_target_properties(mlx PROPERTIES INTERFACE_LINK_LIBRARIES "")
endif()

find_package(Threads REQUIRED)

# Every Apple processor has the same vectors. There, and where nothing can be run, kernels are compiled
# for the compiler's own instruction set alone. That needs no more of Highway than its headers: its
# library is for choosing at run time.
set(ZMLX_STATIC_DISPATCH_DEFAULT OFF)
if(APPLE OR CMAKE_CROSSCOMPILING)
  set(ZMLX_STATIC_DISPATCH_DEFAULT ON)
endif()
option(ZMLX_STATIC_DISPATCH "Compile CPU kernels for the compiler's own instruction set alone"
       ${ZMLX_STATIC_DISPATCH_DEFAULT})
add_library(zmlx_hwy INTERFACE)
include(FetchContent)
set(HWY_ENABLE_TESTS OFF CACHE BOOL "" FORCE)
set(HWY_ENABLE_EXAMPLES OFF CACHE BOOL "" FORCE)
set(HWY_ENABLE_INSTALL OFF CACHE BOOL "" FORCE)
set(ZMLX_HIGHWAY_SOURCE GIT_REPOSITORY https://github.com/google/highway.git GIT_TAG 1.0.7)

if(ZMLX_STATIC_DISPATCH)
  find_path(ZMLX_HIGHWAY_HEADERS hwy/highway.h NO_CMAKE_FIND_ROOT_PATH)
  set(zmlx_highway_headers "${ZMLX_HIGHWAY_HEADERS}")
  if(NOT ZMLX_HIGHWAY_HEADERS)
    message(STATUS "Highway was not found (Debian: libhwy-dev, Homebrew: highway); fetching its source")
    # A folder without a CMakeLists.txt, so that nothing is built.
    FetchContent_Declare(highway ${ZMLX_HIGHWAY_SOURCE} SOURCE_SUBDIR hwy)
    FetchContent_MakeAvailable(highway)
    set(zmlx_highway_headers "${highway_SOURCE_DIR}")
  endif()
  # In a folder of their own: others beside them need not be for this target.
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/highway")
  file(CREATE_LINK "${zmlx_highway_headers}/hwy" "${PROJECT_BINARY_DIR}/highway/hwy" SYMBOLIC)
  target_include_directories(zmlx_hwy SYSTEM INTERFACE "${PROJECT_BINARY_DIR}/highway")
  target_compile_definitions(zmlx_hwy INTERFACE HWY_COMPILE_ONLY_STATIC)
  return()
endif()
find_package(hwy 1.0.3 CONFIG QUIET)
if(hwy_FOUND)
  target_link_libraries(zmlx_hwy INTERFACE hwy::hwy)
else()
  message(STATUS "Highway was not found (Debian: libhwy-dev); fetching its source")
  FetchContent_Declare(highway ${ZMLX_HIGHWAY_SOURCE})
  FetchContent_MakeAvailable(highway)
  target_link_libraries(zmlx_hwy INTERFACE hwy)
endif()
