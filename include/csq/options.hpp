// What a call may choose: mask, lengths, centring, method, threads, executor, workspace.
#pragma once

#include "csq/detail/base/requirements.hpp"
// Before what only a C++20 compiler has.
#include <array>
#include <optional>
#include <span>
#include <type_traits>

#include "csq/detail/base/storage.hpp"
#include "csq/executor.hpp"
#include "csq/heads.hpp"

namespace CSQ_TYPES {

class Workspace;
class KeptSummary;

/// direct: O(n·m·d), every score, in tiles.   factored: O(n·d²·dᵥ), through the K⊗V summary.
/// automatic: whichever the cost model expects to be faster; it looks at sizes and lengths only, and chooses
/// for all entries of the batch together.
enum class Method { automatic, direct, factored };

/// The C in CSQ: what is subtracted from q and from k, each head by itself, before the scores.
///   none              nothing
///   sequence          the mean over the rows within the length (leaks the future under a causal mask)
///   prefix            the mean of rows 0..j
///   prefix_exclusive  the mean of rows 0..j−1 (nothing for the first)
///   automatic         the mechanism's own: for Csq prefix under a causal mask and sequence otherwise, else none
enum class Centering { automatic, none, sequence, prefix, prefix_exclusive };

/// The call continues an earlier one: prefix means start from `count` rows of mean `mean`.
///
/// Under a causal mask query i stands at key i + (m − n), so what came before must agree with that: the queries counted
/// by query_history less the keys counted by key_history (0 for one that is not given) are m − n, in every entry of the
/// batch. A decoding step over a cache that holds the whole sequence counts m − n queries and gives no key_history;
/// where the oldest keys have been dropped from the cache, key_history counts them.
struct History {
  std::span<const Index> count;  ///< [batch]
  std::span<const double> mean;  ///< [batch, heads, dim], contiguous; heads of the queries or of the keys
};

/// Where backward puts ∂L/∂q, ∂L/∂k and ∂L/∂v (shapes of q, k and v; overwritten) and, if wanted, ∂L/∂shift of Csq,
/// ShiftedQuadratic and every mechanism with a shift_slope, summed over batch and heads.
template <class T>
struct Gradients {
  /// Heads<Element>; made from heads of other elements it is an error of one sentence.
  template <class Element>
  struct TargetOf : Heads<Element> {
    using Shape = typename Heads<Element>::Shape;

    CSQ_ALWAYS_INLINE TargetOf() = default;
    CSQ_ALWAYS_INLINE TargetOf(Element* data_in, Shape shape_in) : Heads<Element>(data_in, shape_in) {}
    CSQ_ALWAYS_INLINE TargetOf(Element* data_in, Shape shape_in, Shape stride_in)
        : Heads<Element>(data_in, shape_in, stride_in) {}
    template <class Other>
    CSQ_ALWAYS_INLINE TargetOf(const Heads<Other>& other) {
      constexpr bool alike = std::is_same_v<std::remove_const_t<Other>, Element>;
      static_assert(alike, "csq: element types do not mix: a call's arrays have one scalar type");
      static_assert(!alike || !std::is_const_v<Other>,
                    "csq: a gradient is written to, so its elements cannot be const");
      if constexpr (std::is_same_v<Other, Element>) static_cast<Heads<Element>&>(*this) = other;
    }
  };
  using Target = TargetOf<T>;

  Target query, key, value;
  double* shift = nullptr;
  TargetOf<detail::Computed<T>> log_gate{};  ///< of the shape of Options::log_gate; zero from the key length on
  std::span<double> sink{};                  ///< one number a query head, summed over the batch

  /// For its sentence alone.
  template <class Other>
  CSQ_ALWAYS_INLINE operator Gradients<Other>() const {
    static_assert(std::is_same_v<Other, T>, "csq: element types do not mix: a call's arrays have one scalar type");
    return {};
  }
};

/// What a call may choose; each has a meaning when it is left out.
struct Options {
  /// An array that an option holds, of the type that the call computes in (float where its arrays are of 16 bits): made
  /// of Heads, or of a pointer to them; empty means none.
  struct View {
    const void* data = nullptr;
    std::array<Index, 4> shape{}, stride{};
    std::size_t scalar_bytes = 0;

    CSQ_ALWAYS_INLINE View() = default;
    template <class T>
    CSQ_ALWAYS_INLINE View(const Heads<T>& heads)
        : data(heads.data), shape(heads.shape), stride(heads.stride), scalar_bytes(sizeof(T)) {
      static_assert(std::is_same_v<std::remove_const_t<T>, float> || std::is_same_v<std::remove_const_t<T>, double>,
                    "csq: gates and biases are of float or double: convert others first");
    }
    template <class T>
    CSQ_ALWAYS_INLINE View(const Heads<T>* heads) {
      if (heads != nullptr) *this = View(*heads);
    }
    CSQ_ALWAYS_INLINE bool given() const { return scalar_bytes != 0; }
  };

  /// α of s_ij = α q_i·k_j; unset means 1/√d. Negative or zero is legal. An error for Linear.
  std::optional<double> scale{};

  /// Query i sees keys j ≤ i + (m − n): aligned bottom right, as every decoder does (PyTorch's is_causal aligns top
  /// left; the two agree for n = m).
  bool causal = false;

  /// W: of the keys, the query at position p = i + (m − n) sees those with p − W < j ≤ p under a causal mask, and those
  /// with |p − j| < W without; 0: no window. Direct only, in O(n·W·d). Centring's means are those of all rows.
  Index window = 0;

  /// One number a query head: e^sink is added to the normaliser, and nothing to the output. Softmax only.
  std::span<const double> sink{};

  /// c of s → c·tanh(s/c), before gates and bias; 0: no cap. Softmax only, direct.
  double soft_cap = 0;

  /// [batch, heads, n, m] with any strides, zero included: added to the scores, after the cap; −∞ hides a pair (whose
  /// value must still be a number: 0·NaN is NaN). Softmax only, direct.
  View bias{};

  /// ℓ [batch, gate heads, m, 1], each at most 0: key j weighs exp(Σ_{j < t ≤ p} ℓ_t) as much as it would. −∞ forgets
  /// all that came before its token; for weights that are polynomials so may what leaves less than 2⁻¹²⁶ (1e-38; in
  /// double 2⁻¹⁰²²). Causal only. As many gate heads as key heads, or as query heads (then direct). What is positive or
  /// NaN makes the rows that it decays NaN.
  View log_gate{};

  /// [batch], empty means all. Keys from key_length on are invisible and enter no mean; query rows from query_length on
  /// give 0 and enter no mean. The causal offset uses n and m, not the lengths: for a cache that is shorter than its
  /// buffer pass a view of what is filled.
  std::span<const Index> key_length{};
  std::span<const Index> query_length{};

  /// Packed sequences: q, k and v (and out, gates and gradients) hold the rows of all of them one after another, batch
  /// 1, sequence s at [offsets[s], offsets[s + 1]): one entry more than sequences, the first 0, the last the number of
  /// tokens. As calling each apart, to the bit. Both or none; no lengths, histories and bias.
  std::span<const Index> query_offsets{};
  std::span<const Index> key_offsets{};

  /// An entry of a single query loses it to `sequence`: its output would be the mean of v, whatever q is. With two keys
  /// or more that is an error, unless `sequence` is asked for by name.
  Centering centering = Centering::automatic;

  /// Only with a prefix centring. Causal prefix centring with n < m needs a query_history.
  const History* query_history = nullptr;
  const History* key_history = nullptr;

  Method method = Method::automatic;

  /// Tokens per block of the factored form; 0 = tuned. An explicit chunk also switches off the two savings of the
  /// causal scan (rows that see few keys served directly, the last keys not absorbed), so that small tests reach every
  /// path.
  Index chunk = 0;

  /// 0 = all; always 1 inside somebody else's parallel region. No more than the machine has, or OMP_NUM_THREADS or
  /// omp_set_num_threads ask for. With an executor: 0 = its width, which is the most, wherever the call is made from.
  /// Results do not depend on it.
  int threads = 0;

  /// The caller's own threads instead of OpenMP's. Results do not depend on it.
  Executor executor{};

  /// Scratch that is kept between calls; without one the call allocates and frees its own.
  Workspace* workspace = nullptr;

  /// Where a factored call without a mask keeps its K⊗V summaries for backward, and backward finds them.
  KeptSummary* summary = nullptr;
};

}  // namespace CSQ_TYPES
