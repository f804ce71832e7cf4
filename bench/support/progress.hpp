// One line on standard error that says what is being measured: overwritten on a terminal, otherwise a line a row.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace bench {

class Progress {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  // `heading` names the row, `detail` changes while it runs.
  void show(const std::string& heading, const std::string& detail) {
    if (terminal_) {
      std::fprintf(stderr, "\r\033[K%4.0f s  %s: %s", seconds(), heading.c_str(), detail.c_str());
    } else if (heading != last_) {
      std::fprintf(stderr, "%4.0f s  %s\n", seconds(), heading.c_str());
      last_ = heading;
    }
    std::fflush(stderr);
  }

  // A line that stays.
  void note(const std::string& text) const {
    std::fprintf(stderr, "%s%s\n", terminal_ ? "\r\033[K" : "", text.c_str());
    std::fflush(stderr);
  }

  void finish() {
    if (terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  std::string last_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace bench
