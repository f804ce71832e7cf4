// Decoding: real heads, prefilled and then continued a token at a time, from a state of constant size.
//
//   q, k, v  [heads, n, d]   two heads of a byte-level language model (bench/data), n = 2048, d = 64
//
// Every claim that it prints was checked; exit 1 when one is not so.
//
//   build/release/examples/decode [folder of the tensors]
#include <algorithm>
#include <csq/csq.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "npy.hpp"

namespace decode {

using csq::Index;
using Numbers = std::vector<float>;

constexpr Index heads = 2, dim = 64, n = 2048;
constexpr Index prompt = 1024, decoded = 512, rest = n - prompt - decoded;

// [heads, n, d] each.
struct Text {
  Numbers q, k, v;
};

Numbers read(const std::string& path) {
  npy::Array<float> array = npy::read<float>(path);
  if (array.shape != std::vector<Index>{heads, n, dim}) npy::fail(path, "shape " + npy::shape_text(array.shape));
  return std::move(array.data);
}

// Tokens [first, first + count) of [heads, n, d], as every call takes them: [1, heads, count, d].
template <class Array>
auto tokens(Array& array, Index first, Index count) {
  return csq::Heads(array.data() + first * dim, {1, heads, count, dim}, {heads * n * dim, n * dim, dim, 1});
}

void feed(csq::Stream<float>& stream, const Text& text, Index first, Index count, Numbers& out) {
  stream.prefill(tokens(text.q, first, count), tokens(text.k, first, count), tokens(text.v, first, count),
                 tokens(out, first, count));
}
void feed_one_by_one(csq::Stream<float>& stream, const Text& text, Index first, Index count, Numbers& out) {
  for (Index t = first; t < first + count; ++t) feed(stream, text, t, 1, out);
}

Numbers one_shot(const Text& text) {
  Numbers out(text.v.size());
  csq::attention(csq::Csq{}, tokens(text.q, 0, n), tokens(text.k, 0, n), tokens(text.v, 0, n), tokens(out, 0, n),
                 {.causal = true});
  return out;
}

// The largest ‖here − there‖/‖there‖ of a row.
double largest_difference(const Numbers& here, const Numbers& there) {
  const Eigen::Map<const csq::Matrix<float>> a(here.data(), heads * n, dim), b(there.data(), heads * n, dim);
  return ((a - b).rowwise().norm().array() / b.rowwise().norm().array()).maxCoeff<Eigen::PropagateNaN>();
}

bool failed = false;
void say(bool good, const char* what) {
  std::printf("%s%s\n", what, good ? "" : "   FAILED");
  failed = failed || !good;
}

void run(const std::string& folder) {
  const Text text{read(folder + "/byte_lm_softmax_q.npy"), read(folder + "/byte_lm_softmax_k.npy"),
                  read(folder + "/byte_lm_softmax_v.npy")};
  const Numbers expected = one_shot(text);
  Numbers out(expected.size());

  // Prefill, then a token at a time: the rows of one causal call over all tokens, and as many bytes as at the start.
  csq::Stream<float> stream(csq::Csq{}, {.heads = heads, .key_dim = dim, .value_dim = dim});
  const std::size_t bytes = stream.bytes();
  feed(stream, text, 0, prompt, out);
  feed_one_by_one(stream, text, prompt, n - prompt, out);
  const double difference = largest_difference(out, expected);
  std::printf("%d tokens prefilled, %d decoded: rows differ by at most %.1e\n", int(prompt), int(n - prompt),
              difference);
  say(difference <= 2e-4, "every row is that of one causal call");
  std::printf("%zu bytes of state before the first token, %zu behind the last\n", bytes, stream.bytes());
  say(bytes == stream.bytes(), "the state does not grow");

  // From here on a shorter past, which two forks continue: one as the text does, the other with the text's beginning.
  stream.reset();
  feed(stream, text, 0, prompt + decoded, out);
  Text other = text;
  for (Numbers Text::*part : {&Text::q, &Text::k, &Text::v})
    for (Index h = 0; h < heads; ++h)
      std::copy_n((text.*part).begin() + h * n * dim, rest * dim,
                  (other.*part).begin() + (h * n + prompt + decoded) * dim);
  csq::Stream<float> one = stream.fork(), two = stream.fork();
  Numbers other_out = out;
  feed_one_by_one(one, text, prompt + decoded, rest, out);
  feed_one_by_one(two, other, prompt + decoded, rest, other_out);
  say(largest_difference(out, expected) <= 2e-4 && largest_difference(other_out, one_shot(other)) <= 2e-4,
      "two forks: each continues in its own way");

  // Speculation: four tokens are proposed at once, the first is right, three are taken back. A state knows how far back
  // it can go, which counts from the furthest token that it has seen: three tokens on it is the same.
  csq::Stream<float> plain = stream.fork(), proposed = stream.fork();
  const Index at = stream.tokens();
  feed(proposed, text, at, 1, out);
  feed(proposed, other, at + 1, 3, other_out);
  proposed.truncate(at + 1);
  feed(proposed, text, at + 1, 3, out);
  feed(plain, text, at, 4, other_out);
  say(proposed.save() == plain.save(),
      "four proposed, three taken back: the state is, to the bit, as if they had never been");

  // Saved and loaded.
  csq::Stream<float> loaded(csq::Csq{}, {.heads = heads, .key_dim = dim, .value_dim = dim});
  const std::vector<std::byte> saved = plain.save();
  loaded.load(saved);
  std::fill(out.begin(), out.end(), 0.0f);
  other_out = out;
  feed_one_by_one(plain, text, at + 4, rest - 4, out);
  feed_one_by_one(loaded, text, at + 4, rest - 4, other_out);
  std::printf("%zu bytes saved and loaded\n", saved.size());
  say(out == other_out, "what was loaded goes on the same, to the bit");
}

}  // namespace decode

int main(int count, char** words) try {
  decode::run(count > 1 ? words[1] : "bench/data");
  return decode::failed ? 1 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "decode: %s\n", error.what());
  return 2;
}
