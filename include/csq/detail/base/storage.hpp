// Arrays whose elements lie in memory in another type than the one that is computed with: 16 bits beside float.
//
// Nothing but packing, storing and decoding looks at it: a view of such an array is a pointer that only `moved` steps,
// and the two functions of its Storage read and write runs of elements, converted. A view of the type itself has none.
#pragma once

#include <cstddef>
#include <type_traits>

#include "csq/detail/base/arithmetic.hpp"

// Eigen's types by name: the views of csq/heads.hpp need no Eigen.
namespace Eigen {
struct bfloat16;
struct half;
}  // namespace Eigen

namespace CSQ_CODE::detail {

namespace simd {
template <class T>
struct FewQueriesBlock;
template <class T>
struct MatrixKernelSet;
template <class T>
struct MatrixBackwardKernelSet;
}  // namespace simd

// What arrays of an element type are computed in.
template <class Element>
struct ComputedType {
  using type = Element;
};
template <>
struct ComputedType<Eigen::bfloat16> {
  using type = float;
};
template <>
struct ComputedType<Eigen::half> {
  using type = float;
};
template <class Element>
using Computed = typename ComputedType<std::remove_const_t<Element>>::type;
template <class Element>
inline constexpr bool is_computed_in_itself = std::is_same_v<std::remove_const_t<Element>, Computed<Element>>;

template <class T>
struct Storage {
  std::int64_t bytes = 0;  // of an element
  std::int64_t code = 0;   // that files know the type by
  // `count` elements, `stride` elements apart.
  void (*load)(const void* from, std::int64_t stride, std::int64_t count, T* to) = nullptr;
  void (*store)(const T* from, std::int64_t count, void* to, std::int64_t stride) = nullptr;
  // KernelSet's, of keys and of values in this type: a few queries wait for memory, and read it where it lies.
  void (*few_scores)(const simd::FewQueriesBlock<T>& block) = nullptr;
  void (*few_values)(const simd::FewQueriesBlock<T>& block) = nullptr;
  const simd::MatrixKernelSet<T>* matrix = nullptr;  // of a unit that multiplies this type
};

// The address so many elements on; `storage` null: elements are of T.
template <class T, class Number>
CSQ_ALWAYS_INLINE T* moved(T* data, std::int64_t elements, const Storage<Number>* storage) {
  if (storage == nullptr) return data + elements;
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(data) + elements * storage->bytes);
}

}  // namespace CSQ_CODE::detail
