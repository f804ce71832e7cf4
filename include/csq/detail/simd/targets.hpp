// The sets of kernels, best first, and the choice between them: once, at run time, the first that the processor has, or
// the one that CSQ_SIMD names.
//
// A new set is one file in target/ and one line in Targets; docs/ARCHITECTURE.md says what the file holds.
#pragma once

#include <cstdlib>
#include <string_view>

#include "csq/detail/base/check.hpp"
#include "csq/detail/simd/target/avx2.hpp"
#include "csq/detail/simd/target/avx512_amx.hpp"
#include "csq/detail/simd/target/neon.hpp"
#include "csq/detail/simd/target/portable.hpp"

namespace CSQ_CODE::detail::simd {

// A type for each set, so that a program compiles only the passes and scalars that it uses.
template <class... Each>
struct TargetList {
  static constexpr std::size_t count = sizeof...(Each);
  static constexpr const char* names[] = {Each::name...};
  static constexpr bool (*is_supported[])() = {Each::is_supported...};
  template <class T>
  static constexpr const KernelSet<T>* forward[] = {Each::template forward<T>...};
  template <class T>
  static constexpr const BackwardKernelSet<T>* backward[] = {Each::template backward<T>...};
  template <class T>
  static constexpr const SummaryKernelSet<T>* summary[] = {Each::template summary<T>...};
  template <class Element>
  static constexpr const Storage<float>* (*storage[])() = {Each::template storage<Element>...};
};

using Targets = TargetList<
#if defined(__x86_64__)
    avx512_amx::Target, avx512::Target, avx2::Target,
#elif defined(__aarch64__) && defined(__ARM_NEON)
    neon::Target,
#endif
    portable::Target>;

inline bool processor_has(std::size_t target) {
#if defined(__x86_64__)
  __builtin_cpu_init();  // a call may come before the constructor that does this
#endif
  return Targets::is_supported[target]();
}

// Reads CSQ_SIMD from the environment.
inline std::size_t choose_target() {
  const char* forced = std::getenv("CSQ_SIMD");
  const bool is_forced = forced != nullptr && *forced != '\0';
  for (std::size_t target = 0; target < Targets::count; ++target) {
    if (!is_forced && processor_has(target)) return target;
    if (is_forced && std::string_view(forced) == Targets::names[target]) {
      require(processor_has(target), "CSQ_SIMD is '", forced, "' but this processor does not have it");
      return target;
    }
  }
  std::string names;
  for (const char* name : Targets::names) names += std::string(names.empty() ? "" : ", ") + name;
  refuse("CSQ_SIMD is '", forced, "' but must be one of ", std::string_view(names));
}

inline std::size_t chosen_target() {
  static const std::size_t chosen = choose_target();
  return chosen;
}

template <class T>
const KernelSet<T>& kernels() {
  return *Targets::forward<T>[chosen_target()];
}
template <class T>
const BackwardKernelSet<T>& backward_kernels() {
  return *Targets::backward<T>[chosen_target()];
}
template <class T>
const SummaryKernelSet<T>& summary_kernels() {
  return *Targets::summary<T>[chosen_target()];
}
// The gradient's kernels of the unit that multiplies arrays of these elements; null: none.
template <class Element>
const MatrixBackwardKernelSet<Computed<Element>>* matrix_backward_kernels() {
#if defined(__x86_64__)
  if constexpr (std::is_same_v<std::remove_const_t<Element>, Eigen::bfloat16>)
    return avx512_amx::Target::matrix_backward<float>;
#endif
  return nullptr;
}
// How elements of another type than the one they are computed in are read and written; null for all others.
template <class Element>
const Storage<Computed<Element>>* storage_of() {
  if constexpr (is_computed_in_itself<Element>)
    return nullptr;
  else
    return Targets::storage<std::remove_const_t<Element>>[chosen_target()]();
}

}  // namespace CSQ_CODE::detail::simd
