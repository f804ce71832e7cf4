// AVX-512 and, for arrays of bfloat16, the matrix unit of Intel's Xeons since Sapphire Rapids (AMX): the float kernels
// of avx512.hpp, and beside them those of matrix_kernel_set.hpp.
#pragma once

#include "csq/detail/simd/matrix_backward_kernel_set.hpp"
#include "csq/detail/simd/matrix_kernel_set.hpp"
#include "csq/detail/simd/target/avx512.hpp"

#if defined(__x86_64__)

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#include "csq/detail/base/precise_begin.inl"

namespace CSQ_CODE::detail::simd::avx512_amx {

using namespace avx512;  // vectors, masks, weights and the float kernels

// clang-format off
#include "csq/detail/simd/kernel/inlining.inl"
#include "csq/detail/simd/kernel/amx/tile.inl"
#include "csq/detail/simd/kernel/amx/kernels.inl"
#include "csq/detail/simd/kernel/amx/backward_kernels.inl"
// clang-format on

}  // namespace CSQ_CODE::detail::simd::avx512_amx

#include "csq/detail/base/precise_end.inl"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace CSQ_CODE::detail::simd::avx512_amx {

// By assembly: the headers that have these functions are of the compiler and of the system.
struct ProcessorFeatures {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;

  static ProcessorFeatures of(std::uint32_t leaf, std::uint32_t part) {
    ProcessorFeatures features;
    __asm__ volatile("cpuid"
                     : "=a"(features.a), "=b"(features.b), "=c"(features.c), "=d"(features.d)
                     : "a"(leaf), "c"(part));
    return features;
  }
};

// Tiles and bfloat16 in the processor, and tiles saved by the system.
inline bool has_tiles() {
#if defined(__linux__) && defined(__LP64__)
  constexpr std::uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5, osxsave = 1u << 27;
  constexpr std::uint32_t tile_state = 3u << 17;  // XTILECFG and XTILEDATA
  if (ProcessorFeatures::of(0, 0).a < 7 || (ProcessorFeatures::of(1, 0).c & osxsave) == 0) return false;
  const ProcessorFeatures seven = ProcessorFeatures::of(7, 0);
  if (seven.a < 1 || (seven.d & amx_bf16) == 0 || (seven.d & amx_tile) == 0) return false;
  if ((ProcessorFeatures::of(7, 1).a & avx512_bf16) == 0) return false;
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & tile_state) == tile_state;
#else
  return false;
#endif
}

// The system's call arch_prctl; not 0 where it fails.
inline long arch_prctl(long request, std::uintptr_t argument) {
#if defined(__linux__) && defined(__LP64__)
  long result = 158;  // the number of the call
  __asm__ volatile("syscall" : "+a"(result) : "D"(request), "S"(argument) : "rcx", "r11", "memory");
  return result;
#else
  static_cast<void>(request);
  static_cast<void>(argument);
  return -1;
#endif
}

// The system's leave to use them: Linux gives it to a process that asks, and to the threads that it has or starts from
// then on. Asked for when the first array of bfloat16 comes, since it makes the frames of signals larger; where it is
// refused float kernels serve.
inline bool may_use_tiles() {
  constexpr long get_permission = 0x1022, request_permission = 0x1023;
  constexpr int tile_data = 18;
  if (arch_prctl(request_permission, tile_data) != 0) return false;
  std::uint64_t permitted = 0;
  return arch_prctl(get_permission, reinterpret_cast<std::uintptr_t>(&permitted)) == 0 &&
         (permitted >> tile_data & 1) != 0;
}

// bfloat16 as the float kernels know it, and the unit that multiplies it.
template <class Element>
inline constexpr Storage<float> storage_with_unit = [] {
  Storage<float> storage = avx512::storage<Element>;
  storage.matrix = &matrix_kernel_set<float>;
  return storage;
}();

// Outside the region: asked before it is known what the processor has.
struct Target {
  static constexpr const char* name = "avx512_amx";
  static bool is_supported() { return avx512::Target::is_supported() && has_tiles(); }
  template <class T>
  static constexpr const KernelSet<T>* forward = avx512::Target::forward<T>;
  template <class T>
  static constexpr const BackwardKernelSet<T>* backward = avx512::Target::backward<T>;
  template <class T>
  static constexpr const SummaryKernelSet<T>* summary = avx512::Target::summary<T>;
  template <class T>
  static constexpr const MatrixKernelSet<T>* matrix = &matrix_kernel_set<T>;
  template <class Element>
  static const Storage<float>* storage() {
    if constexpr (std::is_same_v<Element, Eigen::bfloat16>) {
      static const bool permitted = may_use_tiles();
      if (permitted) return &storage_with_unit<Element>;
    }
    return avx512::Target::storage<Element>();
  }
  template <class T>
  static constexpr const MatrixBackwardKernelSet<T>* matrix_backward = &matrix_backward_kernel_set<T>;
};

}  // namespace CSQ_CODE::detail::simd::avx512_amx

#endif  // __x86_64__
