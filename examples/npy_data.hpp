// The numbers of a .npy file: converted, and brought from either order into C order, piece by piece, so that a big
// array needs no second copy in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "binary_file.hpp"
#include "npy_header.hpp"

namespace npy {

// IEEE half precision, subnormals, infinities and NaN included.
inline float float_from_half(std::uint16_t half) {
  const bool negative = (half & 0x8000u) != 0;
  const int exponent = (half >> 10) & 0x1f;
  const auto fraction = static_cast<float>(half & 0x3ffu);
  float magnitude = 0;
  if (exponent == 0)
    magnitude = std::ldexp(fraction, -24);
  else if (exponent < 31)
    magnitude = std::ldexp(fraction + 1024.0f, exponent - 25);
  else
    magnitude = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  return negative ? -magnitude : magnitude;
}

// A number as it lies in the file; 16 bits are a half.
template <class T, class Stored>
T converted(Stored stored) {
  if constexpr (std::same_as<Stored, std::uint16_t>)
    return static_cast<T>(float_from_half(stored));
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
