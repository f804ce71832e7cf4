// The only file that knows threads: OpenMP where the unit is compiled with it, serial otherwise.
//
// Nothing here decides what is computed: every caller's grid of tasks is a function of the shape alone, so results are
// bitwise the same for any number of threads.
#pragma once

#include <algorithm>

#include "csq/detail/base/arithmetic.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace CSQ_CODE::detail {

// Small calls are not worth waking threads for: one thread per this many multiply-adds. Tests set it to 1, so that
// small shapes run on several threads too.
#ifndef CSQ_MULTIPLY_ADDS_PER_THREAD
#define CSQ_MULTIPLY_ADDS_PER_THREAD 5e5
#endif

// Threads that a call may use: 0 means all; inside somebody else's parallel region always 1. No more than the machine
// has, or than OMP_NUM_THREADS or omp_set_num_threads ask for: each takes scratch, and a thread that the system refuses
// to make is the end of the process in GCC's run time.
inline int usable_threads(int requested) {
#ifdef _OPENMP
  if (requested == 1 || omp_in_parallel() != 0) return 1;
  int available = omp_get_max_threads();
  if (requested == 0) requested = available;
  if (requested > available) available = larger(available, omp_get_num_procs());  // asks the system: not always
  return larger(1, smaller(requested, smaller(available, omp_get_thread_limit())));
#else
  static_cast<void>(requested);
  return 1;
#endif
}

// The same for a call of that many multiply-adds.
inline int threads_for_work(double multiply_adds, int requested) {
  const double wanted = multiply_adds / CSQ_MULTIPLY_ADDS_PER_THREAD;
  if (wanted < 2) return 1;
  const int usable = usable_threads(requested);
  return wanted < usable ? static_cast<int>(wanted) : usable;
}

// task(index, thread) for every index in [0, count), in any order; thread in [0, threads). Inside a task
// nothing throws, allocates or starts threads, and arrays stand in the thread's scratch, not on its stack.
template <class Task>
void parallel_for(Index count, int threads, const Task& task) {
#ifdef _OPENMP
  const int used = static_cast<int>(smaller<Index>(count, threads));
  if (used > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(used)
    for (Index index = 0; index < count; ++index) task(index, omp_get_thread_num());
    return;
  }
#else
  static_cast<void>(threads);
#endif
  for (Index index = 0; index < count; ++index) task(index, 0);
}

}  // namespace CSQ_CODE::detail
