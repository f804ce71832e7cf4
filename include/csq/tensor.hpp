// What attention reads and writes: views of somebody else's memory, and one owning matrix type.
//
//   Matrix<T>   tokens×dim, row-major Eigen                     one head
//   Head<T>     tokens×dim view with two strides                one head, not owned
//   Heads<T>    [batch, heads, tokens, dim] view, four strides  many heads, not owned
//
// Strides are in elements and may be anything, so one type serves [B,H,N,D], [B,N,H,D], packed QKV and column-major
// data; a contiguous last axis is the fast case. Inputs may have zero strides (broadcast); outputs may not overlap
// themselves.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <concepts>
#include <cstdlib>
#include <string_view>
#include <type_traits>
#include <vector>

#include "csq/check.hpp"

namespace csq {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// One head: element (t, a) lies at data[t·token_stride + a·dim_stride].
template <class T>
struct Head {
  T* data = nullptr;
  Index tokens = 0;
  Index dim = 0;
  Index token_stride = 0;
  Index dim_stride = 1;

  T& operator()(Index token, Index axis) const { return data[token * token_stride + axis * dim_stride]; }
};

// Many heads. `shape` and `stride` are {batch, heads, tokens, dim}.
template <class T>
struct Heads {
  using Shape = std::array<Index, 4>;

  T* data = nullptr;
  Shape shape{};
  Shape stride{};

  Heads() = default;

  // Contiguous [batch, heads, tokens, dim].
  Heads(T* data_in, Shape shape_in) : data(data_in), shape(shape_in) {
    stride[3] = 1;
    for (std::size_t axis = 3; axis-- > 0;)
      stride[axis] = checked_product(stride[axis + 1], std::max<Index>(shape[axis + 1], 1), "Heads: shape");
  }

  Heads(T* data_in, Shape shape_in, Shape stride_in) : data(data_in), shape(shape_in), stride(stride_in) {}

  // Heads<float> → Heads<const float>.
  template <class U>
  requires(std::is_const_v<T>&& std::is_same_v<const U, T> && !std::is_const_v<U>) Heads(const Heads<U>& other)
      : data(other.data), shape(other.shape), stride(other.stride) {}

  Index batch() const { return shape[0]; }
  Index heads() const { return shape[1]; }
  Index tokens() const { return shape[2]; }
  Index dim() const { return shape[3]; }
  bool empty() const { return shape[0] == 0 || shape[1] == 0 || shape[2] == 0 || shape[3] == 0; }

  Head<T> head(Index batch_index, Index head_index) const {
    return {data + batch_index * stride[0] + head_index * stride[1], shape[2], shape[3], stride[2], stride[3]};
  }
};

// A dense Eigen object of any kind, and one whose elements lie in memory: a matrix, map or block, not an expression.
template <class X>
concept EigenDense = std::derived_from<std::remove_cvref_t<X>, Eigen::DenseBase<std::remove_cvref_t<X>>>;
template <class X>
concept EigenInMemory = EigenDense<X> && requires(X& matrix) {
  matrix.data();
  matrix.innerStride();
  matrix.outerStride();
};

// One head seen in any Eigen matrix, map or block, of either storage order: [1, 1, rows, columns].
template <class X>
requires EigenDense<X>
auto heads_of(X&& matrix) {
  static_assert(EigenInMemory<std::remove_reference_t<X>>,
                "csq::heads_of: an expression has no memory to view; evaluate it into a matrix first");
  static_assert(std::is_lvalue_reference_v<X> ||
                    !std::derived_from<std::remove_cvref_t<X>, Eigen::PlainObjectBase<std::remove_cvref_t<X>>>,
                "csq::heads_of: a temporary matrix would be gone before its view is used");
  using T = std::remove_pointer_t<decltype(matrix.data())>;
  const Index inner = matrix.innerStride();
  const Index outer = matrix.outerStride();
  const Index row = std::remove_cvref_t<X>::IsRowMajor ? outer : inner;
  const Index column = std::remove_cvref_t<X>::IsRowMajor ? inner : outer;
  return Heads<T>(matrix.data(), {1, 1, matrix.rows(), matrix.cols()},
                  {row * matrix.rows(), row * matrix.rows(), row, column});
}

using AxisSizes = std::array<Index, 4>;

// Sizes are not negative, their product and the furthest element fit in 64 bits, and there is memory where needed.
inline void check_axes(std::string_view name, const AxisSizes& shape, const AxisSizes& stride, Index element_bytes,
                       bool has_memory) {
  const auto& s = shape;
  const bool empty = s[0] == 0 || s[1] == 0 || s[2] == 0 || s[3] == 0;
  check(s[0] >= 0 && s[1] >= 0 && s[2] >= 0 && s[3] >= 0, name, ": shape [", s[0], ", ", s[1], ", ", s[2], ", ", s[3],
        "] has a negative size");
  Index count = 1;
  Index span = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    count = checked_product(count, s[axis], name);
    if (s[axis] > 1) {
      check(stride[axis] != INT64_MIN, name, ": a stride overflows a 64-bit size");
      span = checked_sum(span, checked_product(s[axis] - 1, std::abs(stride[axis]), name), name);
    }
  }
  checked_product(checked_sum(span, 1, name), element_bytes, name);
  checked_product(count, element_bytes, name);
  check(has_memory || empty, name, ": data is null but the shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3], "]");
}

template <class T>
void check_heads(std::string_view name, const Heads<T>& view) {
  check_axes(name, view.shape, view.stride, static_cast<Index>(sizeof(T)), view.data != nullptr);
}

// An output may not write one element twice. Nested strides are recognised at once; what is not nested is enumerated.
inline void check_axes_no_overlap(std::string_view name, const AxisSizes& shape, const AxisSizes& stride) {
  std::array<std::size_t, 4> order{0, 1, 2, 3};  // axes by |stride|, then size
  const auto before = [&](std::size_t a, std::size_t b) {
    const Index x = std::abs(stride[a]), y = std::abs(stride[b]);
    return x < y || (x == y && shape[a] < shape[b]);
  };
  for (std::size_t last = 1; last < 4; ++last)
    for (std::size_t i = last; i > 0 && before(order[i], order[i - 1]); --i) std::swap(order[i], order[i - 1]);
  Index inner = 0;  // furthest element of the axes seen so far
  bool nested = true;
  for (const std::size_t axis : order) {
    const Index step = std::abs(stride[axis]), size = shape[axis];
    if (size <= 1) continue;
    check(step != 0, name, ": an output may not have a zero stride along an axis of size ", size);
    nested = nested && step > inner;
    inner += step * (size - 1);
  }
  if (nested) return;
  const Index count = shape[0] * shape[1] * shape[2] * shape[3];
  constexpr Index enumerable = Index{1} << 24;
  check(count <= enumerable, name, ": an output of ", count, " elements needs nested strides");
  std::vector<Index> offsets;
  offsets.reserve(static_cast<std::size_t>(count));
  for (Index b = 0; b < shape[0]; ++b)
    for (Index h = 0; h < shape[1]; ++h)
      for (Index t = 0; t < shape[2]; ++t)
        for (Index a = 0; a < shape[3]; ++a)
          offsets.push_back(b * stride[0] + h * stride[1] + t * stride[2] + a * stride[3]);
  // The C function: rare as it is, std::sort would cost every program that includes csq its compile time.
  std::qsort(offsets.data(), offsets.size(), sizeof(Index), [](const void* left, const void* right) {
    const Index a = *static_cast<const Index*>(left), b = *static_cast<const Index*>(right);
    return a < b ? -1 : a > b ? 1 : 0;
  });
  for (std::size_t i = 1; i < offsets.size(); ++i)
    check(offsets[i] != offsets[i - 1], name, ": the strides make two elements of the output share memory");
}

template <class T>
void check_no_self_overlap(std::string_view name, const Heads<T>& view) {
  if (!view.empty()) check_axes_no_overlap(name, view.shape, view.stride);
}

}  // namespace csq
