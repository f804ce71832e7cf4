// Everything that csq offers, instantiated, so that a user's strict warnings see all of its templates: forward and
// backward of every mechanism in float, double and 16 bits, on heads and on Eigen's matrices, penalties, costs and
// memory. Compiled, not run.
#include <csq/csq.hpp>

namespace {

template <class T, class Mechanism>
void attend(const Mechanism& mechanism) {
  const csq::Matrix<T> q = csq::Matrix<T>::Random(4, 3), k = q, v = q;
  csq::Matrix<T> out = csq::attention(mechanism, q, k, v);
  csq::Matrix<std::conditional_t<sizeof(T) == 2, float, T>> normalizer;
  csq::attention(mechanism, q, k, v, out, {.causal = true});
  csq::attention(mechanism, q, k, v, out, normalizer, {.causal = true});

  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic> columns = q;
  csq::attention(mechanism, columns.transpose(), columns.topRows(3), v, columns, normalizer.col(0));

  csq::Matrix<T> dq(4, 3), dk(4, 3), dv(4, 3);
  csq::attention_backward(mechanism, q, k, v, out, normalizer, out,
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)});
  const csq::Heads<const T> queries = csq::heads_of(q), keys = csq::heads_of(k), values = csq::heads_of(v);
  csq::Workspace workspace;
  csq::KeptSummary summary;
  const csq::Options options{.threads = 2, .workspace = &workspace, .summary = &summary};
  csq::attention(mechanism, queries, keys, values, csq::heads_of(out), options);
  csq::attention(mechanism, queries, keys, values, csq::heads_of(out), csq::heads_of(normalizer), options);
  csq::attention_backward(mechanism, queries, keys, values, csq::heads_of(out), csq::heads_of(normalizer), queries,
                          {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv)}, options);

  if constexpr (sizeof(T) > 2)
    csq::merge_partials(mechanism, queries, queries, keys, keys, csq::heads_of(out), csq::heads_of(normalizer));

  csq::Stream<T> stream(mechanism, {1, 1, 1, 3, 3});
  stream.prefill(queries, keys, values, csq::heads_of(out));
  csq::Stream<T> fork = stream.fork();
  fork.truncate(fork.tokens() - 1);
  fork.load(stream.save());

  csq::Summary<T> document(mechanism, {1, 1, 3, 3});
  document.absorb(keys, values);
  document.read(queries, csq::heads_of(out));
  document.read(queries, csq::heads_of(out), csq::heads_of(normalizer));
  document.attend(queries, keys, values, csq::heads_of(out));
  document.merge(document);
  document.load(document.save());

  const csq::Shape shape{.queries = 4, .keys = 4, .key_dim = 3, .value_dim = 3};
  csq::workspace_bytes<T>(mechanism, shape);
  csq::backward_workspace_bytes<T>(mechanism, shape);
  csq::used_method(mechanism, shape);
  csq::used_backward_method(mechanism, shape);
  csq::has_factored_form(mechanism);
  csq::default_centering(mechanism, true);
}

template <class T>
void penalize() {
  const csq::Matrix<T> q = csq::Matrix<T>::Random(4, 3), k = q;
  csq::Matrix<T> dq = q, dk = q;
  csq::bound_penalty(csq::heads_of(q), csq::heads_of(k), csq::heads_of(dq), csq::heads_of(dk));
  csq::sampled_bound_penalty(csq::heads_of(q), csq::heads_of(k), csq::heads_of(dq), csq::heads_of(dk), 2, 1);
  csq::rank_penalty(csq::heads_of(q), csq::heads_of(dq));
}

template <class T>
void use_everything() {
  attend<T>(csq::Softmax{});
  attend<T>(csq::Squared{});
  attend<T>(csq::ShiftedQuadratic{});
  attend<T>(csq::Csq{});
  attend<T>(csq::Taylor{});
  attend<T>(csq::Quadratic{});
  attend<T>(csq::Linear{});
  attend<T>(csq::Polynomial{{1, 0, 1}});
  attend<T>(csq::PositivePolynomial{.root = {1, 1}});
  penalize<T>();
}

}  // namespace

int main() {
  use_everything<float>();
  use_everything<double>();
  use_everything<Eigen::bfloat16>();
  attend<Eigen::half>(csq::Csq{});
  penalize<Eigen::half>();
  csq::choose_method({.queries = 4, .keys = 4, .key_dim = 3, .value_dim = 3});
  csq::predicted_crossover(3, 3);
  csq::build_info();
  csq::simd_names();
}
