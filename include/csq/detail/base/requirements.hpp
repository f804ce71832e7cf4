// What csq asks of a compiler and its flags. What flags can break and the code itself cannot mend is refused here, with
// a sentence; the rest is mended where it matters: precise_begin.inl.
#pragma once

#if __cplusplus < 202002L
#error "csq needs C++20: compile with -std=c++20"
#endif

// Drivers too tell NaN and infinity from numbers, in code that follows the unit's flags. (Of GCC's pragmas
// above the include no macro tells in C++; the drivers that matter most stand in precise regions too.)
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "csq needs NaN and infinity: compile with -fno-finite-math-only, after -ffast-math and -Ofast too"
#endif

// On x87 and the like sums and differences of floats are no floats. 16 is about half precision alone, and for clang a
// negative number means no more than -ffast-math.
#if (__FLT_EVAL_METHOD__ > 0 && __FLT_EVAL_METHOD__ != 16) || (__FLT_EVAL_METHOD__ < 0 && !defined(__clang__))
#error "csq needs float arithmetic in float: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

static_assert(sizeof(1.0) == sizeof(double), "csq needs double constants: compile without -fsingle-precision-constant");
