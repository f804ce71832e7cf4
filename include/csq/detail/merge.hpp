// Two partial results of the same queries into one: csq/partials.hpp.
#pragma once

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "csq/detail/base/parallel.hpp"
#include "csq/detail/call/axes.hpp"
#include "csq/detail/call/overlap.hpp"
#include "csq/detail/call/weight.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// Rows and their statistic.
template <class T>
struct Partial {
  Heads<T> rows, statistic;
};

// A normaliser that T does not hold to all its digits is NaN, as attention's is: backward divides by it.
template <class T>
T held_normalizer(double value) {
  const T held = static_cast<T>(value);
  const bool is_held = held >= (std::numeric_limits<T>::min)() && held <= (std::numeric_limits<T>::max)();
  return value == 0 || is_held ? held : std::numeric_limits<T>::quiet_NaN();
}

// What each part weighs in a row, and the row's statistic.
struct MergedRow {
  double first = 0, second = 0, statistic = 0;

  static MergedRow of_exponential(double a, double b) {
    if (is_minus_infinity(a) && is_minus_infinity(b)) return {0, 0, a};
    const double largest = a > b ? a : b;
    const double x = std::exp(a - largest), y = std::exp(b - largest), sum = x + y;
    return {x / sum, y / sum, largest + std::log(sum)};
  }
  static MergedRow of_polynomial(double a, double b) {
    const double sum = a + b;
    if (sum == 0) return {0, 0, 0};
    const double not_a_number = std::numeric_limits<double>::quiet_NaN();
    return sum > 0 ? MergedRow{a / sum, b / sum, sum} : MergedRow{not_a_number, not_a_number, sum};
  }
};

template <class T>
void merge_rows(const MergedRow& merged, const Head<const T>& first, const Head<const T>& second, const Head<T>& out,
                Index row) {
  for (Index a = 0; a < out.dim; ++a) {
    // A part that weighs nothing may hold anything, and adds no zero to the other's −0.
    double value = merged.first == 0 ? 0 : merged.first * static_cast<double>(first(row, a));
    if (merged.second != 0) {
      const double added = merged.second * static_cast<double>(second(row, a));
      value = merged.first == 0 ? added : value + added;
    }
    out(row, a) = static_cast<T>(value);
  }
}

#include "csq/detail/base/precise_end.inl"

// The same memory in the same order, or none in common.
template <class T>
void check_in_place(std::string_view name, const Heads<T>& output, std::string_view other_name,
                    const Heads<const T>& other) {
  if (output.data == other.data && output.stride == other.stride) return;
  check_apart(footprint(name, output), footprint(other_name, other));
}

template <class T>
void merge_partials_checked(bool exponential, const Partial<const T>& first, const Partial<const T>& second,
                            const Partial<T>& out, const Threads& threads) {
  check_heads("out", out.rows);
  const auto& s = out.rows.shape;
  const auto check_rows = [&](std::string_view name, const auto& view, Index dim) {
    check_heads(name, view);
    const auto& v = view.shape;
    require(v[0] == s[0] && v[1] == s[1] && v[2] == s[2] && v[3] == dim, name, ": shape is [", v[0], ", ", v[1], ", ",
            v[2], ", ", v[3], "] but must be [", s[0], ", ", s[1], ", ", s[2], ", ", dim, "], as out is");
  };
  check_rows("first", first.rows, s[3]);
  check_rows("second", second.rows, s[3]);
  check_rows("first_normalizer", first.statistic, 1);
  check_rows("second_normalizer", second.statistic, 1);
  check_rows("normalizer", out.statistic, 1);
  check_threads(threads);
  check_no_self_overlap("out", out.rows);
  check_no_self_overlap("normalizer", out.statistic);
  check_apart(footprint("out", out.rows), footprint("normalizer", out.statistic));
  for (const auto& [name, part] : {std::pair{"first", &first}, std::pair{"second", &second}}) {
    check_in_place("out", out.rows, name, part->rows);
    check_in_place("normalizer", out.statistic, name, part->statistic);
    check_apart(footprint("out", out.rows), footprint(name, part->statistic));
    check_apart(footprint("normalizer", out.statistic), footprint(name, part->rows));
  }

  constexpr Index rows_at_once = 256;
  const Index blocks = block_count(s[2], rows_at_once);
  const double work = static_cast<double>(s[0] * s[1] * s[2]) * static_cast<double>(s[3] + 32);
  parallel_for(s[0] * s[1] * blocks, threads_for_work(work, threads), [&](Index task, int) {
    const Index batch = task / blocks / s[1], head = task / blocks % s[1], begin = task % blocks * rows_at_once;
    const Head<const T> a = first.rows.head(batch, head), b = second.rows.head(batch, head);
    const Head<const T> a_statistic = first.statistic.head(batch, head),
                        b_statistic = second.statistic.head(batch, head);
    const Head<T> rows = out.rows.head(batch, head), statistic = out.statistic.head(batch, head);
    for (Index row = begin; row < smaller(begin + rows_at_once, s[2]); ++row) {
      const double x = static_cast<double>(a_statistic(row, 0)), y = static_cast<double>(b_statistic(row, 0));
      const MergedRow merged = exponential ? MergedRow::of_exponential(x, y) : MergedRow::of_polynomial(x, y);
      merge_rows(merged, a, b, rows, row);
      statistic(row, 0) = exponential ? static_cast<T>(merged.statistic) : held_normalizer<T>(merged.statistic);
    }
  });
}

}  // namespace CSQ_CODE::detail
