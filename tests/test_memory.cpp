// What a call needs beside its arrays: by workspace_bytes, and by the peak of the process; and what a stream holds.
#include <sys/resource.h>
#include <unistd.h>

#include <csq/csq.hpp>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "catch.hpp"

namespace {

std::size_t factored_bytes(csq::Index tokens, bool causal, int threads) {
  csq::Options options;
  options.causal = causal;
  options.method = csq::Method::factored;
  options.threads = threads;
  return csq::workspace_bytes<float>(csq::Csq{}, {tokens, tokens, 64, 64, 1, 1, 1, causal}, options);
}

// Highest memory in use so far. Linux counts KiB.
long peak_kibibytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

// Memory in use now, where Linux tells.
long resident_kibibytes() {
  long all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

}  // namespace

TEST_CASE("200,000 tokens, d = 64, one causal head, factored: the peak rises by less than 32 MB") {
  constexpr csq::Index tokens = 200000, dim = 64;
  const csq::Matrix<float> q = csq::Matrix<float>::Constant(tokens, dim, 0.5f);
  csq::Matrix<float> out = csq::Matrix<float>::Ones(tokens, dim);  // written, so that only the call's own memory counts
  const long before = peak_kibibytes();
  csq::attention(csq::Csq{}, q, q, q, out, {.causal = true, .method = csq::Method::factored});
  const long rise = peak_kibibytes() - before;
  WARN("peak rose by " << rise << " KiB");
  CHECK(rise > 0);
  CHECK(rise < 32 * 1024);
  CHECK(out.allFinite());
}

// As many as CSQ_STREAM_TOKENS says: ten million take ten minutes on two cores.
TEST_CASE("32 heads on 8, d = 64: the state of 20,000 tokens is that of none, to the byte") {
  const char* const asked = std::getenv("CSQ_STREAM_TOKENS");
  const csq::Index tokens = asked == nullptr ? 20000 : std::atoll(asked);
  constexpr csq::Index dim = 64, heads = 32, kv_heads = 8, piece = 500;
  csq::Stream<float> stream(csq::Csq{}, {.heads = heads, .kv_heads = kv_heads, .key_dim = dim, .value_dim = dim});
  const std::size_t bytes = stream.bytes();
  // Twice the summary of each key head, 72 to 96 tokens at a time, and little else.
  CHECK(bytes < 2u * kv_heads * 2160u * 66u * sizeof(float) + (4u << 20));
  std::vector<float> numbers(static_cast<std::size_t>(heads * piece * dim), 0.5f), rows(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i * 2654435761u % 1024) / 1024;
  const csq::Heads<const float> queries(numbers.data(), {1, heads, piece, dim}),
      keys(numbers.data(), {1, kv_heads, piece, dim});
  const csq::Heads<float> out(rows.data(), {1, heads, piece, dim});
  const auto step = [&] {
    stream.step(csq::Heads<const float>(numbers.data(), {1, heads, 1, dim}),
                csq::Heads<const float>(numbers.data(), {1, kv_heads, 1, dim}),
                csq::Heads<const float>(numbers.data(), {1, kv_heads, 1, dim}),
                csq::Heads<float>(rows.data(), {1, heads, 1, dim}));
  };
  long before = 0;
  while (stream.tokens() < tokens) {
    stream.prefill(queries, keys, keys, out);
    CHECK(stream.bytes() == bytes);
    if (stream.tokens() != 1000) continue;
    // What both kinds of call touch for the first time, code and the stacks of threads among it, counts before.
    for (int i = 0; i < 100; ++i) step();
    before = resident_kibibytes();
  }
  for (int i = 0; i < 100; ++i) step();  // and one by one
  CHECK(stream.bytes() == bytes);
  WARN(stream.tokens() << " tokens: " << stream.bytes() << " bytes, and " << resident_kibibytes() - before
                       << " KiB more in memory than after 1,000");
  // A thread's stack may still be touched further down; the keys and values would be 75 MB.
  CHECK(resident_kibibytes() - before < 4 * 1024);
  CHECK(stream.save().size() <= bytes);
}

TEST_CASE("200,000 tokens, d = 64, one causal head, factored: below 32 MB") {
  for (const int threads : {1, 2, 8}) {
    INFO(threads << " threads");
    const std::size_t bytes = factored_bytes(200000, true, threads);
    CHECK(bytes < 32u << 20);
    CHECK(bytes > 2145u * 65u * sizeof(float));  // the summary itself
  }
}

TEST_CASE("the factored form hardly grows with the sequence: 1/16 of the keys at most") {
  for (const bool causal : {false, true})
    for (const int threads : {1, 2})
      CHECK(factored_bytes(1200000, causal, threads) - factored_bytes(200000, causal, threads) <=
            1000000u * 64u * sizeof(float) / 16);
}

TEST_CASE("the direct form never holds n×m scores") {
  csq::Options options;
  options.method = csq::Method::direct;
  options.threads = 1;
  const csq::Shape shape{20000, 20000, 64, 64};
  CHECK(csq::workspace_bytes<float>(csq::Softmax{}, shape, options) < 20000u * 20000u * sizeof(float) / 20);
  CHECK(csq::workspace_bytes<float>(csq::Csq{}, shape, options) < 20000u * 20000u * sizeof(float) / 20);
}
