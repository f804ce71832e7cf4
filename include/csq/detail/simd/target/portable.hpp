// Any processor: 16-byte vectors, as SSE2 has on x86-64 and NEON on 64-bit Arm; tiles of 12 accumulators.
#pragma once

#include <type_traits>
#include <utility>

#include "csq/detail/simd/backward_kernel_set.hpp"
#include "csq/detail/simd/summary_kernel_set.hpp"

// In a unit built with more than SSE2 these kernels still use no more, whichever unit the linker takes them from.
#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("no-avx"))), apply_to = function)
#elif defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("no-avx")
#endif

#include "csq/detail/base/precise_begin.inl"

namespace CSQ_CODE::detail::simd::portable {

inline constexpr bool has_widening = false;
inline constexpr int vector_bytes = 16;
inline constexpr int accumulator_vectors = 12;
inline constexpr int widest_tile = 2;
inline constexpr Index absorb_panel = 48;
inline constexpr Index read_panel = 96;

#include "csq/detail/simd/kernel/kernels.inl"

}  // namespace CSQ_CODE::detail::simd::portable

#include "csq/detail/base/precise_end.inl"

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#elif defined(__x86_64__)
#pragma GCC pop_options
#endif

namespace CSQ_CODE::detail::simd::portable {

struct Target {
  static constexpr const char* name = "portable";
  static bool is_supported() { return true; }
  template <class T>
  static constexpr const KernelSet<T>* forward = &kernel_set<T>;
  template <class T>
  static constexpr const BackwardKernelSet<T>* backward = &backward_kernel_set<T>;
  template <class T>
  static constexpr const SummaryKernelSet<T>* summary = &summary_kernel_set<T>;
  template <class Element>
  static const Storage<float>* storage() {
    return &portable::storage<Element>;
  }
};

}  // namespace CSQ_CODE::detail::simd::portable
