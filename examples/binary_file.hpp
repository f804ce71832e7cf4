// Files through the system's own calls, so that whatever fails is said with its reason: "o.npy: No space left on
// device". Every error is a std::runtime_error of one line.
//
//   files::InputFile in("q.npy");      in.read(offset, buffer, bytes);      // any part, in any order
//   files::OutputFile out("o.npy");    out.write(data, bytes);   out.sync();
//
// A process that may meet a limit on file sizes (ulimit -f) ignores SIGXFSZ, or it is ended before it can say so.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace files {

[[noreturn]] inline void fail(const std::string& name, const std::string& what) {
  throw std::runtime_error(name + ": " + what);
}

// `error` as errno has it.
[[noreturn]] inline void fail(const std::string& name, int error) {
  fail(name, std::generic_category().message(error));
}

// An open file, closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }

 private:
  int number_;
};

class InputFile {
 public:
  explicit InputFile(const std::string& path) : name_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status {};
    if (!file_.is_open() || ::fstat(file_.number(), &status) != 0) fail(name_, errno);
    if (S_ISDIR(status.st_mode)) fail(name_, EISDIR);
    if (!S_ISREG(status.st_mode)) fail(name_, "is not a regular file");
    bytes_ = status.st_size;
  }

  const std::string& name() const { return name_; }
  std::int64_t bytes() const { return bytes_; }

  void read(std::int64_t offset, void* to, std::int64_t count) const {
    auto* at = static_cast<std::byte*>(to);
    while (count > 0) {
      const ssize_t got = ::pread(file_.number(), at, static_cast<std::size_t>(count), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(name_, errno);
      if (got == 0) fail(name_, "ends early: it became shorter while it was read");
      at += got;
      offset += got;
      count -= got;
    }
  }

 private:
  std::string name_;
  Descriptor file_;
  std::int64_t bytes_ = 0;
};

class OutputFile {
 public:
  // Makes the file, or empties it.
  explicit OutputFile(const std::string& path)
      : OutputFile(Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)), path) {}

  // A file that has just been opened; `name` is what errors call it.
  OutputFile(Descriptor file, const std::string& name) : name_(name), file_(std::move(file)) {
    if (!file_.is_open()) fail(name_, errno);
  }

  const std::string& name() const { return name_; }
  int descriptor() const { return file_.number(); }

  void write(const void* from, std::size_t count) {
    const auto* at = static_cast<const std::byte*>(from);
    while (count > 0) {
      const ssize_t put = ::write(file_.number(), at, count);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail(name_, errno);
      at += put;
      count -= static_cast<std::size_t>(put);
    }
  }

  // Waits until the content is on the disk: some file systems notice only then that they are full.
  void sync() const {
    while (::fsync(file_.number()) != 0)
      if (errno == EINVAL)
        return;  // a file system that keeps nothing
      else if (errno != EINTR)
        fail(name_, errno);
  }

 private:
  std::string name_;
  Descriptor file_;
};

}  // namespace files
