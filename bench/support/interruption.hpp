// Ctrl-C, or a request to end, stops a measurement between two calls: what is finished is kept. A second one ends the
// program at once.
#pragma once

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <stdexcept>

namespace bench {

class Interrupted : public std::runtime_error {
 public:
  explicit Interrupted(int number) : std::runtime_error("interrupted"), signal(number) {}
  int signal;
};

inline std::atomic<int> pending_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

// Signals that the caller has switched off (nohup, a background command) stay so.
inline void stop_when_asked() {
  struct sigaction action {};
  action.sa_handler = [](int number) {
    pending_signal = number;
    constexpr char text[] = "\nstopping after the call that runs; once more to stop at once\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, text, sizeof text - 1);
  };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    if (sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);
  }
}

inline void stop_if_asked() {
  if (const int number = pending_signal; number != 0) throw Interrupted(number);
}

}  // namespace bench
