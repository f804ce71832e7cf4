// Attention forward: check, choose the method, lay scratch out, call the engine.
//
//   o_i = Σ_{j ∈ J_i} w(s_ij) v_j / δ_i     δ_i = Σ_{j ∈ J_i} w(s_ij)     s_ij = α q_i·k_j
//
// q [batch, heads, n, d], k [batch, kv_heads, m, d], v [batch, kv_heads, m, dᵥ] → out [batch, heads, n, dᵥ]; query head
// h reads key head h/(heads/kv_heads). J_i: the keys visible to query i; empty J_i gives a zero row. The normaliser
// [batch, heads, n, 1] is δ_i, or for Softmax the natural log-sum-exp; backward needs nothing else.
// Outputs are overwritten. Errors are std::invalid_argument, thrown before anything is written; q, k, v and outputs may
// be interleaved in one buffer, but no element of an output may be an element of anything else.
// Cost and memory: direct.hpp, factored.hpp, cost_model.hpp.
#pragma once

#include <string>

#include "csq/arguments.hpp"
#include "csq/factored.hpp"
#include "csq/few_queries.hpp"
#include "csq/version.hpp"

namespace csq {

// "csq 0.1.0, avx512, OpenMP".
inline std::string build_info() {
  std::string info = "csq " + std::to_string(version_major) + "." + std::to_string(version_minor) + "." +
                     std::to_string(version_patch) + ", " + simd_name();
#ifdef _OPENMP
  return info + ", OpenMP";
#else
  return info + ", one thread";
#endif
}

// The method that a call with these sizes would use. A causal call too short for any read to pay is the direct path,
// whatever was asked for (unless a chunk was).
inline Method resolve_method(const Weight& weight, const Shape& shape, Method method, Index chunk) {
  if (!weight.has_factored_form()) return Method::direct;
  const Index features = feature_count(weight, shape.key_dim);
  if (method == Method::automatic) return choose_method(shape, features);
  if (method == Method::factored && chunk == 0 && served_directly(shape, features)) return Method::direct;
  return method;
}

// The method that a call with these sizes and options runs.
template <class M>
Method used_method(const M& mechanism, Shape shape, const Options& options = {}) {
  shape.causal = shape.causal || options.causal;
  const Weight weight = weight_of(mechanism);
  check_method(weight, options.method);
  return resolve_method(weight, shape, options.method, options.chunk);
}

// Small calls are not worth waking threads for: one thread per this many multiply-adds.
inline int threads_for(const Shape& shape, const Weight& weight, Method method, const Options& options) {
  constexpr double multiply_adds_per_thread = 5e5;
  const double work = method == Method::factored
                          ? factored_multiply_adds(shape, feature_count(weight, shape.key_dim), options.chunk)
                          : direct_multiply_adds(shape);
  const double wanted = work / multiply_adds_per_thread;
  const int usable = usable_threads(options.threads);
  return wanted < usable ? std::max(1, static_cast<int>(wanted)) : usable;
}

// visit(layout type, engine) for the engine that serves a call: Layout::lay_out says what scratch it takes.
template <class T, class Visit>
auto with_engine(const Problem<T>& problem, Method method, const Visit& visit) {
  if (method == Method::factored) return visit(FactoredLayout<T>{}, factored_attention<T>);
  if (problem.queries() <= few_queries) return visit(FewQueriesLayout<T>{}, few_queries_attention<T>);
  return visit(DirectLayout<T>{}, direct_attention<T>);
}

template <class T>
std::size_t scratch_bytes(const Problem<T>& problem, Method method) {
  return with_engine(problem, method, [&](auto layout, const auto&) {
    ScratchLayout counter;
    decltype(layout)::lay_out(counter, problem);
    return counter.bytes();
  });
}

template <class T>
void run_attention(Problem<T>& problem, const Options& options) {
  if (options.summary != nullptr) options.summary->clear();
  if (problem.output.empty()) return;
  const Shape shape = shape_of(problem);
  const Method method = resolve_method(problem.weight, shape, options.method, options.chunk);
  problem.threads = threads_for(shape, problem.weight, method, options);
  Workspace local;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : local;
  ScratchLayout layout(workspace.reserve(scratch_bytes(problem, method)));
  with_engine(problem, method, [&](auto engine_layout, const auto& run) {
    auto scratch = decltype(engine_layout)::lay_out(layout, problem);
    run(problem, scratch);
  });
}

template <class M, class T>
void attention_checked(const M& mechanism, const Heads<const T>& q, const Heads<const T>& k, const Heads<const T>& v,
                       const Heads<T>& out, const Heads<T>* normalizer, const Options& options) {
  Problem<T> problem;
  problem.query = q;
  problem.key = k;
  problem.value = v;
  problem.output = out;
  problem.weight = weight_of(mechanism);
  check_inputs(problem);
  check_output(problem);
  if (normalizer != nullptr) {
    problem.normalizer = *normalizer;
    check_normalizer(problem);
  }
  check_method(problem.weight, options.method);
  resolve_options(problem, options, default_centering<M>(options.causal));
  run_attention(problem, options);
}

template <class Q, class K, class V, class O>
concept SameScalar = (std::same_as<O, float> || std::same_as<O, double>)&&std::same_as<
    std::remove_const_t<Q>, O>&& std::same_as<std::remove_const_t<K>, O>&& std::same_as<std::remove_const_t<V>, O>;

// Many heads, your own memory, any strides.
template <class M, class Q, class K, class V, class O>
requires SameScalar<Q, K, V, O>
void attention(const M& mechanism, Heads<Q> q, Heads<K> k, Heads<V> v, Heads<O> out, const Options& options = {}) {
  attention_checked<M, O>(mechanism, q, k, v, out, nullptr, options);
}

// The same, and the row statistic that backward needs: [batch, heads, n, 1].
template <class M, class Q, class K, class V, class O>
requires SameScalar<Q, K, V, O>
void attention(const M& mechanism, Heads<Q> q, Heads<K> k, Heads<V> v, Heads<O> out, Heads<O> normalizer,
               const Options& options = {}) {
  attention_checked<M, O>(mechanism, q, k, v, out, &normalizer, options);
}

// One sentence about matrices that cannot go together.
template <class Q, class K, class V>
constexpr void require_one_scalar() {
  using T = typename Q::Scalar;
  static_assert(std::same_as<T, float> || std::same_as<T, double>, "csq: matrices are of float or double");
  static_assert(std::same_as<T, typename K::Scalar> && std::same_as<T, typename V::Scalar>,
                "csq: q, k and v must have the same scalar type");
}

// `matrix` itself when it has the size already, else a new one that takes its place once the call has succeeded.
template <class T, class Call>
void with_size(Matrix<T>& matrix, Index rows, Index columns, const Call& call) {
  if (matrix.rows() == rows && matrix.cols() == columns) return call(matrix);
  Matrix<T> sized(rows, columns);
  call(sized);
  matrix.swap(sized);
}

// One head: q n×d, k m×d, v m×dᵥ are any Eigen matrices, maps or blocks. `out` becomes n×dᵥ, `normalizer` n×1; neither
// may be one of the inputs. (To write into another kind of matrix, pass heads_of(it) with heads_of the inputs.)
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
void attention(const M& mechanism, const Q& q, const K& k, const V& v, Matrix<T>& out, const Options& options = {}) {
  require_one_scalar<Q, K, V>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  check(out.data() == nullptr || (out.data() != query.data && out.data() != key.data && out.data() != value.data),
        "out: an output may not be one of the inputs");
  with_size(out, q.rows(), v.cols(),
            [&](Matrix<T>& result) { attention(mechanism, query, key, value, heads_of(result), options); });
}
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
void attention(const M& mechanism, const Q& q, const K& k, const V& v, Matrix<T>& out, Matrix<T>& normalizer,
               const Options& options = {}) {
  require_one_scalar<Q, K, V>();
  const Heads<const T> query = heads_of(q), key = heads_of(k), value = heads_of(v);
  for (const Matrix<T>* output : {&out, &normalizer})
    check(output->data() == nullptr ||
              (output->data() != query.data && output->data() != key.data && output->data() != value.data),
          output == &out ? "out" : "normalizer", ": an output may not be one of the inputs");
  check(&normalizer != &out, "normalizer: an output may not be another argument");
  with_size(out, q.rows(), v.cols(), [&](Matrix<T>& result) {
    with_size(normalizer, q.rows(), Index{1}, [&](Matrix<T>& statistic) {
      attention(mechanism, query, key, value, heads_of(result), heads_of(statistic), options);
    });
  });
}
template <class M, EigenDense Q, EigenDense K, EigenDense V, class T = typename Q::Scalar>
Matrix<T> attention(const M& mechanism, const Q& q, const K& k, const V& v, const Options& options = {}) {
  Matrix<T> out;
  attention(mechanism, q, k, v, out, options);
  return out;
}

// The problem that a call with these sizes would be, without memory: what lays scratch out reads no more of it.
template <class T, class M>
Problem<T> problem_of_sizes(const M& mechanism, const Shape& shape, const Options& options) {
  Problem<T> problem;
  problem.weight = weight_of(mechanism);
  const auto sized = [&](Index heads, Index tokens, Index dim) {
    Heads<const T> view;
    view.shape = {shape.batch, heads, tokens, dim};
    return view;
  };
  problem.query = sized(shape.heads, shape.queries, shape.key_dim);
  problem.key = sized(shape.kv_heads, shape.keys, shape.key_dim);
  problem.value = sized(shape.kv_heads, shape.keys, shape.value_dim);
  check(shape.queries >= 0 && shape.keys >= 0 && shape.key_dim >= 1 && shape.value_dim >= 1 && shape.batch >= 0 &&
            shape.kv_heads >= 1 && shape.heads >= 1 && shape.heads % shape.kv_heads == 0,
        "shape: queries ", shape.queries, ", keys ", shape.keys, ", key_dim ", shape.key_dim, ", value_dim ",
        shape.value_dim, ", batch ", shape.batch, ", heads ", shape.heads, ", kv_heads ", shape.kv_heads);
  check_method(problem.weight, options.method);
  check_counts(options);
  problem.causal = options.causal || shape.causal;
  problem.centering =
      options.centering == Centering::automatic ? default_centering<M>(problem.causal) : options.centering;
  problem.chunk = options.chunk;
  return problem;
}

// Scratch that a call with these sizes takes; a Workspace that has served one grows no further.
template <class T = float, class M>
std::size_t workspace_bytes(const M& mechanism, const Shape& shape, const Options& options = {}) {
  Problem<T> problem = problem_of_sizes<T>(mechanism, shape, options);
  const Shape resolved = shape_of(problem);
  const Method method = resolve_method(problem.weight, resolved, options.method, options.chunk);
  problem.threads = threads_for(resolved, problem.weight, method, options);
  return scratch_bytes(problem, method);
}

}  // namespace csq
