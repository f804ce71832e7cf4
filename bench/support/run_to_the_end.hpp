// What crossover and decode do with a run and with what ends it early.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>

#include "support/interruption.hpp"

namespace bench {

// One line on standard error; the exit code.
inline int report_failure(const char* program, std::string what, int code) {
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::fprintf(stderr, "%s: %s\n", program, what.c_str());
  return code;
}

// Interrupted, a run ends as one that measured fewer rows.
template <class Run>
int measure_and_print(Run& run, const char* program) {
  int status = 0;
  try {
    run.measure();
  } catch (const Interrupted& interrupted) {
    status = 128 + interrupted.signal;
    if (!run.has_rows())
      return report_failure(program, "interrupted before a row was finished; nothing is written", status);
  }
  run.finish();
  return status;
}

}  // namespace bench
