// Which arrays may go together in one call.
#pragma once

#include <concepts>
#include <type_traits>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

template <class Q, class K, class V, class O>
concept SameScalar = (std::same_as<O, float> || std::same_as<O, double>)&&std::same_as<
    std::remove_const_t<Q>, O>&& std::same_as<std::remove_const_t<K>, O>&& std::same_as<std::remove_const_t<V>, O>;

}  // namespace CSQ_CODE::detail
