// Calls that do not compile, each with the one sentence that says why. A test defines CASE_ and the name of one of
// them, compiles this file and looks for the sentence beside the name; CASE_allowed compiles.
#include <Eigen/SparseCore>
#include <csq/csq.hpp>

namespace {

[[maybe_unused]] void call() {
  csq::Matrix<float> q(4, 4), k(4, 4), v(4, 4), out(4, 4), normalizer(4, 1), dq(4, 4), dk(4, 4), dv(4, 4);
  csq::Matrix<double> of_double(4, 4);
  csq::Matrix<int> of_int(4, 4);
  Eigen::SparseMatrix<float> sparse(4, 4);
  const csq::Matrix<float>& constant = q;
  const csq::Csq mechanism{};

  const csq::Heads<const float> query_heads = csq::heads_of(constant);
  const csq::Heads<const double> double_heads = csq::heads_of(std::as_const(of_double));
  const csq::Heads<int> int_heads = csq::heads_of(of_int);
  const csq::Heads<float> out_heads = csq::heads_of(out), normalizer_heads = csq::heads_of(normalizer),
                          gradient = csq::heads_of(dq);

  csq::Matrix<Eigen::bfloat16> brain(4, 4), brain_out(4, 4), brain_gradient(4, 4);
  csq::Matrix<Eigen::half> half(4, 4);
  const csq::Heads<const Eigen::bfloat16> brain_heads = csq::heads_of(std::as_const(brain));
  const csq::Heads<Eigen::bfloat16> brain_to = csq::heads_of(brain_out), brain_slope = csq::heads_of(brain_gradient);
  const csq::Heads<Eigen::half> half_heads = csq::heads_of(half);

#ifdef CASE_allowed
  csq::attention(mechanism, q, k, v, out);
  csq::attention(mechanism, brain, brain, brain, brain_out, normalizer);
  csq::attention(mechanism, half_heads, half_heads, half_heads, half_heads);
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_to, {.causal = true, .log_gate = query_heads});
  csq::attention_backward(mechanism, brain_heads, brain_heads, brain_heads, brain_to, normalizer_heads, brain_heads,
                          {brain_slope, brain_slope, brain_slope});
  csq::rank_penalty(half_heads, half_heads);
  const auto in_turn = [](csq::Index count, csq::Executor::Task task) {
    for (csq::Index i = 0; i < count; ++i) task(i);
  };
  csq::attention(mechanism, q, k, v, out, {.executor = {in_turn, 2}});
  csq::attention_backward(mechanism, query_heads, query_heads, query_heads, out_heads, normalizer_heads, query_heads,
                          {gradient, csq::heads_of(dk), csq::heads_of(dv)});

  // Matrices.
#elif defined(CASE_expression_as_input)      // csq: an expression has no memory: evaluate it into a matrix first
  csq::attention(mechanism, q + k, k, v, out);
#elif defined(CASE_expressions_as_inputs)    // csq: an expression has no memory: evaluate it into a matrix first
  out = csq::attention(mechanism, 2 * q, k * v, v.reverse());
#elif defined(CASE_expression_as_output)     // csq: an expression has no memory: evaluate it into a matrix first
  csq::attention(mechanism, q, k, v, q + k);
#elif defined(CASE_expression_as_heads)      // csq: an expression has no memory: evaluate it into a matrix first
  csq::attention(mechanism, csq::heads_of(q + k), csq::heads_of(k), csq::heads_of(v), out_heads);
#elif defined(CASE_temporary_as_output)      // csq: an output is a temporary, and what is written to it would be lost
  csq::attention(mechanism, q, k, v, csq::Matrix<float>(4, 4));
#elif defined(CASE_temporary_as_normalizer)  // csq: an output is a temporary, and what is written to it would be lost
  csq::attention(mechanism, q, k, v, out, csq::Matrix<float>());
#elif defined(CASE_temporary_as_heads)       // csq: a temporary matrix would be gone before its view is used
  csq::attention(mechanism, csq::heads_of(csq::Matrix<float>(4, 4)), csq::heads_of(k), csq::heads_of(v), out_heads);
#elif defined(CASE_temporary_reference_as_heads)  // csq: a temporary matrix would be gone before its view is used
  csq::heads_of(Eigen::Ref<const Eigen::MatrixXf>(q + k));
#elif defined(CASE_const_matrix_as_output)        // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, q, k, v, constant);
#elif defined(CASE_const_map_as_output)           // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, q, k, v, Eigen::Map<const Eigen::MatrixXf>(q.data(), 4, 4));
#elif defined(CASE_const_block_as_output)         // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, q, k, v, constant.topRows(4));
#elif defined(CASE_const_normalizer)              // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, q, k, v, out, constant);
#elif defined( \
    CASE_integer_matrices)  // csq: arrays are of float, double, Eigen::bfloat16 or Eigen::half: convert others first
  csq::attention(mechanism, of_int, of_int, of_int, of_int);
#elif defined(CASE_integer_matrices_returned)  // csq: arrays are of float, double, Eigen::bfloat16 or Eigen::half:
                                               // convert others first
  csq::attention(mechanism, of_int, of_int, of_int);
#elif defined(CASE_long_double_matrix)  // csq: arrays are of float, double, Eigen::bfloat16 or Eigen::half: convert
                                        // others first
  csq::attention(mechanism, csq::Matrix<long double>(4, 4), k, v, out);
#elif defined(CASE_float_and_double_matrices)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, q, of_double, v, out);
#elif defined(CASE_float_and_double_returned)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, q, of_double, v);
#elif defined(CASE_output_of_double)           // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, q, k, v, of_double, {.causal = true});
#elif defined(CASE_sparse_matrix)              // csq: matrices are dense: convert others first
  csq::attention(mechanism, sparse, k, v, out);
#elif defined(CASE_backward_of_expressions)    // csq: an expression has no memory: evaluate it into a matrix first
  csq::attention_backward(mechanism, q, k, v, out, normalizer, out - v,
                          {gradient, csq::heads_of(dk), csq::heads_of(dv)});
#elif defined(CASE_backward_float_and_double)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention_backward(mechanism, q, k, v, out, normalizer, of_double, {gradient, gradient, gradient});

  // Heads.
#elif defined( \
    CASE_integer_heads)  // csq: arrays are of float, double, Eigen::bfloat16 or Eigen::half: convert others first
  csq::attention(mechanism, int_heads, int_heads, int_heads, int_heads);
#elif defined(CASE_float_and_double_heads)        // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, query_heads, double_heads, query_heads, out_heads);
#elif defined(CASE_normalizer_of_double)          // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, query_heads, query_heads, query_heads, out_heads, csq::heads_of(of_double));
#elif defined(CASE_integer_gates)                 // csq: gates and biases are of float or double: convert others first
  csq::attention(mechanism, query_heads, query_heads, query_heads, out_heads, {.causal = true, .log_gate = int_heads});
#elif defined(CASE_const_heads_as_output)         // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, query_heads, query_heads, query_heads, query_heads);
#elif defined(CASE_const_heads_as_normalizer)     // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, query_heads, query_heads, query_heads, out_heads, query_heads);
#elif defined(CASE_backward_heads_of_two_types)   // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention_backward(mechanism, query_heads, query_heads, query_heads, out_heads, normalizer_heads, double_heads,
                          {gradient, gradient, gradient});
#elif defined(CASE_const_gradient)                // csq: a gradient is written to, so its elements cannot be const
  csq::attention_backward(mechanism, query_heads, query_heads, query_heads, out_heads, normalizer_heads, query_heads,
                          {query_heads, gradient, gradient});
#elif defined(CASE_gradient_of_double)            // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention_backward(mechanism, query_heads, query_heads, query_heads, out_heads, normalizer_heads, query_heads,
                          {csq::heads_of(of_double), gradient, gradient});
#elif defined(CASE_gradients_of_double)           // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention_backward(mechanism, query_heads, query_heads, query_heads, out_heads, normalizer_heads, query_heads,
                          csq::Gradients<double>{});

  // Penalties.
#elif defined(CASE_penalty_of_two_types)          // csq: element types do not mix: a call's arrays have one scalar type
  csq::bound_penalty(query_heads, double_heads, gradient, gradient);
#elif defined(CASE_penalty_into_const)            // csq: an output is written to, so its elements cannot be const
  csq::bound_penalty(query_heads, query_heads, gradient, query_heads);
#elif defined(CASE_sampled_penalty_of_two_types)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::sampled_bound_penalty(query_heads, double_heads, gradient, gradient, 2, 1);
#elif defined(CASE_rank_penalty_of_two_types)     // csq: element types do not mix: a call's arrays have one scalar type
  csq::rank_penalty(double_heads, gradient);
#elif defined(CASE_rank_penalty_into_const)       // csq: an output is written to, so its elements cannot be const
  csq::rank_penalty(query_heads, query_heads);

  // Sixteen bits.
#elif defined(CASE_bfloat_and_float)              // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, brain_heads, query_heads, brain_heads, brain_to);
#elif defined(CASE_bfloat_and_half)               // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, brain_heads, half_heads, brain_heads, brain_to);
#elif defined(CASE_bfloat_and_half_matrices)      // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, brain, half, brain);
#elif defined(CASE_float_output_of_bfloat)        // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, brain, brain, brain, out);
#elif defined(CASE_bfloat_normalizer)             // csq: normalisers and gates of 16-bit arrays are float
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_to, brain_slope);
#elif defined(CASE_double_normalizer_of_bfloat)   // csq: normalisers and gates of 16-bit arrays are float
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_to, csq::heads_of(of_double));
#elif defined(CASE_bfloat_normalizer_matrix)      // csq: normalisers and gates of 16-bit arrays are float
  csq::attention(mechanism, brain, brain, brain, brain_out, brain_gradient);
#elif defined( \
    CASE_float_arrays_bfloat_normalizer)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention(mechanism, query_heads, query_heads, query_heads, out_heads, brain_to);
#elif defined(CASE_bfloat_normalizer_in_backward)  // csq: normalisers and gates of 16-bit arrays are float
  csq::attention_backward(mechanism, brain_heads, brain_heads, brain_heads, brain_to, brain_heads, brain_heads,
                          {brain_slope, brain_slope, brain_slope});
#elif defined(CASE_const_bfloat_output)            // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_heads);
#elif defined(CASE_const_bfloat_normalizer)        // csq: an output is written to, so its elements cannot be const
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_to, query_heads);
#elif defined(CASE_const_bfloat_gradient)          // csq: a gradient is written to, so its elements cannot be const
  csq::attention_backward(mechanism, brain_heads, brain_heads, brain_heads, brain_to, normalizer_heads, brain_heads,
                          {brain_heads, brain_slope, brain_slope});
#elif defined(CASE_float_gradient_of_bfloat)    // csq: element types do not mix: a call's arrays have one scalar type
  csq::attention_backward(mechanism, brain_heads, brain_heads, brain_heads, brain_to, normalizer_heads, brain_heads,
                          {gradient, brain_slope, brain_slope});
#elif defined(CASE_bfloat_gradient_of_gates)    // csq: element types do not mix: a call's arrays have one scalar type
  csq::Gradients<Eigen::bfloat16> gradients{brain_slope, brain_slope, brain_slope, nullptr, brain_slope};
#elif defined(CASE_bfloat_gates)                // csq: gates and biases are of float or double: convert others first
  csq::attention(mechanism, brain_heads, brain_heads, brain_heads, brain_to, {.causal = true, .log_gate = brain_to});
#elif defined(CASE_half_bias)                   // csq: gates and biases are of float or double: convert others first
  csq::attention(csq::Softmax{}, half_heads, half_heads, half_heads, half_heads, {.bias = half_heads});
#elif defined(CASE_bfloat_partials)             // csq: these arrays are of float or double: convert others first
  csq::merge_partials(mechanism, brain_heads, brain_heads, brain_heads, brain_heads, brain_to, brain_slope);
#elif defined(CASE_bfloat_partials_into_float)  // csq: these arrays are of float or double: convert others first
  csq::merge_partials(mechanism, brain_heads, query_heads, brain_heads, query_heads, out_heads, normalizer_heads);
#elif defined(CASE_float_partials_and_bfloat)   // csq: element types do not mix: a call's arrays have one scalar type
  csq::merge_partials(mechanism, query_heads, query_heads, brain_heads, query_heads, out_heads, normalizer_heads);
#elif defined(CASE_penalty_of_bfloat_and_half)  // csq: element types do not mix: a call's arrays have one scalar type
  csq::bound_penalty(brain_heads, half_heads, brain_to, brain_slope);
#elif defined(CASE_bfloat_penalty_into_float)   // csq: element types do not mix: a call's arrays have one scalar type
  csq::rank_penalty(brain_heads, gradient);
#elif defined(CASE_temporary_executor)  // csq: an executor refers to what it is made of, which cannot be a temporary
  csq::attention(mechanism, q, k, v, out, {.executor = {[](csq::Index, csq::Executor::Task) {}, 2}});
#endif
}

}  // namespace
