// What the tests of single kernels share: every set that the processor has, memory that holds exactly what a kernel's
// contract lets it touch, at any misalignment, and blocks packed by plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <csq/csq.hpp>
#include <cstring>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "problem.hpp"

// Around every vector and tile.
inline const std::vector<Index> widths{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 80};

template <class T>
std::vector<Index> lengths() {
  constexpr Index size = csq::detail::simd::block_tokens<T>;
  return {1, 2, 7, 15, 16, 17, 47, 48, 49, size - 1, size};
}

// `size` numbers that start `shift` numbers past a cache line. They stand in a frame of a pattern that no kernel
// writes; so what is written outside is seen, and what is read from there is NaN.
template <class T>
class KernelMemory {
 public:
  explicit KernelMemory(Index size, T fill = std::numeric_limits<T>::quiet_NaN(), Index shift = 0)
      : frame_(std::size_t(size + 2 * margin + shift), outside()), size_(size) {
    const auto address = reinterpret_cast<std::uintptr_t>(frame_.data() + line);
    const Index past_line = Index(address % 64 / sizeof(T));
    start_ = line + (line - past_line) % line + shift;
    std::fill_n(data(), size, fill);
  }

  T* data() { return frame_.data() + start_; }
  const T* data() const { return frame_.data() + start_; }
  T& operator[](Index i) { return data()[i]; }
  T operator[](Index i) const { return data()[i]; }
  Index size() const { return size_; }

  void fill(Random& random) {
    for (Index i = 0; i < size_; ++i) data()[i] = T(random.normal());
  }
  bool frame_is_whole() const {
    const T pattern = outside();
    for (Index i = 0; i < Index(frame_.size()); ++i)
      if ((i < start_ || i >= start_ + size_) && std::memcmp(&frame_[std::size_t(i)], &pattern, sizeof(T)) != 0)
        return false;
    return true;
  }

 private:
  static constexpr Index line = Index(64 / sizeof(T));
  static constexpr Index margin = 2 * line;
  static T outside() { return std::copysign(std::numeric_limits<T>::quiet_NaN(), T(-1)); }

  std::vector<T> frame_;
  Index size_ = 0, start_ = 0;
};

// The largest difference beside what rounding may make of it.
class Worst {
 public:
  // `magnitude`: the sum of the absolute values of what was added up.
  template <class T>
  void compare(T value, long double expected, long double magnitude) {
    if (std::isnan(expected) || std::isinf(expected)) {
      const bool same = std::isnan(expected) ? std::isnan(value) : value == T(expected);
      if (!same) worst_ = std::numeric_limits<double>::infinity();
      return;
    }
    const long double unit =
        std::numeric_limits<T>::epsilon() * (magnitude + std::abs(expected)) + std::numeric_limits<T>::min();
    const double error = double(std::abs((long double)(value)-expected) / unit);
    worst_ = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst_, error);
  }
  // In units of rounding.
  double units() const { return worst_; }

 private:
  double worst_ = 0;
};

// check.template operator()<T>(kernels) for every set and scalar.
template <class Check>
void for_each_summary_kernel_set(const Check& check) {
  using csq::detail::simd::Targets;
  for (std::size_t target = 0; target < Targets::count; ++target) {
    if (!csq::detail::simd::processor_has(target)) continue;
    for_float_and_double([&]<class T>() {
      INFO(Targets::names[target] << ", " << 8 * sizeof(T) << " bits");
      check.template operator()<T>(*Targets::summary<T>[target]);
    });
  }
}
// check.template operator()<T>(forward kernels, backward kernels) for every set and scalar.
template <class Check>
void for_each_kernel_set(const Check& check) {
  using csq::detail::simd::Targets;
  for (std::size_t target = 0; target < Targets::count; ++target) {
    if (!csq::detail::simd::processor_has(target)) continue;
    for_float_and_double([&]<class T>() {
      INFO(Targets::names[target] << ", " << 8 * sizeof(T) << " bits");
      check.template operator()<T>(*Targets::forward<T>[target], *Targets::backward<T>[target]);
    });
  }
}

// Rows of any numbers, [tokens][dim].
struct Rows {
  Index tokens = 0, dim = 0;
  std::vector<double> values;

  Rows(Index t, Index d) : tokens(t), dim(d), values(std::size_t(t * d)) {}
  static Rows random(Random& random, Index tokens, Index dim) {
    Rows rows(tokens, dim);
    for (double& value : rows.values) value = random.normal();
    return rows;
  }
  double& operator()(Index t, Index a) { return values[std::size_t(t * dim + a)]; }
  double operator()(Index t, Index a) const { return values[std::size_t(t * dim + a)]; }
};

// [dim+1][B], as kernel_set.hpp has it: a last row of ones, zero past the tokens, NaN beyond what is padded.
template <class T>
KernelMemory<T> packed(const Rows& rows, Index shift = 0) {
  using csq::detail::simd::block_tokens;
  KernelMemory<T> memory((rows.dim + 1) * block_tokens<T>, std::numeric_limits<T>::quiet_NaN(), shift);
  for (Index a = 0; a <= rows.dim; ++a)
    for (Index t = 0; t < csq::detail::simd::padded_tokens<T>(rows.tokens); ++t)
      memory[a * block_tokens<T> + t] = t >= rows.tokens ? T(0) : a == rows.dim ? T(1) : T(rows(t, a));
  return memory;
}

// [tokens][dim up to whole cache lines], columns past the dimension zero.
template <class T>
KernelMemory<T> padded(const Rows& rows, Index shift = 0) {
  const Index stride = csq::detail::simd::padded_columns<T>(rows.dim);
  KernelMemory<T> memory(rows.tokens * stride, T(0), shift);
  for (Index t = 0; t < rows.tokens; ++t)
    for (Index a = 0; a < rows.dim; ++a) memory[t * stride + a] = T(rows(t, a));
  return memory;
}

// The same rows somewhere in a caller's memory.
template <class T>
struct PlacedRows {
  KernelMemory<T> memory;
  csq::detail::simd::Source<T> source;

  PlacedRows(const Rows& rows, Index dim_stride, Index shift)
      : memory(rows.tokens * token_stride(rows.dim, dim_stride), std::numeric_limits<T>::quiet_NaN(), shift) {
    const Index step = token_stride(rows.dim, dim_stride);
    const Index origin = dim_stride < 0 ? (rows.dim - 1) * -dim_stride : 0;
    source = {memory.data() + origin, step, dim_stride, rows.tokens, rows.dim};
    for (Index t = 0; t < rows.tokens; ++t)
      for (Index a = 0; a < rows.dim; ++a) memory[origin + t * step + a * dim_stride] = T(rows(t, a));
  }

 private:
  // Rows end right behind the last number: the next row, or the frame.
  static Index token_stride(Index dim, Index dim_stride) { return (dim - 1) * std::abs(dim_stride) + 1; }
};
