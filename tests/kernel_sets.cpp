// Prints the sets of kernels, each with whether this processor has it, for CMake: "avx2=1;portable=1".
#include <cstdio>

#include "csq/version.hpp"

int main() {
  using csq::detail::simd::Targets;
  for (std::size_t set = 0; set < Targets::count; ++set)
    std::printf("%s%s=%d", set == 0 ? "" : ";", Targets::names[set], csq::detail::simd::processor_has(set) ? 1 : 0);
}
