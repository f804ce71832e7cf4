// Reads and writes NumPy's .npy files, versions 1 to 3: C and Fortran order, little-endian float16, float32, float64,
// int32 and int64.
//
//   npy::Array<float> q = npy::read<float>("q.npy");     // converted to float, in C order; q.shape, q.data
//   npy::write<float>("o.npy", {2, 5, 4}, values);       // float or double
//
// Every error is a std::runtime_error with one line that names the file and what is wrong with it.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "binary_file.hpp"
#include "npy_data.hpp"
#include "npy_header.hpp"
#include "replace_files.hpp"

static_assert(std::endian::native == std::endian::little, "npy.hpp copies little-endian data as it is");

namespace npy {

// In C order.
template <class T>
struct Array {
  std::vector<Index> shape;
  std::vector<T> data;
};

// Where the data begin, and what they are; the file is long enough to hold them.
struct Opening {
  Header header;
  Index data_offset = 0;
};

inline Opening read_opening(const files::InputFile& file) {
  const std::string& path = file.name();
  std::array<unsigned char, 12> bytes{};
  if (file.bytes() >= 8) file.read(0, bytes.data(), 8);
  if (std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) fail(path, "is not a .npy file");
  const int version = bytes[6];
  if (version < 1 || version > 3) fail(path, "unsupported .npy version " + std::to_string(version));
  const Index length_bytes = version == 1 ? 2 : 4;
  if (file.bytes() < 8 + length_bytes) fail(path, "is truncated in its header");
  file.read(8, bytes.data() + 8, length_bytes);
  Index length = 0;
  for (Index i = 0; i < length_bytes; ++i) length |= Index{bytes[static_cast<std::size_t>(8 + i)]} << (8 * i);
  Opening opening;
  opening.data_offset = 8 + length_bytes + length;
  if (opening.data_offset > file.bytes()) fail(path, "is truncated in its header");
  std::string text(static_cast<std::size_t>(length), '\0');
  file.read(8 + length_bytes, text.data(), length);

  opening.header = parse_header(path, text);
  const Header& header = opening.header;
  const Index needed = header.count * static_cast<Index>(header.item_bytes);
  const Index there = file.bytes() - opening.data_offset;
  if (needed > there)
    fail(path, "is truncated: shape " + shape_text(header.shape) + " of " + header.dtype + " needs " +
                   std::to_string(needed) + " bytes but " + std::to_string(there) + " are there");
  return opening;
}

// Whole numbers are read from whole numbers only.
template <class T>
requires(std::same_as<T, float> || std::same_as<T, double> ||
         std::same_as<T, std::int64_t>) Array<T> read(const std::string& path) {
  const files::InputFile file(path);
  const auto [header, offset] = read_opening(file);
  if (std::integral<T> && header.dtype[1] != 'i')
    fail(path, "unsupported dtype '" + header.dtype + "'; it must be little-endian int32 or int64");
  Array<T> array{header.shape, std::vector<T>(static_cast<std::size_t>(header.count))};
  if (header.dtype == "<i4") read_data<std::int32_t>(file, offset, header, array.data);
  if (header.dtype == "<i8") read_data<std::int64_t>(file, offset, header, array.data);
  if constexpr (std::floating_point<T>) {
    if (header.dtype == "<f2") read_data<std::uint16_t>(file, offset, header, array.data);
    if (header.dtype == "<f4") read_data<float>(file, offset, header, array.data);
    if (header.dtype == "<f8") read_data<double>(file, offset, header, array.data);
  }
  return array;
}

template <class T>
requires(std::same_as<T, float> || std::same_as<T, double>) void write(files::OutputFile& file,
                                                                       std::span<const Index> shape,
                                                                       std::span<const T> data) {
  if (element_count(shape) != static_cast<Index>(data.size()))
    fail(file.name(), "shape " + shape_text(shape) + " does not fit " + std::to_string(data.size()) + " values");
  const std::string header = header_bytes(file.name(), sizeof(T) == 4 ? "<f4" : "<f8", shape);
  file.write(header.data(), header.size());
  file.write(data.data(), data.size_bytes());
}

// The file is new as a whole or what it was.
template <class T>
requires(std::same_as<T, float> || std::same_as<T, double>) void write(const std::string& path,
                                                                       std::span<const Index> shape,
                                                                       std::span<const T> data) {
  files::FileReplacement replacement;
  write<T>(replacement.add(path, path), shape, data);
  replacement.commit();
}

}  // namespace npy
