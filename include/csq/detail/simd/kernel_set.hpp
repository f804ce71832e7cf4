// What a set of kernels offers: one struct of function pointers, filled once per instruction set.
//
// Packed layout, shared by every kernel (B = block_tokens<T>, also the stride between packed rows):
//   packed     X̃ᵀ [dim+1][B]   tokens contiguous, a last row of ones; zero past the block's tokens, up to
//              padded_tokens; undefined beyond
//   values     [tokens][value_stride]   row-major, columns past the dimension are zero
//   weights    [keys][B]       queries contiguous
//   numerator  [B][value_stride], normalizer [B]
// Tokens in lanes make each feature, each weight and each row statistic a plain product of contiguous rows.
#pragma once

#include <limits>

#include "csq/detail/base/arithmetic.hpp"
#include "csq/detail/base/storage.hpp"
#include "csq/detail/base/weight_kind.hpp"

namespace CSQ_CODE::detail::simd {

// 144 floats or 72 doubles: a multiple of every tile height (6, 8, 12) and of three vectors, and 9 cache lines,
// an odd number, so that walking down a column meets every cache set.
template <class T>
inline constexpr Index block_tokens = static_cast<Index>(576 / sizeof(T));

// What tiles may read and write of a block of tokens: every tile height and vector divides 48.
template <class T>
constexpr Index padded_tokens(Index tokens) {
  const Index whole = (tokens + 47) / 48 * 48;
  return whole < block_tokens<T> ? whole : block_tokens<T>;
}

// Rows of values are padded to whole cache lines, whatever the instruction set.
template <class T>
constexpr Index padded_columns(Index columns) {
  constexpr Index line = static_cast<Index>(64 / sizeof(T));
  return (columns + line - 1) / line * line;
}

// What is read again and again is asked for ahead where it is larger than this, 1.25 MB: recent server cores hold 1 to
// 2 MB in the second level, and asking for what is there costs 1%.
inline constexpr Index second_level_bytes = Index{5} << 18;

// Memory that the next blocks will read, in up to two pieces that are not empty: tiles bring it into the second-level
// cache on their way.
struct Upcoming {
  // Addresses, not pointers: they run past the ends.
  std::uintptr_t at = 0, end = 0;
  std::uintptr_t then = 0, then_end = 0;

  template <class T>
  void add(const T* data, Index count) {
    const auto first = reinterpret_cast<std::uintptr_t>(data);
    (at == 0 ? at : then) = first;
    (end == 0 ? end : then_end) = first + static_cast<std::uintptr_t>(count) * sizeof(T);
  }
  void advance(std::uintptr_t reached) {
    at = reached;
    if (reached < end) return;
    at = then;
    end = then_end;
    then = then_end = 0;
  }
};

// Tokens that are dealt with together wherever rows pass through: at d = 128 they fill 8 KB.
inline constexpr Index token_group = 16;

// A block of rows in the caller's memory.
template <class T>
struct Source {
  const T* data = nullptr;
  Index token_stride = 0;
  Index dim_stride = 1;
  Index tokens = 0;  // at most block_tokens
  Index dim = 0;
  const Storage<T>* storage = nullptr;  // elements are of another type: only copy_rows and add_rows read them
};

// packed ← factor·φ(x − mean), φ the identity or elu+1.
template <class T>
struct PackBlock {
  Source<T> source;
  const double* mean = nullptr;   // [padded dim] one mean for all rows, or null
  double* running_sum = nullptr;  // [padded dim] prefix sums, advanced by the block's rows, or null
  double running_count = 0;       // rows in running_sum before this block
  bool exclusive = false;         // the running mean leaves the row itself out
  double factor = 1;
  bool elu = false;
  T* rows = nullptr;       // [B][padded dim]: the rows as they are packed; the source itself where it has this layout
  bool keeps_rows = true;  // false: rows is scratch of token_group rows, which stay in the first-level cache
  T* packed = nullptr;     // [dim+1][B], or null: rows only
};

// Which monomials of x a feature map holds, in this order: x_a·x_b for a ≤ b (a outer), x_a, 1.
struct FeatureMap {
  Index dim = 0;
  bool pairs = false;
  bool linear = false;
  bool constant = false;

  Index pair_count() const { return pairs ? dim * (dim + 1) / 2 : 0; }
  Index size() const { return pair_count() + (linear ? dim : 0) + (constant ? 1 : 0); }
};

// What the query side multiplies its monomials by: 2·c2 for a < b and c2 for a = b, c1, c0.
template <class T>
struct FeatureCoefficients {
  T pair = 1;
  T diagonal = 1;
  T linear = 1;
  T constant = 1;
};

// summary[f] ← keep·summary[f] + Σ_t φ_f(x_t) y_t and normalizer[f] ← keep·normalizer[f] + Σ_t φ_f(x_t) r_t, for
// features in [first, last). r_t is 1 forward (the packed row of ones) and the normaliser's gradient backward; zero
// past the tokens.
template <class T>
struct AbsorbBlock {
  const T* packed = nullptr;
  const T* values = nullptr;
  const T* row_weights = nullptr;  // r, [B]
  Index tokens = 0;
  Index value_stride = 0;
  FeatureMap map;
  Index first = 0, last = 0;
  T keep = 1;               // what gates have left of what was absorbed
  T* panel = nullptr;       // scratch [panel_features][B]
  T* summary = nullptr;     // [features][value_stride], row 0 is feature `first`
  T* normalizer = nullptr;  // [features], element 0 is feature `first`
};

// numerator[t] += Σ_f φ_f(x_t) summary[f] and normalizer_rows[t] += Σ_f φ_f(x_t) normalizer[f].
template <class T>
struct ReadBlock {
  const T* packed = nullptr;
  Index tokens = 0;
  Index value_stride = 0;
  FeatureMap map;
  FeatureCoefficients<T> coefficients;
  Index first = 0, last = 0;
  T* panel = nullptr;
  const T* summary = nullptr;
  const T* normalizer = nullptr;
  T* numerator = nullptr;
  T* normalizer_rows = nullptr;
};

inline constexpr Index panel_features = 144;  // rows of the panel scratch
inline constexpr Index slice_features =
    24;  // a slice of the summary starts at a multiple of this: every tile height divides it

// Decays of gates below this, subnormal ones, count as 0.
template <class T>
inline constexpr T smallest_decay = (std::numeric_limits<T>::min)();

// The lowest score that can be: where a row's running maximum starts.
template <class T>
inline constexpr T lowest_score = std::numeric_limits<T>::lowest();

// w(s) as the kernels evaluate it: kernel/weights.inl. The exponential takes scores in units of ln 2; a quadratic is
// (c2·t + c1)·t + c0 with t = s + offset.
struct KernelWeight {
  WeightKind kind = WeightKind::quadratic;
  double offset = 0, c0 = 0, c1 = 0, c2 = 0;
  const double* coefficients = nullptr;
  Index coefficient_count = 0;
  double radius = 1;
  double floor = 0;
};

// What options make of the scores of a block of queries and a block of keys, and of gated weights: kernel/adjust.inl.
template <class T>
struct Adjustment {
  // Sums of log gates, in units of ln 2 and as high + low: up to each query's position, and to each key. Null: no
  // gates.
  const T *query_gate = nullptr, *query_gate_low = nullptr;
  const T *key_gate = nullptr, *key_gate_low = nullptr;
  const T* bias = nullptr;  // of the first query and the first key; null: none
  Index bias_query_stride = 0, bias_key_stride = 0;
  double soft_cap = 0;  // 0: none

  bool has_gates() const { return query_gate != nullptr; }
  bool any() const { return query_gate != nullptr || bias != nullptr || soft_cap != 0; }
};

// One block of queries against one block of keys, added to the queries' running sums:
// numerator[i] += Σ_j w(s_ij) values[j], normalizer[i] += Σ_j w(s_ij), over the visible keys, i + band_start ≤
// j < i + diagonal, j < keys. For the exponential both are relative to maximum[i], which rises when it must.
template <class T>
struct DirectBlock {
  const T* query = nullptr;  // packed
  const T* key = nullptr;    // packed
  const T* values = nullptr;
  Index queries = 0, keys = 0, dim = 0;
  Index value_stride = 0;
  Index diagonal = 0;             // query i sees keys [band_start + i, diagonal + i)
  Index band_start = far_before;  // no window
  KernelWeight weight;
  T* weights = nullptr;  // scratch [B][B]
  T* scale = nullptr;    // scratch [B]
  T* numerator = nullptr;
  T* normalizer = nullptr;
  T* maximum = nullptr;  // exponential only
  Adjustment<T> adjust;
  Upcoming upcoming;
};

// A few queries and a block of keys, in rows, not packed; all of them see all of these keys. Keys are in lanes, so that
// nothing is computed for queries that are not there. Scores first: few_scores leaves them in `weights`, few_values
// makes weights of them and adds to the sums, as for DirectBlock.
template <class T>
struct FewQueriesBlock {
  static constexpr int queries_together = 4;  // that share what is loaded

  const T* query = nullptr;  // rows, zero past the dimension
  Index query_stride = 0;
  Index queries = 0;
  const T* key = nullptr;  // rows, contiguous, dim a multiple of 64 bytes
  Index key_stride = 0;
  const T* reference = nullptr;  // [dim] subtracted from every key, or null
  const T* values = nullptr;
  Index value_stride = 0;
  Index keys = 0;                // at most block_tokens
  Index dim = 0, value_dim = 0;  // multiples of 64 bytes
  bool from_memory = false;      // keys and values of a head do not fit the second-level cache; several queries
  KernelWeight weight;
  const Adjustment<T>* adjust = nullptr;  // of each query, or null; arrays of keys up to whole vectors
  T* weights = nullptr;                   // [queries][weight_stride], whole vectors of keys
  Index weight_stride = 0;
  T* numerator = nullptr;  // [queries][numerator_stride], value_dim of each
  Index numerator_stride = 0;
  T *normalizer = nullptr, *maximum = nullptr;  // [queries][statistic_stride], one of each
  Index statistic_stride = 0;
};

// Scores of keys less their prefix means: by the scores of the keys themselves, since a mean of scores is the score of
// the mean. O(1) a key where the keys would take d.
template <class T>
struct CenterScores {
  T* scores = nullptr;  // [keys], whole cache lines
  Index keys = 0;
  double* sum = nullptr;  // of the scores before, advanced
  double count = 0;       // rows in it
  bool exclusive = false;
};

// Rows of one short head, in the caller's memory, and how they are centred.
template <class T>
struct ShortRows {
  enum class Centering { none, sequence, prefix, prefix_exclusive };

  Source<T> source;  // the rows within the length, at most token_group
  Centering centering = Centering::none;
  double history_count = 0;
  const double* history = nullptr;  // mean of the rows before, [dim], or null
  double factor = 1;
  bool elu = false;
};

// One query head and its key head, all at once: numerators, normalisers and, for the exponential, maxima of all its
// rows that are there.
template <class T>
struct ShortHead {
  ShortRows<T> query, key;
  Source<T> value;
  bool prepares_keys = true;  // false: keys and values hold what the query head before has left
  Index diagonal = 0;         // query i sees keys [band_start + i, diagonal + i)
  Index band_start = far_before;
  KernelWeight weight;
  Adjustment<T> adjust;  // of the first query and key
  // Scratch, and what is left in it.
  double* sums = nullptr;   // [padded dim]
  T* queries = nullptr;     // [queries][padded dim]
  T* keys = nullptr;        // [keys][padded dim]
  T* values = nullptr;      // [keys][padded value dim]
  T* weights = nullptr;     // [token_group]
  T* numerator = nullptr;   // [queries][padded value dim]
  T* normalizer = nullptr;  // [queries]
  T* maximum = nullptr;     // [queries]
};

// output[t] = numerator[t] / normalizer[t]; 0 where the normaliser is 0, NaN where it is negative or NaN.
template <class T>
struct DivideRows {
  const T* numerator = nullptr;
  const T* normalizer = nullptr;
  Index tokens = 0, dim = 0;
  Index value_stride = 0;
  T* output = nullptr;
  Index token_stride = 0, dim_stride = 1;
  const Storage<T>* storage = nullptr;
};

template <class T>
struct KernelSet {
  void (*add_rows)(const Source<T>& source, double* sum);  // sum[a] += Σ_t x_ta in double
  void (*pack)(const PackBlock<T>& block);
  void (*pack_values)(const Source<T>& source, Index value_stride, T* values);
  void (*absorb)(const AbsorbBlock<T>& block);
  void (*read)(const ReadBlock<T>& block);
  void (*direct)(const DirectBlock<T>& block);
  void (*few_scores)(const FewQueriesBlock<T>& block);
  void (*center_scores)(const CenterScores<T>& block);
  void (*few_values)(const FewQueriesBlock<T>& block);
  void (*short_head)(const ShortHead<T>& head);
  void (*divide)(const DivideRows<T>& rows);
  void (*square_norms)(const T* packed, Index tokens, Index dim, T* norms);  // norms[t] = Σ_a x_ta², [B]
  void (*add)(Index count, const T* from, T* to);                            // to += from, whole cache lines
  // to[r] = from[r]·factor[r], rows of whole cache lines.
  void (*scale_rows)(Index rows, Index stride, const T* factor, const T* from, T* to);
  // to[i] = 2^−|high[i] + low[i] − at|, 0 below smallest_decay: all three up to whole vectors.
  void (*decays)(Index count, T at_high, T at_low, const T* high, const T* low, T* to);
};

}  // namespace CSQ_CODE::detail::simd
