#ifdef __clang__
#pragma float_control(pop)
#else
#pragma GCC pop_options
#endif
