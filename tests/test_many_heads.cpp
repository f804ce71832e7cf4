// Many heads of short sequences: 37 batch × 24 heads, where threads, blocks and scratch are shared out by head.
#include "catch.hpp"
#include "problem.hpp"

TEST_CASE("many heads of short sequences") {
  Random random(821);
  const auto visit = [&](const auto& named) {
    for (const Sizes& sizes :
         {Sizes{5, 5, 3, 2, 37, 24, 24}, Sizes{1, 1, 4, 4, 37, 24, 8}, Sizes{18, 18, 2, 3, 37, 24, 1}})
      for (const bool causal : {false, true}) {
        const Problem p = Problem::random_backward(random, sizes, causal);
        const reference::Result expected = reference_result(named, p);
        for (const csq::Method method : methods(named.factored)) {
          INFO(named.name << ", " << p.describe() << ", " << name_of(method));
          const Outputs<double> one = attend<double>(named.mechanism, p, {method});
          CHECK(distance(one.output, expected.output) <= 1e-10);
          CHECK(distance(one.statistic, expected.statistic) <= 1e-10);
          const GradientOutputs<double> gradient = gradients<double>(named.mechanism, p, {method});
          for (const int threads : {2, 5}) {
            INFO(threads << " threads");
            CHECK(same_bits(attend<double>(named.mechanism, p, {method, 0, threads}), one));
            CHECK(same_bits(gradients<double>(named.mechanism, p, {method, 0, threads}), gradient));
          }
          // Every head by itself.
          for (const Index head : {Index(0), Index(36 * 24 + 23), random.integer(0, 37 * 24 - 1)}) {
            const Index b = head / sizes.heads, h = head % sizes.heads;
            const Index key_head = h / (sizes.heads / sizes.kv_heads);
            const auto part = [&](const Tensor& x, Index at) {
              Tensor result(1, 1, x.tokens, x.dim);
              for (Index t = 0; t < x.tokens; ++t)
                for (Index a = 0; a < x.dim; ++a) result(0, 0, t, a) = x(b, at, t, a);
              return result;
            };
            Problem alone = p;
            alone.q = part(p.q, h);
            alone.dout = part(p.dout, h);
            alone.k = part(p.k, key_head);
            alone.v = part(p.v, key_head);
            const GradientOutputs<double> of_one = gradients<double>(named.mechanism, alone, {method});
            const Index size = sizes.n * sizes.d;
            const std::vector<double> slice(gradient.query.begin() + head * size,
                                            gradient.query.begin() + (head + 1) * size);
            CHECK(distance(slice, of_one.query) <= 1e-12);
          }
        }
      }
  };
  for_typical_mechanisms(visit);
}
