// A rank's arrays, contiguous and in the type that is computed with: centred q and k, and whatever results are gathered
// in before they leave for the caller's memory. And the calls that they are given to.
#pragma once

#include "csq/detail/engine.hpp"
#include "csq/detail/machines/piece_centering.hpp"

namespace CSQ_CODE::detail {

template <class T>
Heads<T> take_rows(Arena& arena, const AxisSizes& shape) {
  const Index count = checked_product(checked_product(shape[0], shape[1], "workspace"),
                                      checked_product(shape[2], shape[3], "workspace"), "workspace");
  return Heads<T>(arena.template take<T>(count), shape);
}
template <class T>
Index element_count(const Heads<T>& heads) {
  return heads.batch() * heads.heads() * heads.tokens() * heads.dim();
}
template <class T>
void clear(const Heads<T>& heads) {
  std::fill_n(heads.data, element_count(heads), T(0));
}

template <class T>
struct PieceArrays {
  Heads<T> query, key, value, output, normalizer;
  // Of a backward call:
  Heads<T> output_gradient, query_gradient, key_gradient, value_gradient;
  double* key_terms = nullptr;  // [batch][gate heads][keys], where gates have a gradient
  double shift = 0;             // the sum that it is a multiple of

  static PieceArrays lay_out(Arena& arena, const PieceCall<T>& call, bool is_backward) {
    const Problem<T>& p = call.problem();
    const Index batch = p.query.batch(), heads = p.query.heads(), kv_heads = p.key.heads();
    const Index n = p.queries(), m = p.keys(), d = p.key_dim(), e = p.value_dim();
    PieceArrays arrays;
    arrays.query = take_rows<T>(arena, {batch, heads, n, d});
    arrays.key = take_rows<T>(arena, {batch, kv_heads, m, d});
    arrays.value = take_rows<T>(arena, {batch, kv_heads, m, e});
    arrays.output = take_rows<T>(arena, {batch, heads, n, e});
    arrays.normalizer = take_rows<T>(arena, {batch, heads, n, 1});
    if (!is_backward) return arrays;
    arrays.output_gradient = take_rows<T>(arena, {batch, heads, n, e});
    arrays.query_gradient = take_rows<T>(arena, {batch, heads, n, d});
    arrays.key_gradient = take_rows<T>(arena, {batch, kv_heads, m, d});
    arrays.value_gradient = take_rows<T>(arena, {batch, kv_heads, m, e});
    if (call.wants_gates) arrays.key_terms = arena.template take<double>(batch * p.log_gate.heads() * m);
    return arrays;
  }
};

// Rows of the caller's.
template <class T>
void copy_in(const StoredHeads<const T>& from, const Heads<T>& to) {
  for (Index b = 0; b < to.batch(); ++b)
    for (Index h = 0; h < to.heads(); ++h) {
      const StoredHead<const T> rows = from.head(b, h);
      const Head<T> copy = to.head(b, h);
      for (Index t = 0; t < to.tokens(); ++t)
        for (Index a = 0; a < to.dim(); ++a) copy(t, a) = rows(t, a);
    }
}
template <class T>
void copy_out(const Heads<T>& from, const StoredHeads<T>& to) {
  for (Index b = 0; b < to.batch(); ++b)
    for (Index h = 0; h < to.heads(); ++h) {
      const StoredHead<T> rows = to.head(b, h);
      const Head<T> copy = from.head(b, h);
      for (Index t = 0; t < to.tokens(); ++t)
        for (Index a = 0; a < to.dim(); ++a) rows.write(t, a, copy(t, a));
    }
}

// Keys that a rank's queries are given, and where they stand.
template <class T>
struct PieceKeys {
  Heads<T> key, value;
  Heads<const T> log_gate;  // from the first of the keys on, to the last position of a key or a query
  Index first = 0;          // counted from the first of the whole
};

// The call of a rank's centred queries on these keys.
template <class T>
Problem<T> piece_problem(const PieceCall<T>& call, int rank, const PieceArrays<T>& arrays, const PieceKeys<T>& keys) {
  const Problem<T>& given = call.problem();
  Problem<T> problem;
  problem.query = normalized(Heads<const T>(arrays.query));
  problem.key = normalized(Heads<const T>(keys.key));
  problem.value = normalized(Heads<const T>(keys.value));
  problem.output = normalized(arrays.output);
  problem.normalizer = normalized(arrays.normalizer);
  problem.weight = given.weight;
  problem.scale = given.scale;
  problem.causal = given.causal;
  problem.window = given.window;
  problem.soft_cap = given.soft_cap;
  problem.log_gate = keys.log_gate;
  problem.direct_only = given.direct_only;
  problem.is_piece = true;
  problem.ahead = call.pieces.between(rank, keys.first, keys.key.tokens()).ahead;
  return problem;
}
// The same of its gradients, which the given arrays' views are.
template <class T>
BackwardProblem<T> piece_backward_problem(const PieceCall<T>& call, int rank, const PieceArrays<T>& arrays,
                                          const PieceKeys<T>& keys) {
  BackwardProblem<T> problem;
  problem.forward = piece_problem(call, rank, arrays, keys);
  problem.output = normalized(Heads<const T>(arrays.output));
  problem.normalizer = normalized(Heads<const T>(arrays.normalizer));
  problem.output_gradient = normalized(Heads<const T>(arrays.output_gradient));
  problem.gradients.query = normalized(arrays.query_gradient);
  problem.gradients.key = normalized(arrays.key_gradient);
  problem.gradients.value = normalized(arrays.value_gradient);
  problem.wants_key_terms = call.wants_gates;
  problem.key_terms = arrays.key_terms;
  return problem;
}

// A piece is served in blocks, or through a summary of its own: `factored` where it pays.
template <class T>
void plan_directly(Problem<T>& problem, const Threads& threads) {
  problem.plan = {};
  problem.plan.longest = {problem.queries(), problem.keys()};
  const double work = count_direct(workload_of(problem));
  form_teams(problem, work, threads_for_work(work, threads));
}
template <class Call, class T>
void plan_either(Call& piece, Problem<T>& problem, const PieceCall<T>& call) {
  Options options;
  options.threads = call.threads.count;
  options.executor = call.threads.executor;
  options.chunk = call.chunk;
  if (call.chunk > 0) options.method = Method::factored;
  make_plan(piece, options);
  if (problem.plan.engine != Engine::factored) plan_directly(problem, call.threads);
}

// Rows of a finished forward call: what a single call makes of sums that T does not hold, and the units of the caller's
// normaliser.
template <class T>
void finish_rows(const PieceCall<T>& call, int rank, const PieceArrays<T>& arrays) {
  const Problem<T>& p = call.problem();
  const Index keys = call.pieces.keys();
  const Visibility whole = call.pieces.whole();
  for (Index head = 0; head < p.query.batch() * p.query.heads(); ++head) {
    const Head<T> query = arrays.query.head(head / p.query.heads(), head % p.query.heads());
    const Head<T> output = arrays.output.head(head / p.query.heads(), head % p.query.heads());
    T* const sums = arrays.normalizer.head(head / p.query.heads(), head % p.query.heads()).data;
    if (p.weight.is_polynomial()) refuse_underflow(p.weight, keys, p.queries(), sums);
    for (Index row = 0; row < p.queries(); ++row) {
      // Products that have all underflowed leave nothing, as those of zeros do.
      bool lost = is_nan(static_cast<double>(sums[row]));
      if (p.weight.is_scale_blind() && sums[row] == 0 && whole.sees_any(call.pieces.first_query(rank) + row, keys))
        for (Index a = 0; a < query.dim; ++a) lost = lost || query(row, a) != 0;
      if (lost) {
        sums[row] = std::numeric_limits<T>::quiet_NaN();
        std::fill_n(&output(row, 0), output.dim, sums[row]);
      }
      if (p.weight.kind != Weight::Kind::exponential) sums[row] = scaled_normalizer(sums[row], call.exponent);
    }
  }
}

}  // namespace CSQ_CODE::detail
