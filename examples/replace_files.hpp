// Several files get new content, all of them or none, and what they held before is never lost.
//
//   files::FileReplacement outputs;
//   files::OutputFile& o = outputs.add("o.npy", "--out: o.npy");      // the second is its name in errors
//   files::OutputFile& z = outputs.add("z.npy", "--normalizer: z.npy");
//   o.write(…);   z.write(…);                                         // o.npy and z.npy are untouched
//   outputs.commit();                                                 // now both are new
//
// commit() keeps every old content under a second name, renames the new ones over the old, and removes the second names
// once every target is new. Any failure brings every old content back.
//
// Kills: POSIX renames one file at a time, so those few calls are made by a child process of its own session, which
// takes no signal and outlives its parent; if the child is the one that is killed, the parent finishes, forward if
// every target is new and back otherwise. Only where both are killed between two renames, or the machine stops there,
// some targets are new and some old. The old contents are then still there, as o.npy.old-…, and kept_contents("o.npy")
// finds them.
//
// A character device (/dev/null) holds nothing that could be lost; it is written straight away.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "binary_file.hpp"
#include "replaced_file.hpp"
#include "same_file.hpp"

namespace files {

class FileReplacement {
 public:
  FileReplacement() = default;
  FileReplacement(const FileReplacement&) = delete;
  FileReplacement& operator=(const FileReplacement&) = delete;
  // Without a commit, nothing has happened.
  ~FileReplacement() {
    for (const ReplacedFile& replaced : replaced_) replaced.forget_new();
  }

  // Where the new content of `path` is to be written, valid until commit(). A target that cannot be replaced is an
  // error here already.
  OutputFile& add(const std::string& path, const std::string& name) {
    const std::string target = resolved_path(path, name);
    struct stat old {};
    const bool exists = ::lstat(target.c_str(), &old) == 0;
    if (!exists && errno != ENOENT) fail(name, errno);
    if (exists && S_ISCHR(old.st_mode))
      return devices_.emplace_back(Descriptor(::open(target.c_str(), O_WRONLY | O_CLOEXEC)), name);
    if (exists && S_ISDIR(old.st_mode)) fail(name, EISDIR);
    if (exists && !S_ISREG(old.st_mode)) fail(name, "is not a regular file");
    if (exists && ::access(target.c_str(), W_OK) != 0) fail(name, errno);
    return replaced_.emplace_back(target, name).file();
  }

  void commit() {
    for (const ReplacedFile& replaced : replaced_) replaced.file().sync();
    open_folders();
    sigset_t every, before;
    ::sigfillset(&every);
    ::pthread_sigmask(SIG_SETMASK, &every, &before);  // the child starts so
    const Outcome outcome = replace_in_child();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    folders_.clear();
    if (outcome.error != 0) report(outcome);
    replaced_.clear();
  }

 private:
  // Which file could not be replaced, and errno's reason or one of these; 0: all are new.
  struct Outcome {
    std::size_t file = 0;
    int error = 0;
  };
  static constexpr int two_are_one = -1, stopped = -2;

  // Of the targets, each folder once, in an order that is the same for every program.
  void open_folders() {
    std::vector<std::pair<Identity, Descriptor>> found;
    for (const ReplacedFile& replaced : replaced_) {
      const std::string folder = std::filesystem::path(replaced.target()).parent_path().string();
      Descriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      struct stat status {};
      if (!file.is_open() || ::fstat(file.number(), &status) != 0) continue;  // one that may be written but not read
      const Identity identity = identity_of(status);
      const auto is_this = [&](const auto& other) { return other.first == identity; };
      if (std::none_of(found.begin(), found.end(), is_this)) found.emplace_back(identity, std::move(file));
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    folders_.clear();
    for (auto& [identity, file] : found) folders_.push_back(std::move(file));
  }

  // System calls alone, as ReplacedFile says.
  Outcome replace_all() const {
    // Another program's replacement in the same folders waits; where a file system has no locks, it does not.
    for (const Descriptor& folder : folders_) ::flock(folder.number(), LOCK_EX);
    Outcome outcome;
    const auto step = [&](auto&& take) {
      for (std::size_t i = 0; i < replaced_.size() && outcome.error == 0; ++i) outcome = {i, take(replaced_[i])};
    };
    step([](const ReplacedFile& replaced) { return replaced.name_new(); });
    step([](const ReplacedFile& replaced) { return replaced.keep_old(); });
    step([](const ReplacedFile& replaced) { return replaced.put_new(); });
    // Two names that mean one file (letters' case, say) show at the latest when one has replaced the other.
    step([](const ReplacedFile& replaced) { return replaced.is_new() ? 0 : two_are_one; });
    finish(outcome.error == 0);
    return outcome;
  }

  void finish(bool forward) const {
    for (const ReplacedFile& replaced : replaced_) forward ? replaced.forget_old() : replaced.bring_old_back();
  }

  Outcome replace_in_child() const {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) return replace_all();
    const Descriptor answer(ends[0]);
    Descriptor question(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) return replace_all();  // there may be no memory for a second process
    if (child == 0) {
      ::setsid();
      const Outcome outcome = replace_all();
      const ssize_t told = ::write(question.number(), &outcome, sizeof outcome);  // to nobody, if the parent is gone
      ::_exit(told == sizeof outcome ? 0 : 1);
    }
    question = Descriptor();
    Outcome outcome;
    ssize_t got = 0;
    do got = ::read(answer.number(), &outcome, sizeof outcome);
    while (got < 0 && errno == EINTR);
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return got == sizeof outcome ? outcome : finish_for_killed_child();
  }

  Outcome finish_for_killed_child() const {
    std::size_t i = 0;
    while (i < replaced_.size() && replaced_[i].is_new()) ++i;
    const bool all = i == replaced_.size();
    finish(all);
    return all ? Outcome{} : Outcome{i, stopped};
  }

  [[noreturn]] void report(const Outcome& outcome) const {
    std::string what = outcome.error == two_are_one ? "is one file with another output"
                       : outcome.error == stopped   ? "the process that was to put it in place was killed"
                                                    : std::generic_category().message(outcome.error);
    for (const ReplacedFile& replaced : replaced_)
      if (replaced.has_kept()) what += "; what " + replaced.target() + " held is in " + replaced.kept();
    fail(replaced_[outcome.file].file().name(), what);
  }

  std::deque<ReplacedFile> replaced_;
  std::deque<OutputFile> devices_;
  std::vector<Descriptor> folders_;
};

// Old contents of `path` that a killed replacement has left, or that one in another program is about to remove.
inline std::vector<std::string> kept_contents(const std::string& path) {
  const std::filesystem::path beginning = name_beside(resolved_path(path, path), ".old-");
  const std::string prefix = beginning.filename().string();
  const auto is_kept = [&](const std::string& name) {
    return name.starts_with(prefix) && is_tag(std::string_view(name).substr(prefix.size()));
  };
  std::vector<std::string> found;
  std::error_code error;
  std::filesystem::directory_iterator entry(beginning.parent_path(), error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (is_kept(entry->path().filename().string())) found.push_back(entry->path().string());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace files
