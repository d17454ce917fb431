#include "cuda/host/api.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "mlx/transforms.h"

namespace zmlx::cuda {

namespace {

/// The path of libmlx, in whichever process.
std::string mlx_library() {
  const auto function = static_cast<void (*)(std::vector<mx::array>)>(&mx::eval);
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(function), &info) || !info.dli_fname) return "";
  return info.dli_fname;
}

std::string parent(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

/// CUDA's headers: those that pip installs beside MLX, else a toolkit's.
std::string find_headers(const std::string& library) {
  std::string candidates[] = {"", "", "", "/usr/local/cuda/include"};
  // site-packages/mlx/lib/libmlx.so
  candidates[0] = parent(parent(parent(library))) + "/nvidia/cu13/include";
  if (const char* home = std::getenv("CUDA_HOME")) candidates[1] = std::string(home) + "/include";
  if (const char* home = std::getenv("CUDA_PATH")) candidates[2] = std::string(home) + "/include";
  for (const auto& folder : candidates) {
    if (!folder.empty() && access((folder + "/cuda_bf16.h").c_str(), R_OK) == 0) return folder;
  }
  return "";
}

/// Looks functions up in libmlx and in what it depends on: the driver and NVRTC.
class Finder {
 public:
  explicit Finder(const std::string& library)
      : handle_(library.empty() ? nullptr : dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD)) {}

  template <typename Function>
  void find(Function& function, const char* symbol) {
    function = reinterpret_cast<Function>(handle_ ? dlsym(handle_, symbol) : nullptr);
    if (!function && missing_.empty()) missing_ = symbol;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* handle_;
  std::string missing_;
};

Api find_all() {
  Api a{};
  const auto library = mlx_library();
  Finder in(library);
  in.find(a.get_command_encoder, "_ZN3mlx4core2cu19get_command_encoderENS0_6StreamE");
  in.find(a.set_input_array, "_ZN3mlx4core2cu14CommandEncoder15set_input_arrayERKNS0_5arrayE");
  in.find(a.set_output_array, "_ZN3mlx4core2cu14CommandEncoder16set_output_arrayERKNS0_5arrayE");
  in.find(a.add_kernel_node,
          "_ZN3mlx4core2cu14CommandEncoder19add_kernel_node_rawEP9CUfunc_st4dim3S5_S5_jPPv");
  in.find(a.add_completed_handler,
          "_ZN3mlx4core2cu14CommandEncoder21add_completed_handlerESt8functionIFvvEE");
  in.find(a.cuModuleLoadData, "cuModuleLoadData");
  in.find(a.cuModuleGetFunction, "cuModuleGetFunction");
  in.find(a.cuFuncSetAttribute, "cuFuncSetAttribute");
  in.find(a.cuDeviceGetAttribute, "cuDeviceGetAttribute");
  in.find(a.cuMemAllocAsync, "cuMemAllocAsync");
  in.find(a.cuMemFree, "cuMemFree_v2");
  in.find(a.cuMemsetD8, "cuMemsetD8_v2");
  in.find(a.cuStreamSynchronize, "cuStreamSynchronize");
  in.find(a.cuGetErrorName, "cuGetErrorName");
  in.find(a.cuDriverGetVersion, "cuDriverGetVersion");
  in.find(a.nvrtcVersion, "nvrtcVersion");
  in.find(a.nvrtcCreateProgram, "nvrtcCreateProgram");
  in.find(a.nvrtcDestroyProgram, "nvrtcDestroyProgram");
  in.find(a.nvrtcCompileProgram, "nvrtcCompileProgram");
  in.find(a.nvrtcGetCUBINSize, "nvrtcGetCUBINSize");
  in.find(a.nvrtcGetCUBIN, "nvrtcGetCUBIN");
  in.find(a.nvrtcGetProgramLogSize, "nvrtcGetProgramLogSize");
  in.find(a.nvrtcGetProgramLog, "nvrtcGetProgramLog");
  if (!in.missing().empty()) {
    a.obstacle = "this MLX does not offer " + in.missing();
    return a;
  }
  a.include_folder = find_headers(library);
  if (a.include_folder.empty()) a.obstacle = "CUDA's headers were not found (set CUDA_HOME)";
  return a;
}

}  // namespace

const Api& api() {
  static const auto* found = new Api(find_all());  // leaked: used while the process ends
  return *found;
}

void check(Status status, const char* call) {
  if (status == 0) return;
  const char* name = nullptr;
  if (api().cuGetErrorName) api().cuGetErrorName(status, &name);
  throw std::runtime_error(std::string("[zmlx] ") + call + " failed: " +
                           (name ? std::string(name) : "error " + std::to_string(status)) + ".");
}

}  // namespace zmlx::cuda
