// A call over ranks, from the caller's pieces to the caller's results: checked by all, laid out by all, centred, served
// by summaries or by keys that travel, and written.
#pragma once

#include "csq/detail/machines/direct_backward_pieces.hpp"
#include "csq/detail/machines/direct_pieces.hpp"
#include "csq/detail/machines/factored_pieces.hpp"
#include "csq/detail/machines/parameter_gradients.hpp"

namespace CSQ_CODE::detail {

// Memory of a call, kept for as long as it runs.
class CallMemory {
 public:
  explicit CallMemory(Workspace* workspace) : workspace_(workspace != nullptr ? workspace : &own_) {}

  // lay_out(arena) takes what the call keeps and returns the bytes of the scratch behind it; once to count, once in
  // memory that every rank has got.
  template <class LayOut>
  std::byte* reserve_together(const Communicator& ranks, const LayOut& lay_out) {
    std::byte* memory = nullptr;
    allocate_together(ranks, [&] {
      Arena counter;
      const std::size_t scratch = lay_out(counter);
      memory = workspace_->reserve(counter.bytes() + scratch);
    });
    Arena arena(memory);
    lay_out(arena);
    return memory + arena.bytes();
  }

 private:
  Workspace own_;
  Workspace* workspace_;
};

template <class T>
void attention_over_ranks(MPI_Comm communicator, const AnyMechanism& mechanism, const Problem<T>& given,
                          const Options& options) {
  const Communicator ranks(communicator);
  PieceCall<T> call;
  call.given.forward = given;
  check_piece_call(ranks, call, false, mechanism, options);
  const Problem<T>& p = call.problem();
  const bool factored = call.method == Method::factored;

  CallMemory memory(options.workspace);
  PieceArrays<T> arrays;
  PieceCentering<T> centering;
  FactoredPieces<T> summaries;
  DirectPieces<T> pairs;
  std::byte* const scratch = memory.reserve_together(ranks, [&](Arena& arena) {
    arrays = PieceArrays<T>::lay_out(arena, call, false);
    centering = PieceCentering<T>(arena, call);
    std::size_t bytes = 0;
    if (factored) {
      summaries = FactoredPieces<T>::lay_out(arena, ranks, call, arrays, false);
      if (p.causal) bytes = scratch_bytes(summaries.own_pairs(call));
    } else {
      pairs = DirectPieces<T>::lay_out(arena, ranks, call, arrays);
      for (Index round = 0; round < pairs.rounds(); ++round)
        bytes = larger(bytes, scratch_bytes(pairs.round_call(round)));
    }
    return bytes;
  });

  centering.center(ranks, arrays.query, arrays.key, usable_threads(call.threads));
  copy_in(p.value, arrays.value);
  if (!factored) {
    pairs.run(scratch);
  } else {
    clear(arrays.output);
    clear(arrays.normalizer);
    Arena arena(scratch);
    const Problem<T> own = p.causal ? summaries.own_pairs(call) : Problem<T>{};
    if (p.causal) run_in(arena, own);
    summaries.add_others(arrays, p.causal ? &own : nullptr);
  }
  finish_rows(call, ranks.rank(), arrays);
  copy_out(arrays.output, p.output);
  if (p.normalizer.heads() > 0) copy_out(arrays.normalizer, StoredHeads<T>(p.normalizer));
}

template <class T>
void attention_backward_over_ranks(MPI_Comm communicator, const AnyMechanism& mechanism,
                                   const BackwardProblem<T>& given, const Options& options) {
  const Communicator ranks(communicator);
  PieceCall<T> call;
  call.given = given;
  check_piece_call(ranks, call, true, mechanism, options);
  const Problem<T>& p = call.problem();
  const bool factored = call.method == Method::factored;

  CallMemory memory(options.workspace);
  PieceArrays<T> arrays;
  PieceCentering<T> centering;
  FactoredPieces<T> summaries;
  DirectBackwardPieces<T> pairs;
  ParameterGradients<T> parameters;
  double shift = 0;
  std::byte* const scratch = memory.reserve_together(ranks, [&](Arena& arena) {
    arrays = PieceArrays<T>::lay_out(arena, call, true);
    centering = PieceCentering<T>(arena, call);
    parameters = ParameterGradients<T>::lay_out(arena, ranks, call);
    std::size_t bytes = 0;
    if (factored) {
      summaries = FactoredPieces<T>::lay_out(arena, ranks, call, arrays, true);
      if (p.causal) bytes = scratch_bytes(summaries.own_backward_pairs(call, &shift));
    } else {
      pairs = DirectBackwardPieces<T>::lay_out(arena, ranks, call, arrays);
      for (Index round = 0; round < pairs.rounds(); ++round)
        bytes = larger(bytes, scratch_bytes(pairs.round_call(round, &shift)));
    }
    return bytes;
  });

  centering.center(ranks, arrays.query, arrays.key, usable_threads(call.threads));
  copy_in(p.value, arrays.value);
  copy_in(call.given.output, arrays.output);
  copy_in(StoredHeads<const T>(call.given.normalizer), arrays.normalizer);
  copy_in(call.given.output_gradient, arrays.output_gradient);
  const Index rows = element_count(arrays.normalizer);
  for (Index row = 0; row < rows && call.exponent != 0; ++row)
    arrays.normalizer.data[row] =
        static_cast<T>(std::ldexp(static_cast<double>(arrays.normalizer.data[row]), -call.exponent));
  if (!factored) {
    pairs.run(scratch, arrays);
  } else {
    clear(arrays.query_gradient);
    clear(arrays.key_gradient);
    clear(arrays.value_gradient);
    Arena arena(scratch);
    if (p.causal) run_in(arena, summaries.own_backward_pairs(call, &shift));
    arrays.shift = shift;
    summaries.add_gradients_of_others(arrays);
  }
  centering.uncenter(ranks, arrays.query_gradient, arrays.key_gradient, usable_threads(call.threads));
  copy_out(arrays.value_gradient, call.given.gradients.value);
  parameters.write(arrays);
}

}  // namespace CSQ_CODE::detail
