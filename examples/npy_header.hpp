// The text at the head of a .npy file: a Python dictionary of dtype, order and shape.
//
//   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
//
// Every error is a std::runtime_error with one line that names the file.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cctype>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace npy {

using Index = std::int64_t;

[[noreturn]] inline void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

// As Python writes a tuple: (), (3,), (2, 3).
inline std::string shape_text(std::span<const Index> shape) {
  std::string text = "(";
  for (const Index size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (shape.size() == 1 ? ",)" : ")");
}

// Nothing if it overflows 64 bits; in any order, so that a zero does not hide it.
inline std::optional<Index> element_count(std::span<const Index> shape) {
  Index product = 1;
  bool empty = false;
  for (const Index size : shape)
    if (size == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, size, &product))
      return std::nullopt;
  return empty ? 0 : product;
}

struct Header {
  std::string dtype;  // as NumPy writes it: <f4
  std::size_t item_bytes = 0;
  bool fortran_order = false;
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

// 0: none that is read.
inline std::size_t item_bytes_of(std::string_view dtype) {
  if (dtype == "<f2" || dtype == "<u2") return 2;
  if (dtype == "<f4" || dtype == "<i4") return 4;
  if (dtype == "<f8" || dtype == "<i8") return 8;
  return 0;
}

inline Header parse_header(const std::string& path, std::string_view text) {
  Header header;
  const std::string_view dtype = header_value(path, text, "descr");
  const std::size_t quote = dtype.empty() ? std::string_view::npos : dtype.find(dtype.front(), 1);
  if (quote == std::string_view::npos || (dtype.front() != '\'' && dtype.front() != '"'))
    fail(path, "unsupported dtype: a structured array");
  header.dtype = std::string(dtype.substr(1, quote - 1));
  header.item_bytes = item_bytes_of(header.dtype);
  if (header.item_bytes == 0)
    fail(path, "unsupported dtype '" + header.dtype +
                   "'; it must be little-endian float16, float32, float64, int32, int64 or uint16 (bfloat16)");

  const std::string_view order = header_value(path, text, "fortran_order");
  header.fortran_order = order.starts_with("True");
  if (!header.fortran_order && !order.starts_with("False")) fail(path, "the .npy header has no readable fortran_order");

  header.shape = parse_shape(path, header_value(path, text, "shape"));
  const std::optional<Index> count = element_count(header.shape);
  Index bytes = 0;
  if (!count || __builtin_mul_overflow(*count, static_cast<Index>(header.item_bytes), &bytes))
    fail(path, "the shape " + shape_text(header.shape) + " overflows a 64-bit size");
  header.count = *count;
  return header;
}

// All that stands before the data, version 1: C order, padded as NumPy does.
inline std::string header_bytes(const std::string& path, std::string_view dtype, std::span<const Index> shape) {
  std::string text =
      "{'descr': '" + std::string(dtype) + "', 'fortran_order': False, 'shape': " + shape_text(shape) + ", }";
  constexpr std::size_t alignment = 64;
  constexpr std::size_t prefix = 10;
  text.append((alignment - (prefix + text.size() + 1) % alignment) % alignment, ' ');
  text += '\n';
  if (text.size() > 65535) fail(path, "has too many axes for a .npy header");
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(text.size() & 0xff);
  bytes += static_cast<char>(text.size() >> 8);
  return bytes + text;
}

}  // namespace npy
