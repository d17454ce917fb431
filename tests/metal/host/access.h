#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime.h"

/// Accesses of memory by the lane at work, and its faults.
namespace msl {

/// Ends the lane with a fault unless it may read, or write to, these bytes.
void check_access(const void* address, size_t size, bool store);

/// Reports what the lane did, and never returns to it.
[[noreturn]] void fault(const std::string& text);

/// "file:line".
std::string place(const MslSite& site);

/// ": byte 4 of buffer 0 ('x')", or nothing if the address is in no buffer.
std::string buffer_at(uintptr_t address);

/// Whether a lane is at work on this thread of the operating system.
bool in_kernel();

}  // namespace msl
