// What the tests of streams and summaries share: arrays whose tokens can be cut, means of what came before, and damaged
// states.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "problem.hpp"

struct TokenSizes {
  Index batch = 1, heads = 4, kv_heads = 2, key_dim = 6, value_dim = 5;
};

// An array [batch, heads, tokens, dim] whose tokens can be cut.
template <class T>
struct TokenRows {
  Index batch, heads, tokens, dim;
  std::vector<T> values;

  TokenRows(Index b, Index h, Index n, Index d)
      : batch(b), heads(h), tokens(n), dim(d), values(static_cast<std::size_t>(b * h * n * d)) {}
  csq::Heads<T> rows(Index first, Index count) {
    return {values.data() + first * dim, {batch, heads, count, dim}, {heads * tokens * dim, tokens * dim, dim, 1}};
  }
  csq::Heads<const T> rows(Index first, Index count) const {
    return {values.data() + first * dim, {batch, heads, count, dim}, {heads * tokens * dim, tokens * dim, dim, 1}};
  }
  // Of the first `count` tokens, [batch, heads, dim].
  std::vector<double> means(Index count) const {
    std::vector<double> means(static_cast<std::size_t>(batch * heads * dim));
    for (Index h = 0; h < batch * heads; ++h)
      for (Index t = 0; t < count; ++t)
        for (Index a = 0; a < dim; ++a)
          means[static_cast<std::size_t>(h * dim + a)] +=
              static_cast<double>(values[static_cast<std::size_t>((h * tokens + t) * dim + a)]) /
              static_cast<double>(count);
    return means;
  }
};

// Of n tokens: normal numbers, and gates that sometimes forget nearly all.
template <class T>
struct Tokens {
  TokenRows<T> q, k, v, gate;

  Tokens(const TokenSizes& s, Index n, Random& random, double offset = 0)
      : q(s.batch, s.heads, n, s.key_dim),
        k(s.batch, s.kv_heads, n, s.key_dim),
        v(s.batch, s.kv_heads, n, s.value_dim),
        gate(s.batch, s.kv_heads, n, 1) {
    for (T& x : q.values) x = static_cast<T>(random.normal());
    for (T& x : k.values) x = static_cast<T>(random.normal() + offset);
    for (T& x : v.values) x = static_cast<T>(random.normal());
    for (T& x : gate.values) x = random.integer(0, 40) == 0 ? T(-200) : static_cast<T>(-std::abs(random.normal()) / 30);
  }
};

template <class T>
TokenRows<T> output_of(const TokenSizes& s, Index n) {
  return {s.batch, s.heads, n, s.value_dim};
}

// ‖a − b‖/‖b‖; NaN where one of them has any.
template <class T>
double difference(const std::vector<T>& a, const std::vector<T>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    error += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(error / (size > 0 ? size : 1));
}

// FNV-1a of all but the last 8 bytes, in these.
inline void repair_checksum(std::vector<std::byte>& bytes) {
  if (bytes.size() < 8) return;
  std::uint64_t hash = 14695981039346656037u;
  for (std::size_t i = 0; i + 8 < bytes.size(); ++i)
    hash = (hash ^ std::to_integer<std::uint64_t>(bytes[i])) * 1099511628211u;
  for (std::size_t byte = 0; byte < 8; ++byte)
    bytes[bytes.size() - 8 + byte] = static_cast<std::byte>((hash >> (8 * byte)) & 0xff);
}

// A state that has been cut, extended, overwritten, shuffled, or spliced with another one; half of them with the right
// checksum, so that what reads them gets to see it. Half of the damage is within the first `header` bytes.
inline std::vector<std::byte> damaged(const std::vector<std::byte>& state, const std::vector<std::byte>& other,
                                      std::size_t header, Random& random) {
  std::vector<std::byte> bytes = state;
  const auto place = [&](const std::vector<std::byte>& from) {
    const std::size_t end = random.coin() ? std::min(header, from.size()) : from.size();
    return static_cast<std::size_t>(random.integer(0, static_cast<Index>(end) - 1));
  };
  const auto any_byte = [&] { return static_cast<std::byte>(random.integer(0, 255)); };
  switch (random.integer(0, 6)) {
    case 0:
      bytes[place(bytes)] ^= static_cast<std::byte>(1 << random.integer(0, 7));
      break;
    case 1:
      bytes[place(bytes)] = random.coin() ? any_byte() : random.coin() ? std::byte{0xff} : std::byte{0};
      break;
    case 2:
      bytes.resize(place(bytes));
      break;
    case 3:
      std::swap(bytes[place(bytes)], bytes[place(bytes)]);
      break;
    case 4:
      for (Index more = random.integer(1, 40); more > 0; --more) bytes.push_back(any_byte());
      break;
    case 5: {  // the beginning of one, the end of another
      const std::size_t head = place(bytes), tail = place(other);
      bytes.resize(head);
      bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(tail), other.end());
      break;
    }
    default: {  // a number of its own, in 8 bytes
      const std::size_t at = place(bytes) / 8 * 8;
      const std::uint64_t number =
          random.coin() ? random.bits() >> random.integer(0, 63) : ~(random.bits() >> random.integer(0, 63));
      for (std::size_t byte = 0; byte < 8 && at + byte < bytes.size(); ++byte)
        bytes[at + byte] = static_cast<std::byte>((number >> (8 * byte)) & 0xff);
    }
  }
  if (random.coin()) repair_checksum(bytes);
  return bytes;
}

// Loads so many damaged states: each is an error, which changes nothing, or a state that is what the bytes say; that
// one goes to use(). Returns how many were taken; −1 if anything else has happened.
template <class State, class Use>
int load_damaged(State& target, const std::vector<std::byte>& state, const std::vector<std::byte>& other,
                 std::size_t header, int files, Random& random, const Use& use) {
  const std::vector<std::byte> before = target.save();
  int taken = 0;
  for (int file = 0; file < files; ++file) {
    const std::vector<std::byte> bytes = damaged(state, other, header, random);
    try {
      target.load(bytes);
    } catch (const std::invalid_argument&) {
      if (target.save() != before) return -1;
      continue;
    }
    if (target.save() != bytes) return -1;
    ++taken;
    State used = target;
    use(used);
    target.load(before);
  }
  return taken;
}
