// Which arrays may go together in one call. Each rule is a sentence, and the first that is broken is the only error:
//
//   if constexpr (can_go_together(Read<Query, Key, Value>{}, Written<Output>{})) …
#pragma once

#include <concepts>
#include <type_traits>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

// The element types of the arrays that a call reads, and of those that it writes.
template <class... Elements>
struct Read {};
template <class... Elements>
struct Written {};

template <class Element>
concept FloatOrDouble = std::same_as < std::remove_const_t<Element>,
float > || std::same_as<std::remove_const_t<Element>, double>;

template <class First, class... Inputs, class... Outputs>
constexpr bool can_go_together(Read<First, Inputs...>, Written<Outputs...>) {
  constexpr bool served = FloatOrDouble<First> && (FloatOrDouble<Inputs> && ...) && (FloatOrDouble<Outputs> && ...);
  static_assert(served, "csq: arrays are of float or double: convert others first");

  using T = std::remove_const_t<First>;
  constexpr bool alike =
      (std::same_as<std::remove_const_t<Inputs>, T> && ...) && (std::same_as<std::remove_const_t<Outputs>, T> && ...);
  static_assert(!served || alike, "csq: float and double do not mix: a call's arrays have one scalar type");

  constexpr bool writable = !(std::is_const_v<Outputs> || ...);
  static_assert(!served || !alike || writable, "csq: an output is written to, so its elements cannot be const");
  return served && alike && writable;
}

}  // namespace CSQ_CODE::detail
