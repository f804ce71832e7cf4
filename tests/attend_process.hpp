// The program `attend` from outside: run with words, seen by its exit code and what it printed.
#pragma once

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using Words = std::vector<std::string>;

inline Words operator+(Words left, const Words& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Finished {
  int exit_code = -1;  // 128 + the signal that ended it, as a shell says it
  std::string output, error;

  bool one_line_of_error() const {
    return output.empty() && std::count(error.begin(), error.end(), '\n') == 1 && error.back() == '\n';
  }
};

// Runs attend with these words, each as it is; `before` is shell text in front of it: assignments to its environment,
// or commands that end with a semicolon.
inline Finished run_attend(const Words& words, const std::string& before = "") {
  const TemporaryFolder printed;
  std::string command = "exec >'" + printed.file("stdout") + "' 2>'" + printed.file("stderr") + "'; " + before;
  command += " '" CSQ_ATTEND "'";
  for (const std::string& word : words) command += " '" + word + "'";
  const int status = std::system(command.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return {code, contents(printed.file("stdout")), contents(printed.file("stderr"))};
}

inline std::string number(double value) {
  std::ostringstream text;
  text.precision(17);
  text << value;
  return text.str();
}

inline std::string list(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) text += (text.empty() ? "" : ",") + number(value);
  return text;
}

inline Words input_words(const std::string& folder) {
  return {"--q", folder + "/q.npy", "--k", folder + "/k.npy", "--v", folder + "/v.npy"};
}

// Every name in a folder, with what it holds; for a folder or a link, what that is.
inline std::map<std::string, std::string> listing(const TemporaryFolder& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder.file("")))
    found[entry.path().filename().string()] = entry.is_symlink()     ? "-> " + read_symlink(entry.path()).string()
                                              : entry.is_directory() ? "a folder"
                                                                     : contents(entry.path().string());
  return found;
}
