#pragma once

#include <cstddef>
#include <cstdint>

/// Contexts that a thread of the operating system switches between.
namespace msl {

struct Context {
  void* stack_pointer = nullptr;
};

/// Leaves one context and enters another, saving what a callee must keep.
extern "C" void msl_switch(void** leave, void* enter);

inline void switch_context(Context& leave, const Context& enter) {
  msl_switch(&leave.stack_pointer, enter.stack_pointer);
}

/// A context with a stack of its own, below which lies a page that must not be touched.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes the next switch to it call a function that never returns.
  void start(void (*function)());
  uintptr_t low() const { return low_; }
  uintptr_t high() const { return high_; }

  Context context;

 private:
  uintptr_t low_, high_;
};

/// Turns a signal that a kernel raises (a bad address, a trap) into a fault. Once per thread of the
/// operating system.
void catch_signals();

}  // namespace msl
