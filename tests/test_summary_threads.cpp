// Summaries, streams and packed sequences give the same bits for any number of threads.
#include <vector>

#include "catch.hpp"
#include "problem.hpp"
#include "stream_tokens.hpp"

namespace {

using csq::Heads;

const std::vector<int> thread_counts{1, 2, 3, 7, 0};

template <class Visit>
void for_each_kind(const Visit& visit) {
  for_typical_mechanisms([&](const auto& named) {
    for (const bool gated : {false, true})
      for (const TokenSizes& sizes : {TokenSizes{1, 6, 6, 6, 5}, TokenSizes{1, 8, 1, 20, 9}, TokenSizes{3, 4, 2, 6, 5}})
        for_float_and_double([&]<class T>() {
          INFO(named.name << (gated ? ", gated" : "") << ", batch " << sizes.batch << ", key heads " << sizes.kv_heads
                          << ", " << 8 * sizeof(T) << " bits");
          visit.template operator()<T>(named, gated, sizes);
        });
  });
}

}  // namespace

TEST_CASE("summaries: the same bits for any number of threads") {
  Random random(81);
  for_each_kind([&]<class T>(const auto& named, bool gated, const TokenSizes& sizes) {
    if (!named.factored) return;
    const Tokens<T> tokens(sizes, 300, random);
    const auto gates = [&](Index first, Index count) {
      return gated ? tokens.gate.rows(first, count) : Heads<const T>{};
    };
    std::vector<T> rows, read_rows;
    std::vector<std::byte> state;
    for (const int threads : thread_counts) {
      CAPTURE(threads);
      csq::Summary<T> summary(named.mechanism, {sizes.batch, sizes.kv_heads, sizes.key_dim, sizes.value_dim},
                              {.gated = gated, .centering = csq::Centering::none, .threads = threads});
      csq::Summary<T> right = summary;
      TokenRows<T> out = output_of<T>(sizes, 300), read = output_of<T>(sizes, 80);
      summary.absorb(tokens.k.rows(0, 90), tokens.v.rows(0, 90), gates(0, 90));
      summary.attend(tokens.q.rows(90, 150), tokens.k.rows(90, 150), tokens.v.rows(90, 150), out.rows(90, 150),
                     gates(90, 150));
      right.absorb(tokens.k.rows(240, 60), tokens.v.rows(240, 60), gates(240, 60));
      summary.merge(right);
      summary.read(tokens.q.rows(0, 80), read.rows(0, 80));
      summary.read(tokens.q.rows(80, 1), out.rows(80, 1));
      if (rows.empty()) {
        rows = out.values;
        read_rows = read.values;
        state = summary.save();
      }
      CHECK(same_bits(out.values, rows));
      CHECK(same_bits(read.values, read_rows));
      CHECK(summary.save() == state);
    }
  });
}

TEST_CASE("streams: the same bits for any number of threads") {
  Random random(82);
  for_each_kind([&]<class T>(const auto& named, bool gated, const TokenSizes& sizes) {
    const Tokens<T> tokens(sizes, 260, random);
    for (const Index window : {0, 50}) {
      std::vector<T> rows;
      std::vector<std::byte> state;
      for (const int threads : thread_counts) {
        CAPTURE(threads, window);
        csq::Stream<T> stream(named.mechanism,
                              {sizes.batch, sizes.heads, sizes.kv_heads, sizes.key_dim, sizes.value_dim},
                              {.window = window, .gated = gated, .threads = threads});
        TokenRows<T> out = output_of<T>(sizes, 260);
        for (Index at = 0; at < 260;) {
          const Index piece = at < 250 ? 125 : 1;  // prefill, then steps
          stream.prefill(tokens.q.rows(at, piece), tokens.k.rows(at, piece), tokens.v.rows(at, piece),
                         out.rows(at, piece), gated ? tokens.gate.rows(at, piece) : Heads<const T>{});
          at += piece;
        }
        if (rows.empty()) {
          rows = out.values;
          state = stream.save();
        }
        CHECK(same_bits(out.values, rows));
        CHECK(stream.save() == state);
      }
    }
  });
}

TEST_CASE("packed sequences: the same bits for any number of threads, forward and backward") {
  Random random(83);
  const std::vector<Index> offsets{0, 120, 121, 121, 150, 154, 300};
  for_each_kind([&]<class T>(const auto& named, bool gated, TokenSizes sizes) {
    if (sizes.batch > 1) return;
    const Tokens<T> tokens(sizes, 300, random);
    const Heads<const T> q = tokens.q.rows(0, 300), k = tokens.k.rows(0, 300), v = tokens.v.rows(0, 300),
                         gates = tokens.gate.rows(0, 300);
    const std::vector<T> ones(tokens.q.values.size() * 2, T(1));
    const Heads<const T> dout(ones.data(), {1, sizes.heads, 300, sizes.value_dim});
    for (const csq::Method method : methods(named.factored)) {
      std::vector<T> rows, gradients;
      for (const int threads : thread_counts) {
        CAPTURE(threads, name_of(method));
        TokenRows<T> out = output_of<T>(sizes, 300), normalizer(1, sizes.heads, 300, 1);
        TokenRows<T> dq = tokens.q, dk = tokens.k, dv = tokens.v;
        csq::Options options{
            .causal = true, .query_offsets = offsets, .key_offsets = offsets, .method = method, .threads = threads};
        if (gated) options.log_gate = gates;
        csq::attention(named.mechanism, q, k, v, out.rows(0, 300), normalizer.rows(0, 300), options);
        csq::Gradients<T> into{dq.rows(0, 300), dk.rows(0, 300), dv.rows(0, 300)};
        csq::attention_backward(named.mechanism, q, k, v, std::as_const(out).rows(0, 300),
                                std::as_const(normalizer).rows(0, 300), dout, into, options);
        std::vector<T> all = dq.values;
        all.insert(all.end(), dk.values.begin(), dk.values.end());
        all.insert(all.end(), dv.values.begin(), dv.values.end());
        if (rows.empty()) {
          rows = out.values;
          gradients = all;
        }
        CHECK(same_bits(out.values, rows));
        CHECK(same_bits(all, gradients));
      }
    }
  });
}
