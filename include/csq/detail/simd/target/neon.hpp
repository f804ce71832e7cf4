// NEON, which every 64-bit Arm processor has: 32 registers of 4 floats, tiles of 24 accumulators.
//
// An FMA takes its factor out of one element of a register, so a step of depth of the tile of 6×4 vectors is 24 FMAs,
// 4 loads of B and 6 of A. Beside 24 accumulators and B, 4 registers are left for A, and more with narrower tiles. 16
// chains keep four FMA units of four cycles busy (Neoverse V1, Apple), 8 two of them; with the 12 accumulators of the
// portable kernels a tile loads 8 times for 12 FMAs, and wide processors wait. Nothing depends on the order of bytes.
#pragma once

#include <type_traits>
#include <utility>

#include "csq/detail/simd/backward_kernel_set.hpp"
#include "csq/detail/simd/summary_kernel_set.hpp"

#if defined(__aarch64__) && defined(__ARM_NEON)

// No target of its own: NEON is there in every unit, and names tell units with SVE apart (base/abi.hpp).
//
// GCC's first scheduler loads all of a step's A before it multiplies, where one register at a time is needed: of 32 it
// then spilled three accumulators to the stack in every step of depth. Processors that run ahead need no such schedule.
#ifndef __clang__
#pragma GCC push_options
#pragma GCC optimize("no-schedule-insns")
#endif

#include "csq/detail/base/precise_begin.inl"

namespace CSQ_CODE::detail::simd::neon {

inline constexpr bool has_widening = false;
inline constexpr int vector_bytes = 16;
inline constexpr int accumulator_vectors = 24;
inline constexpr int widest_tile = 4;
inline constexpr Index absorb_panel = 48;
inline constexpr Index read_panel = 96;

#include "csq/detail/simd/kernel/kernels.inl"

}  // namespace CSQ_CODE::detail::simd::neon

#include "csq/detail/base/precise_end.inl"

#ifndef __clang__
#pragma GCC pop_options
#endif

namespace CSQ_CODE::detail::simd::neon {

struct Target {
  static constexpr const char* name = "neon";
  static bool is_supported() { return true; }
  template <class T>
  static constexpr const KernelSet<T>* forward = &kernel_set<T>;
  template <class T>
  static constexpr const BackwardKernelSet<T>* backward = &backward_kernel_set<T>;
  template <class T>
  static constexpr const SummaryKernelSet<T>* summary = &summary_kernel_set<T>;
  template <class Element>
  static const Storage<float>* storage() {
    return &neon::storage<Element>;
  }
};

}  // namespace CSQ_CODE::detail::simd::neon

#endif  // __aarch64__
