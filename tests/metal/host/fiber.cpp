#include "fiber.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>
#include <new>

#include "access.h"

asm(R"(
.text
.globl msl_switch
.hidden msl_switch
.type msl_switch, @function
msl_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size msl_switch, .-msl_switch
)");

namespace msl {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStack = 128 * 1024;
constexpr size_t kSavedRegisters = 6;

void land_bad_address() { fault("touches an address that is not mapped"); }
void land_trap() { fault("comes to an instruction that traps"); }

void handle(int number, siginfo_t*, void* state) {
  if (!in_kernel()) {
    signal(number, SIG_DFL);
    return;
  }
  // The lane goes on in a function that never comes back, on its own stack.
  auto* registers = static_cast<ucontext_t*>(state)->uc_mcontext.gregs;
  registers[REG_RSP] = ((registers[REG_RSP] - 256) & ~static_cast<greg_t>(15)) - 8;
  registers[REG_RIP] = reinterpret_cast<greg_t>(number == SIGILL ? land_trap : land_bad_address);
}

}  // namespace

Fiber::Fiber() {
  void* stack = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) throw std::bad_alloc();
  mprotect(stack, kPage, PROT_NONE);
  low_ = reinterpret_cast<uintptr_t>(stack) + kPage;
  high_ = low_ + kStack;
}

Fiber::~Fiber() { munmap(reinterpret_cast<void*>(low_ - kPage), kStack + kPage); }

void Fiber::start(void (*function)()) {
  auto* top = reinterpret_cast<void**>(high_);
  *--top = nullptr;  // a function finds its return address 8 bytes off a multiple of 16
  *--top = reinterpret_cast<void*>(function);
  top -= kSavedRegisters;
  for (size_t i = 0; i < kSavedRegisters; ++i) top[i] = nullptr;
  context.stack_pointer = top;
}

void catch_signals() {
  thread_local std::unique_ptr<char[]> stack;
  if (stack) return;
  constexpr size_t kSize = 64 * 1024;
  stack = std::make_unique<char[]>(kSize);
  stack_t alternative{};
  alternative.ss_sp = stack.get();
  alternative.ss_size = kSize;
  sigaltstack(&alternative, nullptr);
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int number : {SIGSEGV, SIGBUS, SIGILL}) sigaction(number, &action, nullptr);
}

}  // namespace msl
