// A process that may not use the matrix unit: Linux refuses it where a signal stack could not hold the tiles. Calls on
// bfloat16 are then those of float, and nothing crashes. Alone in its program, since leave is asked for once.
#include <csq/csq.hpp>
#include <cstring>
#include <vector>

#if defined(__linux__)
#include <csignal>
#endif

#include "catch.hpp"

namespace {

std::vector<Eigen::bfloat16> numbers(std::size_t count, unsigned seed) {
  std::vector<Eigen::bfloat16> result(count);
  for (Eigen::bfloat16& x : result) {
    seed = seed * 1664525u + 1013904223u;
    x = Eigen::bfloat16(static_cast<float>(seed >> 8) / static_cast<float>(1 << 23) - 1.0f);
  }
  return result;
}

}  // namespace

TEST_CASE("without leave for tiles calls on bfloat16 are float's") {
#if defined(__linux__)
  std::vector<unsigned char> small(8192);  // tiles alone have as much
  stack_t stack{};
  stack.ss_sp = small.data();
  stack.ss_size = small.size();
  if (sigaltstack(&stack, nullptr) != 0) {
    WARN("a signal stack of 8 kB is refused here already");
    return;
  }
#endif
#if defined(__x86_64__)
  if (!csq::detail::simd::avx512_amx::Target::is_supported()) WARN("no Intel AMX here: nothing is refused");
#endif
  CHECK(csq::detail::simd::storage_of<Eigen::bfloat16>()->matrix == nullptr);

  constexpr csq::Index n = 200, d = 24;
  const auto q = numbers(n * d, 1), k = numbers(n * d, 2), v = numbers(n * d, 3);
  std::vector<Eigen::bfloat16> out(q.size());
  const auto heads = [&](const auto& x) { return csq::Heads<const Eigen::bfloat16>(x.data(), {1, 1, n, d}); };
  csq::attention(csq::Softmax{}, heads(q), heads(k), heads(v), csq::Heads<Eigen::bfloat16>(out.data(), {1, 1, n, d}));

  const auto widened = [](const std::vector<Eigen::bfloat16>& x) { return std::vector<float>(x.begin(), x.end()); };
  const std::vector<float> wide_q = widened(q), wide_k = widened(k), wide_v = widened(v);
  std::vector<float> wide_out(out.size());
  const auto wide = [&](const auto& x) { return csq::Heads<const float>(x.data(), {1, 1, n, d}); };
  csq::attention(csq::Softmax{}, wide(wide_q), wide(wide_k), wide(wide_v),
                 csq::Heads<float>(wide_out.data(), {1, 1, n, d}));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const Eigen::bfloat16 rounded(wide_out[i]);
    CHECK(std::memcmp(&rounded, &out[i], sizeof rounded) == 0);
  }
#if defined(__linux__)
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, nullptr);
#endif
}
