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

// A piece of a message: text or a number.
struct MessagePart {
  enum class Kind { text, integer, real };

  Kind kind;
  std::string_view text{};
  Index integer = 0;
  double real = 0;

  MessagePart(std::string_view value) : kind(Kind::text), text(value) {}
  MessagePart(const char* value) : kind(Kind::text), text(value) {}
  template <std::integral Number>
  MessagePart(Number value) : kind(Kind::integer), integer(static_cast<Index>(value)) {}
  MessagePart(double value) : kind(Kind::real), real(value) {}
};

// Throws std::invalid_argument("csq: " + parts). Where exceptions are switched off nobody can go on from an error: the
// sentence goes to standard error and the program ends.
[[noreturn]] inline void throw_invalid_argument(const MessagePart* parts, std::size_t count) {
  std::string message = "csq: ";
  for (std::size_t i = 0; i < count; ++i) {
    char number[32] = "";
    if (parts[i].kind == MessagePart::Kind::integer)
      std::snprintf(number, sizeof number, "%lld", static_cast<long long>(parts[i].integer));
    if (parts[i].kind == MessagePart::Kind::real) std::snprintf(number, sizeof number, "%.6g", parts[i].real);
    message.append(parts[i].text).append(number);
  }
#ifdef __cpp_exceptions
  throw std::invalid_argument(message);
#else
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
#endif
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
