// Vectors of the width that the including file gives, and the few operations on them that the kernels share.
// Everything takes references: a vector passed by value would follow the unit's calling convention, not the region's.

#include "csq/detail/simd/kernel/inlining.inl"

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(vector_bytes)));
  typedef float Unaligned __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  typedef std::int32_t Integer __attribute__((vector_size(vector_bytes)));
  typedef float Narrow __attribute__((vector_size(vector_bytes / 2)));
  typedef float NarrowUnaligned __attribute__((vector_size(vector_bytes / 2), aligned(4), may_alias));
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(vector_bytes)));
  typedef double Unaligned __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
  typedef std::int64_t Integer __attribute__((vector_size(vector_bytes)));
  typedef Vector Narrow;
  typedef Unaligned NarrowUnaligned;
};
template <class T>
using Vector = typename Lanes<T>::Vector;
template <class T>
using Integers = typename Lanes<T>::Integer;
using Doubles = Lanes<double>::Vector;

template <class T>
constexpr Index lanes = static_cast<Index>(vector_bytes / sizeof(T));

// moved() of base/storage.hpp, inside the target: what stands outside has the unit's own, and cannot be inlined here.
template <class T, class Number>
CSQ_INLINE T* element_at(T* data, Index elements, const Storage<Number>* storage) {
  if (storage == nullptr) return data + elements;
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(data) + elements * storage->bytes);
}
template <class T>
CSQ_INLINE const T* row_at(const Source<T>& rows, Index token) {
  return element_at(rows.data, token * rows.token_stride, rows.storage);
}
// Less what comes before.
template <class T>
CSQ_INLINE void skip_rows(Source<T>& rows, Index count) {
  rows.data = row_at(rows, count);
}
template <class T>
CSQ_INLINE void skip_columns(Source<T>& rows, Index count) {
  rows.data = element_at(rows.data, count * rows.dim_stride, rows.storage);
}

template <class T>
CSQ_INLINE void load(const T* memory, Vector<T>& vector) {
  vector = *reinterpret_cast<const typename Lanes<T>::Unaligned*>(memory);
}
template <class T>
CSQ_INLINE void store(T* memory, const Vector<T>& vector) {
  *reinterpret_cast<typename Lanes<T>::Unaligned*>(memory) = vector;
}
// value − 0 is value, −0 included, so this is a bare broadcast.
template <class T>
CSQ_INLINE void broadcast(T value, Vector<T>& vector) {
  vector = value - Vector<T>{};
}

template <class T, Index Shift, Index... Lane>
CSQ_INLINE void add_rotated(Vector<T>& vector, std::integer_sequence<Index, Lane...>) {
  vector += __builtin_shufflevector(vector, vector, ((Lane + Shift) % lanes<T>)...);
}
template <class T>
CSQ_INLINE T sum_of_lanes(Vector<T> vector) {
  using All = std::make_integer_sequence<Index, lanes<T>>;
  if constexpr (lanes<T> >= 16) add_rotated<T, 8>(vector, All{});
  if constexpr (lanes<T> >= 8) add_rotated<T, 4>(vector, All{});
  if constexpr (lanes<T> >= 4) add_rotated<T, 2>(vector, All{});
  if constexpr (lanes<T> >= 2) add_rotated<T, 1>(vector, All{});
  return vector[0];
}
