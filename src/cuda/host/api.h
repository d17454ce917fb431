#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "mlx/array.h"
#include "mlx/stream.h"

/// What a CUDA build of MLX has loaded into the process, found at run time: this library is linked
/// with neither CUDA nor MLX's CUDA backend, so that one build serves every wheel of MLX on Linux.
namespace zmlx::cuda {

namespace mx = mlx::core;

/// CUDA's dim3, as functions take it.
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

/// What an array's buffer points to on CUDA: MLX's `cu::CudaBuffer`, which its headers define only
/// for those who have CUDA's.
struct Buffer {
  void* data;
  size_t size;
  int device;  ///< -1 for managed memory
};

/// Where an evaluated array begins on the GPU.
inline void* gpu_pointer(const mx::array& a) {
  return static_cast<char*>(static_cast<Buffer*>(const_cast<mx::array&>(a).buffer().ptr())->data) +
         a.offset();
}

using Status = int;  ///< of the driver and of NVRTC; 0 is success

struct Api {
  // MLX: cu::get_command_encoder and methods of cu::CommandEncoder.
  void* (*get_command_encoder)(mx::Stream);
  void (*set_input_array)(void* encoder, const mx::array&);
  void (*set_output_array)(void* encoder, const mx::array&);
  void (*add_kernel_node)(void* encoder, void* function, Dim3 grid, Dim3 block, Dim3 cluster,
                          uint32_t shared_bytes, void** parameters);
  void (*add_completed_handler)(void* encoder, std::function<void()>);

  // The driver.
  Status (*cuModuleLoadData)(void** module, const void* image);
  Status (*cuModuleGetFunction)(void** function, void* module, const char* name);
  Status (*cuFuncSetAttribute)(void* function, int attribute, int value);
  Status (*cuDeviceGetAttribute)(int* value, int attribute, int device);
  Status (*cuMemAllocAsync)(void** pointer, size_t bytes, void* stream);
  Status (*cuMemFree)(void* pointer);
  Status (*cuMemsetD8)(void* pointer, unsigned char value, size_t bytes);
  Status (*cuStreamSynchronize)(void* stream);
  Status (*cuGetErrorName)(Status, const char** name);
  Status (*cuDriverGetVersion)(int* version);  ///< 13000 for 13.0

  // NVRTC.
  Status (*nvrtcVersion)(int* major, int* minor);
  Status (*nvrtcCreateProgram)(void** program, const char* source, const char* name, int headers,
                               const char* const* header_texts, const char* const* header_names);
  Status (*nvrtcDestroyProgram)(void** program);
  Status (*nvrtcCompileProgram)(void* program, int options, const char* const* texts);
  Status (*nvrtcGetCUBINSize)(void* program, size_t* bytes);
  Status (*nvrtcGetCUBIN)(void* program, char* image);
  Status (*nvrtcGetProgramLogSize)(void* program, size_t* bytes);
  Status (*nvrtcGetProgramLog)(void* program, char* text);

  std::string include_folder;  ///< of CUDA's headers
  std::string obstacle;        ///< why kernels cannot be compiled and launched; empty if they can
};

/// Found once. Everything may be called if `obstacle` is empty.
const Api& api();

/// @throws std::runtime_error naming `call` and the driver's error, unless `status` is success.
void check(Status status, const char* call);

}  // namespace zmlx::cuda
