// Attention of sequences that are cut over the ranks of an MPI communicator. Nothing else includes this header: a
// program that does needs MPI's own (mpicxx, or CMake's MPI::MPI_CXX).
//
//   csq::mpi::attention(MPI_COMM_WORLD, csq::Csq{}, Q, K, V, O, normalizer, {.causal = true});
//
// Rank r holds a contiguous piece of every sequence, in the order of the ranks: its n_r queries and m_r keys, of any
// length, none too. Results are those of one call on the whole (up to rounding), for every mechanism, mask, centring,
// gate and grouping; means, gates and positions run through. They do not depend on threads, and up to rounding not on
// the number of ranks.
//
//   factored    the K⊗V summaries of the pieces travel: D·(dᵥ+1) numbers a key head, ⌈log₂ R⌉ times forward and twice
//               that backward, whatever the number of tokens. Under a causal mask the queries of each rank stand at
//               keys of its own, as they do where n_r = m_r.
//   direct      keys and values travel, while others are computed with: m_r·(d+dᵥ) numbers a key head to each rank
//               whose queries see them, R − 1 at most; with a window to the neighbours that it reaches; their gradients
//               back. Gates are gathered: a number a token.
//
// The method is chosen for the whole, as attention does. Without a mask, and for the pairs of different ranks, a row
// whose features cancel (detail/factored/cancellation.hpp) is NaN, as in a Stream: the keys that could serve it
// directly are elsewhere. Rows of Squared are not rescaled: those whose weights T does not hold are NaN; so are rows
// of a Polynomial whose weights of one piece sum to less than 0 (csq/partials.hpp). Not for pieces: lengths, packed
// sequences and bias (errors), kept summaries (ignored). Under a causal mask pieces of equal length are not equal work
// where the method is direct. Ranks on one machine share its cores: `threads` is each one's.
//
// Every rank of the communicator makes the same call. An error of one is an error of all: std::invalid_argument with
// the rank's own sentence there and "csq::mpi: rank r: …" elsewhere, std::bad_alloc if any has no memory; nothing is
// written then and nobody waits. A rank that ends altogether is MPI's affair: mpirun ends the others. An executor that
// throws in the middle of a call is the program's: the others wait, until MPI_Abort. Calls are MPI's from the calling
// thread alone (MPI_THREAD_FUNNELED); messages have the tag 25457.
#pragma once

#include "csq/attention.hpp"
#include "csq/attention_backward.hpp"
#include "csq/detail/machines/calls.hpp"

namespace CSQ_CODE::mpi {

/// csq::attention of all ranks' pieces, one call on each: q [batch, heads, n_r, d], k [batch, kv_heads, m_r, d], v
/// [batch, kv_heads, m_r, dᵥ]; out [batch, heads, n_r, dᵥ] and the normaliser [batch, heads, n_r, 1] are those of the
/// rank's queries over the keys of all ranks. log_gate is of the rank's keys; a sink, histories and all else are alike
/// on every rank. Cost on each rank: that of its share, at most twice with summaries. Memory: copies of its arrays, two
/// pieces of others or three summaries.
template <class Mechanism, class Query, class Key, class Value, class Output, class Statistic>
void attention(MPI_Comm communicator, const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v,
               Heads<Output> out, Heads<Statistic> normalizer, const Options& options = {}) {
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value>{}, detail::Written<Output>{},
                                        detail::ReadComputed<>{}, detail::WrittenComputed<Statistic>{})) {
    detail::Problem<detail::Computed<Output>> problem;
    problem.query = detail::stored(q);
    problem.key = detail::stored(k);
    problem.value = detail::stored(v);
    problem.output = detail::stored(out);
    problem.normalizer = detail::normalized(normalizer);
    detail::attention_over_ranks(communicator, detail::AnyMechanism(mechanism), problem, options);
  }
}
/// The same without the normaliser.
template <class Mechanism, class Query, class Key, class Value, class Output>
void attention(MPI_Comm communicator, const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v,
               Heads<Output> out, const Options& options = {}) {
  attention(communicator, mechanism, q, k, v, out, Heads<detail::Computed<Output>>{}, options);
}

/// csq::attention_backward of all ranks' pieces: `out`, `normalizer` and `dout` of the rank's queries, as forward left
/// them; ∂L/∂q, ∂L/∂k, ∂L/∂v and ∂L/∂log_gate of the rank's tokens, summed over the queries of all ranks. Those of the
/// shift and of sinks are the whole's, on every rank; which are wanted is alike on all.
template <class Mechanism, class Query, class Key, class Value, class Output, class Statistic, class OutputGradient>
void attention_backward(MPI_Comm communicator, const Mechanism& mechanism, Heads<Query> q, Heads<Key> k, Heads<Value> v,
                        Heads<Output> out, Heads<Statistic> normalizer, Heads<OutputGradient> dout,
                        const Gradients<std::remove_const_t<Output>>& gradients, const Options& options = {}) {
  using T = detail::Computed<Output>;
  if constexpr (detail::can_go_together(detail::Read<Query, Key, Value, Output, OutputGradient>{}, detail::Written<>{},
                                        detail::ReadComputed<Statistic>{})) {
    using Element = std::remove_const_t<Output>;
    detail::BackwardProblem<T> problem;
    problem.forward.query = detail::stored(q);
    problem.forward.key = detail::stored(k);
    problem.forward.value = detail::stored(v);
    problem.output = detail::stored(out);
    problem.normalizer = detail::normalized<Heads<const T>>(normalizer);
    problem.output_gradient = detail::stored(dout);
    problem.gradients = {detail::stored<Element>(gradients.query),         detail::stored<Element>(gradients.key),
                         detail::stored<Element>(gradients.value),         gradients.shift,
                         detail::normalized<Heads<T>>(gradients.log_gate), gradients.sink};
    detail::attention_backward_over_ranks(communicator, detail::AnyMechanism(mechanism), problem, options);
  }
}

}  // namespace CSQ_CODE::mpi
