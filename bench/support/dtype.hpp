// What the arrays of a benchmark are of: --dtype. Of 16 bits they are computed in float, and normalisers and gates stay
// float.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace bench {

enum class Dtype { float32, bfloat16, float16 };
inline constexpr const char* dtype_choices = "float|bfloat16|float16";

inline const char* name_of(Dtype dtype) {
  return dtype == Dtype::bfloat16 ? "bfloat16" : dtype == Dtype::float16 ? "float16" : "float";
}

inline Dtype dtype_of(const std::string& option, const std::string& name) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16})
    if (name == name_of(dtype)) return dtype;
  throw std::invalid_argument(option + ": '" + name + "' is none of " + dtype_choices);
}

// Calls `call` with std::type_identity of the elements' type.
template <class Call>
decltype(auto) with_element(Dtype dtype, const Call& call) {
  if (dtype == Dtype::bfloat16) return call(std::type_identity<Eigen::bfloat16>{});
  if (dtype == Dtype::float16) return call(std::type_identity<Eigen::half>{});
  return call(std::type_identity<float>{});
}

inline double bytes_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

template <class Element>
using Computed = std::conditional_t<std::same_as<Element, double>, double, float>;

// How far two ways to the same rows may be apart, ‖a − b‖/‖b‖: in 16 bits each of them rounds its output, and on matrix
// units its weights and features.
inline double tolerance_of(Dtype dtype) {
  return dtype == Dtype::bfloat16 ? 3e-2 : dtype == Dtype::float16 ? 8e-3 : 1e-3;
}

}  // namespace bench
