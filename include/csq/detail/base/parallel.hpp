// The only file that knows threads: the caller's executor, or OpenMP where the unit is compiled with it, or none.
//
// Nothing here decides what is computed: every caller's grid of tasks is a function of the shape alone, so results are
// bitwise the same for any number of threads, whoever brings them.
#pragma once

#include "csq/detail/base/arithmetic.hpp"
#include "csq/executor.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace CSQ_CODE::detail {

// Small calls are not worth waking threads for: one thread per this many multiply-adds. Tests set it to 1, so that
// small shapes run on several threads too.
#ifndef CSQ_MULTIPLY_ADDS_PER_THREAD
#define CSQ_MULTIPLY_ADDS_PER_THREAD 5e5
#endif

// More than any machine has; sizes of scratch are bounded for so many.
inline constexpr Index most_threads = 4096;

// How many threads, and who brings them. As a request 0 means all, and no executor OpenMP's or none; resolved, `count`
// is at least 1, and more only where there is an executor.
struct Threads {
  int count = 1;
  Executor executor{};

  operator int() const { return count; }
};

inline void check_threads(const Threads& requested) {
  require(requested.count >= 0, "threads: is ", requested.count, " but must not be negative");
  const Executor& executor = requested.executor;
  if (!executor.given()) return;
  require(executor.run != nullptr, "executor: has no function to run tasks with");
  require(executor.width >= 1, "executor: width is ", executor.width, " but must be at least 1");
}

#ifdef _OPENMP
inline void run_on_openmp(void*, std::int64_t count, Executor::Task task) {
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(count))
  for (std::int64_t index = 0; index < count; ++index) task(index);
}
#endif

// Threads that a call may use. Of OpenMP's always 1 inside somebody else's parallel region, and no more than the
// machine has, or than OMP_NUM_THREADS or omp_set_num_threads ask for: each takes scratch, and a thread that the system
// refuses to make is the end of the process in GCC's run time.
inline Threads usable_threads(const Threads& requested) {
  const Executor& executor = requested.executor;
  if (executor.given()) {
    const Index width = smaller<Index>(executor.width, most_threads);
    const int count = static_cast<int>(requested.count == 0 ? width : smaller<Index>(requested.count, width));
    return {count, executor};
  }
#ifdef _OPENMP
  if (requested.count == 1 || omp_in_parallel() != 0) return {};
  int available = omp_get_max_threads();
  const int wanted = requested.count == 0 ? available : requested.count;
  if (wanted > available) available = larger(available, omp_get_num_procs());  // asks the system: not always
  const int count =
      smaller(smaller(wanted, static_cast<int>(most_threads)), smaller(available, omp_get_thread_limit()));
  return {larger(1, count), {run_on_openmp, nullptr, available}};
#else
  return {};
#endif
}

// The same for a call of that many multiply-adds.
inline Threads threads_for_work(double multiply_adds, const Threads& requested) {
  const double wanted = multiply_adds / CSQ_MULTIPLY_ADDS_PER_THREAD;
  if (wanted < 2) return {};
  Threads usable = usable_threads(requested);
  if (wanted < usable.count) usable.count = static_cast<int>(wanted);
  return usable;
}

// One parallel loop: its workers take indices from it until none is left. So it does not matter which of them run, when
// and where: a pool may have fewer threads than it says, and run one worker after the other.
struct Loop {
  const void* body = nullptr;
  Index count = 0;
  bool shared = false;
  Index next = 0;
  int done = 0;  // workers

  // Built in, since <atomic> would add to what a program that includes csq compiles.
  Index take() { return shared ? __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) : next++; }
};

template <class Body>
void work_on(void* context, std::int64_t worker) {
  Loop& loop = *static_cast<Loop*>(context);
  const Body& body = *static_cast<const Body*>(loop.body);
  const Index count = loop.count;
  for (Index index = loop.take(); index < count; index = loop.take()) body(index, static_cast<int>(worker));
  if (loop.shared) __atomic_fetch_add(&loop.done, 1, __ATOMIC_RELEASE);
}

// Out of line, as bodies are: each is compiled once, for one worker as for many.
__attribute__((noinline)) inline void run_loop(Index count, const Threads& threads, const void* body,
                                               void (*work)(void* loop, std::int64_t worker)) {
  const int workers = static_cast<int>(smaller<Index>(count, threads.count));
  Loop loop{.body = body, .count = count, .shared = workers > 1};
  if (!loop.shared) {
    work(&loop, 0);
    return;
  }
  threads.executor.run(threads.executor.pool, workers, {work, &loop});
  // A pool that drops tasks, having been told to end, would leave outputs that nobody has written.
  const int done = __atomic_load_n(&loop.done, __ATOMIC_ACQUIRE);
  require(done == workers, "executor: returned with ", done, " of ", workers, " tasks done");
}

// body(index, thread) for every index in [0, count), in any order; thread in [0, threads), no two at a time with the
// same. Inside a body nothing throws, allocates or starts threads, and arrays stand in the thread's scratch, not on its
// stack.
template <class Body>
void parallel_for(Index count, const Threads& threads, const Body& body) {
  run_loop(count, threads, &body, work_on<Body>);
}

}  // namespace CSQ_CODE::detail
