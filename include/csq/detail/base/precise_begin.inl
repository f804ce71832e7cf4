// From here to precise_end.inl arithmetic is what it says, whatever the unit's flags and the pragmas above: sums keep
// their order, NaN and infinity are values, and a·b + c is fused where the processor can.
//
// For code that depends on it: the kernels, whose exponential takes apart what `x − ((x + c) − c)` leaves, and drivers
// that tell NaN from numbers. Templates keep what held where they were written.
//
// clang 14 has the first pragma for some processors only, and ignores it on 64-bit Arm. The second one does what matters
// most there, but nothing takes it back: to the end of the unit sums then keep their order.
#ifdef __clang__
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wignored-pragmas"
#pragma float_control(precise, on, push)
#pragma clang diagnostic pop
#if defined(__aarch64__) && __clang_major__ < 15
#pragma clang fp reassociate(off)
#endif
#else
#pragma GCC push_options
#pragma GCC optimize("no-associative-math", "no-reciprocal-math", "no-unsafe-math-optimizations", "signed-zeros")
#pragma GCC optimize("no-finite-math-only", "trapping-math", "fp-contract=fast")
#endif
