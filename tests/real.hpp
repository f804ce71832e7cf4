// What plain loops compute in, to compare kernels with.
#pragma once

#include <cfloat>

// More digits than double has where the processor has them. Elsewhere long double is double, or made of calls: on
// 64-bit Arm it has 128 bits and takes 40 times as long as double, under an emulator as an operation of the kernels
// does of vectors.
#if LDBL_MANT_DIG == 64
using Real = long double;
#else
using Real = double;
#endif
