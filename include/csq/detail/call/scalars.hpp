// Which arrays may go together in one call.
#pragma once

#include <concepts>
#include <type_traits>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

template <class Query, class Key, class Value, class Output>
concept SameScalar = (std::same_as<Output, float> ||
                      std::same_as<Output, double>)&&std::same_as<std::remove_const_t<Query>, Output>&& std::
    same_as<std::remove_const_t<Key>, Output>&& std::same_as<std::remove_const_t<Value>, Output>;

}  // namespace CSQ_CODE::detail
