// Very short sequences, 1 to 16 tokens: how much longer does a call take than plain loops? Blocks and packing are made
// for thousands of tokens; here what counts is what each head costs besides its arithmetic.
//
//   build/release/bench/short [--heads N]      many heads (N = 512 unless given) and few (4), one thread, float
//
// Both take turns, and the ratio is the median over the rounds. The loops do the same: centring in double, the
// normaliser as an output, gradients through the centring. They are compiled as the rest of a program is, -O2.
#include <algorithm>
#include <cmath>
#include <csq/csq.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "support/statistics.hpp"

namespace {

using csq::Index;

enum class Mechanism { softmax, csq };

struct Sizes {
  Index heads, tokens, dim;
};

// Contiguous [heads][tokens][dim].
struct Arrays {
  std::vector<float> q, k, v, out, normalizer, dout, dq, dk, dv;

  explicit Arrays(const Sizes& s) {
    unsigned state = 12345;
    const auto count = static_cast<std::size_t>(s.heads * s.tokens * s.dim);
    for (auto* values : {&q, &k, &v, &dout}) {
      for (std::size_t i = 0; i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        values->push_back(static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
      }
    }
    for (auto* values : {&out, &dq, &dk, &dv}) values->resize(count);
    normalizer.resize(static_cast<std::size_t>(s.heads * s.tokens));
  }
};

// One head by plain loops; Csq centred by the mean of the sequence.
struct PlainHead {
  Index n, d;
  bool softmax;
  float scale;
  std::vector<float> q, k, w, slope;
  std::vector<double> mean;

  PlainHead(const Sizes& s, Mechanism mechanism)
      : n(s.tokens),
        d(s.dim),
        softmax(mechanism == Mechanism::softmax),
        scale(1 / std::sqrt(static_cast<float>(s.dim))),
        q(static_cast<std::size_t>(n * d)),
        k(q.size()),
        w(static_cast<std::size_t>(n * n)),
        slope(w.size()),
        mean(static_cast<std::size_t>(d)) {}

  void center(const float* x, float* to) {
    for (Index a = 0; a < d; ++a) mean[at(a)] = 0;
    for (Index i = 0; i < n; ++i)
      for (Index a = 0; a < d; ++a) mean[at(a)] += static_cast<double>(x[i * d + a]);
    for (Index a = 0; a < d; ++a) mean[at(a)] /= static_cast<double>(n);
    for (Index i = 0; i < n; ++i)
      for (Index a = 0; a < d; ++a) to[i * d + a] = static_cast<float>(static_cast<double>(x[i * d + a]) - mean[at(a)]);
  }
  float score(const float* query, const float* key, Index i, Index j) const {
    float s = 0;
    for (Index a = 0; a < d; ++a) s += query[i * d + a] * key[j * d + a];
    return s * scale;
  }

  void forward(const float* query, const float* key, const float* value, float* out, float* normalizer) {
    if (!softmax) {
      center(query, q.data());
      center(key, k.data());
      query = q.data();
      key = k.data();
    }
    for (Index i = 0; i < n; ++i) {
      float highest = -HUGE_VALF, sum = 0;
      for (Index j = 0; j < n; ++j) {
        w[at(j)] = score(query, key, i, j);
        highest = std::max(highest, w[at(j)]);
      }
      for (Index j = 0; j < n; ++j) {
        w[at(j)] = softmax ? std::exp(w[at(j)] - highest) : (w[at(j)] + 1) * (w[at(j)] + 1);
        sum += w[at(j)];
      }
      for (Index a = 0; a < d; ++a) out[i * d + a] = 0;
      for (Index j = 0; j < n; ++j)
        for (Index a = 0; a < d; ++a) out[i * d + a] += w[at(j)] * value[j * d + a];
      for (Index a = 0; a < d; ++a) out[i * d + a] /= sum;
      normalizer[i] = softmax ? highest + std::log(sum) : sum;
    }
  }

  void backward(const float* query, const float* key, const float* value, const float* out, const float* normalizer,
                const float* dout, float* dq, float* dk, float* dv) {
    if (!softmax) {
      center(query, q.data());
      center(key, k.data());
      query = q.data();
      key = k.data();
    }
    for (Index i = 0; i < n * d; ++i) dq[i] = dk[i] = dv[i] = 0;
    for (Index i = 0; i < n; ++i) {
      const float r = softmax ? 1 : 1 / normalizer[i];
      float dot = 0;
      for (Index a = 0; a < d; ++a) dot += dout[i * d + a] * out[i * d + a];
      for (Index j = 0; j < n; ++j) {
        const float s = score(query, key, i, j);
        float to_value = 0;
        for (Index a = 0; a < d; ++a) to_value += dout[i * d + a] * value[j * d + a];
        const float weight = softmax ? std::exp(s - normalizer[i]) : (s + 1) * (s + 1);
        const float gradient = (softmax ? weight : 2 * (s + 1)) * r * (to_value - dot) * scale;
        for (Index a = 0; a < d; ++a) {
          dv[j * d + a] += weight * r * dout[i * d + a];
          dk[j * d + a] += gradient * query[i * d + a];
          dq[i * d + a] += gradient * key[j * d + a];
        }
      }
    }
    if (!softmax) {
      center(dq, dq);
      center(dk, dk);
    }
  }

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
};

template <class M>
struct Contest {
  Sizes sizes;
  M mechanism;
  Arrays ours, plain;
  PlainHead loops;
  csq::Workspace workspace;
  csq::Options options;

  Contest(const Sizes& s, Mechanism which, const M& m) : sizes(s), mechanism(m), ours(s), plain(s), loops(s, which) {
    options.threads = 1;
    options.workspace = &workspace;
  }

  csq::Heads<float> view(std::vector<float>& x, Index dim) { return {x.data(), {1, sizes.heads, sizes.tokens, dim}}; }

  void forward_ours() {
    const Index d = sizes.dim;
    csq::attention(mechanism, view(ours.q, d), view(ours.k, d), view(ours.v, d), view(ours.out, d),
                   view(ours.normalizer, 1), options);
  }
  void backward_ours() {
    const Index d = sizes.dim;
    csq::attention_backward(mechanism, view(ours.q, d), view(ours.k, d), view(ours.v, d), view(ours.out, d),
                            view(ours.normalizer, 1), view(ours.dout, d),
                            csq::Gradients<float>{view(ours.dq, d), view(ours.dk, d), view(ours.dv, d)}, options);
  }
  void forward_plain() {
    for (Index h = 0; h < sizes.heads; ++h) {
      const Index at = h * sizes.tokens * sizes.dim;
      loops.forward(plain.q.data() + at, plain.k.data() + at, plain.v.data() + at, plain.out.data() + at,
                    plain.normalizer.data() + h * sizes.tokens);
    }
  }
  void backward_plain() {
    for (Index h = 0; h < sizes.heads; ++h) {
      const Index at = h * sizes.tokens * sizes.dim;
      loops.backward(plain.q.data() + at, plain.k.data() + at, plain.v.data() + at, plain.out.data() + at,
                     plain.normalizer.data() + h * sizes.tokens, plain.dout.data() + at, plain.dq.data() + at,
                     plain.dk.data() + at, plain.dv.data() + at);
    }
  }
};

// Seconds of one call, from as many calls as take half a millisecond.
template <class Call>
double seconds(const Call& call, int repeats) {
  const std::clock_t start = std::clock();  // of this process: whatever else the machine does
  for (int i = 0; i < repeats; ++i) call();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / repeats;
}

struct Ratio {
  double time = 0, plain_nanoseconds = 0;
};

template <class Ours, class Plain>
Ratio ratio_of(const Ours& ours, const Plain& plain) {
  constexpr int rounds = 15;
  constexpr double long_enough = 5e-4;
  ours(), plain();
  const auto repeats = [&](const auto& call) {
    return std::clamp(static_cast<int>(long_enough / std::max(seconds(call, 50), 1e-9)), 1, 20000);
  };
  const int ours_repeats = repeats(ours), plain_repeats = repeats(plain);
  std::vector<double> ratios, times;
  for (int round = 0; round < rounds; ++round) {
    const double a = seconds(ours, ours_repeats), b = seconds(plain, plain_repeats);
    ratios.push_back(a / b);
    times.push_back(b * 1e9);
  }
  return {bench::quartiles(ratios).median, bench::quartiles(times).median};
}

template <class M>
void print_rows(const char* name, Mechanism which, const M& mechanism, Index heads) {
  for (const Index tokens : {1, 2, 4, 8, 12, 16})
    for (const Index dim : {8, 16, 32, 64}) {
      const Sizes sizes{heads, tokens, dim};
      Contest<M> contest(sizes, which, mechanism);
      const Ratio forward = ratio_of([&] { contest.forward_ours(); }, [&] { contest.forward_plain(); });
      const double forward_error = bench::relative_error(contest.ours.out, contest.plain.out);
      contest.backward_ours(), contest.backward_plain();
      const double backward_error =
          std::max(bench::relative_error(contest.ours.dv, contest.plain.dv),
                   tokens == 1 ? 0 : bench::relative_error(contest.ours.dk, contest.plain.dk));
      const Ratio backward = ratio_of([&] { contest.backward_ours(); }, [&] { contest.backward_plain(); });
      const double per_head = 1 / static_cast<double>(heads);
      std::printf(
          "%-8s %5lld heads  n = m = %2lld  d = %2lld   forward %5.2f of %7.0f ns   backward %5.2f of %7.0f ns%s\n",
          name, static_cast<long long>(heads), static_cast<long long>(tokens), static_cast<long long>(dim),
          forward.time, forward.plain_nanoseconds * per_head, backward.time, backward.plain_nanoseconds * per_head,
          forward_error < 1e-5 && backward_error < 1e-4 ? "" : "   AND NOT THE SAME");
      std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
  Index many = 512;
  for (int i = 1; i + 1 < argc; ++i)
    if (std::strcmp(argv[i], "--heads") == 0) many = std::atoll(argv[i + 1]);
  std::printf("csq's time over that of plain loops, and the loops' time for a head (%s)\n", csq::simd_name());
  for (const Index heads : {many, Index{4}}) {
    print_rows("softmax", Mechanism::softmax, csq::Softmax{}, heads);
    print_rows("csq", Mechanism::csq, csq::Csq{}, heads);
  }
}
