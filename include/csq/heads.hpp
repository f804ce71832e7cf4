// What attention reads and writes: views of somebody else's memory.
//
//   Head<T>     tokens×dim view with two strides                one head, not owned
//   Heads<T>    [batch, heads, tokens, dim] view, four strides  many heads, not owned
//
// Strides are in elements and may be anything, so one type serves [B,H,N,D], [B,N,H,D], packed QKV and column-major
// data; a contiguous last axis is the fast case. Inputs may have zero strides (broadcast); outputs may not overlap
// themselves.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "csq/detail/base/arithmetic.hpp"

namespace CSQ_TYPES {

/// Every size and stride of the library, in elements.
using Index = std::int64_t;

/// One head: element (t, a) lies at data[t·token_stride + a·dim_stride].
template <class T>
struct Head {
  T* data = nullptr;
  Index tokens = 0;
  Index dim = 0;
  Index token_stride = 0;
  Index dim_stride = 1;

  CSQ_ALWAYS_INLINE T& operator()(Index token, Index axis) const {
    return data[token * token_stride + axis * dim_stride];
  }
};

/// Many heads. `shape` and `stride` are {batch, heads, tokens, dim}.
template <class T>
struct Heads {
  using Shape = std::array<Index, 4>;

  T* data = nullptr;
  Shape shape{};
  Shape stride{};

  CSQ_ALWAYS_INLINE Heads() = default;

  /// Contiguous [batch, heads, tokens, dim].
  CSQ_ALWAYS_INLINE Heads(T* data_in, Shape shape_in) : data(data_in), shape(shape_in) {
    stride[3] = 1;
    for (std::size_t axis = 3; axis-- > 0;)
      stride[axis] =
          detail::checked_product(stride[axis + 1], detail::larger<Index>(shape[axis + 1], 1), "Heads: shape");
  }

  CSQ_ALWAYS_INLINE Heads(T* data_in, Shape shape_in, Shape stride_in)
      : data(data_in), shape(shape_in), stride(stride_in) {}

  /// Heads<float> → Heads<const float>.
  template <class Other>
  requires(std::is_const_v<T>&& std::is_same_v<const Other, T> && !std::is_const_v<Other>) CSQ_ALWAYS_INLINE
      Heads(const Heads<Other>& other)
      : data(other.data), shape(other.shape), stride(other.stride) {}

  CSQ_ALWAYS_INLINE Index batch() const { return shape[0]; }
  CSQ_ALWAYS_INLINE Index heads() const { return shape[1]; }
  CSQ_ALWAYS_INLINE Index tokens() const { return shape[2]; }
  CSQ_ALWAYS_INLINE Index dim() const { return shape[3]; }
  CSQ_ALWAYS_INLINE bool empty() const { return shape[0] == 0 || shape[1] == 0 || shape[2] == 0 || shape[3] == 0; }

  CSQ_ALWAYS_INLINE Head<T> head(Index batch_index, Index head_index) const {
    return {data + batch_index * stride[0] + head_index * stride[1], shape[2], shape[3], stride[2], stride[3]};
  }
};

}  // namespace CSQ_TYPES
