// The backward kernels of a matrix unit, written once. Included where kernels.inl of this folder was.

// clang-format off
#include "csq/detail/simd/kernel/inlining.inl"
#include "csq/detail/simd/kernel/amx/multiply.inl"
#include "csq/detail/simd/kernel/amx/scale_gradient.inl"
#include "csq/detail/simd/kernel/amx/pull_back.inl"
#include "csq/detail/simd/kernel/amx/direct_backward.inl"
// clang-format on

template <class T>
inline constexpr MatrixBackwardKernelSet<T> matrix_backward_kernel_set = {
    matrix_scale_gradient<T>,
    matrix_are_finite<T>,
    matrix_direct_backward<T>,
    matrix_pull_back<T>,
};

#undef CSQ_INLINE
#undef CSQ_UNROLL
