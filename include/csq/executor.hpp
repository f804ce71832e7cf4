// The caller's threads, for programs that have a pool of their own and want no OpenMP beside it.
//
//   auto run = [&](std::int64_t count, csq::Executor::Task task) { pool.for_each(count, task); };
//   csq::attention(csq::Csq{}, Q, K, V, O, {.executor = {run, 8}});
//
// A call with several threads asks for one task each, at most `width`, once for every parallel loop in it; which task
// does what part of the work they settle among themselves, so that a pool may run them on any threads, in any order,
// and one after another. Results are the same bits whatever runs them. A call on one thread (a small one, or threads =
// 1) runs on the thread that makes it and asks for nothing.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before what only a C++20 compiler has.
#include <cstdint>
#include <type_traits>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

// What an executor calls that was made of an object: here and not there, since it is left to the linker.
template <class Object, class Task>
void run_object(void* object, std::int64_t count, Task task) {
  (*reinterpret_cast<Object*>(object))(count, task);
}

}  // namespace CSQ_CODE::detail

namespace CSQ_TYPES {

/// A reference to threads of the caller's own. Cheap to copy; what it refers to must outlive the call, or the Stream or
/// Summary that was given it.
///
/// `run` calls task(0), …, task(count − 1), each once, on any threads and in any order, and returns when all of them
/// have returned. Tasks do not throw, allocate or wait for each other. Several calls that are made at a time call it at
/// a time. If it throws, no task may be running any more or run later: they use what the call had on its stack. The
/// caller then gets what was thrown, and what outputs and gradients hold is not specified.
struct Executor {
  struct Task {
    void (*function)(void* context, std::int64_t index) = nullptr;
    void* context = nullptr;

    CSQ_ALWAYS_INLINE void operator()(std::int64_t index) const { function(context, index); }
  };

  void (*run)(void* pool, std::int64_t count, Task task) = nullptr;
  void* pool = nullptr;    ///< handed to `run`
  std::int64_t width = 0;  ///< the most tasks that `run` is asked for, at least 1: threads that run at a time

  /// None: OpenMP's threads, or one.
  CSQ_ALWAYS_INLINE Executor() = default;
  CSQ_ALWAYS_INLINE Executor(void (*run_in)(void* pool, std::int64_t count, Task task), void* pool_in,
                             std::int64_t width_in)
      : run(run_in), pool(pool_in), width(width_in) {}
  /// object(count, task), of a lambda, say: by reference, so a temporary is refused.
  template <class Object>
  CSQ_ALWAYS_INLINE Executor(Object&& object, std::int64_t width_in)
      : run(detail::run_object<std::remove_reference_t<Object>, Task>),
        pool(const_cast<void*>(reinterpret_cast<const volatile void*>(&object))),
        width(width_in) {
    static_assert(std::is_lvalue_reference_v<Object>,
                  "csq: an executor refers to what it is made of, which cannot be a temporary");
  }

  CSQ_ALWAYS_INLINE bool given() const { return run != nullptr || pool != nullptr || width != 0; }
};

}  // namespace CSQ_TYPES
