# Highway compiles the CPU kernels once per instruction set and picks at run time. On x86-64 the
# oldest is SSE4.2 (2010): Highway's scalar stand-in below it lacks operations that the kernels use.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(zmlx PRIVATE -msse4.2 -maes -mpclmul)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64" AND NOT APPLE)
  # Highway's NEON target includes AES.
  target_compile_options(zmlx PRIVATE -march=armv8-a+crypto)
endif()
if(ZMLX_SANITIZE)
  # Instrumented, each target takes minutes to compile; one source serves all of them.
  target_compile_definitions(zmlx PRIVATE "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_AVX3)")
  # So do the checks that sit on every vector access, which the address sanitizer looks at as well.
  file(GLOB ZMLX_FORMAT_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/cpu/formats/*.cpp")
  set_source_files_properties(${ZMLX_FORMAT_SOURCES} PROPERTIES COMPILE_OPTIONS
    "-fno-sanitize=null;-fno-sanitize=alignment;-fno-sanitize=object-size;-fno-sanitize=pointer-overflow")
else()
  target_compile_definitions(zmlx PRIVATE HWY_DISABLED_TARGETS=HWY_SSSE3)
endif()
