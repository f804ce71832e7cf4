// A program from outside: started with its words and environment, signalled, waited for, its output kept.
#pragma once

#include <fcntl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../temporary_folder.hpp"

using Words = std::vector<std::string>;
using Environment = std::vector<std::pair<std::string, std::string>>;

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Finished {
  int exit_code = -1;  // 128 and the signal's number where one ended it
  std::string output, error;
};

class Program {
 public:
  // In `folder`, which takes what it prints, with signals as a shell's foreground command has them.
  Program(const TemporaryFolder& folder, const Words& words, const Environment& environment = {})
      : output_(folder.file("stdout")), error_(folder.file("stderr")) {
    id_ = fork();
    if (id_ != 0) return;
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(number, SIG_DFL);
    dup2(open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDOUT_FILENO);
    dup2(open(error_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDERR_FILENO);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    if (chdir(folder.file("").c_str()) == 0) execvp(arguments[0], arguments.data());
    _exit(127);
  }
  ~Program() {
    if (id_ <= 0) return;
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t id() const { return id_; }
  void signal(int number) const { kill(id_, number); }

  // True as soon as `condition` holds; false when the program ends or two minutes pass before it does.
  bool wait_until(const std::function<bool()>& condition) {
    for (int tenths = 0; tenths < 1200; ++tenths) {
      if (condition()) return true;
      if (waitpid(id_, &status_, WNOHANG) == id_) {
        id_ = 0;
        return condition();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  std::string error_so_far() const { return contents(error_); }

  Finished finish() {
    if (id_ > 0) waitpid(id_, &status_, 0);
    id_ = 0;
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_), contents(output_), contents(error_)};
  }

 private:
  std::string output_, error_;
  pid_t id_ = 0;
  int status_ = 0;
};

inline Finished run(const TemporaryFolder& folder, const Words& words, const Environment& environment = {}) {
  return Program(folder, words, environment).finish();
}
