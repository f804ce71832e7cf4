// One rank's share of a call: its arguments checked, all ranks agreed, and the whole call's method chosen.
#pragma once

#include "csq/detail/call/backward_arguments.hpp"
#include "csq/detail/checked_calls.hpp"
#include "csq/detail/machines/agreement.hpp"
#include "csq/detail/machines/pieces.hpp"

namespace CSQ_CODE::detail {

// The arrays and options of a piece, as its rank gave them, and what the whole is.
template <class T>
struct PieceCall {
  BackwardProblem<T> given;  // a forward call fills in given.forward alone
  Pieces pieces;
  int exponent = 0;  // of the weight, whose pieces have none: their sums stay in the kernels' units
  Method method = Method::direct;
  Threads threads;
  Index chunk = 0;
  bool wants_gates = false;

  const Problem<T>& problem() const { return given.forward; }
};

// A mechanism that is looked at when its rank can say what is wrong with it: as a type of its own, so that calls with
// all mechanisms are one instantiation.
class AnyMechanism {
 public:
  template <class Mechanism>
  explicit AnyMechanism(const Mechanism& mechanism)
      : mechanism_(&mechanism),
        resolve_([](const void* m, bool causal) { return detail::resolve(*static_cast<const Mechanism*>(m), causal); }),
        shift_rate_([](const void* m) { return detail::shift_rate(*static_cast<const Mechanism*>(m)); }) {}

  ResolvedMechanism resolve(bool causal) const { return resolve_(mechanism_, causal); }
  double shift_rate() const { return shift_rate_(mechanism_); }

 private:
  const void* mechanism_;
  ResolvedMechanism (*resolve_)(const void* mechanism, bool causal);
  double (*shift_rate_)(const void* mechanism);
};

// What pieces of sequences do not have, each with its reason to be left out.
inline void check_options_of_piece(const Options& options) {
  require(!options.bias.given(), "bias: pieces of sequences take none");
  require(options.key_length.empty(), "key_length: pieces of sequences take none: let each rank view what is filled");
  require(options.query_length.empty(), "query_length: pieces of sequences take none");
  require(options.query_offsets.empty() && options.key_offsets.empty(),
          "query_offsets: pieces of sequences are not packed");
  require(options.window >= 0, "window: is ", options.window, " but must not be negative");
  require(options.chunk >= 0, "chunk: is ", options.chunk, " but must not be negative");
  check_threads(threads_of(options));
}

// Resolves what needs no other rank.
template <class T>
void resolve_piece(Problem<T>& problem, const ResolvedMechanism& mechanism, const Options& options) {
  check_options_of_piece(options);
  problem.causal = options.causal;
  problem.centering = options.centering == Centering::automatic ? mechanism.centering : options.centering;
  require(!options.scale.has_value() || problem.weight.kind != Weight::Kind::feature_product,
          "scale: Linear takes none");
  require(is_finite(options.scale.value_or(1)), "scale: is ", options.scale.value_or(1), " but must be finite");
  problem.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(problem.key_dim())));
  resolve_adjustments(problem, options);
  check_history("query_history", options.query_history, problem.centering, problem.query.batch(), problem.query.heads(),
                problem.key_dim());
  check_history("key_history", options.key_history, problem.centering, problem.key.batch(), problem.key.heads(),
                problem.key_dim());
  problem.query_history = options.query_history;
  problem.key_history = options.key_history;
}

template <class T>
void check_forward_piece(Problem<T>& p, const ResolvedMechanism& mechanism, const Options& options) {
  check_held<T>(p.weight);
  check_inputs(p);
  check_output(p);
  if (p.normalizer.heads() > 0) check_normalizer(p);
  const Footprint outputs[] = {footprint("out", p.output), footprint("normalizer", p.normalizer)};
  const Footprint inputs[] = {footprint("q", p.query), footprint("k", p.key), footprint("v", p.value)};
  check_apart(outputs, inputs);
  check_apart_from_options<T>(outputs, options);
  resolve_piece(p, mechanism, options);
  check_apart_from_views(outputs, p);
}

template <class T>
void check_backward_piece(BackwardProblem<T>& problem, const ResolvedMechanism& mechanism, const Options& options) {
  Problem<T>& p = problem.forward;
  const auto outputs = check_backward_arrays(problem, options);
  resolve_piece(p, mechanism, options);
  check_gradients_of_options(problem);
  check_apart_from_views<T>(outputs, p);
}

template <class T>
void state(const BackwardProblem<T>& problem, bool is_backward, const Options& options, Statement& statement) {
  const Problem<T>& p = problem.forward;
  const StoredGradients<T>& gradients = problem.gradients;
  statement.queries = p.queries();
  statement.keys = p.keys();
  statement.alike = {static_cast<Index>(is_backward),
                     p.query.batch(),
                     p.query.heads(),
                     p.key.heads(),
                     p.key_dim(),
                     p.value_dim(),
                     static_cast<Index>(sizeof(T)),
                     static_cast<Index>(p.weight.kind),
                     digest(p.weight),
                     std::bit_cast<Index>(p.scale),
                     static_cast<Index>(p.causal),
                     options.window,
                     digest(p.sink),
                     std::bit_cast<Index>(p.soft_cap),
                     p.log_gate.heads(),
                     static_cast<Index>(p.centering),
                     digest(p.query_history),
                     digest(p.key_history),
                     static_cast<Index>(options.method),
                     options.chunk,
                     (gradients.shift != nullptr) + 2 * (gradients.log_gate.heads() > 0) + 4 * !gradients.sink.empty()};
}

// What concerns the whole: the same on every rank, and so are its errors.
template <class T>
void resolve_whole(PieceCall<T>& call, bool is_backward, const ResolvedMechanism& mechanism, const Options& options) {
  Problem<T>& p = call.given.forward;
  const Index n = call.pieces.queries(), m = call.pieces.keys();
  call.pieces.causal = p.causal;
  call.pieces.window = p.window = checked_window(options.window, n, m);
  call.threads = threads_of(options);
  call.chunk = options.chunk;
  call.wants_gates = call.given.gradients.log_gate.heads() > 0;
  const Shape shape{n, m, p.key_dim(), p.value_dim(), p.query.batch(), p.query.heads(), p.key.heads(), p.causal};
  Workload work{checked_shape(shape), {}, {}, p.window, p.is_plain(), p.direct_only};
  check_scratch_fits(work, p.weight);
  require(!is_prefix(p.centering) || !p.causal || n >= m || p.query_history != nullptr,
          "query_history: causal prefix centring with ", n, " queries and ", m,
          " keys on all ranks needs the mean of the earlier queries");
  require(options.centering != Centering::automatic || mechanism.centering != Centering::sequence || n != 1 || m <= 1,
          "centering: all ranks have 1 query and ", m,
          " keys; the centring `sequence`, which automatic means here, would make the query zero");
  check_history_positions(call.pieces.whole(), p.query_history, p.key_history, p.query.batch());
  call.method =
      is_backward ? resolve_backward_method(work, p.weight, options) : resolve_method(work, p.weight, options);
  if (call.method == Method::factored && p.causal && !call.pieces.stand_at_their_keys()) {
    require(options.method != Method::factored,
            "method: factored under a causal mask needs the queries of every rank at keys of its own");
    call.method = Method::direct;
  }
  // Keys that travel need the gates of all ranks, whose counts MPI takes in 32 bits.
  const double gates = static_cast<double>(p.query.batch() * p.log_gate.heads()) * static_cast<double>(m);
  require(call.method == Method::factored || gates < 0x1p31, "log_gate: all ranks have ", gates,
          " gates but the direct method gathers at most 2^31 - 1");
  call.exponent = std::exchange(p.weight.exponent, 0);
}

// All checks of a call; given.forward's arrays and weight are set.
template <class T>
void check_piece_call(const Communicator& ranks, PieceCall<T>& call, bool is_backward, const AnyMechanism& mechanism,
                      const Options& options) {
  ResolvedMechanism resolved;
  const std::vector<Statement> all = agree(ranks, [&](Statement& own) {
    resolved = mechanism.resolve(options.causal);
    call.given.forward.weight = resolved.weight;
    if (call.given.gradients.shift != nullptr) call.given.shift_rate = mechanism.shift_rate();
    if (is_backward)
      check_backward_piece(call.given, resolved, options);
    else
      check_forward_piece(call.given.forward, resolved, options);
    state(call.given, is_backward, options, own);
    simd::chosen_target();  // a CSQ_SIMD that cannot be is an error here
  });
  for (const Statement& statement : all) call.pieces.add(statement.queries, statement.keys);
  resolve_whole(call, is_backward, resolved, options);
}

}  // namespace CSQ_CODE::detail
