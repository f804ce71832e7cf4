// What the tests of 16-bit arrays share: the two formats by their definition, in integers and doubles, and the same
// call in 16 bits and in float.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "problem.hpp"

namespace sixteen {

// Numbers are n·2^(e − mantissa), 2^mantissa ≤ n < 2^(mantissa + 1) and lowest ≤ e ≤ highest, or e = lowest and smaller
// n.
template <class Element>
struct Format;
template <>
struct Format<Eigen::bfloat16> {
  static constexpr const char* name = "bfloat16";
  static constexpr int mantissa = 7, lowest = -126, highest = 127;
};
template <>
struct Format<Eigen::half> {
  static constexpr const char* name = "half";
  static constexpr int mantissa = 10, lowest = -14, highest = 15;
};

template <class Element>
inline constexpr std::uint32_t infinity_bits =
    static_cast<std::uint32_t>((Format<Element>::highest - Format<Element>::lowest + 2) << Format<Element>::mantissa);

template <class Element>
Element from_bits(std::uint32_t bits) {
  const auto narrow = static_cast<std::uint16_t>(bits);
  Element element;
  std::memcpy(static_cast<void*>(&element), &narrow, 2);
  return element;
}
template <class Element>
std::uint32_t bits_of(const Element& element) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, &element, 2);
  return bits;
}
template <class Element>
bool is_nan(const Element& element) {
  return (bits_of(element) & 0x7fff) > infinity_bits<Element>;
}

template <class Element>
double value_of(const Element& element) {
  using F = Format<Element>;
  const std::uint32_t bits = bits_of(element), size = bits & 0x7fff, step = std::uint32_t{1} << F::mantissa;
  double value = 0;
  if (size >= infinity_bits<Element>)
    value = size == infinity_bits<Element> ? std::numeric_limits<double>::infinity()
                                           : std::numeric_limits<double>::quiet_NaN();
  else if (size < step)
    value = std::ldexp(size, F::lowest - F::mantissa);
  else
    value = std::ldexp(step + size % step, static_cast<int>(size / step) - 1 + F::lowest - F::mantissa);
  return (bits & 0x8000) != 0 ? -value : value;
}

// To nearest, ties to even; beyond the largest number, infinity.
template <class Element>
Element rounded(double x) {
  using F = Format<Element>;
  const std::uint32_t sign = std::signbit(x) ? 0x8000 : 0, step = std::uint32_t{1} << F::mantissa;
  const double size = std::abs(x);
  if (std::isnan(x)) return from_bits<Element>(sign | infinity_bits<Element> | step / 2);
  if (size >= std::ldexp(1, F::highest + 1)) return from_bits<Element>(sign | infinity_bits<Element>);
  const int exponent = size == 0 ? F::lowest : std::max(std::ilogb(size), F::lowest);
  const double scaled = std::ldexp(size, F::mantissa - exponent);
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1)) ++whole;
  // A carry into the next power of two, infinity included, is one into the exponent's bits.
  const auto n = static_cast<std::uint32_t>(whole);
  if (n < step) return from_bits<Element>(sign | n);
  return from_bits<Element>(sign | ((static_cast<std::uint32_t>(exponent - F::lowest + 1) * step) + (n - step)));
}

// As what is stored must be: the same bits, or both NaN.
template <class Element>
bool is_rounding_of(const Element& element, double exact) {
  return std::isnan(exact) ? is_nan(element) : bits_of(element) == bits_of(rounded<Element>(exact));
}
template <class Element>
bool are_roundings_of(const std::vector<Element>& elements, const std::vector<float>& exact) {
  if (elements.size() != exact.size()) return false;
  for (std::size_t i = 0; i < elements.size(); ++i)
    if (!is_rounding_of(elements[i], double(exact[i]))) return false;
  return true;
}

// What an array of 16 bits holds of these numbers.
template <class Element>
Tensor rounded(Tensor x) {
  for (double& value : x.values) value = value_of(rounded<Element>(value));
  return x;
}
template <class Element>
Problem rounded(Problem p) {
  p.q = rounded<Element>(std::move(p.q));
  p.k = rounded<Element>(std::move(p.k));
  p.v = rounded<Element>(std::move(p.v));
  p.dout = rounded<Element>(std::move(p.dout));
  return p;
}

// visit.template operator()<Element>() for both.
template <class Visit>
void for_both_types(const Visit& visit) {
  visit.template operator()<Eigen::bfloat16>();
  visit.template operator()<Eigen::half>();
}

}  // namespace sixteen
