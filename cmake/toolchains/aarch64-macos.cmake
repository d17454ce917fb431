# macOS on Apple silicon, from any machine: Zig is compiler and linker (pip install ziglang).
# scripts/macos/deps.sh brings the rest, MLX's macOS wheel and a list of what Apple's libc++ exports:
#
#   bash scripts/macos/deps.sh .venv/bin/python && cmake --preset macos && cmake --build build/macos

set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(ZMLX_MACOS_VERSION 14.0)  # as old as MLX's wheel

get_filename_component(zmlx_root "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
set(ZMLX_MACOS_DEPS "${zmlx_root}/build/macos-deps" CACHE PATH "What scripts/macos/deps.sh makes")
if(NOT ZMLX_ZIG)
  file(GLOB zmlx_zig "${zmlx_root}/.venv/lib/python3*/site-packages/ziglang/zig")
  find_program(ZMLX_ZIG NAMES ${zmlx_zig} zig REQUIRED NO_CMAKE_FIND_ROOT_PATH)
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZMLX_ZIG ZMLX_MACOS_DEPS)
# Linking needs what CMake asks the compiler about before.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
# Zig keeps what it has compiled; ccache would take "c++" for a source.
set(CMAKE_CXX_COMPILER_LAUNCHER "")

foreach(language C CXX)
  set(CMAKE_${language}_COMPILER_TARGET aarch64-macos.${ZMLX_MACOS_VERSION})
  set(CMAKE_${language}_ARCHIVE_CREATE "${ZMLX_ZIG} ar qc <TARGET> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_APPEND "${ZMLX_ZIG} ar q <TARGET> <OBJECTS>")
  set(CMAKE_${language}_ARCHIVE_FINISH "${ZMLX_ZIG} ranlib <TARGET>")
endforeach()
set(CMAKE_C_COMPILER "${ZMLX_ZIG}" cc)
set(CMAKE_CXX_COMPILER "${ZMLX_ZIG}" c++)

# Zig would link its own, newer libc++ into every library. Then an exception that MLX throws could not
# be caught here by its type: each copy of libc++ has type information of its own, which Apple's ABI
# compares by address. So the system's is used, as Xcode does: Zig's headers are told to respect what
# the oldest macOS has (they leave out or refuse anything newer), and libc++.tbd stands for it.
string(CONCAT CMAKE_CXX_FLAGS_INIT
       "-U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS -D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1 "
       "-U_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS")
foreach(kind EXE SHARED MODULE)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "-nostdlib++")
endforeach()
set(CMAKE_CXX_STANDARD_LIBRARIES_INIT "${ZMLX_MACOS_DEPS}/libc++.tbd")

set(CMAKE_USER_MAKE_RULES_OVERRIDE_CXX "${CMAKE_CURRENT_LIST_DIR}/aarch64-macos/rules.cmake")
# Install names and paths are right from the start: Apple's tool that changes them is not here.
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_NAME_TOOL install_name_tool)
