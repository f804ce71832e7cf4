// What plain loops compute in, to compare kernels with.
#pragma once

#include <cfloat>

// More digits than double has where the processor has them. Elsewhere long double is double, or made of calls: on
// 64-bit Arm it has 128 bits, and an operation takes 40 times as long, under an emulator 400 ns.
#if LDBL_MANT_DIG == 64
using Real = long double;
#else
using Real = double;
#endif
