// A file of results that takes the place of an old one only when it is whole: until then what is finished stands in
// PATH.unfinished beside it. Errors name the option that the path came from.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace bench {

class ResultFile {
 public:
  // Fails where the file could not be written at the end.
  ResultFile(std::string option, std::string path) : option_(std::move(option)), path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (path_.empty()) throw std::runtime_error(option_ + ": needs the name of a file");
    if (fs::is_directory(path_, ignored)) fail("is a folder");
    if (fs::exists(path_, ignored) && access(path_.c_str(), W_OK) != 0) fail();
    // Through links, so that it is their target that is replaced.
    target_ = fs::weakly_canonical(path_, ignored);
    if (target_.empty()) target_ = path_;
    // A pipe or a device is not replaced; it is written when all is there.
    replaces_ = !fs::exists(target_, ignored) || fs::is_regular_file(target_, ignored);
    if (replaces_) write_to(unfinished(), "");
  }
  ~ResultFile() {
    if (replaces_ && !kept_ && text_.empty()) remove_unfinished();
  }
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::filesystem::path& target() const { return target_; }

  // What is finished so far.
  void save(const std::string& text) {
    text_ = text;
    if (replaces_) write_to(unfinished(), text_);
  }

  // What was saved last becomes the file.
  void keep() {
    if (!replaces_) return write_to(target_, text_);
    std::error_code error;
    std::filesystem::rename(unfinished(), target_, error);
    if (error) fail(error.message());
    kept_ = true;
  }

  // Where finished results are that were not kept; empty where there are none.
  std::string left_behind() const { return replaces_ && !kept_ && !text_.empty() ? unfinished().string() : ""; }

 private:
  std::filesystem::path unfinished() const { return target_.string() + ".unfinished"; }

  void remove_unfinished() const {
    std::error_code ignored;
    std::filesystem::remove(unfinished(), ignored);
  }

  void write_to(const std::filesystem::path& path, const std::string& text) {
    errno = 0;
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (file) return;
    const std::string reason = errno != 0 ? std::strerror(errno) : "the write failed";
    if (path != target_) {  // half of it is of no use
      remove_unfinished();
      text_.clear();
    }
    fail(reason);
  }

  [[noreturn]] void fail(const std::string& reason = std::strerror(errno)) const {
    throw std::runtime_error(option_ + ": " + path_ + " cannot be written: " + reason);
  }

  std::string option_, path_, text_;
  std::filesystem::path target_;
  bool replaces_ = false, kept_ = false;
};

}  // namespace bench
