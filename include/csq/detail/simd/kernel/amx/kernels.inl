// The kernels of a matrix unit, written once. Included inside a target region and a namespace that has the float kernels
// with 64-byte vectors, and behind a file that gives the unit's instructions: tile.inl, or what a test puts in its place.

static_assert(vector_bytes == 64, "a row of a tile is a vector");

// clang-format off
#include "csq/detail/simd/kernel/amx/product.inl"
#include "csq/detail/simd/kernel/amx/convert.inl"
#include "csq/detail/simd/kernel/amx/features.inl"
#include "csq/detail/simd/kernel/amx/absorb.inl"
#include "csq/detail/simd/kernel/amx/read.inl"
#include "csq/detail/simd/kernel/amx/direct.inl"
// clang-format on

template <class T>
inline constexpr MatrixKernelSet<T> matrix_kernel_set = {
    query_tiles<T>,   key_tiles<T>,   value_pair_tiles<T>, value_lane_tiles<T>, matrix_absorb<T>,
    matrix_read<T>, matrix_direct<T>, move_sums<T>,
};

#undef CSQ_INLINE
#undef CSQ_UNROLL
