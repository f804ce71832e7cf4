// Attention over a set of keys from attention over two parts of it: split keys, rings of machines, a cache in pieces.
//
//   softmax       L = ln(e^L₁ + e^L₂)      o = e^(L₁ − L)·o₁ + e^(L₂ − L)·o₂        L: log-sum-exp
//   the others    δ = δ₁ + δ₂              o = (δ₁·o₁ + δ₂·o₂)/δ                      δ: normaliser
//
// In double, rounded once. A row that one part does not see (δ = 0, L = −∞) is the other's, to the bit. Where δ of a
// part is negative or NaN, as a Polynomial's may be, that part's rows are NaN and so is the row. O(n·dᵥ) a head.
#pragma once

#include "csq/detail/call/scalars.hpp"
#include "csq/detail/merge.hpp"

namespace CSQ_CODE {

/// The result of the same queries over the keys of both parts: `first` and `second` [batch, heads, n, dᵥ] with their
/// normalizers [batch, heads, n, 1] are what attention left for disjoint keys with the same mechanism, scale and rows
/// (a centring must be that of the whole: `none`, or a prefix with its history); a sink belongs to one of them. `out`
/// and `normalizer` are overwritten, and may be those of one part. std::invalid_argument for sizes that do not fit.
/// `threads` and `executor` as in Options.
///   csq::merge_partials(csq::Softmax{}, O1, L1, O2, L2, O, L);
template <class Mechanism, class First, class FirstStatistic, class Second, class SecondStatistic, class Output,
          class Statistic>
void merge_partials(const Mechanism& mechanism, Heads<First> first, Heads<FirstStatistic> first_normalizer,
                    Heads<Second> second, Heads<SecondStatistic> second_normalizer, Heads<Output> out,
                    Heads<Statistic> normalizer, int threads = 0, const Executor& executor = {}) {
  if constexpr (detail::can_go_together_in_full(detail::Read<First, FirstStatistic, Second, SecondStatistic>{},
                                                detail::Written<Output, Statistic>{}))
    detail::merge_partials_checked<Output>(
        detail::weight_of(mechanism).kind == detail::Weight::Kind::exponential,
        {detail::normalized<Heads<const Output>>(first), detail::normalized<Heads<const Output>>(first_normalizer)},
        {detail::normalized<Heads<const Output>>(second), detail::normalized<Heads<const Output>>(second_normalizer)},
        {detail::normalized(out), detail::normalized(normalizer)}, {threads, executor});
}

}  // namespace CSQ_CODE
