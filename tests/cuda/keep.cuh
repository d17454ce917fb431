#pragma once

/// Where instances leave their kernels' addresses, so that they are compiled. Not launched, because
/// NVRTC, which compiles what the library runs, has no host to launch from.
__device__ const void* keep;
