// The numbers of a .npy file: converted, and brought from either order into C order, piece by piece, so that a big
// array needs no second copy in memory.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "binary_file.hpp"
#include "npy_header.hpp"

namespace npy {

template <class T>
concept SixteenBits = std::same_as<T, Eigen::bfloat16> || std::same_as<T, Eigen::half>;
template <class T>
concept Floating = std::same_as<T, float> || std::same_as<T, double> || SixteenBits<T>;

// The float between which and zero the number lies, its last bit set where it is not the number itself: rounded again,
// to fewer bits, it gives what the number rounded once would have given.
inline float rounded_to_odd(double number) {
  const auto nearest = static_cast<float>(number);
  if (static_cast<double>(nearest) == number || std::isnan(number)) return nearest;
  const bool beyond = std::abs(static_cast<double>(nearest)) > std::abs(number);
  const float below = beyond ? std::nextafter(nearest, 0.0f) : nearest;
  return std::copysign(std::bit_cast<float>(std::bit_cast<std::uint32_t>(below) | 1u), nearest);
}
// The same for whole numbers, those that a double does not hold among them: of those the last 16 bits only say whether
// the number lies above what the others are.
inline float rounded_to_odd(std::int64_t number) {
  constexpr std::int64_t large = std::int64_t{1} << 50, last = (1 << 16) - 1, between = 1 << 15;
  if ((number >= large || number <= -large) && (number & last) != 0) number = (number & ~last) | between;
  return rounded_to_odd(static_cast<double>(number));
}

// A number as it lies in the file, rounded once, to nearest even.
template <class T, class Stored>
T converted(Stored stored) {
  if constexpr (SixteenBits<T> && std::integral<Stored>)
    return T(rounded_to_odd(std::int64_t{stored}));
  else if constexpr (SixteenBits<T> && std::same_as<Stored, double>)
    return T(rounded_to_odd(stored));
  else if constexpr (SixteenBits<T> || SixteenBits<Stored>)
    return T(static_cast<float>(stored));
  else
    return static_cast<T>(stored);
}

inline constexpr Index piece = Index{1} << 18;  // elements that are read at a time

template <class Stored, class T>
void read_c_order(const files::InputFile& file, Index offset, std::vector<T>& out) {
  constexpr Index bytes = sizeof(Stored);
  const auto count = static_cast<Index>(out.size());
  if constexpr (std::same_as<Stored, T>) {
    file.read(offset, out.data(), count * bytes);
  } else {
    std::vector<Stored> stored(static_cast<std::size_t>(std::min(piece, count)));
    for (Index at = 0; at < count; at += piece) {
      const Index size = std::min(piece, count - at);
      file.read(offset + at * bytes, stored.data(), size * bytes);
      std::transform(stored.data(), stored.data() + size, out.data() + at, converted<T, Stored>);
    }
  }
}

// The number of a row, in C order of all axes but the last, from its number in Fortran order.
inline Index row_in_c_order(Index row, std::span<const Index> shape) {
  Index number = 0, stride = 1;
  for (const Index size : shape.first(shape.size() - 1)) stride *= size;
  for (const Index size : shape.first(shape.size() - 1)) {
    stride /= size;
    number += row % size * stride;
    row /= size;
  }
  return number;
}

// In Fortran order the last axis is the slowest: a column, all rows of one of its entries, is contiguous. Tiles of a
// few columns are turned, so that each line of cache is written once.
template <class Stored, class T>
void read_fortran_order(const files::InputFile& file, Index offset, std::span<const Index> shape, std::vector<T>& out) {
  constexpr Index bytes = sizeof(Stored), narrow = 16;
  if (out.empty()) return;
  const Index columns = shape.back(), rows = static_cast<Index>(out.size()) / columns;
  const Index tile_rows = std::min(rows, piece / narrow);
  const Index tile_columns = std::min(columns, piece / tile_rows);
  std::vector<Stored> tile(static_cast<std::size_t>(tile_rows * tile_columns));
  for (Index column = 0; column < columns; column += tile_columns)
    for (Index row = 0; row < rows; row += tile_rows) {
      const Index width = std::min(tile_columns, columns - column), height = std::min(tile_rows, rows - row);
      if (height == rows)  // whole columns, one behind the other
        file.read(offset + column * rows * bytes, tile.data(), width * rows * bytes);
      else
        for (Index c = 0; c < width; ++c)
          file.read(offset + ((column + c) * rows + row) * bytes, tile.data() + c * height, height * bytes);
      for (Index r = 0; r < height; ++r) {
        T* const to = out.data() + row_in_c_order(row + r, shape) * columns + column;
        for (Index c = 0; c < width; ++c) to[c] = converted<T>(tile[static_cast<std::size_t>(c * height + r)]);
      }
    }
}

template <class Stored, class T>
void read_data(const files::InputFile& file, Index offset, const Header& header, std::vector<T>& out) {
  const auto is_long = [](Index size) { return size != 1; };
  // With one axis the two orders are one.
  if (header.fortran_order && std::count_if(header.shape.begin(), header.shape.end(), is_long) > 1)
    read_fortran_order<Stored>(file, offset, header.shape, out);
  else
    read_c_order<Stored>(file, offset, out);
}

}  // namespace npy
