// Reads and writes NumPy's .npy files, versions 1 to 3: C and Fortran order, little-endian float16, float32, float64,
// int32, int64, and bfloat16, for which NumPy has no name: its bit patterns, as uint16.
//
//   npy::Array<float> q = npy::read<float>("q.npy");     // converted to float, in C order; q.shape, q.data
//   npy::write<float>("o.npy", {2, 5, 4}, values);       // float, double, Eigen::half or Eigen::bfloat16
//
// What is read into fewer bits is rounded once, to nearest even. uint16 is read where bfloat16 is expected, and refused
// anywhere else: nothing in a file says that it is not a whole number.
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

// What uint16 is in a file that somebody reads.
enum class Uint16 { refused, bfloat16 };

// Whole numbers are read from whole numbers only.
template <class T>
requires(Floating<T> || std::same_as<T, std::int64_t>) Array<T> read(
    const std::string& path, Uint16 uint16 = std::same_as<T, Eigen::bfloat16> ? Uint16::bfloat16 : Uint16::refused) {
  const files::InputFile file(path);
  const auto [header, offset] = read_opening(file);
  if (std::integral<T> && header.dtype[1] != 'i')
    fail(path, "unsupported dtype '" + header.dtype + "'; it must be little-endian int32 or int64");
  if (header.dtype == "<u2" && uint16 == Uint16::refused)
    fail(path, "holds uint16: that is bit patterns of bfloat16, and read with --dtype bfloat16 only");
  Array<T> array{header.shape, std::vector<T>(static_cast<std::size_t>(header.count))};
  if (header.dtype == "<i4") read_data<std::int32_t>(file, offset, header, array.data);
  if (header.dtype == "<i8") read_data<std::int64_t>(file, offset, header, array.data);
  if constexpr (Floating<T>) {
    if (header.dtype == "<f2") read_data<Eigen::half>(file, offset, header, array.data);
    if (header.dtype == "<u2") read_data<Eigen::bfloat16>(file, offset, header, array.data);
    if (header.dtype == "<f4") read_data<float>(file, offset, header, array.data);
    if (header.dtype == "<f8") read_data<double>(file, offset, header, array.data);
  }
  return array;
}

template <class T>
inline constexpr const char* dtype_name = std::same_as<T, float>         ? "<f4"
                                          : std::same_as<T, double>      ? "<f8"
                                          : std::same_as<T, Eigen::half> ? "<f2"
                                                                         : "<u2";

template <Floating T>
void write(files::OutputFile& file, std::span<const Index> shape, std::span<const T> data) {
  if (element_count(shape) != static_cast<Index>(data.size()))
    fail(file.name(), "shape " + shape_text(shape) + " does not fit " + std::to_string(data.size()) + " values");
  const std::string header = header_bytes(file.name(), dtype_name<T>, shape);
  file.write(header.data(), header.size());
  file.write(data.data(), data.size_bytes());
}

// The file is new as a whole or what it was.
template <Floating T>
void write(const std::string& path, std::span<const Index> shape, std::span<const T> data) {
  files::FileReplacement replacement;
  write<T>(replacement.add(path, path), shape, data);
  replacement.commit();
}

}  // namespace npy
