// How far a stream in float is from the same stream in double, after 1,000 to 10,000,000 tokens.
//
//   build/release/bench/drift [tokens]      10,000,000 unless given, in minutes; CSQ, d = 32, one head, one thread
//
// Queries and keys are uniform random numbers of variance 1; values are 1 plus a linear function of the key, so that
// every sum of the summary grows with the tokens, and a row is 1 plus what its query finds:
//
//   v = 1 + W k/√d,   W normal         out → 1 + 2·α·Wq/√d/(1 + α²|q|²)
//
// Without gates, and with gates −|x|³/10 of normal x, which forget half in 1 to 700 tokens. At each power of ten the
// last 100 rows are compared: ‖float − double‖/‖double‖, and over ‖double − 1‖, the part that depends on the query.
//
// A summary is added to once in 72 tokens, so that n/72 roundings add up: as √n where they are random. Values that
// never change, v = c without gates, are the worst case: then the same rounding is made again and again, in one
// direction as long as the sum keeps its exponent, and the error grows as n. The third table is that of c = 0.4566,
// the worst of a thousand.
//
// Exit 1 when a row of the first two is off by more than 1e-3, or when the state has grown by a byte.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numbers>
#include <vector>

#include "csq/csq.hpp"

namespace {

using csq::Index;

constexpr Index dim = 32, piece = 1000, compared = 100;
constexpr double tolerance = 1e-3;

class Numbers {
 public:
  double between_zero_and_one() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (static_cast<double>(state_ >> 11) + 0.5) * 0x1p-53;
  }
  float uniform() { return static_cast<float>((2 * between_zero_and_one() - 1) * std::numbers::sqrt3); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(between_zero_and_one()));
    return radius * std::cos(2 * std::numbers::pi * between_zero_and_one());
  }

 private:
  std::uint64_t state_ = 2026;
};

// One stream, with arrays of a piece.
template <class T>
struct Side {
  csq::Stream<T> stream;
  std::vector<T> q, k, v, gate, out;

  explicit Side(bool gated)
      : stream(csq::Csq{}, {.key_dim = dim, .value_dim = dim}, {.gated = gated, .threads = 1}),
        q(piece * dim),
        k(q),
        v(q),
        gate(gated ? piece : 0),
        out(q) {}

  void go_on() {
    const csq::Heads<const T> gates =
        gate.empty() ? csq::Heads<const T>{} : csq::Heads<const T>(gate.data(), {1, 1, piece, 1});
    stream.prefill(csq::Heads<const T>(q.data(), {1, 1, piece, dim}), csq::Heads<const T>(k.data(), {1, 1, piece, dim}),
                   csq::Heads<const T>(v.data(), {1, 1, piece, dim}), csq::Heads<T>(out.data(), {1, 1, piece, dim}),
                   gates);
  }
};

enum class Tokens { plain, gated, constant };

class Run {
 public:
  explicit Run(Tokens tokens)
      : floats_(tokens == Tokens::gated),
        doubles_(tokens == Tokens::gated),
        map_(dim * dim),
        offset_(tokens == Tokens::constant ? 0.4566f : 1.0f) {
    for (float& x : map_) x = static_cast<float>(numbers_.normal() / std::sqrt(static_cast<double>(dim)));
    if (tokens == Tokens::constant) map_.assign(map_.size(), 0.0f);
  }

  // One piece through both streams.
  void go_on() {
    for (float& x : floats_.q) x = numbers_.uniform();
    for (float& x : floats_.k) x = numbers_.uniform();
    for (float& x : floats_.gate) x = static_cast<float>(-std::pow(std::abs(numbers_.normal()), 3) / 10);
    for (Index t = 0; t < piece; ++t) {
      const float* const key = floats_.k.data() + t * dim;
      float* const value = floats_.v.data() + t * dim;
      for (Index a = 0; a < dim; ++a) value[a] = offset_;
      for (Index b = 0; b < dim; ++b)
        for (Index a = 0; a < dim; ++a) value[a] += map_[static_cast<std::size_t>(b * dim + a)] * key[b];
    }
    doubles_.q.assign(floats_.q.begin(), floats_.q.end());
    doubles_.k.assign(floats_.k.begin(), floats_.k.end());
    doubles_.v.assign(floats_.v.begin(), floats_.v.end());
    doubles_.gate.assign(floats_.gate.begin(), floats_.gate.end());
    floats_.go_on();
    doubles_.go_on();
  }

  Index tokens() const { return floats_.stream.tokens(); }
  std::size_t bytes() const { return floats_.stream.bytes(); }
  struct Errors {
    double of_row, of_query_part;
  };
  Errors errors() const {
    double difference = 0, row = 0, query_part = 0;
    for (std::size_t i = (piece - compared) * dim; i < piece * dim; ++i) {
      const double x = floats_.out[i], y = doubles_.out[i];
      difference += (x - y) * (x - y);
      row += y * y;
      query_part += (y - static_cast<double>(offset_)) * (y - static_cast<double>(offset_));
    }
    return {std::sqrt(difference / row), std::sqrt(difference / query_part)};
  }

 private:
  Numbers numbers_;
  Side<float> floats_;
  Side<double> doubles_;
  std::vector<float> map_;
  float offset_;
};

// False when a row is too far off, or the state has grown.
bool print_table(const char* name, Tokens kind, Index tokens) {
  Run run(kind);
  const std::size_t bytes = run.bytes();
  const auto start = std::chrono::steady_clock::now();
  bool good = true;
  std::printf("\n  %-16s %10s   %-20s %-20s %12s %8s\n", name, "tokens", "of the row", "of the query's part",
              "state, bytes", "seconds");
  for (Index next = 1000; run.tokens() < tokens;) {
    run.go_on();
    if (run.tokens() < next && run.tokens() < tokens) continue;
    const auto [of_row, of_query_part] = run.errors();
    good = good && (of_row <= tolerance || kind == Tokens::constant) && run.bytes() == bytes;
    char query_part[32] = "-";
    if (kind != Tokens::constant) std::snprintf(query_part, sizeof query_part, "%.2e", of_query_part);
    std::printf("  %-16s %10lld   %-20.2e %-20s %12zu %8.1f\n", "", static_cast<long long>(run.tokens()), of_row,
                query_part, run.bytes(),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    std::fflush(stdout);
    next *= 10;
  }
  return good;
}

}  // namespace

int main(int count, char** words) {
  const Index tokens = count > 1 ? std::atoll(words[1]) : 10000000;
  if (count > 2 || tokens < piece || tokens > Index{1000000000}) {
    std::fprintf(stderr, "drift: takes one number, the tokens, between 1000 and 1000000000\n");
    return 2;
  }
  try {
    std::printf("relative difference of a stream in float from one in double; CSQ, d = %lld, one head; %s\n",
                static_cast<long long>(dim), csq::build_info().c_str());
    bool good = print_table("without gates", Tokens::plain, tokens);
    good = print_table("with gates", Tokens::gated, tokens) && good;
    good = print_table("constant values", Tokens::constant, tokens) && good;
    std::printf("\n  %s\n", good ? "the first two <= 1e-3; the state is constant to the byte"
                                 : "FAILS: above 1e-3, or a state that has grown");
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "drift: %s\n", error.what());
    return 2;
  }
}
