// Argument errors: std::invalid_argument that names the argument and its sizes. Checked once per call, at the boundary.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before what only a C++20 compiler has.
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

// Every size and stride of the library, in elements.
using Index = std::int64_t;

// A piece of a message: text or a number. Two words, since each check of a program builds its own list of them.
class MessagePart {
 public:
  MessagePart(std::string_view value) : text_(value.data()), size_(static_cast<Index>(value.size())) {}
  MessagePart(const char* value) : MessagePart(std::string_view(value)) {}
  template <std::integral Number>
  MessagePart(Number value) : integer_(static_cast<Index>(value)), size_(is_integer) {}
  MessagePart(double value) : real_(value), size_(is_real) {}

  void append_to(std::string& message) const {
    if (size_ >= 0) {
      message.append(text_, static_cast<std::size_t>(size_));
      return;
    }
    char number[32] = "";
    if (size_ == is_integer)
      std::snprintf(number, sizeof number, "%lld", static_cast<long long>(integer_));
    else
      std::snprintf(number, sizeof number, "%.6g", real_);
    message.append(number);
  }

 private:
  static constexpr Index is_integer = -1, is_real = -2;

  union {
    const char* text_;
    Index integer_;
    double real_;
  };
  Index size_;  // of the text, or which number it is
};

// Throws std::invalid_argument(message). Where exceptions are switched off nobody can go on from an error: the sentence
// goes to standard error and the program ends.
[[noreturn]] inline void throw_invalid_argument(const std::string& message) {
#ifdef __cpp_exceptions
  throw std::invalid_argument(message);
#else
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
#endif
}
// The same of "csq: " + parts.
[[noreturn]] inline void throw_invalid_argument(const MessagePart* parts, std::size_t count) {
  std::string message = "csq: ";
  for (std::size_t i = 0; i < count; ++i) parts[i].append_to(message);
  throw_invalid_argument(message);
}

// The same. By value, so that text of any length is one type, and out of line: there are many checks, and a program
// that includes csq compiles all of them.
template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void refuse(Parts... parts) {
  const MessagePart list[] = {parts...};
  throw_invalid_argument(list, sizeof...(parts));
}

template <class... Parts>
void require(bool condition, Parts... parts) {
  if (!condition) refuse(parts...);
}

}  // namespace CSQ_CODE::detail
