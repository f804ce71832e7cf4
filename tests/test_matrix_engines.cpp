// Whole calls on a matrix unit: arrays of bfloat16 whose products go through tiles, in plain C++ everywhere, against
// the double path on the same numbers. (The unit itself: test_sixteen, where the processor has one.)
#include <cmath>
#include <csq/csq.hpp>
#include <cstring>
#include <vector>

#include "catch.hpp"
#include "emulated_tiles.hpp"

namespace {

using csq::Index;
using csq::Method;
using Element = Eigen::bfloat16;
namespace detail = csq::detail;

// bfloat16 with the emulated unit.
const detail::Storage<float>& storage() {
  static const detail::Storage<float> with_tiles = [] {
    detail::Storage<float> own = *detail::simd::storage_of<Element>();
    own.matrix = &detail::simd::emulated_amx::matrix_kernel_set<float>;
    return own;
  }();
  return with_tiles;
}

struct Sizes {
  Index n, m, key_dim, value_dim, heads, kv_heads;
};

std::vector<Element> random_elements(Index count, unsigned seed) {
  std::vector<Element> result(static_cast<std::size_t>(count));
  for (Element& x : result) {
    seed = seed * 1664525u + 1013904223u;
    x = Element(static_cast<float>(seed >> 8) / static_cast<float>(1 << 22) - 2.0f);
  }
  return result;
}
std::vector<double> widened(const std::vector<Element>& elements) {
  std::vector<double> result;
  for (const Element x : elements) result.push_back(static_cast<double>(static_cast<float>(x)));
  return result;
}

template <class T>
detail::StoredHeads<T> stored(const Element* data, Index heads, Index tokens, Index dim) {
  return {reinterpret_cast<T*>(const_cast<Element*>(data)),
          {2, heads, tokens, dim},
          {heads * tokens * dim, tokens * dim, dim, 1},
          &storage()};
}

// A batch of two.
struct Arrays {
  Sizes s;
  std::vector<Element> q, k, v, dout;
  std::vector<float> gates;

  explicit Arrays(const Sizes& sizes)
      : s(sizes),
        q(random_elements(2 * s.heads * s.n * s.key_dim, 1)),
        k(random_elements(2 * s.kv_heads * s.m * s.key_dim, 2)),
        v(random_elements(2 * s.kv_heads * s.m * s.value_dim, 3)),
        dout(random_elements(2 * s.heads * s.n * s.value_dim, 5)) {
    for (const Element x : random_elements(2 * s.kv_heads * s.m, 4))
      gates.push_back(-0.02f * std::abs(static_cast<float>(x)));
  }

  struct Result {
    std::vector<Element> out;
    std::vector<float> normalizer;
  };
  template <class Mechanism>
  Result on_unit(const Mechanism& mechanism, csq::Options options, bool gated, int threads) const {
    Result result{std::vector<Element>(static_cast<std::size_t>(2 * s.heads * s.n * s.value_dim)),
                  std::vector<float>(static_cast<std::size_t>(2 * s.heads * s.n))};
    const csq::Heads<const float> gate(gates.data(), {2, s.kv_heads, s.m, 1});
    const csq::Heads<float> normalizer(result.normalizer.data(), {2, s.heads, s.n, 1});
    if (gated) options.log_gate = &gate;
    options.threads = threads;
    detail::attention_checked<float>(detail::resolve(mechanism, options.causal),
                                     stored<const float>(q.data(), s.heads, s.n, s.key_dim),
                                     stored<const float>(k.data(), s.kv_heads, s.m, s.key_dim),
                                     stored<const float>(v.data(), s.kv_heads, s.m, s.value_dim),
                                     stored<float>(result.out.data(), s.heads, s.n, s.value_dim), &normalizer, options);
    return result;
  }

  struct Gradients {
    std::vector<Element> query, key, value;
    std::vector<float> gate;
    double shift = 0;
  };
  // From what `forward` has left.
  template <class Mechanism>
  Gradients gradients_on_unit(const Mechanism& mechanism, csq::Options options, bool gated, int threads,
                              const Result& forward) const {
    Gradients result{std::vector<Element>(q.size()), std::vector<Element>(k.size()), std::vector<Element>(v.size()),
                     std::vector<float>(gates.size())};
    const csq::Heads<const float> gate(gates.data(), {2, s.kv_heads, s.m, 1});
    if (gated) options.log_gate = &gate;
    options.threads = threads;
    detail::BackwardProblem<float> problem;
    problem.forward.query = stored<const float>(q.data(), s.heads, s.n, s.key_dim);
    problem.forward.key = stored<const float>(k.data(), s.kv_heads, s.m, s.key_dim);
    problem.forward.value = stored<const float>(v.data(), s.kv_heads, s.m, s.value_dim);
    problem.output = stored<const float>(forward.out.data(), s.heads, s.n, s.value_dim);
    problem.normalizer = csq::Heads<const float>(forward.normalizer.data(), {2, s.heads, s.n, 1});
    problem.output_gradient = stored<const float>(dout.data(), s.heads, s.n, s.value_dim);
    problem.gradients.query = stored<float>(result.query.data(), s.heads, s.n, s.key_dim);
    problem.gradients.key = stored<float>(result.key.data(), s.kv_heads, s.m, s.key_dim);
    problem.gradients.value = stored<float>(result.value.data(), s.kv_heads, s.m, s.value_dim);
    if (gated) problem.gradients.log_gate = csq::Heads<float>(result.gate.data(), {2, s.kv_heads, s.m, 1});
    problem.matrix = &detail::simd::emulated_amx::matrix_backward_kernel_set<float>;
    detail::attention_backward_checked(detail::resolve(mechanism, options.causal), problem, options);
    return result;
  }
  struct WideGradients {
    std::vector<double> query, key, value, gate;
  };
  template <class Mechanism>
  WideGradients gradients_in_double(const Mechanism& mechanism, csq::Options options, bool gated) const {
    const std::vector<double> wide_q = widened(q), wide_k = widened(k), wide_v = widened(v), wide_dout = widened(dout),
                              wide_gates(gates.begin(), gates.end());
    std::vector<double> out(dout.size()), sums(static_cast<std::size_t>(2 * s.heads * s.n));
    WideGradients result{std::vector<double>(q.size()), std::vector<double>(k.size()), std::vector<double>(v.size()),
                         std::vector<double>(gates.size())};
    const csq::Heads<const double> gate(wide_gates.data(), {2, s.kv_heads, s.m, 1});
    if (gated) options.log_gate = &gate;
    const csq::Heads<const double> wq(wide_q.data(), {2, s.heads, s.n, s.key_dim}),
        wk(wide_k.data(), {2, s.kv_heads, s.m, s.key_dim}), wv(wide_v.data(), {2, s.kv_heads, s.m, s.value_dim}),
        wg(wide_dout.data(), {2, s.heads, s.n, s.value_dim});
    const csq::Heads<double> wo(out.data(), {2, s.heads, s.n, s.value_dim}), wz(sums.data(), {2, s.heads, s.n, 1});
    csq::attention(mechanism, wq, wk, wv, wo, wz, options);
    csq::Gradients<double> gradients{csq::Heads<double>(result.query.data(), wq.shape),
                                     csq::Heads<double>(result.key.data(), wk.shape),
                                     csq::Heads<double>(result.value.data(), wv.shape)};
    if (gated) gradients.log_gate = csq::Heads<double>(result.gate.data(), gate.shape);
    csq::attention_backward(mechanism, wq, wk, wv, wo, wz, wg, gradients, options);
    return result;
  }

  template <class Mechanism>
  std::vector<double> in_double(const Mechanism& mechanism, csq::Options options, bool gated) const {
    const std::vector<double> wide_q = widened(q), wide_k = widened(k), wide_v = widened(v),
                              wide_gates(gates.begin(), gates.end());
    std::vector<double> out(static_cast<std::size_t>(2 * s.heads * s.n * s.value_dim));
    const csq::Heads<const double> gate(wide_gates.data(), {2, s.kv_heads, s.m, 1});
    if (gated) options.log_gate = &gate;
    csq::attention(mechanism, csq::Heads<const double>(wide_q.data(), {2, s.heads, s.n, s.key_dim}),
                   csq::Heads<const double>(wide_k.data(), {2, s.kv_heads, s.m, s.key_dim}),
                   csq::Heads<const double>(wide_v.data(), {2, s.kv_heads, s.m, s.value_dim}),
                   csq::Heads<double>(out.data(), {2, s.heads, s.n, s.value_dim}), options);
    return out;
  }
};

double relative_error(const std::vector<Element>& out, const std::vector<double>& reference) {
  double error = 0, total = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double difference = static_cast<double>(static_cast<float>(out[i])) - reference[i];
    error += difference * difference;
    total += reference[i] * reference[i];
  }
  return std::sqrt(error / total);
}

double relative_error(const std::vector<float>& x, const std::vector<double>& reference) {
  double error = 0, total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (static_cast<double>(x[i]) - reference[i]) * (static_cast<double>(x[i]) - reference[i]);
    total += reference[i] * reference[i];
  }
  return total == 0 ? error : std::sqrt(error / total);
}

template <class Mechanism>
void check_gradients(const Arrays& arrays, const Mechanism& mechanism, const csq::Options& options,
                     bool gated = false) {
  INFO("n " << arrays.s.n << ", m " << arrays.s.m << ", d " << arrays.s.key_dim << ", dv " << arrays.s.value_dim
            << (options.causal ? ", causal" : "") << (gated ? ", gated" : "") << ", chunk " << options.chunk
            << (options.method == Method::factored ? ", factored" : ", direct"));
  const Arrays::Result forward = arrays.on_unit(mechanism, options, gated, 1);
  const Arrays::Gradients one = arrays.gradients_on_unit(mechanism, options, gated, 1, forward);
  const Arrays::WideGradients wide = arrays.gradients_in_double(mechanism, options, gated);
  CHECK(relative_error(one.query, wide.query) < 1.5e-2);
  CHECK(relative_error(one.key, wide.key) < 1.5e-2);
  CHECK(relative_error(one.value, wide.value) < 1.5e-2);
  if (gated) CHECK(relative_error(one.gate, wide.gate) < 3e-2);
  const Arrays::Gradients three = arrays.gradients_on_unit(mechanism, options, gated, 3, forward);
  const auto same = [](const std::vector<Element>& x, const std::vector<Element>& y) {
    return std::memcmp(x.data(), y.data(), x.size() * sizeof(Element)) == 0;
  };
  CHECK(same(one.query, three.query));
  CHECK(same(one.key, three.key));
  CHECK(same(one.value, three.value));
}

template <class Mechanism>
void check(const Arrays& arrays, const Mechanism& mechanism, const csq::Options& options, bool gated = false) {
  INFO("n " << arrays.s.n << ", m " << arrays.s.m << ", d " << arrays.s.key_dim << ", dv " << arrays.s.value_dim
            << (options.causal ? ", causal" : "") << (gated ? ", gated" : "") << ", chunk " << options.chunk
            << (options.method == Method::factored ? ", factored" : ", direct"));
  const Arrays::Result one = arrays.on_unit(mechanism, options, gated, 1);
  CHECK(relative_error(one.out, arrays.in_double(mechanism, options, gated)) < 5e-3);
  const Arrays::Result three = arrays.on_unit(mechanism, options, gated, 3);
  CHECK(std::memcmp(one.out.data(), three.out.data(), one.out.size() * sizeof(Element)) == 0);
  CHECK(std::memcmp(one.normalizer.data(), three.normalizer.data(), one.normalizer.size() * sizeof(float)) == 0);
}

}  // namespace

TEST_CASE("direct calls on a matrix unit") {
  for (const Sizes& sizes :
       {Sizes{300, 300, 33, 20, 4, 2}, Sizes{150, 400, 16, 64, 2, 2}, Sizes{64, 64, 64, 7, 2, 1}}) {
    const Arrays arrays(sizes);
    for (const bool causal : {false, true}) {
      const csq::Options direct{.causal = causal, .centering = csq::Centering::none, .method = Method::direct};
      check(arrays, csq::Softmax{}, direct);
      check(arrays, csq::Csq{}, direct);
      check(arrays, csq::Squared{}, direct);
      check(arrays, csq::Softmax{}, {.causal = causal, .window = 77});
    }
    check(arrays, csq::Softmax{}, {.causal = true, .window = 100}, true);
    check(arrays, csq::Csq{}, {.causal = true, .centering = csq::Centering::none, .method = Method::direct}, true);
  }
}

TEST_CASE("gradients of direct calls on a matrix unit") {
  for (const Sizes& sizes :
       {Sizes{300, 300, 33, 20, 4, 2}, Sizes{150, 400, 16, 64, 2, 2}, Sizes{300, 300, 24, 31, 1, 1}}) {
    const Arrays arrays(sizes);
    for (const bool causal : {false, true}) {
      const csq::Options direct{.causal = causal, .centering = csq::Centering::none, .method = Method::direct};
      check_gradients(arrays, csq::Softmax{}, direct);
      check_gradients(arrays, csq::Csq{}, direct);
      check_gradients(arrays, csq::Softmax{}, {.causal = causal, .window = 77});
    }
    check_gradients(arrays, csq::Softmax{}, {.causal = true, .window = 100}, true);
    check_gradients(arrays, csq::Csq{}, {.causal = true, .centering = csq::Centering::none, .method = Method::direct},
                    true);
    check_gradients(arrays, csq::Csq{}, {.centering = csq::Centering::sequence, .method = Method::direct});
  }
}

TEST_CASE("gradients of factored calls on a matrix unit") {
  for (const Sizes& sizes :
       {Sizes{300, 300, 33, 20, 4, 2}, Sizes{150, 400, 16, 40, 2, 2}, Sizes{300, 300, 24, 31, 1, 1}}) {
    const Arrays arrays(sizes);
    for (const Index chunk : {0, 16, 48}) {
      for (const bool causal : {false, true}) {
        const auto centering = causal ? csq::Centering::none : csq::Centering::sequence;
        check_gradients(arrays, csq::Csq{},
                        {.causal = causal, .centering = centering, .method = Method::factored, .chunk = chunk});
        check_gradients(arrays, csq::Taylor{}, {.causal = causal, .method = Method::factored, .chunk = chunk});
        check_gradients(arrays, csq::Linear{}, {.causal = causal, .method = Method::factored, .chunk = chunk});
      }
      check_gradients(arrays, csq::Csq{},
                      {.causal = true, .centering = csq::Centering::none, .method = Method::factored, .chunk = chunk},
                      true);
    }
  }
}

TEST_CASE("factored calls on a matrix unit") {
  for (const Sizes& sizes :
       {Sizes{300, 300, 33, 20, 4, 2}, Sizes{150, 400, 16, 40, 2, 2}, Sizes{300, 300, 24, 31, 1, 1}}) {
    const Arrays arrays(sizes);
    for (const Index chunk : {0, 7, 16, 128}) {
      for (const bool causal : {false, true}) {
        const auto centering = causal ? csq::Centering::none : csq::Centering::sequence;
        const csq::Options factored{
            .causal = causal, .centering = centering, .method = Method::factored, .chunk = chunk};
        check(arrays, csq::Csq{}, factored);
        check(arrays, csq::Squared{}, {.causal = causal, .method = Method::factored, .chunk = chunk});
        check(arrays, csq::Taylor{}, {.causal = causal, .method = Method::factored, .chunk = chunk});
        check(arrays, csq::Linear{}, {.causal = causal, .method = Method::factored, .chunk = chunk});
      }
      check(arrays, csq::Csq{},
            {.causal = true, .centering = csq::Centering::none, .method = Method::factored, .chunk = chunk}, true);
    }
  }
}

TEST_CASE("a value that is not finite reaches the rows that see it alone, on a matrix unit") {
  Arrays arrays({300, 300, 16, 20, 1, 1});
  const Index bad = 200;
  arrays.v[static_cast<std::size_t>(bad * 20 + 3)] = Element(std::numeric_limits<float>::infinity());
  for (const Method method : {Method::direct, Method::factored}) {
    const auto result = arrays.on_unit(
        csq::Csq{}, {.causal = true, .centering = csq::Centering::none, .method = method, .chunk = 64}, false, 1);
    Index finite_before = 0, finite_behind = 0;
    for (Index row = 0; row < 300; ++row)
      for (Index a = 0; a < 20; ++a) {
        const float value = static_cast<float>(result.out[static_cast<std::size_t>(row * 20 + a)]);
        if (std::isfinite(value)) ++(row < bad ? finite_before : finite_behind);
        if (a == 3 && row >= bad) CHECK_FALSE(std::isfinite(value));
      }
    CHECK(finite_before == bad * 20);
    CHECK(finite_behind == (300 - bad) * 19);
  }
}
