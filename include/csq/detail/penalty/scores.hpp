// What the penalties share: their checked arguments, centred rows of a head, and gradients that are added.
#pragma once

#include "csq/detail/engine.hpp"

namespace CSQ_CODE::detail {

// Checks q and k like attention does; the value is a column of ones that no gradient reaches.
template <class T>
Problem<T> score_problem(const StoredHeads<const T>& q, const StoredHeads<const T>& k, const T* one,
                         const StoredHeads<T>& dq, const StoredHeads<T>& dk, double radius, double weight,
                         const Options& options) {
  require(is_finite(radius) && radius >= 0, "radius: is ", radius, " but must be finite and not negative");
  require(is_finite(weight), "weight: is ", weight, " but must be finite");
  Problem<T> problem;
  problem.query = q;
  problem.key = k;
  problem.value = {one, {k.batch(), k.heads(), k.tokens(), 1}, {0, 0, 0, 0}};
  problem.weight.kind = Weight::Kind::bound;
  problem.weight.radius = radius;
  check_inputs(problem);
  const auto check_gradient = [&](std::string_view name, const StoredHeads<T>& gradient, std::string_view of,
                                  const StoredHeads<const T>& input) {
    if (gradient.data == nullptr) return;
    check_shape_like(name, gradient, of, input);
    check_no_self_overlap(name, gradient);
    check_not_same(name, gradient, "q", q);
    check_not_same(name, gradient, "k", k);
  };
  check_gradient("dq", dq, "q", q);
  check_gradient("dk", dk, "k", k);
  if (dq.data != nullptr && dk.data != nullptr) check_not_same("dq", dq, "dk", dk);
  resolve_options(problem, options, options.causal ? Centering::prefix : Centering::sequence);
  return problem;
}

// target += factor·source, source contiguous.
template <class T>
void add_scaled(const T* source, double factor, const StoredHead<T>& target) {
  for (Index t = 0; t < target.tokens; ++t)
    for (Index a = 0; a < target.dim; ++a, ++source)
      target.write(t, a, static_cast<T>(static_cast<double>(target(t, a)) + factor * static_cast<double>(*source)));
}
template <class T>
void add_scaled(const StoredHeads<T>& source, double factor, const StoredHeads<T>& target) {
  if (target.data == nullptr) return;
  for (Index b = 0; b < target.batch(); ++b)
    for (Index h = 0; h < target.heads(); ++h) add_scaled(source.head(b, h).data, factor, target.head(b, h));
}

// A contiguous array from the arena.
template <class T>
Heads<T> take_heads(Arena& arena, const typename Heads<T>::Shape& shape) {
  const Index head = checked_product(shape[2], shape[3], "workspace");
  return {arena.template take<T>(checked_product(checked_product(shape[0], shape[1], "workspace"), head, "workspace")),
          shape};
}

// The rows of one head, centred and scaled: [length][padded dim].
template <class T>
void centered_rows(const RowPacker<T>& packer, T* rows, double* sums) {
  constexpr Index size = simd::block_tokens<T>;
  const Index stride = simd::padded_columns<T>(packer.head.dim);
  for (Index first = 0; first < packer.length; first += size)
    packer.pack(first, smaller(size, packer.length - first), rows + first * stride, sums, nullptr);
}

}  // namespace CSQ_CODE::detail
