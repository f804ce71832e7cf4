// How the kernels ask for inlining and unrolling; whoever includes this undefines both at the end.

#define CSQ_INLINE inline __attribute__((always_inline))
#ifdef __clang__
#define CSQ_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CSQ_UNROLL _Pragma("GCC unroll 32")
#endif
