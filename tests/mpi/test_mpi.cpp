// Attention over ranks is attention: every rank builds the same whole from a seed, takes its piece, and compares what
// it gets with the single call on the whole.   mpirun -n R test_mpi
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
    for (const Index window : {0, 1, 5, 25})
      for (const Index gate_heads : {0, 2, 4})
        for (const int extra : {0, 1, 2, 3}) {
          if ((gate_heads > 0 && !causal) || (extra > 0 && !softmax)) continue;
          Case c;
          c.causal = causal;
          c.window = window;
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

// A few queries behind many keys, all on the last rank, with the means of those before; sizes that choose their method
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
  check_sizes<float>();
  return finish_test();
}
