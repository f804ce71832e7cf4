// Chooses the kernels once, at run time: the widest set that the processor has, or the one that CSQ_SIMD names.
#pragma once

#include <cstdlib>
#include <string_view>

#include "csq/detail/base/check.hpp"
#include "csq/detail/simd/target/avx2.hpp"
#include "csq/detail/simd/target/avx512.hpp"
#include "csq/detail/simd/target/portable.hpp"

namespace CSQ_CODE::detail::simd {

enum class InstructionSet { portable, avx2, avx512 };

inline bool processor_has(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return set == InstructionSet::portable;
}

// Reads CSQ_SIMD = portable | avx2 | avx512 from the environment, once.
inline InstructionSet choose_instruction_set() {
  const char* forced = std::getenv("CSQ_SIMD");
  if (forced == nullptr || *forced == '\0') {
    if (processor_has(InstructionSet::avx512)) return InstructionSet::avx512;
    return processor_has(InstructionSet::avx2) ? InstructionSet::avx2 : InstructionSet::portable;
  }
  const std::string_view name = forced;
  const InstructionSet set = name == "avx512" ? InstructionSet::avx512
                             : name == "avx2" ? InstructionSet::avx2
                                              : InstructionSet::portable;
  require(set != InstructionSet::portable || name == "portable", "CSQ_SIMD is '", name,
          "' but must be portable, avx2 or avx512");
  require(processor_has(set), "CSQ_SIMD is '", name, "' but this processor does not have it");
  return set;
}

inline InstructionSet instruction_set() {
  static const InstructionSet chosen = choose_instruction_set();
  return chosen;
}

template <class T>
const KernelSet<T>& kernels() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::avx512) return avx512::kernel_set<T>;
  if (instruction_set() == InstructionSet::avx2) return avx2::kernel_set<T>;
#endif
  return portable::kernel_set<T>;
}

template <class T>
const BackwardKernelSet<T>& backward_kernels() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::avx512) return avx512::backward_kernel_set<T>;
  if (instruction_set() == InstructionSet::avx2) return avx2::backward_kernel_set<T>;
#endif
  return portable::backward_kernel_set<T>;
}

}  // namespace CSQ_CODE::detail::simd
