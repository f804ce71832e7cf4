// The kernels, written once. Included once per instruction set, inside a target region and a namespace of its own, by a
// file that defines vector_bytes, accumulator_vectors (registers of the tile), widest_tile and the panel heights.
// No Eigen and no standard algorithm in here: they would be compiled for the unit's flags, not for the region's.

// The contract of those numbers, with the block, its padding and the slices of kernel_set.hpp.
static_assert(64 % vector_bytes == 0, "rows are padded to 64 bytes: whole vectors must fill them");
static_assert(sizeof(float) * block_tokens<float> % vector_bytes == 0, "a block is whole vectors of tokens");
static_assert(widest_tile == 2 || widest_tile == 4, "next_width knows tiles of one, two, three or four columns");
static_assert(widest_tile == 4 || 2 * vector_bytes <= 64, "tiles of whole pairs of columns must fill rows of 64 bytes");
static_assert(accumulator_vectors % 2 == 0 && accumulator_vectors % 3 == 0 && accumulator_vectors % widest_tile == 0,
              "the accumulators are divided evenly over a tile's columns");
static_assert(slice_features % (accumulator_vectors / 2) == 0 && slice_features % (accumulator_vectors / 3) == 0,
              "tiles of every height fill a slice, and with it padded tokens");
static_assert(absorb_panel % slice_features == 0, "panels of a slice end where tiles do");
static_assert(absorb_panel <= panel_features && read_panel <= panel_features, "a panel fits its scratch");

// clang-format off
#include "csq/detail/simd/kernel/vector.inl"
#include "csq/detail/simd/kernel/product.inl"
#include "csq/detail/simd/kernel/visible.inl"
#include "csq/detail/simd/kernel/exponential.inl"
#include "csq/detail/simd/kernel/weights.inl"
#include "csq/detail/simd/kernel/adjust.inl"
#include "csq/detail/simd/kernel/pack.inl"
#include "csq/detail/simd/kernel/sixteen.inl"
#include "csq/detail/simd/kernel/features.inl"
#include "csq/detail/simd/kernel/row_sums.inl"
#include "csq/detail/simd/kernel/read_rows.inl"
#include "csq/detail/simd/kernel/direct.inl"
#include "csq/detail/simd/kernel/one_query.inl"
#include "csq/detail/simd/kernel/direct_backward.inl"
#include "csq/detail/simd/kernel/pull_back.inl"
#include "csq/detail/simd/kernel/short.inl"
// clang-format on

template <class T>
inline constexpr KernelSet<T> kernel_set = {
    add_rows<T>,  pack<T>,       pack_values<T>, absorb<T>,       read<T>, direct<T>,
    few_scores<T>, center_scores<T>, few_values<T>, short_head<T>, divide<T>,      square_norms<T>, add<T>, scale_rows<T>, decays<T>,
};

template <class T>
inline constexpr SummaryKernelSet<T> summary_kernel_set = {read_rows<T>};

template <class T>
inline constexpr BackwardKernelSet<T> backward_kernel_set = {
    scale_gradient<T>,     scale_tokens<T>, direct_backward<T>, short_head_backward<T>, pull_back<T>,        add_transposed<T>,
    multiply_elu_slope<T>, uncenter<T>,        score_statistics<T>,
};

#undef CSQ_INLINE
#undef CSQ_UNROLL
