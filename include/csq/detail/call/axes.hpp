// Whether a view can be read, or written: sizes, strides and memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "csq/detail/call/stored_heads.hpp"

namespace CSQ_CODE::detail {

using AxisSizes = std::array<Index, 4>;

// Sizes are not negative, their product and the furthest element fit in 64 bits, and there is memory where needed.
inline void check_axes(std::string_view name, const AxisSizes& shape, const AxisSizes& stride, Index element_bytes,
                       bool has_memory) {
  const auto& s = shape;
  const bool empty = s[0] == 0 || s[1] == 0 || s[2] == 0 || s[3] == 0;
  require(s[0] >= 0 && s[1] >= 0 && s[2] >= 0 && s[3] >= 0, name, ": shape [", s[0], ", ", s[1], ", ", s[2], ", ", s[3],
          "] has a negative size");
  Index count = 1;
  Index span = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    count = checked_product(count, s[axis], name);
    if (s[axis] > 1) {
      require(stride[axis] != INT64_MIN, name, ": a stride overflows a 64-bit size");
      span = checked_sum(span, checked_product(s[axis] - 1, std::abs(stride[axis]), name), name);
    }
  }
  checked_product(checked_sum(span, 1, name), element_bytes, name);
  checked_product(count, element_bytes, name);
  require(has_memory || empty, name, ": data is null but the shape is [", s[0], ", ", s[1], ", ", s[2], ", ", s[3],
          "]");
}

template <class View>
void check_heads(std::string_view name, const View& view) {
  check_axes(name, view.shape, view.stride, element_bytes(view), view.data != nullptr);
}

// The same view with strides that may be multiplied and negated: those of axes with at most one element, which are
// arbitrary, and all of a view without elements, whose memory may be null, become 0 (along a row 1: contiguous).
template <class View>
View normalized(View view) {
  for (std::size_t axis = 0; axis < 4; ++axis)
    if (view.shape[axis] <= 1 || view.empty()) view.stride[axis] = axis == 3 ? 1 : 0;
  return view;
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
    require(step != 0, name, ": an output may not have a zero stride along an axis of size ", size);
    nested = nested && step > inner;
    inner += step * (size - 1);
  }
  if (nested) return;
  const Index count = shape[0] * shape[1] * shape[2] * shape[3];
  constexpr Index enumerable = Index{1} << 24;
  require(count <= enumerable, name, ": an output of ", count, " elements needs nested strides");
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
    require(offsets[i] != offsets[i - 1], name, ": the strides make two elements of the output share memory");
}

template <class View>
void check_no_self_overlap(std::string_view name, const View& view) {
  if (!view.empty()) check_axes_no_overlap(name, view.shape, view.stride);
}

}  // namespace CSQ_CODE::detail
