# CPython for a macOS extension that is cross-compiled: the headers of the interpreter that builds,
# whose version the extension is then for. They are the same on every system except pyconfig.h, which
# lies among them and would be found first; so they are copied, with a pyconfig.h for macOS.
#
# The limited API, one extension for many versions, is no choice: nanobind gives extensions built with
# it an ABI of their own, and MLX's bindings, which arrays are exchanged with, are not.

find_package(Python 3.10 COMPONENTS Interpreter REQUIRED)
execute_process(COMMAND "${Python_EXECUTABLE}" -c "import sysconfig; print(sysconfig.get_path('include'))"
                OUTPUT_VARIABLE zmlx_python_headers OUTPUT_STRIP_TRAILING_WHITESPACE
                COMMAND_ERROR_IS_FATAL ANY)
if(NOT EXISTS "${zmlx_python_headers}/Python.h")
  message(FATAL_ERROR "Python's headers are not in ${zmlx_python_headers} (Debian: python3-dev)")
endif()
file(COPY "${zmlx_python_headers}/" DESTINATION "${PROJECT_BINARY_DIR}/python-headers"
     PATTERN pyconfig.h EXCLUDE PATTERN internal EXCLUDE)
file(COPY "${CMAKE_CURRENT_LIST_DIR}/toolchains/aarch64-macos/pyconfig.h"
     DESTINATION "${PROJECT_BINARY_DIR}/python-headers")
set(Python_INCLUDE_DIRS "${PROJECT_BINARY_DIR}/python-headers")
set(Python_SOABI "cpython-${Python_VERSION_MAJOR}${Python_VERSION_MINOR}-darwin")
add_library(Python::Module INTERFACE IMPORTED)
target_include_directories(Python::Module INTERFACE "${Python_INCLUDE_DIRS}")
