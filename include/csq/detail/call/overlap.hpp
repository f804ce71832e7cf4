// Whether two views share an element, decided from their addresses and strides.
//
// Views of which one lies behind the other are apart at once. What is interleaved (q, k, v packed in one buffer, rows
// with gaps) shares an element where Σ i_a·s_a − Σ j_a·t_a is the distance of the two, for indices within the sizes:
// with every step made positive and equal steps put together an equation of few terms, solved by trying the multiples
// of the largest step that leave a rest within reach of the others. Views as they occur leave one to three at each
// step.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "csq/detail/call/axes.hpp"

namespace CSQ_CODE::detail {

// Where a view lies. Strides of axes of size 1 are not looked at.
struct Footprint {
  std::string_view name;
  std::uintptr_t base = 0;
  std::uintptr_t low = 0, high = 0;  // bytes [low, high); none where the view is empty
  Index element_bytes = 1;
  AxisSizes shape{}, stride{};
};

template <class View>
Footprint footprint(std::string_view name, const View& view) {
  const auto bytes = static_cast<std::uintptr_t>(element_bytes(view));
  Footprint result{name,       reinterpret_cast<std::uintptr_t>(view.data), 0, 0, element_bytes(view), view.shape,
                   view.stride};
  if (view.empty() || view.data == nullptr) return result;
  Index before = 0, behind = 0;  // elements
  for (std::size_t axis = 0; axis < 4; ++axis)
    if (view.shape[axis] > 1) (view.stride[axis] < 0 ? before : behind) += (view.shape[axis] - 1) * view.stride[axis];
  result.low = result.base - static_cast<std::uintptr_t>(-before) * bytes;
  result.high = result.base + (static_cast<std::uintptr_t>(behind) + 1) * bytes;
  return result;
}

// The same of numbers of another type, in elements of T.
template <class T, class Number>
Footprint footprint_of(std::string_view name, const Number* data, std::size_t count) {
  static_assert(sizeof(Number) % sizeof(T) == 0);
  Footprint result{name, reinterpret_cast<std::uintptr_t>(data), 0, 0, Index(sizeof(T)), {1, 1, 1, 0}, {0, 0, 0, 1}};
  if (data == nullptr || count == 0) return result;
  result.shape[3] = static_cast<Index>(count * (sizeof(Number) / sizeof(T)));
  result.low = result.base;
  result.high = result.base + count * sizeof(Number);
  return result;
}

inline Index greatest_common_divisor(Index a, Index b) {
  while (b != 0) {
    const Index rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Whether Σ count_i·step_i = distance for counts within 0 and their most.
class StepEquation {
 public:
  // ± stride·index for index in [0, size).
  void add(Index stride, Index size, bool subtracted) {
    if (size <= 1 || stride == 0) return;
    const Index step = stride < 0 ? -stride : stride;
    if ((stride < 0) != subtracted) distance_ += (size - 1) * step;  // counted from its other end
    std::size_t at = 0;
    while (at < count_ && terms_[at].step > step) ++at;
    if (at < count_ && terms_[at].step == step) {
      terms_[at].most += size - 1;
      return;
    }
    for (std::size_t last = count_++; last > at; --last) terms_[last] = terms_[last - 1];
    terms_[at] = {step, size - 1, 0, 0};
  }

  bool has_solution(Index distance) {
    distance_ += distance;
    Index reach = 0, divisor = 0;
    for (std::size_t at = count_; at-- > 0;) {
      terms_[at].reach_behind = reach;
      terms_[at].divisor = divisor = greatest_common_divisor(divisor, terms_[at].step);
      reach += terms_[at].step * terms_[at].most;
    }
    return distance_ >= 0 && distance_ <= reach && solve(0, distance_);
  }

 private:
  struct Term {
    Index step, most;    // largest step first
    Index reach_behind;  // largest sum of the terms behind it
    Index divisor;       // of its step and all behind it
  };

  // For size: unrolled into itself it would be one of the largest functions of a small program.
  __attribute__((noinline, cold)) bool solve(std::size_t at, Index rest) {
    if (rest == 0) return true;
    if (at == count_ || rest % terms_[at].divisor != 0) return false;
    const Term& term = terms_[at];
    const Index fewest = rest <= term.reach_behind ? 0 : (rest - term.reach_behind - 1) / term.step + 1;
    for (Index count = fewest; count <= smaller(term.most, rest / term.step); ++count) {
      if (++tried_ > most_tried) return false;  // strides like no array's: the caller's word is taken
      if (solve(at + 1, rest - count * term.step)) return true;
    }
    return false;
  }

  static constexpr Index most_tried = Index{1} << 20;
  Term terms_[10] = {};  // eight axes, and the units of both elements
  std::size_t count_ = 0;
  Index distance_ = 0, tried_ = 0;
};

inline bool shares_element(const Footprint& a, const Footprint& b) {
  if (a.low == a.high || b.low == b.high || a.high <= b.low || b.high <= a.low) return false;
  const auto bytes = static_cast<Index>(b.base - a.base);
  // In units of the smaller element, of which the larger is several.
  const Index unit = smaller(a.element_bytes, b.element_bytes);
  const Index a_units = a.element_bytes / unit, b_units = b.element_bytes / unit;
  if (bytes % unit != 0) return true;
  StepEquation equation;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    equation.add(a.stride[axis] * a_units, a.shape[axis], false);
    equation.add(b.stride[axis] * b_units, b.shape[axis], true);
  }
  equation.add(1, a_units, false);
  equation.add(1, b_units, true);
  return equation.has_solution(bytes / unit);
}

inline void check_apart(const Footprint& output, const Footprint& other) {
  require(!shares_element(output, other), output.name, ": shares memory with ", other.name,
          "; an output may not overlap anything else");
}
// No output overlaps an input or another output.
inline void check_apart(std::span<const Footprint> outputs, std::span<const Footprint> inputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (const Footprint& input : inputs) check_apart(outputs[i], input);
    for (std::size_t j = i + 1; j < outputs.size(); ++j) check_apart(outputs[i], outputs[j]);
  }
}

template <class Output, class Other>
void check_not_same(std::string_view output_name, const Output& output, std::string_view other_name,
                    const Other& other) {
  check_apart(footprint(output_name, output), footprint(other_name, other));
}

}  // namespace CSQ_CODE::detail
