// The machine that a run measures: processors, cores, threads, and the FMA peak that it reached.
#pragma once

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

namespace bench {

struct Machine {
  std::string processor;
  std::string build;
  int threads = 1;              // that the calls use
  int cores = 1;                // that they may run on
  double peak_one_thread = 0;   // flops per second
  double peak_all_threads = 0;  // with `threads` threads
  double best_peak_turn = 0;    // of those that the peak took while sizes were timed (peak_watch.hpp)
};

inline std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

// Cores of these processors. Those that share one (hyper-threads) count once, where the system tells; a virtual machine
// may not.
inline int cores_of(const cpu_set_t& usable) {
  std::set<std::string> cores;
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &usable)) continue;
    const std::string name = std::to_string(cpu);
    std::ifstream file("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    std::string siblings;
    cores.insert(std::getline(file, siblings) ? siblings : name);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

// That this process may run on.
inline int usable_cores() {
  cpu_set_t usable;
  return sched_getaffinity(0, sizeof usable, &usable) == 0 ? cores_of(usable) : 1;
}

}  // namespace bench
