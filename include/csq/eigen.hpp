// Eigen's matrices as heads, and attention on them.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before what only a C++20 compiler has.
#include <Eigen/Core>
#include <concepts>
#include <string_view>
#include <type_traits>
#include <utility>

#include "csq/attention.hpp"
#include "csq/attention_backward.hpp"

namespace CSQ_CODE {

/// Row-major. Not aligned by Eigen: how it aligns, and so frees, follows a unit's flags, and units of one program that
/// differ in them would free each other's matrices. Kernels ask for no alignment.
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic,
                             static_cast<int>(Eigen::RowMajor) | static_cast<int>(Eigen::DontAlign)>;

namespace detail {

// The class of Eigen's own that an object is, or is derived from: VectorBlock is a Block, and so on.
template <class Base>
std::type_identity<Base> eigen_base(const Eigen::EigenBase<Base>&);
template <class Object>
using EigenBaseOf = typename decltype(eigen_base(std::declval<const std::remove_cvref_t<Object>&>()))::type;

template <class Object>
concept EigenObject = requires(const std::remove_cvref_t<Object>& object) {
  eigen_base(object);
};
// An object with rows and columns of its own, not a view of another's.
template <class Object>
concept EigenMatrix = std::derived_from<EigenBaseOf<Object>, Eigen::PlainObjectBase<EigenBaseOf<Object>>>;
// A matrix, map or block, not an expression.
template <class Object>
concept EigenInMemory = requires(Object& object) {
  object.data();
  object.innerStride();
  object.outerStride();
};

template <class Object>
inline constexpr bool is_gone_at_the_semicolon = !std::is_lvalue_reference_v<Object> && EigenMatrix<Object>;
// Eigen::Ref<const …> may hold a copy.
template <class Class, int options, class Stride>
inline constexpr bool is_gone_at_the_semicolon<Eigen::Ref<const Class, options, Stride>> = true;

// Objects as they are passed: Object& or Object.
template <class... Objects>
constexpr bool have_memory() {
  constexpr bool dense = (std::derived_from<EigenBaseOf<Objects>, Eigen::DenseBase<EigenBaseOf<Objects>>> && ...);
  static_assert(dense, "csq: matrices are dense: convert others first");
  constexpr bool in_memory = (EigenInMemory<std::remove_reference_t<Objects>> && ...);
  static_assert(!dense || in_memory, "csq: an expression has no memory: evaluate it into a matrix first");
  return dense && in_memory;
}

// What the pointer of an object in memory points to: const where it cannot be written to.
template <class Object>
using ElementOf = std::remove_pointer_t<decltype(std::declval<std::remove_reference_t<Object>&>().data())>;

// Read<…>: objects that are passed as const references.
template <class... Inputs, class... Outputs, class... Known, class... Sums>
constexpr bool objects_can_go_together(Read<const Inputs&...>, Written<Outputs...>, ReadComputed<const Known&...> = {},
                                       WrittenComputed<Sums...> = {}) {
  if constexpr (have_memory<const Inputs&..., Outputs..., const Known&..., Sums...>()) {
    constexpr bool stay = !((is_gone_at_the_semicolon<Outputs> || ...) || (is_gone_at_the_semicolon<Sums> || ...));
    static_assert(stay, "csq: an output is a temporary, and what is written to it would be lost");
    if constexpr (stay)
      return can_go_together(Read<ElementOf<const Inputs>...>{}, Written<ElementOf<Outputs>...>{},
                             ReadComputed<ElementOf<const Known>...>{}, WrittenComputed<ElementOf<Sums>...>{});
  }
  return false;
}

}  // namespace detail

/// One head seen in any dense Eigen object that has memory (matrix, map, block, transpose, array), of either storage
/// order: [1, 1, rows, columns].
template <detail::EigenObject Object>
auto heads_of(Object&& object) {
  if constexpr (detail::have_memory<Object>()) {
    static_assert(!detail::is_gone_at_the_semicolon<Object>,
                  "csq: a temporary matrix would be gone before its view is used");
    const Index inner = object.innerStride(), outer = object.outerStride();
    constexpr bool is_row_major = std::remove_cvref_t<Object>::IsRowMajor;
    const Index row = is_row_major ? outer : inner, column = is_row_major ? inner : outer;
    return Heads<detail::ElementOf<Object>>(object.data(), {1, 1, object.rows(), object.cols()},
                                            {row * object.rows(), row * object.rows(), row, column});
  } else {
    return Heads<const typename detail::EigenBaseOf<Object>::Scalar>();
  }
}

namespace detail {

// Calls with the heads of `output`. A matrix of another size is replaced once the call has succeeded; what cannot take
// another size, a map or a block, is an error of the call.
template <class Output, class Call>
void with_size(Output& output, Index rows, Index columns, const Call& call) {
  if constexpr (EigenMatrix<Output>) {
    using Class = EigenBaseOf<Output>;
    constexpr Index fixed_rows = Class::RowsAtCompileTime, fixed_columns = Class::ColsAtCompileTime;
    constexpr Index most_rows = Class::MaxRowsAtCompileTime, most_columns = Class::MaxColsAtCompileTime;
    const auto fits = [](Index size, Index fixed, Index most) {
      return (fixed == Eigen::Dynamic || fixed == size) && (most == Eigen::Dynamic || size <= most);
    };
    if ((output.rows() != rows || output.cols() != columns) && fits(rows, fixed_rows, most_rows) &&
        fits(columns, fixed_columns, most_columns)) {
      Class sized(rows, columns);
      call(heads_of(sized));
      static_cast<Class&>(output) = std::move(sized);
      return;
    }
  }
  call(heads_of(output));
}

template <class Output, class... Inputs>
void require_no_input(std::string_view name, const Output& output, const Inputs&... inputs) {
  const void* const memory = output.data();  // of another element type than that of the inputs, perhaps
  require(memory == nullptr || ((memory != static_cast<const void*>(inputs.data())) && ...), name,
          ": an output may not be one of the inputs");
}

}  // namespace detail

/// One head: q n×d, k m×d, v m×dᵥ are dense Eigen objects with memory (not expressions) of one scalar type, each of any
/// storage order. `out` becomes n×dᵥ, `normalizer` n×1: matrices take that size, maps and blocks need to have it;
/// neither may be one of the inputs. Errors and cost: csq/attention.hpp.
///   csq::attention(csq::Softmax{}, q, k, v, out, {.causal = true});
template <class Mechanism, detail::EigenObject Query, detail::EigenObject Key, detail::EigenObject Value,
          detail::EigenObject Output>
void attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, Output&& out,
               const Options& options = {}) {
  if constexpr (detail::objects_can_go_together(detail::Read<const Query&, const Key&, const Value&>{},
                                                detail::Written<Output>{})) {
    detail::require_no_input("out", out, q, k, v);
    detail::with_size(out, q.rows(), v.cols(), [&](auto result) {
      attention(mechanism, heads_of(q), heads_of(k), heads_of(v), result, options);
    });
  }
}
template <class Mechanism, detail::EigenObject Query, detail::EigenObject Key, detail::EigenObject Value,
          detail::EigenObject Output, detail::EigenObject Statistic>
void attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, Output&& out,
               Statistic&& normalizer, const Options& options = {}) {
  if constexpr (detail::objects_can_go_together(detail::Read<const Query&, const Key&, const Value&>{},
                                                detail::Written<Output>{}, detail::ReadComputed<>{},
                                                detail::WrittenComputed<Statistic>{})) {
    detail::require_no_input("out", out, q, k, v);
    detail::require_no_input("normalizer", normalizer, q, k, v);
    detail::require(static_cast<const void*>(&out) != static_cast<const void*>(&normalizer),
                    "normalizer: an output may not be another argument");
    detail::with_size(out, q.rows(), v.cols(), [&](auto result) {
      detail::with_size(normalizer, q.rows(), Index{1}, [&](auto statistic) {
        attention(mechanism, heads_of(q), heads_of(k), heads_of(v), result, statistic, options);
      });
    });
  }
}
template <class Mechanism, detail::EigenObject Query, detail::EigenObject Key, detail::EigenObject Value>
auto attention(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, const Options& options = {}) {
  Matrix<typename detail::EigenBaseOf<Query>::Scalar> out;
  attention(mechanism, q, k, v, out, options);
  return out;
}

/// Backward for one head; the gradients are given as heads: {heads_of(dq), heads_of(dk), heads_of(dv), &dshift}.
template <class Mechanism, detail::EigenObject Query, detail::EigenObject Key, detail::EigenObject Value,
          detail::EigenObject Output, detail::EigenObject Statistic, detail::EigenObject OutputGradient>
void attention_backward(const Mechanism& mechanism, const Query& q, const Key& k, const Value& v, const Output& out,
                        const Statistic& normalizer, const OutputGradient& dout,
                        const Gradients<typename detail::EigenBaseOf<Query>::Scalar>& gradients,
                        const Options& options = {}) {
  if constexpr (detail::objects_can_go_together(
                    detail::Read<const Query&, const Key&, const Value&, const Output&, const OutputGradient&>{},
                    detail::Written<>{}, detail::ReadComputed<const Statistic&>{}))
    attention_backward(mechanism, heads_of(q), heads_of(k), heads_of(v), heads_of(out), heads_of(normalizer),
                       heads_of(dout), gradients, options);
}

}  // namespace CSQ_CODE
