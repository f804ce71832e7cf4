// What the backward pass knows of one block of queries or keys, and how the gradients of a head leave it.
//
// With G = ∂L/∂O: r_i = G_i/δ_i (Softmax: G_i, its weights being normalised), dot_i = r_i·o_i, and
//   ∂L/∂w_ij = r_i·v_j − dot_i     ∂L/∂v_j = Σ_i w_ij r_i     ∂L/∂s_ij = w'(s_ij)·(r_i·v_j − dot_i)
// A row with δ_i = 0 (or that sees nothing) has no gradient; one with δ_i < 0, NaN or so small that weights have
// underflowed (output.hpp) has NaN.
#pragma once

#include <limits>

#include "csq/detail/block/adjustment.hpp"
#include "csq/detail/block/output.hpp"
#include "csq/detail/simd/matrix_backward_kernel_set.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// A block of queries: packed and as rows, and the gradient of its output likewise.
template <class T>
struct BackwardQueryBlock {
  T* packed = nullptr;
  T* rows = nullptr;                       // [B][padded d], centred and scaled
  T* gradient_packed = nullptr;            // r, and −dot as the row of the normaliser: [dᵥ+1][B]
  T* gradient_rows = nullptr;              // r, [B][padded dᵥ]
  T* dot = nullptr;                        // [B]
  T* log_normalizer = nullptr;             // [B], in units of ln 2
  T *gate = nullptr, *gate_low = nullptr;  // [B], the sums of gates, where there are any

  static Index size(Index key_dim, Index value_dim) {
    constexpr Index block = simd::block_tokens<T>;
    return RowPacker<T>::packed_size(key_dim) + RowPacker<T>::scratch_rows(key_dim) +
           RowPacker<T>::packed_size(value_dim) + RowPacker<T>::scratch_rows(value_dim) + 4 * block;
  }
  static BackwardQueryBlock at(T* memory, Index key_dim, Index value_dim) {
    BackwardQueryBlock block;
    block.packed = memory;
    block.rows = block.packed + RowPacker<T>::packed_size(key_dim);
    block.gradient_packed = block.rows + RowPacker<T>::scratch_rows(key_dim);
    block.gradient_rows = block.gradient_packed + RowPacker<T>::packed_size(value_dim);
    block.dot = block.gradient_rows + RowPacker<T>::scratch_rows(value_dim);
    block.log_normalizer = block.dot + simd::block_tokens<T>;
    block.gate = block.log_normalizer + simd::block_tokens<T>;
    block.gate_low = block.gate + simd::block_tokens<T>;
    return block;
  }
};

// A block of keys and values, packed (values with a row of ones) and as rows; rows of values where they are absorbed.
template <class T>
struct BackwardKeyBlock {
  T* packed = nullptr;
  T* rows = nullptr;
  T* value_packed = nullptr;
  T* value_rows = nullptr;

  static Index size(Index key_dim, Index value_dim, bool has_value_rows) {
    return RowPacker<T>::packed_size(key_dim) + RowPacker<T>::scratch_rows(key_dim) +
           RowPacker<T>::packed_size(value_dim) + (has_value_rows ? RowPacker<T>::scratch_rows(value_dim) : 0);
  }
  static BackwardKeyBlock at(T* memory, Index key_dim, Index value_dim, bool has_value_rows) {
    BackwardKeyBlock block;
    block.packed = memory;
    block.rows = block.packed + RowPacker<T>::packed_size(key_dim);
    block.value_packed = block.rows + RowPacker<T>::scratch_rows(key_dim);
    if (has_value_rows) block.value_rows = block.value_packed + RowPacker<T>::packed_size(value_dim);
    return block;
  }
};

// Packs rows that need no centring; leaves them as rows too, unless rows are scratch.
template <class T>
void pack_plain(const simd::Source<T>& source, T* rows, bool keeps_rows, T* packed) {
  simd::PackBlock<T> block;
  block.source = source;
  block.rows = rows;
  block.keeps_rows = keeps_rows;
  block.packed = packed;
  simd::kernels<T>().pack(block);
}

// A normaliser in the units of the kernels' weights.
template <class T>
T weight_sum(const Problem<T>& problem, T normalizer) {
  const int exponent = problem.weight.exponent;
  return exponent == 0 ? normalizer : static_cast<T>(std::ldexp(static_cast<double>(normalizer), -exponent));
}
// What a normaliser must be at least, if it is not 0: polynomial weights of less have underflowed.
template <class T>
T least_of(const Problem<T>& problem) {
  return problem.weight.is_polynomial() ? least_normalizer<T>(problem.keys()) : std::numeric_limits<T>::denorm_min();
}

// What G of some rows is multiplied by, and their log-sum-exp in units of ln 2. Row r has the normaliser
// normalizer_of(r), in the units of the kernels' weights.
template <class T, class NormalizerOf>
void read_normalizers(const Problem<T>& problem, Index count, const NormalizerOf& normalizer_of, T* factor,
                      T* log_normalizer) {
  constexpr double log2_e = 1.442695040888963407359924681001892137;
  const bool exponential = problem.weight.kind == Weight::Kind::exponential;
  const T least = least_of(problem);
  for (Index row = 0; row < count; ++row) {
    const T value = normalizer_of(row);
    if (exponential) {
      const bool empty = is_minus_infinity(value);
      factor[row] = empty ? T(0) : T(1);
      log_normalizer[row] = empty ? T(0) : static_cast<T>(static_cast<double>(value) * log2_e);
    } else {
      factor[row] = value >= least ? 1 / value : value == 0 ? T(0) : std::numeric_limits<T>::quiet_NaN();
      log_normalizer[row] = 0;
    }
  }
}
// The same from the caller's normalisers of rows [first, first + count).
template <class T>
void read_normalizers(const Problem<T>& problem, const Head<const T>& normalizer, Index first, Index count, T* factor,
                      T* log_normalizer) {
  read_normalizers(
      problem, count, [&](Index row) { return weight_sum(problem, normalizer(first + row, 0)); }, factor,
      log_normalizer);
}

// Rows [first, first + count) of one query head, whose outputs and normalisers (in the units of the kernels' weights)
// forward has left.
template <class T, class NormalizerOf>
void pack_query_block(const BackwardProblem<T>& problem, const RowPacker<T>& packer, Index batch, Index head,
                      Index first, Index count, const simd::Source<T>& output, const NormalizerOf& normalizer_of,
                      double* sums, const BackwardQueryBlock<T>& block) {
  constexpr Index size = simd::block_tokens<T>;
  packer.pack(first, count, block.rows, sums, block.packed);
  copy_gates(problem.forward, packer, first, count, block.gate, block.gate_low);
  T factor[std::size_t{size}];
  read_normalizers(problem.forward, count, normalizer_of, factor, block.log_normalizer);
  std::fill(block.log_normalizer + count, block.log_normalizer + size, T(0));
  std::fill(block.dot + count, block.dot + size, T(0));

  simd::ScaleGradient<T> scale;
  scale.gradient = rows_of(problem.output_gradient.head(batch, head), first, count);
  scale.output = output;
  scale.factor = factor;
  scale.value_stride = simd::padded_columns<T>(problem.forward.value_dim());
  scale.rows = block.gradient_rows;
  scale.dot = block.dot;
  if (problem.forward.matrix() != nullptr && problem.matrix != nullptr)
    problem.matrix->scale_gradient(scale);
  else
    simd::backward_kernels<T>().scale_gradient(scale);

  const simd::Source<T> rows{block.gradient_rows, scale.value_stride, 1, count, problem.forward.value_dim()};
  pack_plain(rows, block.gradient_rows, true, block.gradient_packed);
  T* normalizer_row = block.gradient_packed + problem.forward.value_dim() * size;
  for (Index row = 0; row < count; ++row) normalizer_row[row] = -block.dot[row];
}

template <class T>
void pack_query_block(const BackwardProblem<T>& problem, const RowPacker<T>& packer, Index batch, Index head,
                      Index first, Index count, double* sums, const BackwardQueryBlock<T>& block) {
  const Head<const T> normalizer = problem.normalizer.head(batch, head);
  pack_query_block(
      problem, packer, batch, head, first, count, rows_of(problem.output.head(batch, head), first, count),
      [&](Index row) { return weight_sum(problem.forward, normalizer(first + row, 0)); }, sums, block);
}

// Keys and values [first, first + count) of one key head. `copy` is scratch for rows of values.
template <class T>
void pack_key_block(const BackwardProblem<T>& problem, const RowPacker<T>& packer, Index batch, Index key_head,
                    Index first, Index count, double* sums, T* copy, const BackwardKeyBlock<T>& block) {
  packer.pack(first, count, block.rows, sums, block.packed);
  const bool keeps_rows = block.value_rows != nullptr;
  pack_plain(rows_of(problem.forward.value.head(batch, key_head), first, count), keeps_rows ? block.value_rows : copy,
             keeps_rows, block.value_packed);
}

// The pairs of a block of queries with a block of keys: everything but where the gradients go. `packer`: the queries'.
template <class T>
simd::DirectBackwardBlock<T> backward_pairs(const BackwardProblem<T>& problem, const simd::KernelWeight& weight,
                                            const RowPacker<T>& packer, const BackwardQueryBlock<T>& query,
                                            Index first_query, Index queries, const BackwardKeyBlock<T>& key,
                                            Index first_key, Index keys) {
  simd::DirectBackwardBlock<T> block;
  block.query = query.packed;
  block.query_rows = query.rows;
  block.key = key.packed;
  block.key_rows = key.rows;
  block.value = key.value_packed;
  block.gradient = query.gradient_packed;
  block.gradient_rows = query.gradient_rows;
  block.dot = query.dot;
  block.log_normalizer = query.log_normalizer;
  block.queries = queries;
  block.keys = keys;
  block.key_dim = problem.forward.key_dim();
  block.value_dim = problem.forward.value_dim();
  block.diagonal = problem.forward.visibility().diagonal(first_query, first_key, keys);
  block.band_start = problem.forward.visibility().band_start(first_query, first_key);
  block.weight = weight;
  block.adjust = adjustment_of(problem.forward, packer, first_query, first_key, {query.gate, query.gate_low});
  return block;
}

// ∂L/∂x of one head of q or k from the gradient of its centred, scaled rows: φ's slope, the factor, the adjoint of the
// centring, and out. `rows` [blocks·B][padded d] is used up; sums: scratch of padded d doubles.
template <class T>
void write_input_gradient(const RowPacker<T>& packer, double factor, T* rows, double* sums, T* packed, T* copy,
                          const StoredHead<T>& gradient) {
  constexpr Index size = simd::block_tokens<T>;
  const Index length = packer.length, dim = gradient.dim;
  const Index stride = simd::padded_columns<T>(dim);
  const Index padded = simd::padded_columns<double>(dim);
  const Index blocks = block_count(length, size);
  if (packer.elu) {
    for (Index block = 0; block < blocks; ++block) {
      const Index count = smaller(size, length - block * size);
      packer.pack(block * size, count, copy, sums, packed);
      simd::backward_kernels<T>().multiply_elu_slope(count * stride, copy, rows + block * size * stride);
    }
  }
  std::fill_n(sums, padded, 0.0);
  if (packer.means.centering == Centering::sequence && length > 0) {
    for (Index block = 0; block < blocks; ++block)
      simd::kernels<T>().add_rows({rows + block * size * stride, stride, 1, smaller(size, length - block * size), dim},
                                  sums);
    for (Index a = 0; a < padded; ++a) sums[a] /= static_cast<double>(length);
  }
  for (Index index = blocks - 1; index >= 0; --index) {
    const Index first = index * size;
    simd::UncenterBlock<T> block;
    block.rows = rows + first * stride;
    block.tokens = smaller(size, length - first);
    block.dim = dim;
    if (packer.means.centering == Centering::sequence) block.mean = sums;
    if (is_prefix(packer.means.centering)) block.suffix_sum = sums;
    block.count = packer.means.history_count + static_cast<double>(first);
    block.exclusive = packer.means.centering == Centering::prefix_exclusive;
    block.factor = factor;
    block.output = gradient.at(first);
    block.token_stride = gradient.token_stride;
    block.dim_stride = gradient.dim_stride;
    block.storage = gradient.storage;
    simd::backward_kernels<T>().uncenter(block);
  }
  for (Index token = length; token < gradient.tokens; ++token)
    for (Index a = 0; a < dim; ++a) gradient.write(token, a, 0);
}

// Rows [first, first + count) of a gradient that needs nothing more than a factor.
template <class T>
void write_rows_plain(const T* rows, Index first, Index count, double factor, const StoredHead<T>& gradient) {
  simd::UncenterBlock<T> block;
  block.rows = rows;
  block.tokens = count;
  block.dim = gradient.dim;
  block.factor = factor;
  block.output = gradient.at(first);
  block.token_stride = gradient.token_stride;
  block.dim_stride = gradient.dim_stride;
  block.storage = gradient.storage;
  simd::backward_kernels<T>().uncenter(block);
}

// What turns the gradient of packed q and k into that of q and k: α for q. Softmax's packed q holds α·log₂e.
template <class T>
double query_gradient_factor(const Problem<T>& problem) {
  return problem.weight.kind == Weight::Kind::feature_product ? 1 : problem.scale;
}
template <class T>
double key_gradient_factor(const Problem<T>& problem) {
  constexpr double ln_2 = 0.693147180559945309417232121458176568;
  return problem.weight.kind == Weight::Kind::exponential ? ln_2 : 1;
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail
