// A CSV file that appears only when it is complete: rows go to FILE.tmp, which finish() renames to FILE. With
// Keep::rows they go to FILE itself, each as soon as it is there, and stay when the program is cut.
//
//   paper::CsvFile csv(path, "program,seed,accuracy");     // an empty path writes nothing
//   csv.row("kv_retrieval", 1, 0.97);                      // numbers as %.9g
//   csv.finish();
//
// An error is a std::runtime_error with one line that names the file. An unfinished .tmp is removed.
#pragma once

#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace paper {

class CsvFile {
 public:
  enum class Keep { whole, rows };

  CsvFile(const std::string& path, std::string_view header, Keep keep = Keep::whole)
      : path_(path), keep_(keep), temporary_(keep == Keep::whole ? path + ".tmp" : path) {
    if (path_.empty()) return;
    file_ = std::fopen(temporary_.c_str(), "w");
    if (file_ == nullptr) throw std::runtime_error(path_ + ": cannot be written");
    put(std::string(header));
  }
  CsvFile(const CsvFile&) = delete;
  CsvFile& operator=(const CsvFile&) = delete;
  ~CsvFile() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    if (keep_ == Keep::whole) std::remove(temporary_.c_str());
  }

  template <class... Cells>
  void row(const Cells&... cells) {
    if (file_ == nullptr) return;
    std::string line;
    ((line += text(cells) + ","), ...);
    line.pop_back();
    put(line);
  }

  void finish() {
    if (file_ == nullptr) return;
    const bool written =
        std::fclose(file_) == 0 && (keep_ == Keep::rows || std::rename(temporary_.c_str(), path_.c_str()) == 0);
    file_ = nullptr;
    if (written) return;
    if (keep_ == Keep::whole) std::remove(temporary_.c_str());
    throw std::runtime_error(path_ + ": cannot be written whole");
  }

 private:
  template <class Cell>
  static std::string text(const Cell& cell) {
    if constexpr (std::floating_point<Cell>) {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(cell));
      return digits;
    } else if constexpr (std::integral<Cell>) {
      return std::to_string(cell);
    } else {
      return std::string(cell);
    }
  }

  void put(const std::string& line) {
    if (std::fprintf(file_, "%s\n", line.c_str()) < 0 || std::fflush(file_) != 0)
      throw std::runtime_error(path_ + ": cannot be written whole");
  }

  std::string path_;
  Keep keep_;
  std::string temporary_;
  std::FILE* file_ = nullptr;
};

}  // namespace paper
