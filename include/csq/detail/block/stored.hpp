// The caller's views as the engines take them, of whichever element type.
#pragma once

#include "csq/detail/call/axes.hpp"
#include "csq/detail/call/stored_heads.hpp"
#include "csq/detail/simd/targets.hpp"

namespace CSQ_CODE::detail {

// Elements are read and written in T = Computed<Element>; of those that stay what they are the view is the same.
template <class Element>
auto stored(const Heads<Element>& view) {
  using T = std::conditional_t<std::is_const_v<Element>, const Computed<Element>, Computed<Element>>;
  const Heads<Element> own = normalized(view);
  return StoredHeads<T>(reinterpret_cast<T*>(own.data), own.shape, own.stride, simd::storage_of<Element>());
}

}  // namespace CSQ_CODE::detail
