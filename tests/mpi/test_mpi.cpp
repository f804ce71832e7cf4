// Attention over ranks is attention: every rank builds the same whole from a seed, takes its piece, and compares what
// it gets with the single call on the whole.   mpirun -n R test_mpi
#include <Eigen/Core>
#include <cstring>

#include "compared.hpp"

namespace {

const char* name_of(csq::Centering centering) {
  const char* const names[] = {"automatic", "none", "sequence", "prefix", "prefix_exclusive"};
  return names[static_cast<int>(centering)];
}

template <class T, class Mechanism>
void check_mechanism(const Mechanism& mechanism, const char* name, bool has_factored) {
  using csq::Centering;
  for (const bool factored : {false, true}) {
    if (factored && !has_factored) continue;
    for (const bool causal : {false, true})
      for (const Centering centering :
           {Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive})
        for (const Index gates : {0, 1}) {
          if (gates > 0 && !causal) continue;
          Case c;
          c.causal = causal;
          c.centering = centering;
          c.gate_heads = gates * 2;
          c.heads = 4;
          c.kv_heads = 2;
          c.method = factored ? csq::Method::factored : csq::Method::direct;
          c.chunk = factored ? 7 : 0;
          c.name = std::string(factored ? "factored" : "direct") + (causal ? ", causal, " : ", ") + name_of(centering) +
                   (gates > 0 ? ", gates" : "");
          check_cuts<T>(mechanism, name, c, factored && causal);
        }
  }
}

// Every mechanism with every mask, centring and method, with gates and without.
template <class T>
void check_mechanisms() {
  check_mechanism<T>(csq::Csq{}, "Csq", true);
  check_mechanism<T>(csq::Csq{.shift = 2}, "Csq 2", true);
  check_mechanism<T>(csq::Taylor{}, "Taylor", true);
  check_mechanism<T>(csq::Squared{}, "Squared", true);
  check_mechanism<T>(csq::ShiftedQuadratic{.shift = 0}, "ShiftedQuadratic 0", true);
  check_mechanism<T>(csq::Quadratic{3e20, 1e20, 2e20}, "Quadratic", true);
  check_mechanism<T>(csq::Linear{}, "Linear", true);
  check_mechanism<T>(csq::Softmax{}, "Softmax", false);
  check_mechanism<T>(csq::Polynomial{{1, 1, 0.5, 1. / 6, 1. / 24}}, "Polynomial", false);
  check_mechanism<T>(csq::PositivePolynomial{{1, 0.5, 0.25}, 4, 0.1}, "PositivePolynomial", false);
}

// Windows narrower and wider than pieces, sinks, caps, gates of query heads, strong gates: alone and together.
template <class T, class Mechanism>
void check_options(const Mechanism& mechanism, const char* name) {
  constexpr bool softmax = std::is_same_v<Mechanism, csq::Softmax>;
  for (const bool causal : {false, true})
    for (const Index window : {0, 1, 2, 5, 25})
      for (const Index gate_heads : {0, 2, 4})
        for (const int extra : {0, 1, 2, 3}) {
          if ((gate_heads > 0 && !causal) || (extra > 0 && !softmax)) continue;
          Case c;
          c.causal = causal;
          c.window = window;
          c.gradients =
              window != 1;  // a row of one key is its value: ∂q and ∂k are what is left of v − o, rounding alone
          c.gate_heads = gate_heads;
          c.gate_size = window == 5 ? 30 : 0.1;
          c.heads = 4;
          c.kv_heads = 2;
          c.sink = extra % 2 == 1;
          c.soft_cap = extra >= 2 ? 1.5 : 0;
          if (!std::is_same_v<Mechanism, csq::Linear>) c.scale = -0.7;
          c.name = std::string(causal ? "causal, " : "") + "window " + std::to_string(window) + ", gates " +
                   std::to_string(gate_heads) + ", extra " + std::to_string(extra);
          check_cuts<T>(mechanism, name, c, true);
          if (gate_heads == 4) continue;
          c.n = causal ? 28 : 55;
          c.history = causal && std::is_same_v<Mechanism, csq::Csq>;
          check_cuts<T>(mechanism, name, c, false);
          if (!causal) continue;
          c.history = false;
          c.n = 52;  // the first rows stand before the first key
          check_cuts<T>(mechanism, name, c, false);
        }
}

// NaN in a key reaches the rows that see it, and no others.
template <class T>
void check_nan() {
  Case c;
  c.gradients = false;
  c.nan_key = 17;
  for (const bool causal : {true, false})
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
      c.causal = causal;
      c.method = method;
      c.chunk = method == csq::Method::factored ? 7 : 0;
      c.centering = causal ? csq::Centering::prefix : csq::Centering::none;
      c.name = "NaN";
      check_cuts<T>(csq::Csq{}, "Csq", c, true);
    }
  c.method = csq::Method::automatic;
  c.window = 4;
  check_cuts<T>(csq::Softmax{}, "Softmax", c, true);
}

// The same bits with one thread and with two.
template <class Mechanism>
void check_threads(const Mechanism& mechanism, Case c, const char* name) {
  const Starts starts = cut(c.n, 1, 3);
  Arrays<float> one(c), two(c);
  c.threads = 1;
  run(mechanism, c, one, starts, starts, rank_here, MPI_COMM_WORLD);
  c.threads = 2;
  run(mechanism, c, two, starts, starts, rank_here, MPI_COMM_WORLD);
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  expect(same(one.out, two.out) && same(one.normalizer, two.normalizer) && same(one.dq, two.dq) &&
             same(one.dk, two.dk) && same(one.dv, two.dv) && same(one.dgate, two.dgate) && one.dshift == two.dshift,
         std::string(name) + " depends on threads");
}

// Arrays of 16 bits, beside a call in float on the same numbers.
void check_sixteen() {
  using Half = Eigen::bfloat16;
  Case c;
  c.causal = true;
  c.gradients = false;
  Arrays<float> floats(c);
  const auto rounded = [](std::vector<float>& from) {
    std::vector<Half> to;
    for (float& x : from) x = static_cast<float>(to.emplace_back(x));
    return to;
  };
  std::vector<Half> q = rounded(floats.q), k = rounded(floats.k), v = rounded(floats.v), out(floats.out.size());
  const Starts starts = cut(c.n, 1, 3);
  for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
    c.method = method;
    c.chunk = method == csq::Method::factored ? 7 : 0;
    run(csq::Csq{}, c, floats, {0, c.n}, {0, c.n}, 0, std::nullopt);
    csq::mpi::attention(MPI_COMM_WORLD, csq::Csq{},
                        piece_of(view_of(q, {c.batch, c.heads, c.n, c.d}), starts, rank_here),
                        piece_of(view_of(k, {c.batch, c.kv_heads, c.n, c.d}), starts, rank_here),
                        piece_of(view_of(v, {c.batch, c.kv_heads, c.n, c.dv}), starts, rank_here),
                        piece_of(view_of(out, {c.batch, c.heads, c.n, c.dv}), starts, rank_here),
                        {.causal = true, .method = method, .chunk = c.chunk});
    std::vector<float> here(out.size(), std::numeric_limits<float>::quiet_NaN());
    const auto r = static_cast<std::size_t>(rank_here);
    for (Index i = 0; i < static_cast<Index>(out.size()); ++i)
      if (const Index t = i / c.dv % c.n; t >= starts[r] && t < starts[r + 1])
        here[static_cast<std::size_t>(i)] = static_cast<float>(out[static_cast<std::size_t>(i)]);
    c.name = "bfloat16";
    compare(c, "out", here, floats.out, c.batch * c.heads, c.n, starts, 8e-3, 1);
  }
}

// A few queries behind many keys, with the means of those before; sizes that choose their method
// themselves; the first block and more.
template <class T>
void check_sizes() {
  Case few;
  few.n = 3;
  few.causal = few.history = true;
  few.centering = csq::Centering::prefix;
  few.gate_heads = 1;
  for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
    few.method = method;
    few.chunk = method == csq::Method::factored ? 7 : 0;
    few.name = "few queries";
    check_cuts<T>(csq::Csq{}, "Csq", few, true);
    few.centering = csq::Centering::prefix_exclusive;
    check_cuts<T>(csq::Taylor{}, "Taylor", few, true);
  }
  Case history;
  history.causal = history.history = true;
  history.centering = csq::Centering::prefix;
  history.name = "history";
  check_cuts<T>(csq::Csq{}, "Csq", history, true);

  Case large;
  large.n = large.m = 900;
  large.d = 10;
  large.dv = 17;
  large.batch = 1;
  for (const bool causal : {false, true}) {
    large.causal = causal;
    large.gate_heads = causal ? 1 : 0;
    large.name = causal ? "large, causal" : "large";
    check_cuts<T>(csq::Csq{}, "Csq", large, true);
    large.method = csq::Method::factored;
    check_cuts<T>(csq::Linear{}, "Linear", large, true);
    large.method = csq::Method::automatic;
    check_cuts<T>(csq::Softmax{}, "Softmax", large, true);
  }
  // Pieces that are factored themselves, with the savings of the scan, and leave their summaries.
  large.d = large.dv = 4;
  large.gradients = false;
  large.name = "small heads, causal";
  check_cuts<T>(csq::Csq{}, "Csq", large, true);
  large.gate_heads = 0;
  check_cuts<T>(csq::Taylor{}, "Taylor", large, true);

  Case empty;
  empty.n = empty.m = 0;
  empty.name = "no tokens";
  check_cuts<T>(csq::Csq{}, "Csq", empty, true);
  empty.m = 4;
  check_cuts<T>(csq::Softmax{}, "Softmax", empty, false);
  empty.n = 4;
  empty.m = 0;
  check_cuts<T>(csq::Softmax{}, "Softmax", empty, false);
}

}  // namespace

int main(int argc, char** argv) {
  begin_test(&argc, &argv);
  check_mechanisms<double>();
  check_mechanisms<float>();
  check_options<double>(csq::Softmax{}, "Softmax");
  check_options<float>(csq::Softmax{}, "Softmax");
  check_options<double>(csq::Csq{}, "Csq");
  check_options<float>(csq::Squared{}, "Squared");
  check_options<float>(csq::Linear{}, "Linear");
  check_sizes<double>();
  check_nan<double>();
  check_nan<float>();
  Case threads{.n = 400, .m = 400, .heads = 4, .kv_heads = 2, .causal = true, .gate_heads = 2};
  threads.method = csq::Method::factored;
  check_threads(csq::Csq{}, threads, "Csq, factored,");
  threads.method = csq::Method::automatic;
  check_threads(csq::Softmax{}, threads, "Softmax");
  check_sixteen();
  check_sizes<float>();
  return finish_test();
}
