// What a call needs beside its arrays: by workspace_bytes, and by the peak of the process.
#include <sys/resource.h>

#include <csq/csq.hpp>

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
