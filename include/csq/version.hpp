// Which csq this is, and what it runs on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "csq/detail/simd/targets.hpp"

namespace CSQ_CODE {

inline constexpr int version_major = CSQ_VERSION_MAJOR;
inline constexpr int version_minor = CSQ_VERSION_MINOR;
inline constexpr int version_patch = CSQ_VERSION_PATCH;

/// The set of kernels in use: "avx512", "avx2", "neon", "portable".
inline const char* simd_name() { return detail::simd::Targets::names[detail::simd::chosen_target()]; }

/// The sets of kernels that this processor has, best first: what CSQ_SIMD may name.
inline std::vector<std::string_view> simd_names() {
  std::vector<std::string_view> names;
  for (std::size_t target = 0; target < detail::simd::Targets::count; ++target)
    if (detail::simd::processor_has(target)) names.push_back(detail::simd::Targets::names[target]);
  return names;
}

/// "csq 0.1.0, avx512, OpenMP".
inline std::string build_info() {
  std::string info = "csq " + std::to_string(version_major) + "." + std::to_string(version_minor) + "." +
                     std::to_string(version_patch) + ", " + simd_name();
#ifdef _OPENMP
  return info + ", OpenMP";
#else
  return info + ", one thread";
#endif
}

}  // namespace CSQ_CODE
