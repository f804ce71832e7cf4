// AVX2 with FMA: 16 registers of 8 floats, tiles of 12 accumulators.
#pragma once

#include <type_traits>
#include <utility>

#include "csq/detail/simd/backward_kernel_set.hpp"
#include "csq/detail/simd/summary_kernel_set.hpp"

#if defined(__x86_64__)

// The region carries its own target, so a program built with plain -O2 gets these instructions; what it takes away
// keeps the code the same in a unit built with more.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,no-avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,no-avx512f")
#endif

#include "csq/detail/base/precise_begin.inl"

namespace CSQ_CODE::detail::simd::avx2 {

inline constexpr bool has_widening = true;
inline constexpr int vector_bytes = 32;
inline constexpr int accumulator_vectors = 12;
inline constexpr int widest_tile = 2;
inline constexpr Index absorb_panel = 48;
inline constexpr Index read_panel = 96;

#include "csq/detail/simd/kernel/kernels.inl"

}  // namespace CSQ_CODE::detail::simd::avx2

#include "csq/detail/base/precise_end.inl"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace CSQ_CODE::detail::simd::avx2 {

// Outside the region: asked before it is known what the processor has.
struct Target {
  static constexpr const char* name = "avx2";
  static bool is_supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
  template <class T>
  static constexpr const KernelSet<T>* forward = &kernel_set<T>;
  template <class T>
  static constexpr const BackwardKernelSet<T>* backward = &backward_kernel_set<T>;
  template <class T>
  static constexpr const SummaryKernelSet<T>* summary = &summary_kernel_set<T>;
  template <class Element>
  static const Storage<float>* storage() {
    return &avx2::storage<Element>;
  }
};

}  // namespace CSQ_CODE::detail::simd::avx2

#endif  // __x86_64__
