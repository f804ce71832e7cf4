// Which arrays may go together in one call. Each rule is a sentence, and the first that is broken is the only error:
//
//   if constexpr (can_go_together(Read<Query, Key, Value>{}, Written<Output>{}, Computing<Statistic>{})) …
#pragma once

#include <concepts>
#include <type_traits>

#include "csq/detail/base/storage.hpp"

namespace CSQ_CODE::detail {

// The element types of the arrays that a call reads, of those that it writes, and of those that are of the type that is
// computed with whatever the others are: normalisers.
template <class... Elements>
struct Read {};
template <class... Elements>
struct Written {};
template <class... Elements>
struct ReadComputed {};
template <class... Elements>
struct WrittenComputed {};

template <class Element>
concept FloatOrDouble = std::same_as < std::remove_const_t<Element>,
float > || std::same_as<std::remove_const_t<Element>, double>;
template <class Element>
concept Served = FloatOrDouble<Computed<Element>>;

template <class First, class... Inputs, class... Outputs, class... Known, class... Sums>
constexpr bool can_go_together(Read<First, Inputs...>, Written<Outputs...>, ReadComputed<Known...> = {},
                               WrittenComputed<Sums...> = {}) {
  constexpr bool served = Served<First> && (Served<Inputs> && ...) && (Served<Outputs> && ...) &&
                          (Served<Known> && ...) && (Served<Sums> && ...);
  static_assert(served, "csq: arrays are of float, double, Eigen::bfloat16 or Eigen::half: convert others first");

  using Element = std::remove_const_t<First>;
  using T = Computed<Element>;
  constexpr bool is_sixteen = !is_computed_in_itself<Element>;
  constexpr bool arrays_alike = (std::same_as<std::remove_const_t<Inputs>, Element> && ...) &&
                                (std::same_as<std::remove_const_t<Outputs>, Element> && ...);
  constexpr bool sums_alike =
      (std::same_as<std::remove_const_t<Known>, T> && ...) && (std::same_as<std::remove_const_t<Sums>, T> && ...);
  constexpr bool alike = arrays_alike && (sums_alike || is_sixteen);
  static_assert(!served || alike, "csq: element types do not mix: a call's arrays have one scalar type");
  static_assert(!served || !alike || sums_alike, "csq: normalisers and gates of 16-bit arrays are float");

  constexpr bool writable = !((std::is_const_v<Outputs> || ...) || (std::is_const_v<Sums> || ...));
  static_assert(!served || !alike || !sums_alike || writable,
                "csq: an output is written to, so its elements cannot be const");
  return served && alike && sums_alike && writable;
}

// Of calls that take nothing of 16 bits.
template <class First, class... Inputs, class... Outputs>
constexpr bool can_go_together_in_full(Read<First, Inputs...> inputs, Written<Outputs...> outputs) {
  constexpr bool served = FloatOrDouble<First>;
  static_assert(served, "csq: these arrays are of float or double: convert others first");
  if constexpr (served) return can_go_together(inputs, outputs);
  return false;
}

}  // namespace CSQ_CODE::detail
