# Read after CMake's own rules for the platform. Zig's linker crashes on bundles, which CMake's modules
# are on macOS; Python loads dynamic libraries as well.
set(CMAKE_SHARED_MODULE_CREATE_CXX_FLAGS "-dynamiclib -Wl,-headerpad_max_install_names")
