// One file that gets new content: what it held before, what it is to hold, and the steps between, each one system call
// that can be undone. replace_files.hpp takes several files through them.
//
//   written  →  name_new  →  keep_old  →  put_new  →  forget_old          or, from anywhere before the last,
//   bring_old_back
//
// The new content is written to a file without a name in the target's folder, so that a killed program leaves nothing
// behind. Where a file system has no such files it is o.npy.new-… from the start, and a kill leaves it there.
// The old content is kept by a hard link, o.npy.old-…, so that the target exists at every moment. Where a file system
// has no hard links it is renamed instead, and for a moment there is no o.npy.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "binary_file.hpp"
#include "same_file.hpp"

namespace files {

// How the names beside a target begin; a name that is too long to be lengthened has another one.
inline std::string name_beside(const std::string& target, const char* what) {
  const std::filesystem::path path = target;
  const std::string name = path.filename().string();
  constexpr std::size_t longest = 200;  // of the 255 bytes that a name may have
  return (path.parent_path() / ((name.size() > longest ? "output" : name) + what)).string();
}

// Their ends: 16 hexadecimal digits that nobody has used.
inline std::string random_tag() {
  std::random_device random;
  char tag[2 * 8 + 1];
  std::snprintf(tag, sizeof tag, "%08x%08x", random(), random());
  return tag;
}
inline bool is_tag(std::string_view text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

class ReplacedFile {
 public:
  // `target` is a regular file or nothing yet, as resolved_path() gives it; `name` is what errors call it.
  ReplacedFile(const std::string& target, const std::string& name)
      : target_(target),
        staged_(name_beside(target, ".new-") + random_tag()),
        kept_(name_beside(target, ".old-") + random_tag()),
        file_(open(name)) {
    struct stat status {};
    if (::fstat(file_.descriptor(), &status) != 0) fail(name, errno);
    content_ = identity_of(status);
    // Who may read and write it stays as it was; where that cannot be said, it is as for a new file.
    struct stat old {};
    if (::stat(target.c_str(), &old) == 0) static_cast<void>(::fchmod(file_.descriptor(), old.st_mode & 0777) == 0);
  }

  OutputFile& file() { return file_; }
  const OutputFile& file() const { return file_; }
  const std::string& target() const { return target_; }
  const std::string& kept() const { return kept_; }

  // The steps give 0 or errno. They are made of system calls alone, since they run in a forked child, where other
  // threads may have stopped in the middle of anything.

  int name_new() const {
    if (!unnamed()) return 0;
    return errno_of(::linkat(AT_FDCWD, open_file_.c_str(), AT_FDCWD, staged_.c_str(), AT_SYMLINK_FOLLOW));
  }

  int keep_old() const {
    struct stat old {};
    if (::lstat(target_.c_str(), &old) != 0) return errno == ENOENT ? 0 : errno;
    if (!S_ISREG(old.st_mode)) return S_ISDIR(old.st_mode) ? EISDIR : EEXIST;
    if (::link(target_.c_str(), kept_.c_str()) == 0) return 0;
    return errno_of(::rename(target_.c_str(), kept_.c_str()));
  }

  int put_new() const { return errno_of(::rename(staged_.c_str(), target_.c_str())); }

  bool is_new() const {
    struct stat found {};
    return ::lstat(target_.c_str(), &found) == 0 && identity_of(found) == content_;
  }

  void forget_old() const { ::unlink(kept_.c_str()); }

  // From any step but the last; twice does no harm.
  void bring_old_back() const {
    forget_new();
    if (!has_kept()) {
      if (is_new()) ::unlink(target_.c_str());  // there was nothing before
      return;
    }
    // While the old content is still in place, this rename does nothing and leaves both names.
    if (::rename(kept_.c_str(), target_.c_str()) == 0) ::unlink(kept_.c_str());
  }

  void forget_new() const { ::unlink(staged_.c_str()); }

  bool has_kept() const {
    struct stat found {};
    return ::lstat(kept_.c_str(), &found) == 0;
  }

 private:
  static int errno_of(int result) { return result == 0 ? 0 : errno; }

  bool unnamed() const { return !open_file_.empty(); }

  OutputFile open(const std::string& name) {
#ifdef O_TMPFILE
    const std::string folder = std::filesystem::path(target_).parent_path().string();
    // Such a file gets its name through /proc, which a confined process may not have.
    if (::access("/proc/self/fd", X_OK) == 0) {
      Descriptor file(::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
      if (file.is_open()) {
        open_file_ = "/proc/self/fd/" + std::to_string(file.number());
        return {std::move(file), name};
      }
    }
#endif
    return {Descriptor(::open(staged_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)), name};
  }

  std::string target_;     // symbolic links resolved
  std::string staged_;     // the new content's name until it is in place
  std::string kept_;       // the old content's other name
  std::string open_file_;  // what stands for the new content while it has no name
  OutputFile file_;
  Identity content_{};  // the new content
};

}  // namespace files
