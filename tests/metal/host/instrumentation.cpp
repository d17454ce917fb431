#include <cstring>
#include <string>

#include "access.h"

// What compiled kernels call of sanitizers' run-time libraries, none of which is linked.

using namespace msl;

extern "C" {

/// As clang describes a type; the name is quoted.
struct MslTypeName {
  uint16_t kind, detail;
  char name[1];
};

// Kernels are compiled with -fsanitize=kernel-address and calls for every access; these are those
// calls. No shadow memory, no runtime library of the sanitizer.
#define MSL_ACCESS(size)                                                                        \
  void __asan_load##size##_noabort(const void* address) { check_access(address, size, false); } \
  void __asan_store##size##_noabort(const void* address) { check_access(address, size, true); }
MSL_ACCESS(1)
MSL_ACCESS(2)
MSL_ACCESS(4)
MSL_ACCESS(8)
MSL_ACCESS(16)
#undef MSL_ACCESS
void __asan_loadN_noabort(const void* address, size_t size) { check_access(address, size, false); }
void __asan_storeN_noabort(const void* address, size_t size) { check_access(address, size, true); }
void* __asan_memcpy(void* to, const void* from, size_t size) {
  if (size) {
    check_access(from, size, false);
    check_access(to, size, true);
  }
  return memcpy(to, from, size);
}
void* __asan_memmove(void* to, const void* from, size_t size) {
  if (size) {
    check_access(from, size, false);
    check_access(to, size, true);
  }
  return memmove(to, from, size);
}
void* __asan_memset(void* to, int value, size_t size) {
  if (size) check_access(to, size, true);
  return memset(to, value, size);
}
void __asan_handle_no_return() {}

// And of -fsanitize=bounds, for arrays whose size the compiler knows.
struct MslBoundsData {
  const char* file;
  uint32_t line, column;
  const MslTypeName* array;
  const void* index_type;
};
void __ubsan_handle_out_of_bounds(const MslBoundsData* data, uintptr_t index) {
  fault("index " + std::to_string(static_cast<int64_t>(index)) +
        " is out of bounds of an array of type " + data->array->name + " (" +
        place({data->file, static_cast<int>(data->line)}) + ")");
}

// And of -fsanitize=alignment.
struct MslTypeData {
  const char* file;
  uint32_t line, column;
  const MslTypeName* type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(const MslTypeData* data, uintptr_t address) {
  fault(std::string("uses an address as one of type ") + data->type->name +
        " which is no multiple of " + std::to_string(1u << data->log_alignment) +
        buffer_at(address) + " (" + place({data->file, static_cast<int>(data->line)}) + ")");
}

/// Rounds to nearest even. Clang calls it for every bfloat16 result; Debian 12's libgcc lacks it.
__bf16 __truncsfbf2(float value) {
  auto bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    bits |= 0x400000;  // stays a NaN
  } else {
    bits += 0x7fff + ((bits >> 16) & 1);
  }
  return __builtin_bit_cast(__bf16, static_cast<uint16_t>(bits >> 16));
}

}  // extern "C"
