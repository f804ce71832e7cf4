// States cross machines: written on one, read on another whose bytes stand the other way round.
//
//   states write FOLDER      writes what streams and summaries are after some tokens
//   states check FOLDER      loads that, goes on, and compares with its own, which never stopped
//
// Tokens are made of small integers, the same on every machine. Sums of some states are exact, and their files must be
// the same to the byte; of the others the rows that follow must agree.
#include <cmath>
#include <csq/csq.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

using csq::Heads;
using csq::Index;

constexpr Index heads = 4, kv_heads = 2, key_dim = 6, value_dim = 5, tokens = 260, written = 180;

// Multiples of 1/8 between −1 and 1.
template <class T>
std::vector<T> numbers(Index count, std::uint32_t seed) {
  std::vector<T> result(static_cast<std::size_t>(count));
  for (T& x : result) {
    seed = seed * 1664525 + 1013904223;
    x = (static_cast<T>(seed >> 16 & 15) - T(8)) / 8;
  }
  return result;
}

template <class T>
struct Tokens {
  std::vector<T> q = numbers<T>(heads * tokens * key_dim, 1), k = numbers<T>(kv_heads * tokens * key_dim, 2),
                 v = numbers<T>(kv_heads * tokens * value_dim, 3), gate = numbers<T>(kv_heads * tokens, 4);

  Tokens() {
    for (T& x : gate) x = (x - 1) / 16;
  }
  static Heads<const T> rows(const std::vector<T>& array, Index all, Index dim, Index first, Index count) {
    return {array.data() + first * dim, {1, all, count, dim}, {0, tokens * dim, dim, 1}};
  }
  Heads<const T> query(Index first, Index count) const { return rows(q, heads, key_dim, first, count); }
  Heads<const T> key(Index first, Index count) const { return rows(k, kv_heads, key_dim, first, count); }
  Heads<const T> value(Index first, Index count) const { return rows(v, kv_heads, value_dim, first, count); }
  Heads<const T> gates(bool gated, Index first, Index count) const {
    return gated ? rows(gate, kv_heads, 1, first, count) : Heads<const T>{};
  }
};

std::string path_of(const std::string& folder, const std::string& name) { return folder + "/" + name; }

void write_file(const std::string& path, const std::vector<std::byte>& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}
std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::vector<char> text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::vector<std::byte> bytes;
  for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
  return bytes;
}

// Writes, or checks and counts what is wrong.
class States {
 public:
  States(std::string folder, bool writes) : folder_(std::move(folder)), writes_(writes) {}

  // A state that takes tokens: go_on(state, first, count, out).
  template <class T, class State, class GoOn>
  void visit(const std::string& name, State state, bool exact, const GoOn& go_on) {
    State loaded = state;
    std::vector<T> out(static_cast<std::size_t>(heads * tokens * value_dim)), again = out;
    const auto rows = [](std::vector<T>& of, Index first, Index count) {
      return Heads<T>(of.data() + first * value_dim, {1, heads, count, value_dim},
                      {0, tokens * value_dim, value_dim, 1});
    };
    go_on(state, 0, written, rows(out, 0, written));
    if (writes_) {
      write_file(path_of(folder_, name), state.save());
      return;
    }
    const std::vector<std::byte> bytes = read_file(path_of(folder_, name));
    loaded.load(bytes);
    const bool same_again = loaded.save() == bytes, same_bytes = state.save() == bytes;
    constexpr Index left = tokens - written;
    go_on(state, written, left, rows(out, written, left));
    go_on(loaded, written, left, rows(again, written, left));
    double error = 0, size = 0;
    for (Index h = 0; h < heads; ++h)
      for (Index t = written; t < tokens; ++t)
        for (Index a = 0; a < value_dim; ++a) {
          const double x = static_cast<double>(rows(again, 0, tokens).head(0, h)(t, a));
          const double y = static_cast<double>(rows(out, 0, tokens).head(0, h)(t, a));
          error += (x - y) * (x - y);
          size += y * y;
        }
    const double difference = std::sqrt(error / size);
    const bool good = same_again && difference <= (exact ? 0 : 1e-6) && (same_bytes || !exact);
    std::printf("%-34s %6zu bytes   %-22s rows differ by %.1e   %s\n", name.c_str(), bytes.size(),
                same_bytes ? "the same here" : "other roundings here", difference, good ? "good" : "WRONG");
    all_good_ = all_good_ && good;
  }

  template <class T>
  void visit_all(const std::string& type) {
    const Tokens<T> some;
    const csq::StreamShape shape{1, heads, kv_heads, key_dim, value_dim};
    const csq::SummaryShape summary_shape{1, kv_heads, key_dim, value_dim};
    for (const bool gated : {false, true}) {
      const auto step = [&](csq::Stream<T>& stream, Index first, Index count, Heads<T> out) {
        stream.prefill(some.query(first, count), some.key(first, count), some.value(first, count), out,
                       some.gates(gated, first, count));
      };
      const auto attend = [&](csq::Summary<T>& summary, Index first, Index count, Heads<T> out) {
        summary.attend(some.query(first, count), some.key(first, count), some.value(first, count), out,
                       some.gates(gated, first, count));
      };
      const std::string kind = (gated ? "gated." : "") + type;
      const auto plain = csq::Centering::none;
      visit<T>("stream.csq." + kind, csq::Stream<T>(csq::Csq{}, shape, {.gated = gated}), false, step);
      visit<T>("stream.softmax." + kind, csq::Stream<T>(csq::Softmax{}, shape, {.gated = gated}), false, step);
      visit<T>("stream.window." + kind, csq::Stream<T>(csq::Softmax{}, shape, {.window = 50, .gated = gated}), false,
               step);
      // Powers of two as scale and multiples of 1/8: without gates every sum is exact.
      visit<T>("stream.exact." + kind,
               csq::Stream<T>(csq::ShiftedQuadratic{}, shape, {.scale = 0.25, .gated = gated, .centering = plain}),
               !gated, step);
      visit<T>(
          "summary.exact." + kind,
          csq::Summary<T>(csq::ShiftedQuadratic{}, summary_shape, {.scale = 0.25, .gated = gated, .centering = plain}),
          !gated, attend);
      visit<T>("summary.linear." + kind,
               csq::Summary<T>(csq::Linear{}, summary_shape, {.gated = gated, .centering = plain}), false, attend);
    }
  }

  bool all_good() const { return all_good_; }

 private:
  std::string folder_;
  bool writes_ = false, all_good_ = true;
};

}  // namespace

int main(int count, char** words) {
  const std::string what = count == 3 ? words[1] : "";
  if (what != "write" && what != "check") {
    std::fprintf(stderr, "usage: states write|check FOLDER\n");
    return 2;
  }
  try {
    States states(words[2], what == "write");
    states.visit_all<float>("float");
    states.visit_all<double>("double");
    return states.all_good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "states: %s\n", error.what());
    return 1;
  }
}
