// Every forward kernel of every set that this processor has, by itself, against plain loops: over lengths, widths,
// strides and misalignment. What a kernel may not touch is NaN before the call and untouched after it.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernel_memory.hpp"
#include "kernel_weights.hpp"

namespace {

using csq::detail::WeightKind;
using csq::detail::simd::block_tokens;
using csq::detail::simd::FeatureMap;
using csq::detail::simd::KernelSet;
using csq::detail::simd::KernelWeight;
using csq::detail::simd::padded_columns;
using csq::detail::simd::padded_tokens;
using csq::detail::simd::smallest_decay;

// Sums of up to some hundred terms, in units of rounding.
constexpr double rounding = 8;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST_CASE("add_rows") {
  Random random(601);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const Index dim : widths)
      for (const Index tokens : {Index(0), Index(1), Index(17), block_tokens<T>})
        for (const Index stride : {1, 2, -1})
          for (const Index shift : {0, 1, 3}) {
            INFO("dim " << dim << ", tokens " << tokens << ", stride " << stride << ", shift " << shift);
            const Rows x = Rows::random(random, tokens, dim);
            const PlacedRows<T> placed(x, stride, shift);
            KernelMemory<double> sum(dim, 0, shift);
            sum.fill(random);
            const KernelMemory<double> before = sum;
            kernels.add_rows(placed.source, sum.data());
            Worst worst;
            for (Index a = 0; a < dim; ++a) {
              Real expected = before[a], magnitude = std::abs(expected);
              for (Index t = 0; t < tokens; ++t) {
                expected += x(t, a);
                magnitude += std::abs(x(t, a));
              }
              worst.compare(sum[a], expected, magnitude);
            }
            CHECK(worst.units() <= rounding);
            CHECK(sum.frame_is_whole());
          }
  });
}

// A centring, a factor and φ, by plain loops.
struct Packing {
  enum class Mean { none, one, running, running_exclusive };

  Mean mean = Mean::none;
  double factor = 1;
  bool elu = false;
  double count_before = 0;
};

struct PlainRows {
  Rows rows, magnitude;
};

PlainRows plain_packing(const Packing& packing, const Rows& x, const std::vector<double>& mean,
                        std::vector<double>& running_sum) {
  PlainRows plain{Rows(x.tokens, x.dim), Rows(x.tokens, x.dim)};
  for (Index a = 0; a < x.dim; ++a)
    for (Index t = 0; t < x.tokens; ++t) {
      const std::size_t at = std::size_t(a);
      Real center = 0;
      const Real before = running_sum[at];
      if (packing.mean == Packing::Mean::one) center = mean[at];
      running_sum[at] += x(t, a);
      const Real count = packing.count_before + double(t);
      if (packing.mean == Packing::Mean::running) center = running_sum[at] / (count + 1);
      if (packing.mean == Packing::Mean::running_exclusive && count > 0) center = before / count;
      const Real y = (x(t, a) - center) * packing.factor;
      plain.rows(t, a) = double(packing.elu ? reference::elu_plus_one(y) : y);
      plain.magnitude(t, a) = double((std::abs(x(t, a)) + std::abs(center)) * packing.factor +
                                     (packing.elu ? (1 + std::abs(y)) * reference::elu_plus_one(y) : 0));
    }
  return plain;
}

template <class T>
void check_pack(const KernelSet<T>& kernels, Random& random, const Packing& packing, Index tokens, Index dim,
                Index stride, Index shift, bool keeps_rows, bool packs) {
  const Index row_stride = padded_columns<T>(dim), sums = padded_columns<double>(dim);
  const Rows x = Rows::random(random, tokens, dim);
  const PlacedRows<T> placed(x, stride, shift);
  std::vector<double> mean(std::size_t(sums), 0.0), running(std::size_t(sums), 0.0);
  for (Index a = 0; a < dim; ++a) {
    mean[std::size_t(a)] = random.normal();
    running[std::size_t(a)] = packing.count_before * random.normal();
  }
  KernelMemory<double> sum(sums, 0, shift);
  std::copy(running.begin(), running.end(), sum.data());
  const Index rows_kept = packs ? (tokens + 15) / 16 * 16 : tokens;
  KernelMemory<T> rows((keeps_rows ? rows_kept : csq::detail::simd::token_group) * row_stride, T(nan), shift);
  KernelMemory<T> out((dim + 1) * block_tokens<T>, T(nan), shift);

  csq::detail::simd::PackBlock<T> block;
  block.source = placed.source;
  if (packing.mean == Packing::Mean::one) block.mean = mean.data();
  const bool runs = packing.mean == Packing::Mean::running || packing.mean == Packing::Mean::running_exclusive;
  if (runs) block.running_sum = sum.data();
  block.running_count = packing.count_before;
  block.exclusive = packing.mean == Packing::Mean::running_exclusive;
  block.factor = packing.factor;
  block.elu = packing.elu;
  block.rows = rows.data();
  block.keeps_rows = keeps_rows;
  block.packed = packs ? out.data() : nullptr;
  kernels.pack(block);

  const PlainRows plain = plain_packing(packing, x, mean, running);
  Worst worst;
  bool padding_is_zero = true;
  for (Index t = 0; t < tokens; ++t)
    for (Index a = 0; a < dim; ++a) {
      if (keeps_rows) worst.compare(rows[t * row_stride + a], plain.rows(t, a), plain.magnitude(t, a));
      if (packs) worst.compare(out[a * block_tokens<T> + t], plain.rows(t, a), plain.magnitude(t, a));
    }
  if (keeps_rows)
    for (Index t = 0; t < tokens; ++t)
      for (Index a = dim; a < row_stride; ++a) padding_is_zero = padding_is_zero && rows[t * row_stride + a] == 0;
  if (packs)
    for (Index t = 0; t < padded_tokens<T>(tokens); ++t) {
      if (out[dim * block_tokens<T> + t] != (t < tokens ? 1 : 0)) padding_is_zero = false;
      for (Index a = 0; a < dim && t >= tokens; ++a)
        padding_is_zero = padding_is_zero && out[a * block_tokens<T> + t] == 0;
    }
  if (runs)
    for (Index a = 0; a < dim; ++a) worst.compare(sum[a], running[std::size_t(a)], 1 + double(tokens));
  CHECK(worst.units() <= rounding);
  CHECK(padding_is_zero);
  CHECK(rows.frame_is_whole());
  CHECK(out.frame_is_whole());
  CHECK(sum.frame_is_whole());
}

TEST_CASE("pack") {
  using Mean = Packing::Mean;
  const std::vector<Packing> packings{{},
                                      {Mean::none, 0.375},
                                      {Mean::one, -1.5},
                                      {Mean::running, 1},
                                      {Mean::running, 0.5, false, 5},
                                      {Mean::running_exclusive, 2},
                                      {Mean::running_exclusive, 1, true, 7},
                                      {Mean::none, 1, true},
                                      {Mean::one, 3, true}};
  Random random(602);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (std::size_t i = 0; i < packings.size(); ++i)
      for (const Index dim : widths)
        for (const Index tokens : lengths<T>()) {
          const Index stride = random.pick<Index>({1, 1, 3, -1}), shift = random.integer(0, 3);
          const int kept = int(random.integer(0, 2));  // rows and packed, packed alone, rows alone
          INFO("packing " << i << ", dim " << dim << ", tokens " << tokens << ", stride " << stride << ", shift "
                          << shift << ", kept " << kept);
          check_pack(kernels, random, packings[i], tokens, dim, stride, shift, kept != 1, kept != 2);
        }
  });
}

TEST_CASE("pack in place") {
  Random random(603);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const Index dim : widths) {
      const Index tokens = 37, stride = padded_columns<T>(dim);
      const Rows x = Rows::random(random, tokens, dim);
      const KernelMemory<T> expected = packed<T>(x);
      Rows whole(48, dim);
      std::copy(x.values.begin(), x.values.end(), whole.values.begin());
      KernelMemory<T> rows = padded<T>(whole), out((dim + 1) * block_tokens<T>);
      csq::detail::simd::PackBlock<T> block;
      block.source = {rows.data(), stride, 1, tokens, dim};
      block.rows = rows.data();
      block.packed = out.data();
      kernels.pack(block);
      INFO("dim " << dim);
      for (Index a = 0; a <= dim; ++a)
        CHECK(std::equal(out.data() + a * block_tokens<T>, out.data() + a * block_tokens<T> + 48,
                         expected.data() + a * block_tokens<T>));
    }
  });
}

TEST_CASE("pack_values") {
  Random random(604);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const Index dim : widths)
      for (const Index tokens : lengths<T>())
        for (const Index stride : {1, 2, -1}) {
          const Index shift = random.integer(0, 5);
          INFO("dim " << dim << ", tokens " << tokens << ", stride " << stride << ", shift " << shift);
          const Rows x = Rows::random(random, tokens, dim);
          const PlacedRows<T> placed(x, stride, shift);
          const KernelMemory<T> expected = padded<T>(x);
          KernelMemory<T> values(expected.size(), T(nan), random.integer(0, 5));
          kernels.pack_values(placed.source, padded_columns<T>(dim), values.data());
          CHECK(std::equal(values.data(), values.data() + values.size(), expected.data()));
          CHECK(values.frame_is_whole());
        }
  });
}

// φ_f(x) of one row, in the order that FeatureMap gives.
std::vector<Real> features(const FeatureMap& map, const Rows& x, Index t) {
  std::vector<Real> result;
  for (Index a = 0; map.pairs && a < map.dim; ++a)
    for (Index b = a; b < map.dim; ++b) result.push_back(Real(x(t, a)) * x(t, b));
  for (Index a = 0; map.linear && a < map.dim; ++a) result.push_back(x(t, a));
  if (map.constant) result.push_back(1);
  return result;
}
std::vector<Real> coefficients_of(const FeatureMap& map, double pair, double diagonal, double linear, double constant) {
  std::vector<Real> result;
  for (Index a = 0; map.pairs && a < map.dim; ++a)
    for (Index b = a; b < map.dim; ++b) result.push_back(a == b ? diagonal : pair);
  for (Index a = 0; map.linear && a < map.dim; ++a) result.push_back(linear);
  if (map.constant) result.push_back(constant);
  return result;
}

std::vector<FeatureMap> feature_maps() {
  std::vector<FeatureMap> maps;
  for (const Index dim : {1, 2, 3, 5, 8, 9, 17}) {
    maps.push_back({dim, true, true, true});
    maps.push_back({dim, true, false, false});
    maps.push_back({dim, false, true, dim % 2 == 0});
  }
  maps.push_back({6, false, false, true});
  return maps;
}

// A slice starts at a multiple of slice_features and ends at one, or at the last feature.
std::array<Index, 2> random_slice(Random& random, Index features) {
  const Index unit = csq::detail::simd::slice_features, units = (features + unit - 1) / unit;
  const Index first = random.integer(0, units - 1), last = random.integer(first + 1, units);
  return {first * unit, std::min(features, last * unit)};
}
Index padded_rows(Index rows) {
  const Index unit = csq::detail::simd::slice_features;
  return (rows + unit - 1) / unit * unit;
}

TEST_CASE("absorb") {
  Random random(605);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const FeatureMap& map : feature_maps())
      for (const Index tokens : lengths<T>()) {
        const Index value_dim = random.pick(widths), shift = random.integer(0, 3);
        const auto [first, last] = random_slice(random, map.size());
        INFO("dim " << map.dim << ", pairs " << map.pairs << ", tokens " << tokens << ", value dim " << value_dim
                    << ", features " << first << " to " << last << ", shift " << shift);
        const Rows x = Rows::random(random, tokens, map.dim), v = Rows::random(random, tokens, value_dim);
        const KernelMemory<T> x_packed = packed<T>(x, shift), values = padded<T>(v, shift);
        const Index stride = padded_columns<T>(value_dim);
        KernelMemory<T> row_weights(block_tokens<T>, 0, shift);
        for (Index t = 0; t < tokens; ++t) row_weights[t] = T(random.normal());
        KernelMemory<T> panel(csq::detail::simd::panel_features * block_tokens<T>, T(nan), shift);
        KernelMemory<T> summary(padded_rows(last - first) * stride, T(0), shift), normalizer(last - first, T(0), shift);
        summary.fill(random);
        normalizer.fill(random);
        const KernelMemory<T> summary_before = summary, normalizer_before = normalizer;

        csq::detail::simd::AbsorbBlock<T> block;
        block.packed = x_packed.data();
        block.values = values.data();
        block.row_weights = row_weights.data();
        block.tokens = tokens;
        block.value_stride = stride;
        block.map = map;
        block.first = first;
        block.last = last;
        block.panel = panel.data();
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        kernels.absorb(block);

        std::vector<std::vector<Real>> phi;
        for (Index t = 0; t < tokens; ++t) phi.push_back(features(map, x, t));
        Worst worst;
        for (Index f = first; f < last; ++f)
          for (Index column = 0; column <= value_dim; ++column) {
            const bool is_normalizer = column == value_dim;
            Real expected =
                is_normalizer ? normalizer_before[f - first] : summary_before[(f - first) * stride + column];
            Real magnitude = std::abs(expected);
            for (Index t = 0; t < tokens; ++t) {
              const Real term =
                  phi[std::size_t(t)][std::size_t(f)] * (is_normalizer ? Real(row_weights[t]) : v(t, column));
              expected += term;
              magnitude += std::abs(term);
            }
            worst.compare(is_normalizer ? normalizer[f - first] : summary[(f - first) * stride + column], expected,
                          magnitude);
          }
        CHECK(worst.units() <= rounding);
        CHECK(summary.frame_is_whole());
        CHECK(normalizer.frame_is_whole());
        CHECK(panel.frame_is_whole());
      }
  });
}

TEST_CASE("read") {
  Random random(606);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const FeatureMap& map : feature_maps())
      for (const Index tokens : lengths<T>()) {
        const Index value_dim = random.pick(widths), shift = random.integer(0, 3);
        const auto [first, last] = random_slice(random, map.size());
        INFO("dim " << map.dim << ", pairs " << map.pairs << ", tokens " << tokens << ", value dim " << value_dim
                    << ", features " << first << " to " << last << ", shift " << shift);
        const Rows x = Rows::random(random, tokens, map.dim);
        const KernelMemory<T> x_packed = packed<T>(x, shift);
        const Index stride = padded_columns<T>(value_dim), rows = padded_tokens<T>(tokens);
        KernelMemory<T> panel(csq::detail::simd::panel_features * block_tokens<T>, T(nan), shift);
        KernelMemory<T> summary((last - first) * stride, T(0), shift), normalizer(last - first, T(0), shift);
        KernelMemory<T> numerator(rows * stride, T(0), shift), normalizer_rows(rows, T(0), shift);
        for (auto* memory : {&summary, &normalizer, &numerator, &normalizer_rows}) memory->fill(random);
        const KernelMemory<T> numerator_before = numerator, rows_before = normalizer_rows;

        csq::detail::simd::ReadBlock<T> block;
        block.packed = x_packed.data();
        block.tokens = tokens;
        block.value_stride = stride;
        block.map = map;
        block.coefficients = {T(1.5), T(0.75), T(-2), T(0.5)};
        block.first = first;
        block.last = last;
        block.panel = panel.data();
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        block.numerator = numerator.data();
        block.normalizer_rows = normalizer_rows.data();
        kernels.read(block);

        const std::vector<Real> coefficients = coefficients_of(map, 1.5, 0.75, -2, 0.5);
        Worst worst;
        for (Index t = 0; t < tokens; ++t) {
          const std::vector<Real> phi = features(map, x, t);
          for (Index column = 0; column <= value_dim; ++column) {
            const bool is_normalizer = column == value_dim;
            Real expected = is_normalizer ? rows_before[t] : numerator_before[t * stride + column];
            Real magnitude = std::abs(expected);
            for (Index f = first; f < last; ++f) {
              const Real cell = is_normalizer ? normalizer[f - first] : summary[(f - first) * stride + column];
              const Real term = coefficients[std::size_t(f)] * phi[std::size_t(f)] * cell;
              expected += term;
              magnitude += std::abs(term);
            }
            worst.compare(is_normalizer ? normalizer_rows[t] : numerator[t * stride + column], expected, magnitude);
          }
        }
        CHECK(worst.units() <= rounding);
        CHECK(numerator.frame_is_whole());
        CHECK(normalizer_rows.frame_is_whole());
        CHECK(panel.frame_is_whole());
      }
  });
}

// As "read", but each sum is written, not added to; and the whole map at once, which is made in pieces.
TEST_CASE("read_rows") {
  Random random(642);
  std::vector<FeatureMap> maps = feature_maps();
  for (const Index dim : {22, 33, 64}) {  // 276, 595 and 2145 features, 256 at a time
    maps.push_back({dim, true, true, true});
    maps.push_back({dim, true, false, false});
  }
  maps.push_back({300, false, true, true});
  maps.push_back({4, true, false, true});
  maps.push_back({4, true, true, false});
  for_each_summary_kernel_set([&]<class T>(const csq::detail::simd::SummaryKernelSet<T>& kernels) {
    using ReadRows = csq::detail::simd::ReadRows<T>;
    for (const FeatureMap& map : maps)
      for (Index queries = 1; queries <= 9; ++queries) {
        const Index value_dim = random.pick(widths), shift = random.integer(0, 3);
        INFO("dim " << map.dim << ", pairs " << map.pairs << ", linear " << map.linear << ", constant " << map.constant
                    << ", queries " << queries << ", value dim " << value_dim << ", shift " << shift);
        const Rows x = Rows::random(random, queries, map.dim);
        const Index stride = padded_columns<T>(value_dim), query_stride = padded_columns<T>(map.dim);
        // NaN past the coordinates of a row: no feature has them. 64 bytes are read behind the last row.
        KernelMemory<T> query(queries * query_stride + Index(64 / sizeof(T)), T(nan), shift);
        for (Index t = 0; t < queries; ++t)
          for (Index a = 0; a < map.dim; ++a) query[t * query_stride + a] = T(x(t, a));
        const KernelMemory<T> query_before = query;
        KernelMemory<T> features_scratch(ReadRows::rows_together * ReadRows::feature_stride, T(nan), shift);
        KernelMemory<T> summary(map.size() * stride, T(0), shift), normalizer(map.size(), T(0), shift);
        KernelMemory<T> numerator(queries * stride, T(nan), shift), sums(queries, T(nan), shift);
        summary.fill(random);
        normalizer.fill(random);

        ReadRows block;
        block.query = query.data();
        block.query_stride = query_stride;
        block.queries = queries;
        block.value_stride = stride;
        block.map = map;
        block.coefficients = {T(1.5), T(0.75), T(-2), T(0.5)};
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        block.features = features_scratch.data();
        block.numerator = numerator.data();
        block.sums = sums.data();
        kernels.read_rows(block);

        const std::vector<Real> coefficients = coefficients_of(map, 1.5, 0.75, -2, 0.5);
        Worst worst;
        for (Index t = 0; t < queries; ++t) {
          const std::vector<Real> phi = features(map, x, t);
          // Padding is read like a value.
          for (Index column = 0; column <= stride; ++column) {
            const bool is_normalizer = column == stride;
            Real expected = 0, magnitude = 0;
            for (Index f = 0; f < map.size(); ++f) {
              const Real cell = is_normalizer ? normalizer[f] : summary[f * stride + column];
              const Real term = coefficients[std::size_t(f)] * phi[std::size_t(f)] * cell;
              expected += term;
              magnitude += std::abs(term);
            }
            worst.compare(is_normalizer ? sums[t] : numerator[t * stride + column], expected, magnitude);
          }
        }
        CHECK(worst.units() <= rounding);
        CHECK(std::memcmp(query.data(), query_before.data(), std::size_t(query.size()) * sizeof(T)) == 0);
        for (const auto* memory : {&query, &features_scratch, &summary, &normalizer, &numerator, &sums})
          CHECK(memory->frame_is_whole());
      }
  });
}

// Scores of at most 32 or so.
Rows random_rows_of_scores(Random& random, Index tokens, Index dim) {
  Rows rows = Rows::random(random, tokens, dim);
  for (double& value : rows.values) value *= 1.5 / std::sqrt(std::sqrt(double(dim)));
  return rows;
}

Real score(const Rows& q, Index i, const Rows& k, Index j) {
  Real sum = 0;
  for (Index a = 0; a < q.dim; ++a) sum += Real(q(i, a)) * k(j, a);
  return sum;
}

// Σ w v / Σ w and log2 Σ w over the keys [first, seen) of each block, compared with what a kernel summed.
template <class T>
void compare_row(const PlainWeight& weight, const Rows& q, Index i, const std::vector<const Rows*>& keys,
                 const std::vector<const Rows*>& values, const std::vector<Index>& seen, const T* numerator,
                 T normalizer, T maximum, Worst& worst, const std::vector<Index>& first = {0, 0}) {
  const bool exponential = weight.kernel.kind == WeightKind::exponential;
  const Index dim = values[0]->dim;
  Real total = 0;
  std::vector<Real> sums(std::size_t(dim), 0.0L), magnitudes(std::size_t(dim), 0.0L);
  for (std::size_t b = 0; b < keys.size(); ++b)
    for (Index j = first[b]; j < seen[b]; ++j) {
      const Real w = weight.of(score(q, i, *keys[b], j));
      total += w;
      for (Index c = 0; c < dim; ++c) {
        sums[std::size_t(c)] += w * (*values[b])(j, c);
        magnitudes[std::size_t(c)] += std::abs(w * (*values[b])(j, c));
      }
    }
  const Real unit = exponential ? std::exp2(Real(maximum)) : 1;
  // A score is off by its own rounding, and its weight with it: 2^s by as many units as s has.
  const Real slack = exponential ? 32 : 8;
  worst.compare(normalizer, total / unit, slack * total / unit);
  for (Index c = 0; c < dim; ++c)
    worst.compare(numerator[c], sums[std::size_t(c)] / unit, slack * magnitudes[std::size_t(c)] / unit);
}

TEST_CASE("direct") {
  Random random(607);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const PlainWeight& weight : plain_weights())
      for (int repeat = 0; repeat < 60; ++repeat) {
        constexpr Index size = block_tokens<T>;
        const Index dim = random.pick(widths), value_dim = random.pick(widths), shift = random.integer(0, 3);
        const Index queries = random.pick(lengths<T>()), keys = random.pick(lengths<T>());
        // All see all; a triangle; a triangle whose first queries see nothing, or some keys more.
        const Index diagonal =
            random.pick<Index>({keys, 1, 1 - random.integer(0, queries - 1), random.integer(1, keys)});
        // No window; one that begins before the block, or within it.
        const Index band_start = random.pick<Index>({csq::detail::far_before, random.integer(-queries, keys)});
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", dim " << dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", band start " << band_start << ", shift "
                         << shift);
        const Rows q = random_rows_of_scores(random, queries, dim), k1 = random_rows_of_scores(random, keys, dim);
        const Rows k2 = random_rows_of_scores(random, keys, dim);
        const Rows v1 = Rows::random(random, keys, value_dim);
        Rows v2 = Rows::random(random, keys, value_dim);
        // One value that is not a number reaches those who see it, and nobody else.
        const Index poisoned = random.coin() ? random.integer(0, keys - 1) : keys;
        if (poisoned < keys) v2(poisoned, 0) = nan;
        const Index stride = padded_columns<T>(value_dim);
        const KernelMemory<T> query = packed<T>(q, shift);
        KernelMemory<T> weights(size * size, T(nan), shift), scale(size, T(nan), shift);
        KernelMemory<T> numerator(padded_tokens<T>(queries) * stride, T(0), shift), normalizer(size, T(0), shift);
        KernelMemory<T> maximum(size, csq::detail::simd::lowest_score<T>, shift);
        const std::vector<const Rows*> key_rows{&k1, &k2}, value_rows{&v1, &v2};
        std::vector<std::vector<Index>> seen(std::size_t(queries), std::vector<Index>(2)), first = seen;
        for (std::size_t b = 0; b < 2; ++b) {
          const KernelMemory<T> key = packed<T>(*key_rows[b], shift), values = padded<T>(*value_rows[b], shift);
          csq::detail::simd::DirectBlock<T> block;
          block.query = query.data();
          block.key = key.data();
          block.values = values.data();
          block.queries = queries;
          block.keys = keys;
          block.dim = dim;
          block.value_stride = stride;
          block.diagonal = b == 0 ? keys : diagonal;
          if (b == 1) block.band_start = band_start;
          block.weight = weight.kernel;
          block.weights = weights.data();
          block.scale = scale.data();
          block.numerator = numerator.data();
          block.normalizer = normalizer.data();
          block.maximum = maximum.data();
          kernels.direct(block);
          for (Index i = 0; i < queries; ++i) {
            seen[std::size_t(i)][b] = std::clamp<Index>(block.diagonal + i, 0, keys);
            first[std::size_t(i)][b] = std::clamp<Index>(block.band_start + i, 0, keys);
          }
        }
        Worst worst;
        for (Index i = 0; i < queries; ++i)
          compare_row(weight, q, i, key_rows, value_rows, seen[std::size_t(i)], numerator.data() + i * stride,
                      normalizer[i], maximum[i], worst, first[std::size_t(i)]);
        CHECK(worst.units() <= rounding);
        for (const auto* memory : {&weights, &scale, &numerator, &normalizer, &maximum})
          CHECK(memory->frame_is_whole());
      }
  });
}

TEST_CASE("few_scores and few_values") {
  Random random(608);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    constexpr Index size = block_tokens<T>;
    for (const PlainWeight& weight : plain_weights())
      for (const Index keys : lengths<T>())
        for (int repeat = 0; repeat < 4; ++repeat) {
          const Index dim = random.pick(widths), value_dim = random.pick(widths), shift = random.integer(0, 3);
          const Index queries = random.integer(1, 6);
          const bool moved = random.integer(0, 1) == 1;  // every key and the reference by as much
          INFO(weight.name << ", queries " << queries << ", keys " << keys << ", dim " << dim << ", value dim "
                           << value_dim << ", shift " << shift << ", moved " << moved);
          const Rows q = random_rows_of_scores(random, queries, dim), k1 = random_rows_of_scores(random, keys, dim);
          const Rows k2 = random_rows_of_scores(random, keys, dim);
          const Rows v1 = Rows::random(random, keys, value_dim), v2 = Rows::random(random, keys, value_dim);
          const Index stride = padded_columns<T>(value_dim), key_stride = padded_columns<T>(dim);
          const KernelMemory<T> query = padded<T>(q, shift);
          KernelMemory<T> weights(queries * size, T(nan), shift), numerator(queries * stride, T(0), shift);
          KernelMemory<T> normalizer(queries, T(0)), maximum(queries, csq::detail::simd::lowest_score<T>);
          KernelMemory<T> reference(key_stride, T(0), shift);
          for (Index a = 0; moved && a < dim; ++a) reference[a] = 1;  // exact beside scores of small integers
          const std::vector<const Rows*> key_rows{&k1, &k2}, value_rows{&v1, &v2};
          for (std::size_t b = 0; b < 2; ++b) {
            KernelMemory<T> key = padded<T>(*key_rows[b], shift);
            const KernelMemory<T> values = padded<T>(*value_rows[b], shift + 1);
            if (moved)
              for (Index cell = 0; cell < keys * key_stride; ++cell)
                if (cell % key_stride < dim) key[cell] += 1;
            csq::detail::simd::FewQueriesBlock<T> block;
            block.query = query.data();
            block.query_stride = key_stride;
            block.queries = queries;
            block.key = key.data();
            block.key_stride = block.dim = key_stride;
            block.reference = moved ? reference.data() : nullptr;
            block.values = values.data();
            block.value_stride = block.value_dim = stride;
            block.keys = keys;
            block.weight = weight.kernel;
            block.weights = weights.data();
            block.weight_stride = size;
            block.numerator = numerator.data();
            block.numerator_stride = stride;
            block.normalizer = normalizer.data();
            block.maximum = maximum.data();
            block.statistic_stride = 1;
            kernels.few_scores(block);
            kernels.few_values(block);
          }
          Worst worst;
          for (Index r = 0; r < queries; ++r)
            compare_row(weight, q, r, key_rows, value_rows, {keys, keys}, numerator.data() + r * stride, normalizer[r],
                        maximum[r], worst);
          CHECK(worst.units() <= (moved ? 64 : 1) * rounding);  // adding 1 rounds the keys
          for (const auto* memory : {&weights, &numerator, &normalizer, &maximum}) CHECK(memory->frame_is_whole());
        }
  });
}

TEST_CASE("center_scores") {
  Random random(642);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const Index keys : lengths<T>())
      for (const bool exclusive : {false, true})
        for (const double before : {0.0, 1.0, 1000.0}) {
          const Index whole = padded_columns<T>(keys), shift = random.integer(0, 3);
          INFO("keys " << keys << ", exclusive " << exclusive << ", before " << before << ", shift " << shift);
          KernelMemory<T> scores(whole, T(0), shift);
          std::vector<double> expected(static_cast<std::size_t>(keys));
          double sum = before * 0.25, through = sum;
          for (Index j = 0; j < keys; ++j) {
            scores[j] = static_cast<T>(random.normal());
            const double x = static_cast<double>(scores[j]), count = before + static_cast<double>(j);
            const double mean = exclusive ? (count > 0 ? through / count : 0) : (through + x) / (count + 1);
            through += x;
            expected[static_cast<std::size_t>(j)] = x - mean;
          }
          csq::detail::simd::CenterScores<T> block;
          block.scores = scores.data();
          block.keys = keys;
          block.sum = &sum;
          block.count = before;
          block.exclusive = exclusive;
          kernels.center_scores(block);
          double worst = 0;
          for (Index j = 0; j < keys; ++j)
            worst = std::max(worst, std::abs(static_cast<double>(scores[j]) - expected[static_cast<std::size_t>(j)]));
          CHECK(worst < (sizeof(T) == 4 ? 1e-6 : 1e-13));
          CHECK(std::abs(sum - through) < 1e-11);
          CHECK(scores.frame_is_whole());
        }
  });
}

TEST_CASE("divide") {
  Random random(609);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    const std::vector<T> normalizers{1,      T(0.3), std::numeric_limits<T>::min(), T(1e-35), T(1e30), 0, -1,
                                     T(nan), T(-0.0)};
    for (const Index dim : widths)
      for (const Index dim_stride : {1, 2, -1})
        for (const Index shift : {0, 1, 3}) {
          INFO("dim " << dim << ", stride " << dim_stride << ", shift " << shift);
          const Index tokens = Index(normalizers.size()), stride = padded_columns<T>(dim);
          Rows from = Rows::random(random, tokens, dim);
          for (Index a = 0; a < dim; ++a)
            for (const Index small : {2, 3}) from(small, a) *= double(normalizers[std::size_t(small)]);
          const KernelMemory<T> numerator = padded<T>(from, shift);
          PlacedRows<T> output(Rows(tokens, dim), dim_stride, shift);
          T* const start = output.memory.data() + (output.source.data - output.memory.data());
          kernels.divide({numerator.data(), normalizers.data(), tokens, dim, stride, start, output.source.token_stride,
                          dim_stride});
          Worst worst;
          for (Index t = 0; t < tokens; ++t)
            for (Index a = 0; a < dim; ++a) {
              const T normalizer = normalizers[std::size_t(t)];
              const Real expected = normalizer == 0  ? 0
                                    : normalizer > 0 ? Real(numerator[t * stride + a]) / normalizer
                                                     : Real(nan);
              worst.compare(start[t * output.source.token_stride + a * dim_stride], expected, std::abs(expected));
            }
          CHECK(worst.units() <= 1.5);
          CHECK(output.memory.frame_is_whole());
        }
  });
}

TEST_CASE("add") {
  Random random(610);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    const Index line = Index(64 / sizeof(T));
    for (const Index lines : {0, 1, 2, 3, 7})
      for (const Index shift : {0, 1, 5}) {
        INFO("lines " << lines << ", shift " << shift);
        KernelMemory<T> from(lines * line, T(0), shift), to(lines * line, T(0), 2 * shift);
        from.fill(random);
        to.fill(random);
        const KernelMemory<T> before = to;
        kernels.add(lines * line, from.data(), to.data());
        for (Index i = 0; i < to.size(); ++i) CHECK(to[i] == before[i] + from[i]);
        CHECK(to.frame_is_whole());
      }
  });
}

}  // namespace

TEST_CASE("scale_rows") {
  Random random(640);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    for (const Index dim : widths)
      for (const Index tokens : lengths<T>()) {
        const Index stride = padded_columns<T>(dim), shift = random.integer(0, 3);
        INFO("dim " << dim << ", tokens " << tokens << ", shift " << shift);
        KernelMemory<T> from(tokens * stride, T(0), shift), factor(tokens, T(0), shift),
            to(tokens * stride, T(0), shift);
        from.fill(random);
        factor.fill(random);
        kernels.scale_rows(tokens, stride, factor.data(), from.data(), to.data());
        bool right = true;
        for (Index cell = 0; cell < tokens * stride; ++cell)
          right = right && to[cell] == from[cell] * factor[cell / stride];
        CHECK(right);
        kernels.scale_rows(tokens, stride, factor.data(), from.data(), from.data());  // in place
        right = true;
        for (Index cell = 0; cell < tokens * stride; ++cell) right = right && to[cell] == from[cell];
        CHECK(right);
        CHECK(to.frame_is_whole());
        CHECK(from.frame_is_whole());
      }
  });
}

TEST_CASE("decays") {
  Random random(641);
  for_each_kernel_set([&]<class T>(const KernelSet<T>& kernels, const auto&) {
    const double tolerance = sizeof(T) == 4 ? 4e-7 : 4e-15;
    for (const Index tokens : lengths<T>()) {
      const Index shift = random.integer(0, 3), whole = padded_columns<T>(tokens);
      INFO("tokens " << tokens << ", shift " << shift);
      KernelMemory<T> high(whole, T(0), shift), low(whole, T(0), shift), to(whole, T(0), shift);
      // Far from 0, as after many resets: what counts is the difference. Falling, from the token that all decay from.
      const T at_high = T(-1e6), at_low = T(0.03);
      double fall = 0;
      for (Index i = 0; i < whole; ++i) {
        fall += i % 7 == 0 ? 0 : i % 11 == 10 ? 40 : 0.3;
        high[i] = at_high - static_cast<T>(static_cast<Index>(fall));
        low[i] = at_low - static_cast<T>(fall - static_cast<double>(static_cast<Index>(fall)));
      }
      for (const int sign : {1, -1}) {  // tokens behind it, and before it
        if (sign < 0)
          for (Index i = 0; i < whole; ++i) {
            high[i] = at_high + (at_high - high[i]);
            low[i] = at_low + (at_low - low[i]);
          }
        kernels.decays(tokens, at_high, at_low, high.data(), low.data(), to.data());
        for (Index i = 0; i < tokens; ++i) {
          const double difference = -std::abs((static_cast<double>(high[i]) - static_cast<double>(at_high)) +
                                              (static_cast<double>(low[i]) - static_cast<double>(at_low)));
          const double expected = std::exp2(difference);  // a difference is right to a rounding of itself
          if (difference == 0) CHECK(to[i] == 1);
          if (expected < static_cast<double>(smallest_decay<T>) * 0.999) CHECK(to[i] == 0);
          if (expected > static_cast<double>(smallest_decay<T>) * 1.001)
            CHECK(std::abs(static_cast<double>(to[i]) - expected) <= tolerance * (1 - difference) * expected);
        }
        CHECK(to.frame_is_whole());
      }
      high[0] = std::numeric_limits<T>::quiet_NaN();
      kernels.decays(tokens, at_high, at_low, high.data(), low.data(), to.data());
      CHECK(std::isnan(to[0]));
    }
  });
}
