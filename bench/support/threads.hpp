// The benchmarks' own threads: how many there may be, a loop that they share, and how they wait. The only file here
// that knows OpenMP.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "csq/csq.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bench {

using csq::Index;

// Threads that can be had: one for each processor that this process may run on. More would only take turns.
inline int most_threads() {
#ifdef _OPENMP
  return std::max(1, std::min(omp_get_num_procs(), omp_get_thread_limit()));
#else
  return 1;
#endif
}

// 0 asks for all; a wrong number is an error that names `option`.
inline int threads_for(const std::string& option, int requested) {
  const std::string start = option + ": " + std::to_string(requested);
  const int most = most_threads();
  if (requested < 0) throw std::invalid_argument(start + " is negative");
  if (requested > most)
    throw std::invalid_argument(start + " is more than the " + std::to_string(most) + " that can be had here");
#ifdef _OPENMP
  return requested > 0 ? requested : std::min(most, omp_get_max_threads());
#else
  return 1;
#endif
}

// task(index, thread) for every index in [0, count), in any order; thread in [0, threads). Tasks must not throw.
template <class Task>
void parallel_for(Index count, int threads, const Task& task) {
#ifdef _OPENMP
  const int used = static_cast<int>(std::min<Index>(count, threads));
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

// task(thread) once on each of `threads` threads. Tasks must not throw.
template <class Task>
void on_each_thread(int threads, const Task& task) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    task(omp_get_thread_num());
    return;
  }
#else
  static_cast<void>(threads);
#endif
  task(0);
}

// Threads that wait for others go to sleep: spinning on, as they do by default for 10 ms and more, they would take the
// processor from the very thread that they wait for as soon as anything else runs on the machine. They spin for some 50
// µs first where the run time knows how (GCC's), since waking a sleeper takes as long, and short calls would pay for it
// at each of their steps. OpenMP run times read this before main, so the program starts itself again with it. To be
// called first of all; what the caller has chosen stays.
inline void let_waiting_threads_sleep(char** words) {
#ifdef _OPENMP
  for (const char* chosen : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"})
    if (std::getenv(chosen) != nullptr) return;
  if (setenv("OMP_WAIT_POLICY", "passive", 1) != 0 || setenv("GOMP_SPINCOUNT", "1000", 1) != 0) return;
  execv("/proc/self/exe", words);
  // Where a program cannot start itself again, it measures with the policy that it has.
#else
  static_cast<void>(words);
#endif
}

}  // namespace bench
