// Views of the caller's arrays as the engines take them: elements are read and written in T, whatever type they lie in.
#pragma once

#include <span>

#include "csq/detail/base/storage.hpp"
#include "csq/heads.hpp"

namespace CSQ_CODE::detail {

// One head.
template <class T>
struct StoredHead {
  using Number = std::remove_const_t<T>;

  T* data = nullptr;  // stepped by `at` alone
  Index tokens = 0, dim = 0;
  Index token_stride = 0, dim_stride = 1;
  const Storage<Number>* storage = nullptr;

  T* at(Index token, Index axis = 0) const { return moved(data, token * token_stride + axis * dim_stride, storage); }
  Number operator()(Index token, Index axis) const {
    T* const element = at(token, axis);
    if (storage == nullptr) return *element;
    Number number;
    storage->load(element, 1, 1, &number);
    return number;
  }
  void write(Index token, Index axis, Number number) const {
    T* const element = at(token, axis);
    if (storage == nullptr)
      *element = number;
    else
      storage->store(&number, 1, element, 1);
  }
};

// [batch, heads, tokens, dim].
template <class T>
struct StoredHeads {
  using Number = std::remove_const_t<T>;
  using Shape = typename Heads<T>::Shape;

  T* data = nullptr;
  Shape shape{}, stride{};
  const Storage<Number>* storage = nullptr;

  StoredHeads() = default;
  StoredHeads(const Heads<T>& heads) : data(heads.data), shape(heads.shape), stride(heads.stride) {}
  StoredHeads(T* data_in, Shape shape_in, Shape stride_in, const Storage<Number>* storage_in = nullptr)
      : data(data_in), shape(shape_in), stride(stride_in), storage(storage_in) {}
  template <class Other>
  requires(std::is_same_v<const Other, T> && !std::is_const_v<Other>) StoredHeads(const StoredHeads<Other>& other)
      : data(other.data), shape(other.shape), stride(other.stride), storage(other.storage) {}

  Index batch() const { return shape[0]; }
  Index heads() const { return shape[1]; }
  Index tokens() const { return shape[2]; }
  Index dim() const { return shape[3]; }
  bool empty() const { return shape[0] == 0 || shape[1] == 0 || shape[2] == 0 || shape[3] == 0; }
  StoredHead<T> head(Index batch_index, Index head_index) const {
    return {moved(data, batch_index * stride[0] + head_index * stride[1], storage),
            shape[2],
            shape[3],
            stride[2],
            stride[3],
            storage};
  }
};

template <class T>
Index element_bytes(const Heads<T>&) {
  return static_cast<Index>(sizeof(T));
}
template <class T>
Index element_bytes(const StoredHeads<T>& view) {
  return view.storage == nullptr ? static_cast<Index>(sizeof(T)) : view.storage->bytes;
}

// What files know a type by.
template <class T>
Index type_code(const Storage<T>* storage) {
  return storage == nullptr ? static_cast<Index>(sizeof(T)) : storage->code;
}

// Gradients<T> of arrays that may lie in another type.
template <class T>
struct StoredGradients {
  StoredHeads<T> query, key, value;
  double* shift = nullptr;
  Heads<T> log_gate{};
  std::span<double> sink{};
};

}  // namespace CSQ_CODE::detail
