// The only file that knows threads: OpenMP where the unit is compiled with it, serial otherwise.
//
// Nothing here decides what is computed: every caller's grid of tasks is a function of the shape alone, so results are
// bitwise the same for any number of threads.
#pragma once

#include <algorithm>

#include "csq/detail/base/check.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace CSQ_CODE::detail {

// Threads that a call may use: 0 means all; inside somebody else's parallel region always 1.
inline int usable_threads(int requested) {
#ifdef _OPENMP
  if (omp_in_parallel() != 0) return 1;
  return requested == 0 ? larger(1, omp_get_max_threads()) : requested;
#else
  static_cast<void>(requested);
  return 1;
#endif
}

// task(index, thread) for every index in [0, count), in any order; thread in [0, threads). Tasks must not throw.
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
