// Which file a path means: two spellings of one name (./a and a), links to it and, where it exists, other letters on a
// file system that does not tell them apart are one file.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <compare>
#include <filesystem>
#include <string>
#include <system_error>

#include "binary_file.hpp"

namespace files {

// The file behind all its names.
struct Identity {
  dev_t device = 0;
  ino_t number = 0;

  auto operator<=>(const Identity&) const = default;
};

inline Identity identity_of(const struct stat& status) { return {status.st_dev, status.st_ino}; }

// The path that opening `path` would reach: symbolic links are followed, the last one too if it leads to nothing yet.
// Errors name `name`.
inline std::string resolved_path(const std::string& path, const std::string& name) {
  constexpr int most_links = 40;  // as in the kernel
  std::filesystem::path at = path;
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(at, error); ++links) {
    if (links == most_links) fail(name, ELOOP);
    at = at.parent_path() / std::filesystem::read_symlink(at, error);
    if (error) fail(name, error.value());
  }
  const std::filesystem::path folder = at.has_parent_path() ? at.parent_path() : ".";
  const std::filesystem::path found = std::filesystem::canonical(folder, error);
  if (error) fail(name, error.value());
  return (found / at.filename()).string();
}

// Paths that cannot be resolved are no file, and so not the same.
inline bool same_file(const std::string& a, const std::string& b) {
  struct stat first {
  }, second{};
  if (::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0)
    return identity_of(first) == identity_of(second);
  try {
    return resolved_path(a, a) == resolved_path(b, b);
  } catch (const std::runtime_error&) {
    return false;
  }
}

}  // namespace files
