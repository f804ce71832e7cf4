// One unit of a program, compiled twice with different flags or against two versions; UNIT names what it defines.
#include <csq/csq.hpp>
#include <string>
#include <vector>

#define JOIN_AS_WRITTEN(a, b) a##b
#define JOIN(a, b) JOIN_AS_WRITTEN(a, b)

// Wave-like numbers, so that both units compute on the same.
static std::vector<float> numbers(csq::Index count, int seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((i * 7919u + static_cast<unsigned>(seed) * 104729u) % 2003u) / 1001.5f - 1;
  return values;
}

// Forward and backward of both methods on memory of one's own; a sum that should be the same in all units.
double JOIN(UNIT, _heads)() {
  double sum = 0;
  for (const csq::Index n : {csq::Index{3}, csq::Index{200}}) {
    const csq::Heads<const float>::Shape shape{2, 2, n, 8};
    const auto q = numbers(4 * n * 8, 1), k = numbers(4 * n * 8, 2), v = numbers(4 * n * 8, 3);
    std::vector<float> o(q.size()), z(static_cast<std::size_t>(4 * n)), dq(q.size()), dk(q.size()), dv(q.size());
    const csq::Heads<const float> Q(q.data(), shape), K(k.data(), shape), V(v.data(), shape);
    const csq::Heads<float> O(o.data(), shape), Z(z.data(), {2, 2, n, 1});
    csq::Workspace workspace;
    csq::KeptSummary summary;
    const auto pass = [&](const auto& mechanism, const csq::Options& options) {
      csq::attention(mechanism, Q, K, V, O, Z, options);
      csq::attention_backward(mechanism, Q, K, V, O, Z, V,
                              csq::Gradients<float>{{dq.data(), shape}, {dk.data(), shape}, {dv.data(), shape}},
                              options);
      for (const auto* values : {&o, &dq, &dk, &dv})
        for (const float value : *values) sum += value < 0 ? -double(value) : double(value);
    };
    pass(csq::Softmax{}, {.causal = true, .workspace = &workspace});
    pass(csq::Csq{}, {.method = csq::Method::factored, .chunk = 16, .workspace = &workspace, .summary = &summary});
    pass(csq::Csq{}, {.causal = true, .method = csq::Method::factored, .chunk = 16, .threads = 2});
    pass(csq::Linear{}, {});
    const auto in_turn = [](csq::Index count, csq::Executor::Task task) {
      for (csq::Index index = 0; index < count; ++index) task(index);
    };
    pass(csq::Csq{}, {.executor = {in_turn, 2}});
    sum += csq::bound_penalty(Q, K, csq::Heads<float>(dq.data(), shape), csq::Heads<float>(dk.data(), shape)).value;
  }
  return sum;
}

// The same on Eigen matrices that never leave the unit.
double JOIN(UNIT, _eigen)() {
  double sum = 0;
  for (const int n : {3, 200}) {
    const auto values = numbers(n * 24, 4);
    csq::Matrix<float> q = Eigen::Map<const csq::Matrix<float>>(values.data(), n, 24);
    const csq::Matrix<float> k = q.colwise().reverse(), v = q.leftCols(5) * 2;
    q *= 0.5f;
    csq::Matrix<float> out = csq::attention(csq::Csq{}, q, k, v, {.causal = true});
    csq::Matrix<float> softmax(2, 2), normalizer;
    csq::attention(csq::Softmax{}, q, k, v, softmax, normalizer);
    sum += double(out.cwiseAbs().sum()) + double(softmax.cwiseAbs().sum()) + double(normalizer.sum());
  }
  return sum;
}

std::string JOIN(UNIT, _build)() { return csq::build_info(); }
