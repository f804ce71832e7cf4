// Every rank checks its own arguments, then all agree: an error of one is an error of all, before anything is written
// and before anybody waits for what will not come.
#pragma once

#include <array>
#include <bit>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "csq/detail/call/problem.hpp"
#include "csq/detail/machines/communicator.hpp"

namespace CSQ_CODE::detail {

// What a rank says of its call: the tokens that it holds, and what must be alike on all ranks.
struct Statement {
  static constexpr const char* names[] = {
      "function",  "batch",        "heads of q",    "heads of k",  "dim of k", "dim of v", "bytes of an element",
      "mechanism", "coefficients", "scale",         "causal",      "window",   "sink",     "soft_cap",
      "log_gate",  "centering",    "query_history", "key_history", "method",   "chunk",    "wanted gradients"};
  static constexpr std::size_t count = std::size(names);

  Index sentence_bytes = 0;  // of its error; −1: no memory
  Index queries = 0, keys = 0;
  std::array<Index, count> alike{};
};

// A number for some bytes: lists are compared by it.
inline Index digest(const void* data, std::size_t bytes, Index seed = 0) {
  auto hash = static_cast<std::uint64_t>(seed) ^ 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < bytes; ++i) {
    unsigned char byte = 0;
    std::memcpy(&byte, static_cast<const char*>(data) + i, 1);
    hash = (hash ^ byte) * 0x100000001b3u;
  }
  return static_cast<Index>(hash);
}
template <class Number>
Index digest(std::span<const Number> list, Index seed = 0) {
  return digest(list.data(), list.size_bytes(), seed + static_cast<Index>(list.size()));
}
inline Index digest(const History* history) {
  return history == nullptr ? 0 : digest(history->mean, digest(history->count, 1));
}
inline Index digest(const Weight& weight) {
  const double numbers[] = {weight.quadratic.c0, weight.quadratic.c1, weight.quadratic.c2, weight.radius, weight.floor};
  return digest(weight.coefficients, digest(numbers, sizeof numbers, weight.exponent));
}

// The rest of an error's sentence, behind "csq: "; empty without an error.
template <class Check>
std::string sentence_of(const Check& check, bool& has_memory) {
#ifdef __cpp_exceptions
  try {
    check();
  } catch (const std::bad_alloc&) {
    has_memory = false;
  } catch (const std::invalid_argument& error) {
    return std::string(error.what()).substr(5);
  }
#else
  static_cast<void>(has_memory);
  check();
#endif
  return {};
}
[[noreturn]] inline void throw_no_memory() {
#ifdef __cpp_exceptions
  throw std::bad_alloc();
#else
  std::abort();
#endif
}

// An error that is not, or not alone, this rank's own.
[[noreturn]] inline void refuse_on_all(const std::string& sentence) { throw_invalid_argument("csq::mpi: " + sentence); }

// The statements of all ranks; check(statement) fills in this rank's, or throws.
template <class Check>
std::vector<Statement> agree(const Communicator& ranks, const Check& check) {
  std::vector<Statement> all(static_cast<std::size_t>(ranks.size()));
  Statement own;
  bool has_memory = true;
  const std::string sentence = sentence_of([&] { check(own); }, has_memory);
  own.sentence_bytes = has_memory ? static_cast<Index>(sentence.size()) : -1;
  ranks.gather(&own, 1, all.data());
  for (const Statement& statement : all)
    if (statement.sentence_bytes < 0) throw_no_memory();
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const Index bytes = all[static_cast<std::size_t>(rank)].sentence_bytes;
    if (bytes == 0) continue;
    std::string theirs = rank == ranks.rank() ? sentence : std::string(static_cast<std::size_t>(bytes), ' ');
    ranks.broadcast(theirs.data(), bytes, rank);
    if (!sentence.empty()) refuse(std::string_view(sentence));
    refuse_on_all("rank " + std::to_string(rank) + ": " + theirs);
  }
  for (std::size_t i = 0; i < Statement::count; ++i)
    for (std::size_t rank = 1; rank < all.size(); ++rank)
      if (all[rank].alike[i] != all[0].alike[i])
        refuse_on_all("rank " + std::to_string(rank) + ": " + Statement::names[i] + " is not what rank 0 has");
  return all;
}

// allocate() on every rank, or std::bad_alloc on every rank.
template <class Allocate>
void allocate_together(const Communicator& ranks, const Allocate& allocate) {
  bool has_memory = true;
  const std::string sentence = sentence_of(allocate, has_memory);
  if (ranks.any(!has_memory || !sentence.empty())) throw_no_memory();
}

}  // namespace CSQ_CODE::detail
