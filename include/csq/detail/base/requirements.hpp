// What csq asks of a compiler and its flags. What flags can break and the code itself cannot mend is refused here, with
// a sentence; the rest is mended where it matters: precise_begin.inl.
#pragma once

// The kernels are written with the vector types of GCC and clang. GCC has __builtin_shufflevector from 12 on. Of clang
// 14 is the oldest that was tried; its documentation has all that is used from 11 on (?: of vectors), and libc++
// <concepts> from 13 on.
#ifndef __GNUC__
#error "csq needs GCC 12 or later, or clang 14 or later: its kernels are written with their vector types"
#define CSQ_CANNOT_BE_READ
#elif defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 12
#error "csq needs GCC 12 or later, or clang 14 or later: this one is older"
#define CSQ_CANNOT_BE_READ
#elif __cplusplus < 202002L
#error "csq needs C++20: compile with -std=c++20"
#define CSQ_CANNOT_BE_READ
#elif !__has_include(<concepts>) || !__has_include(<span>)
#error "csq needs a standard library with C++20's <concepts> and <span>: libstdc++ 10 or later, or libc++ 13 or later"
#define CSQ_CANNOT_BE_READ
#endif

// A hundred errors would follow. A file that is not there ends the compilation, as #error alone does not.
#ifdef CSQ_CANNOT_BE_READ
#define CSQ_SEE_ABOVE "nothing more: see the error above"
#include CSQ_SEE_ABOVE
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
