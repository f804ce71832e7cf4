// The part of a summary that a matrix unit multiplies: pairs of dimensions, up to a whole number of slices' units of
// features, so that what is left, degrees 1 and 0 above all, begins where tiles of float do.
#pragma once

#include "csq/detail/factored/summary.hpp"
#include "csq/detail/simd/matrix_backward_kernel_set.hpp"

namespace CSQ_CODE::detail {

// Features from here on are float's.
inline Index end_of_unit(const simd::FeatureMap& map) {
  return map.pair_count() / simd::slice_features * simd::slice_features;
}

using simd::BlockRun;

template <class T>
void set_features(simd::MatrixFeatures<T>& block, const SummarySlice<T>& slice, const BlockRun& run, const T* packed,
                  Index packed_step, std::byte* scratch) {
  block = {run, packed, packed_step, slice.map, slice.first, slice.last, scratch};
}

// S ← keep·S + Φ(X)ᵀ [Y, r]; `values`: tiles of Y.
template <class T>
void absorb_on_unit(const simd::MatrixKernelSet<T>& matrix, const SummarySlice<T>& slice, const BlockRun& run,
                    const T* packed, Index packed_step, const simd::BFloat16Bits* values, Index value_step,
                    const T* row_weights, Index row_weight_step, T keep, std::byte* scratch) {
  if (slice.first == slice.last || run.blocks == 0) return;
  simd::MatrixAbsorb<T> block;
  set_features(block, slice, run, packed, packed_step, scratch);
  block.values = values;
  block.value_step = value_step;
  block.row_weights = row_weights;
  block.row_weight_step = row_weight_step;
  block.value_stride = slice.value_stride;
  block.keep = keep;
  block.summary = slice.summary;
  block.normalizer = slice.normalizer;
  matrix.absorb(block);
}

// Sums, in tiles, and δ += Φ(Q) S.
template <class T>
void read_on_unit(const simd::MatrixKernelSet<T>& matrix, const SummarySlice<T>& slice, const Quadratic& c,
                  const BlockRun& run, const T* packed, Index packed_step, T* sums, Index sum_step, T* normalizer,
                  Index normalizer_step, std::byte* scratch) {
  if (slice.first == slice.last || run.blocks == 0) return;
  simd::MatrixRead<T> block;
  set_features(block, slice, run, packed, packed_step, scratch);
  block.sums = sums;
  block.sum_step = sum_step;
  block.normalizer_rows = normalizer;
  block.normalizer_step = normalizer_step;
  block.value_stride = slice.value_stride;
  block.coefficients = slice.query_coefficients(c);
  block.summary = slice.summary;
  block.normalizer = slice.normalizer;
  matrix.read(block);
}

// ∂X̃ += J_Φ(X)ᵀ (Y Sᵀ), all degrees, of one block; `target`: tiles of Y, and its last numbers.
template <class T>
void pull_back_on_unit(const simd::MatrixBackwardKernelSet<T>& matrix, const SummarySlice<T>& slice, const Quadratic& c,
                       const T* packed, Index tokens, Index value_dim, const simd::BFloat16Bits* target,
                       const T* target_normalizer, T* gradient, T* shift, std::byte* scratch) {
  if (slice.first == slice.last) return;
  simd::MatrixPullBack<T> block;
  set_features(block, slice, {1, tokens, tokens}, packed, 0, scratch);
  block.target = target;
  block.target_normalizer = target_normalizer;
  block.value_dim = value_dim;
  block.coefficients = slice.query_coefficients(c);
  block.shift_constant = static_cast<T>(c.c1);
  block.summary = slice.summary;
  block.normalizer = slice.normalizer;
  block.gradient = gradient;
  block.shift = shift;
  matrix.pull_back(block);
}

}  // namespace CSQ_CODE::detail
