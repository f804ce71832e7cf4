// Reads and writes NumPy's .npy files, versions 1 to 3: C order, little-endian float16, float32, float64 and int64.
//
//   npy::Array<float> q = npy::read<float>("q.npy");     // converted to float; q.shape, q.data
//   npy::write<float>("o.npy", {2, 5, 4}, values);       // float or double
//
// Every error is a std::runtime_error with one line that names the file and what is wrong with it.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <bit>
#include <cctype>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

static_assert(std::endian::native == std::endian::little, "npy.hpp copies little-endian data as it is");

namespace npy {

using Index = std::int64_t;

template <class T>
struct Array {
  std::vector<Index> shape;
  std::vector<T> data;
};

[[noreturn]] inline void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

// As Python writes a tuple: (), (3,), (2, 3).
inline std::string shape_text(std::span<const Index> shape) {
  std::string text = "(";
  for (const Index size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (shape.size() == 1 ? ",)" : ")");
}

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

struct Header {
  std::string dtype;  // as NumPy writes it: <f4
  std::size_t item_bytes = 0;
  std::vector<Index> shape;
  Index count = 1;
};

// The text behind 'key': in the header's Python dictionary, up to its end.
inline std::string_view header_value(const std::string& path, std::string_view header, std::string_view key) {
  for (const char quote : {'\'', '"'}) {
    const std::string quoted = quote + std::string(key) + quote;
    std::size_t at = header.find(quoted);
    if (at == std::string_view::npos) continue;
    at = header.find_first_not_of(" :", at + quoted.size());
    if (at != std::string_view::npos) return header.substr(at);
  }
  fail(path, "the .npy header has no '" + std::string(key) + "'");
}

inline std::vector<Index> parse_shape(const std::string& path, std::string_view text) {
  const std::size_t end = text.find(')');
  if (text.empty() || text.front() != '(' || end == std::string_view::npos)
    fail(path, "the .npy header has no readable shape");
  std::vector<Index> shape;
  for (std::size_t at = 1; at < end;) {
    if (text[at] == ' ' || text[at] == ',') {
      ++at;
      continue;
    }
    Index size = 0;
    for (; at < end && std::isdigit(static_cast<unsigned char>(text[at])) != 0; ++at)
      if (__builtin_mul_overflow(size, Index{10}, &size) || __builtin_add_overflow(size, Index{text[at] - '0'}, &size))
        fail(path, "a size in the shape overflows 64 bits");
    shape.push_back(size);
    if (text[at] != ',' && text[at] != ')' && text[at] != ' ') fail(path, "the .npy header has no readable shape");
  }
  return shape;
}

inline Header parse_header(const std::string& path, std::string_view text) {
  Header header;
  const std::string_view dtype = header_value(path, text, "descr");
  const std::size_t quote = dtype.empty() ? std::string_view::npos : dtype.find(dtype.front(), 1);
  if (quote == std::string_view::npos || (dtype.front() != '\'' && dtype.front() != '"'))
    fail(path, "unsupported dtype: a structured array");
  header.dtype = std::string(dtype.substr(1, quote - 1));
  if (header.dtype == "<f2")
    header.item_bytes = 2;
  else if (header.dtype == "<f4")
    header.item_bytes = 4;
  else if (header.dtype == "<f8" || header.dtype == "<i8")
    header.item_bytes = 8;
  else
    fail(path, "unsupported dtype '" + header.dtype + "'; it must be little-endian float16, float32, float64 or int64");

  const std::string_view order = header_value(path, text, "fortran_order");
  if (order.starts_with("True")) fail(path, "the array is in Fortran order; save numpy.ascontiguousarray(x) instead");
  if (!order.starts_with("False")) fail(path, "the .npy header has no readable fortran_order");

  header.shape = parse_shape(path, header_value(path, text, "shape"));
  bool overflow = false;
  for (const Index size : header.shape)
    overflow = overflow || __builtin_mul_overflow(header.count, size, &header.count);
  Index bytes = 0;
  overflow = overflow || __builtin_mul_overflow(header.count, static_cast<Index>(header.item_bytes), &bytes);
  if (overflow) fail(path, "the shape " + shape_text(header.shape) + " overflows a 64-bit size");
  return header;
}

template <class T, class Stored>
void convert(const std::vector<char>& bytes, std::vector<T>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    if constexpr (std::same_as<Stored, std::uint16_t>)
      out[i] = static_cast<T>(float_from_half(stored));
    else
      out[i] = static_cast<T>(stored);
  }
}

template <class T>
Array<T> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be opened");
  file.seekg(0, std::ios::end);
  const auto file_bytes = static_cast<Index>(file.tellg());
  file.seekg(0);
  if (!file || file_bytes < 0) fail(path, "cannot be read");

  unsigned char magic[12] = {};
  file.read(reinterpret_cast<char*>(magic), 8);
  if (!file || std::memcmp(magic, "\x93NUMPY", 6) != 0) fail(path, "is not a .npy file");
  const int version = magic[6];
  if (version < 1 || version > 3) fail(path, "unsupported .npy version " + std::to_string(version));
  const Index length_bytes = version == 1 ? 2 : 4;
  file.read(reinterpret_cast<char*>(magic + 8), length_bytes);
  Index header_bytes = 0;
  for (Index i = 0; i < length_bytes; ++i) header_bytes |= static_cast<Index>(magic[8 + i]) << (8 * i);
  const Index data_offset = 8 + length_bytes + header_bytes;
  if (!file || data_offset > file_bytes) fail(path, "is truncated in its header");
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  file.read(text.data(), header_bytes);
  if (!file) fail(path, "is truncated in its header");

  const Header header = parse_header(path, text);
  const Index data_bytes = header.count * static_cast<Index>(header.item_bytes);
  if (data_bytes > file_bytes - data_offset)
    fail(path, "is truncated: shape " + shape_text(header.shape) + " of " + header.dtype + " needs " +
                   std::to_string(data_bytes) + " bytes but " + std::to_string(file_bytes - data_offset) +
                   " are there");
  std::vector<char> bytes(static_cast<std::size_t>(data_bytes));
  file.read(bytes.data(), data_bytes);
  if (!file) fail(path, "cannot be read");

  Array<T> array{header.shape, std::vector<T>(static_cast<std::size_t>(header.count))};
  if (header.dtype == "<f2") convert<T, std::uint16_t>(bytes, array.data);
  if (header.dtype == "<f4") convert<T, float>(bytes, array.data);
  if (header.dtype == "<f8") convert<T, double>(bytes, array.data);
  if (header.dtype == "<i8") convert<T, std::int64_t>(bytes, array.data);
  return array;
}

// Version 1, C order. A file that could not be written whole is removed.
template <class T>
requires(std::same_as<T, float> || std::same_as<T, double>) void write(const std::string& path,
                                                                       std::span<const Index> shape,
                                                                       std::span<const T> data) {
  std::size_t count = 1;
  for (const Index size : shape) count *= static_cast<std::size_t>(size);
  if (count != data.size())
    fail(path, "shape " + shape_text(shape) + " does not fit " + std::to_string(data.size()) + " values");

  std::string header = std::string("{'descr': '<f") + (sizeof(T) == 4 ? '4' : '8') +
                       "', 'fortran_order': False, 'shape': " + shape_text(shape) + ", }";
  constexpr std::size_t alignment = 64;
  constexpr std::size_t prefix = 10;
  header.append((alignment - (prefix + header.size() + 1) % alignment) % alignment, ' ');
  header += '\n';
  if (header.size() > 65535) fail(path, "has too many axes for a .npy header");

  std::ofstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be opened for writing");
  file.write("\x93NUMPY\x01\x00", 8);
  file.put(static_cast<char>(header.size() & 0xff));
  file.put(static_cast<char>(header.size() >> 8));
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size_bytes()));
  file.close();
  if (!file) {
    std::remove(path.c_str());
    fail(path, "cannot be written whole");
  }
}

}  // namespace npy
