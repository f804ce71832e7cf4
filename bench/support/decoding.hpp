// A stream that decodes: normal random tokens, taken from the start again where they end, one a step.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "decode_bytes.hpp"
#include "inputs.hpp"
#include "interruption.hpp"

namespace bench {

// Arrays [token][head][dim], as a model makes them; gates are of what is computed in.
template <class Element>
class DecodeTokens {
 public:
  static constexpr Index count = 512;

  explicit DecodeTokens(const DecodeShape& shape)
      : shape_(shape),
        q_(normal(shape.heads * shape.key_dim, 1)),
        k_(normal(shape.kv_heads * shape.key_dim, 2)),
        v_(normal(shape.kv_heads * shape.value_dim, 3)),
        gates_(mild_gates(count, shape.kv_heads)) {}

  const DecodeShape& shape() const { return shape_; }
  csq::Heads<const Element> q(Index first, Index tokens) const {
    return rows(q_.data(), shape_.heads, shape_.key_dim, first, tokens);
  }
  csq::Heads<const Element> k(Index first, Index tokens) const {
    return rows(k_.data(), shape_.kv_heads, shape_.key_dim, first, tokens);
  }
  csq::Heads<const Element> v(Index first, Index tokens) const {
    return rows(v_.data(), shape_.kv_heads, shape_.value_dim, first, tokens);
  }
  csq::Heads<const float> gates(Index first, Index tokens) const {
    return rows(gates_.data(), shape_.kv_heads, 1, first, tokens);
  }

  template <class T>
  static csq::Heads<T> rows(T* data, Index heads, Index dim, Index first, Index tokens) {
    return {data + first * heads * dim, {1, heads, tokens, dim}, {tokens * heads * dim, dim, heads * dim, 1}};
  }

 private:
  static std::vector<Element> normal(Index width, std::uint64_t seed) {
    std::vector<Element> numbers(static_cast<std::size_t>(count * width));
    NormalNumbers source(seed);
    for (Element& number : numbers) number = static_cast<Element>(source.next()[0]);
    return numbers;
  }

  DecodeShape shape_;
  std::vector<Element> q_, k_, v_;
  std::vector<float> gates_;
};

template <class Element>
class Decoding {
 public:
  template <class Mechanism>
  Decoding(const Mechanism& mechanism, std::shared_ptr<const DecodeTokens<Element>> tokens,
           const csq::StreamOptions& options = {})
      : tokens_(std::move(tokens)),
        gated_(options.gated),
        stream_(mechanism, tokens_->shape().stream(), options),
        out_(static_cast<std::size_t>(DecodeTokens<Element>::count * width())) {}

  Index seen() const { return stream_.tokens(); }
  std::size_t state_bytes() const { return stream_.bytes(); }

  // Until so many tokens have been seen.
  void prefill_to(Index tokens) {
    while (seen() < tokens) {
      stop_if_asked();
      const Index first = seen() % DecodeTokens<Element>::count;
      append(first, std::min(tokens - seen(), DecodeTokens<Element>::count - first));
    }
  }
  void step(Index tokens = 1) {
    for (Index token = 0; token < tokens; ++token) append(seen() % DecodeTokens<Element>::count, 1);
  }
  // The same, and then taken back, so that the context stays what it is.
  void step_and_back(Index tokens) {
    step(tokens);
    stream_.truncate(seen() - tokens);
  }

  // The rows of the last token.
  std::vector<Element> last_output() const {
    const auto* const last = out_.data() + (seen() - 1) % DecodeTokens<Element>::count * width();
    return {last, last + width()};
  }

 private:
  Index width() const { return tokens_->shape().heads * tokens_->shape().value_dim; }
  void append(Index first, Index count) {
    const DecodeShape& shape = tokens_->shape();
    stream_.step(tokens_->q(first, count), tokens_->k(first, count), tokens_->v(first, count),
                 DecodeTokens<Element>::rows(out_.data(), shape.heads, shape.value_dim, first, count),
                 gated_ ? tokens_->gates(first, count) : csq::Heads<const float>());
  }

  std::shared_ptr<const DecodeTokens<Element>> tokens_;
  bool gated_;
  csq::Stream<Element> stream_;
  std::vector<Element> out_;
};

// Steps that are timed together: whole blocks of W tokens, so that absorbing takes its share, and at least 288.
inline Index steps_of_whole_blocks(Index absorbed) {
  constexpr Index least = 2 * 144;
  return (least + absorbed - 1) / absorbed * absorbed;
}

// One query against keys and values in memory of one's own: [key head][token][dim], keys first.
template <class Element>
class OneQuery {
 public:
  OneQuery(const DecodeShape& shape, Index tokens, const Element* memory, const DecodeTokens<Element>& query,
           int threads)
      : query_(query.q(0, 1)),
        keys_(memory, {1, shape.kv_heads, tokens, shape.key_dim}),
        values_(memory + shape.kv_heads * tokens * shape.key_dim, {1, shape.kv_heads, tokens, shape.value_dim}),
        threads_(threads),
        out_(static_cast<std::size_t>(shape.heads * shape.value_dim)) {}

  void operator()() {
    const csq::Heads<Element> out(out_.data(), {1, query_.heads(), 1, values_.dim()});
    csq::attention(csq::Softmax{}, query_, keys_, values_, out,
                   {.causal = true, .threads = threads_, .workspace = &workspace_});
  }

 private:
  csq::Heads<const Element> query_, keys_, values_;
  int threads_;
  std::vector<Element> out_;
  csq::Workspace workspace_;
};

}  // namespace bench
