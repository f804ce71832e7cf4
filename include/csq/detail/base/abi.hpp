// The version, and the names that keep versions and configurations of csq apart in one program.
//
// csq is compiled anew in every unit that includes it, and the linker keeps one copy of each inline function. Units of
// one program may be built with different versions of csq, different instruction sets, with or without OpenMP: a copy
// made for one is wrong, or an illegal instruction, in another. So every name carries what it depends on:
//
//   namespace CSQ_TYPES   the version. Sizes, views, options and mechanisms: alike in all units, so that they may cross
//                         from one to another. Nothing in here may leave a function to the linker: members are
//                         CSQ_ALWAYS_INLINE or the compiler's own.
//   namespace CSQ_CODE    the version and the unit's configuration. Everything that computes.
#pragma once

#include "csq/detail/base/requirements.hpp"

#define CSQ_VERSION_MAJOR 0
#define CSQ_VERSION_MINOR 1
#define CSQ_VERSION_PATCH 0

#define CSQ_ALWAYS_INLINE inline __attribute__((always_inline))

#define CSQ_JOIN_AS_WRITTEN(a, b) a##b
#define CSQ_JOIN(a, b) CSQ_JOIN_AS_WRITTEN(a, b)

// The version, and what of the standard library's own configuration changes the layout of a vector.
#define CSQ_ABI_NUMBER \
  CSQ_JOIN(CSQ_JOIN(CSQ_JOIN(CSQ_JOIN(v, CSQ_VERSION_MAJOR), _), CSQ_JOIN(CSQ_VERSION_MINOR, _)), CSQ_VERSION_PATCH)
#ifdef _GLIBCXX_DEBUG
#define CSQ_ABI_VERSION CSQ_JOIN(CSQ_ABI_NUMBER, _debug)
#else
#define CSQ_ABI_VERSION CSQ_ABI_NUMBER
#endif

// The compiler: gcc12, clang14.
#ifdef __clang__
#define CSQ_ABI_COMPILER CSQ_JOIN(clang, __clang_major__)
#else
#define CSQ_ABI_COMPILER CSQ_JOIN(gcc, __GNUC__)
#endif

#ifdef _OPENMP
#define CSQ_ABI_THREADS _omp
#else
#define CSQ_ABI_THREADS _serial
#endif

#ifdef __OPTIMIZE__
#define CSQ_ABI_OPTIMIZED _O
#else
#define CSQ_ABI_OPTIMIZED _O0
#endif

#ifdef __EXCEPTIONS
#define CSQ_ABI_ERRORS
#else
#define CSQ_ABI_ERRORS _noexcept
#endif

// Instructions that the unit's own code may use: the kernels choose theirs at run time, what calls them does not.
// A digit for each step of x86-64's levels, and for what is switched on one by one.
#if defined(__SSE4_2__) && defined(__POPCNT__)
#define CSQ_ABI_SSE 2
#elif defined(__SSE4_1__) || defined(__SSSE3__) || defined(__SSE3__)
#define CSQ_ABI_SSE 1
#else
#define CSQ_ABI_SSE 0
#endif
#if defined(__AVX2__)
#define CSQ_ABI_AVX 2
#elif defined(__AVX__)
#define CSQ_ABI_AVX 1
#else
#define CSQ_ABI_AVX 0
#endif
#ifdef __FMA__
#define CSQ_ABI_FMA 1
#else
#define CSQ_ABI_FMA 0
#endif
#if defined(__BMI2__) || defined(__LZCNT__)
#define CSQ_ABI_BMI 2
#elif defined(__BMI__)
#define CSQ_ABI_BMI 1
#else
#define CSQ_ABI_BMI 0
#endif
#if defined(__AVX512FP16__) || defined(__AVX512BF16__)
#define CSQ_ABI_AVX512 3
#elif defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CSQ_ABI_AVX512 2
#elif defined(__AVX512F__)
#define CSQ_ABI_AVX512 1
#else
#define CSQ_ABI_AVX512 0
#endif
#if defined(__ARM_FEATURE_SVE)
#define CSQ_ABI_ARM 2
#elif defined(__ARM_FEATURE_ATOMICS)
#define CSQ_ABI_ARM 1
#else
#define CSQ_ABI_ARM 0
#endif
#define CSQ_ABI_INSTRUCTIONS                                                        \
  CSQ_JOIN(CSQ_JOIN(CSQ_JOIN(_i, CSQ_ABI_SSE), CSQ_JOIN(CSQ_ABI_AVX, CSQ_ABI_FMA)), \
           CSQ_JOIN(CSQ_JOIN(CSQ_ABI_BMI, CSQ_ABI_AVX512), CSQ_ABI_ARM))

#define CSQ_ABI_CONFIGURATION                           \
  CSQ_JOIN(CSQ_JOIN(CSQ_ABI_COMPILER, CSQ_ABI_THREADS), \
           CSQ_JOIN(CSQ_JOIN(CSQ_ABI_OPTIMIZED, CSQ_ABI_ERRORS), CSQ_ABI_INSTRUCTIONS))

#define CSQ_TYPES csq::inline CSQ_ABI_VERSION
#define CSQ_CODE CSQ_TYPES::inline CSQ_ABI_CONFIGURATION
