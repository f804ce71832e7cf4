// Above the include of csq: what loses the exponential, but not NaN.
#pragma GCC optimize("associative-math", "no-signed-zeros", "no-trapping-math", "reciprocal-math")
