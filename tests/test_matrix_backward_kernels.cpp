// Every backward kernel of the matrix unit, by itself, against plain loops in double over operands that are rounded the
// same way: with tiles in plain C++ everywhere, and on the unit itself where the processor has it.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "csq/detail/simd/target/avx512_amx.hpp"
#include "emulated_tiles.hpp"
#include "kernel_memory.hpp"
#include "kernel_weights.hpp"

namespace {

using csq::detail::far_before;
using csq::detail::WeightKind;
using csq::detail::simd::BackwardKernelSet;
using csq::detail::simd::BFloat16Bits;
using csq::detail::simd::block_tokens;
using csq::detail::simd::depth_steps;
using csq::detail::simd::FeatureMap;
using csq::detail::simd::KernelWeight;
using csq::detail::simd::matrix_direct_backward_bytes;
using csq::detail::simd::matrix_pull_back_bytes;
using csq::detail::simd::MatrixBackwardKernelSet;
using csq::detail::simd::MatrixDirectBackward;
using csq::detail::simd::MatrixKernelSet;
using csq::detail::simd::padded_columns;
using csq::detail::simd::padded_tokens;
using csq::detail::simd::tiles_of;
namespace emulated = csq::detail::simd::emulated_amx;

constexpr float nan_float = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity_float = std::numeric_limits<float>::infinity();
constexpr Index size = block_tokens<float>;

// Sums of up to some hundred terms in float, in units of rounding.
constexpr double rounding = 24;

struct Kernels {
  const MatrixBackwardKernelSet<float>& backward;
  const MatrixKernelSet<float>& forward;
  const BackwardKernelSet<float>& plain;
};

template <class Check>
void for_each_matrix_set(const Check& check) {
  {
    INFO("tiles in C++");
    check({emulated::matrix_backward_kernel_set<float>, emulated::matrix_kernel_set<float>,
           emulated::backward_kernel_set<float>});
  }
#if defined(__x86_64__)
  using Real = csq::detail::simd::avx512_amx::Target;
  if (Real::is_supported() && csq::detail::simd::avx512_amx::may_use_tiles()) {
    INFO("Intel AMX");
    check({*Real::matrix_backward<float>, *Real::matrix<float>, *csq::detail::simd::avx512::Target::backward<float>});
  }
#endif
}

TEST_CASE("whether the matrix unit is there for backward") {
#if defined(__x86_64__)
  if (!csq::detail::simd::avx512_amx::Target::is_supported())
    WARN("no Intel AMX here: its kernels run on emulated tiles");
#else
  WARN("no Intel AMX here: its kernels run on emulated tiles");
#endif
  SUCCEED();
}

double to_bfloat16(double value) { return double(emulated::float_of(emulated::bfloat16_of(float(value)))); }
Rows to_bfloat16(Rows rows) {
  for (double& value : rows.values) value = to_bfloat16(value);
  return rows;
}

const std::vector<Index> dims{1, 3, 16, 31, 32, 33, 64, 80, 128};
const std::vector<Index> token_counts{1, 15, 16, 17, 33, 96, 128, 143, 144};

// Tiles of rows, in exactly the memory that they take.
class TileMemory {
 public:
  explicit TileMemory(Index numbers) : memory_(numbers / 2, nan_float) {}
  BFloat16Bits* data() { return reinterpret_cast<BFloat16Bits*>(memory_.data()); }

  // Of packed rows, over their dimensions: as queries, or as keys.
  static TileMemory of_packed(void (*make)(const float*, Index, Index, BFloat16Bits*), const Rows& rows) {
    TileMemory tiles(tiles_of(rows.tokens) * depth_steps(rows.dim) * 512);
    const KernelMemory<float> memory = packed<float>(rows);
    make(memory.data(), rows.tokens, rows.dim, tiles.data());
    return tiles;
  }
  // Of rows, over their tokens: as pairs, or as lanes.
  template <class Result>
  static TileMemory of_rows(Result (*make)(const float*, Index, Index, BFloat16Bits*), const Rows& rows) {
    const Index stride = padded_columns<float>(rows.dim);
    TileMemory tiles(depth_steps(rows.tokens) * tiles_of(stride) * 512);
    const KernelMemory<float> memory = padded<float>(rows);
    make(memory.data(), rows.tokens, stride, tiles.data());
    return tiles;
  }

 private:
  KernelMemory<float> memory_;
};

TEST_CASE("scaled gradients are rounded before they are multiplied") {
  Random random(1901);
  for_each_matrix_set([&](const Kernels& kernels) {
    for (const Index dim : dims)
      for (const Index tokens : token_counts) {
        const Index gradient_stride = random.pick<Index>({1, 2, -1}), output_stride = random.pick<Index>({1, 3, -1});
        const Index stride = padded_columns<float>(dim);
        INFO("dim " << dim << ", tokens " << tokens << ", strides " << gradient_stride << " and " << output_stride);
        Rows g = Rows::random(random, tokens, dim), o = Rows::random(random, tokens, dim);
        KernelMemory<float> factor(tokens, 0.0f);
        factor.fill(random);
        const Index none = random.integer(0, tokens - 1);  // a row that saw nothing: its gradient is no number
        factor[none] = 0;
        g(none, 0) = o(none, 0) = double(nan_float);
        const PlacedRows<float> gradient(g, gradient_stride, 0), output(o, output_stride, 0);
        KernelMemory<float> rows(tokens * stride), dot(tokens);
        kernels.backward.scale_gradient(
            {gradient.source, output.source, factor.data(), stride, rows.data(), dot.data()});
        Worst worst;
        for (Index t = 0; t < tokens; ++t) {
          double sum = 0, magnitude = 0;
          for (Index a = 0; a < stride; ++a) {
            const float scaled = factor[t] * float(a < dim && t != none ? g(t, a) : 0);
            const double r = a < dim && t != none ? to_bfloat16(double(scaled)) : 0;
            worst.compare(rows[t * stride + a], r, 0);
            if (a >= dim || t == none) continue;
            sum += r * double(float(o(t, a)));
            magnitude += std::abs(r * o(t, a));
          }
          worst.compare(dot[t], sum, magnitude);
        }
        CHECK(worst.units() <= rounding);
        CHECK(rows.frame_is_whole());
        CHECK(dot.frame_is_whole());
      }
    KernelMemory<float> numbers(4096, -3.0f);
    CHECK(kernels.backward.are_finite(4096, numbers.data()));
    for (const float bad : {nan_float, infinity_float, -infinity_float}) {
      KernelMemory<float> some = numbers;
      some[random.integer(0, 4095)] = bad;
      CHECK(!kernels.backward.are_finite(4096, some.data()));
    }
  });
}

FeatureMap random_map(Random& random, Index dim) {
  switch (random.integer(0, 3)) {
    case 0:
      return {dim, true, false, false};
    case 1:
      return {dim, false, true, random.coin()};
    default:
      return {dim, true, true, true};
  }
}
// A slice starts at a multiple of slice_features and ends at one, or at the last feature; some hundred features.
std::array<Index, 2> random_slice(Random& random, Index count) {
  const Index unit = csq::detail::simd::slice_features, units = (count + unit - 1) / unit;
  const Index first = random.coin() ? 0 : random.integer(0, units - 1);
  const Index last = random.coin() ? units : random.integer(first + 1, units);
  const Index begin = std::max(first, last - 30);
  return {begin * unit, std::min(count, last * unit)};
}

TEST_CASE("pull_back on the matrix unit") {
  Random random(1902);
  for_each_matrix_set([&](const Kernels& kernels) {
    for (const Index dim : dims)
      for (const Index tokens : token_counts) {
        const Index value_dim = random.pick(dims), blocks = random.integer(1, 3),
                    last_tokens = random.integer(1, tokens);
        const FeatureMap map = random_map(random, dim);
        const std::array<Index, 2> slice = random_slice(random, map.size());
        const Index first = slice[0], last = slice[1];
        const Index stride = padded_columns<float>(value_dim), features = last - first;
        const int poison = int(random.integer(0, 3));  // 0: a row of x, 1: one of y
        INFO("dim " << dim << ", pairs " << map.pairs << ", tokens " << tokens << " and " << last_tokens << ", blocks "
                    << blocks << ", value dim " << value_dim << ", features " << first << " to " << last << ", poison "
                    << poison);
        const Index packed_step = (dim + 1) * size, gradient_step = dim * size;
        const Index target_step = tiles_of(tokens) * depth_steps(value_dim) * 512;
        KernelMemory<float> x_packed(blocks * packed_step), target_normalizer(blocks * size);
        KernelMemory<float> gradient(blocks * gradient_step, 0.0f), shift(blocks * size, 0.0f);
        KernelMemory<float> summary(features * stride, 0.0f), normalizer(features, 0.0f);
        KernelMemory<float> scratch(matrix_pull_back_bytes<float>(value_dim) / 4);
        for (auto* memory : {&gradient, &shift, &summary, &normalizer}) memory->fill(random);
        for (Index f = 0; f < features; ++f)
          for (Index c = value_dim; c < stride; ++c) summary[f * stride + c] = 0;
        const KernelMemory<float> gradient_before = gradient, shift_before = shift;
        TileMemory target(blocks * target_step);
        std::vector<Rows> x, y;
        for (Index b = 0; b < blocks; ++b) {
          const Index count = b + 1 < blocks ? tokens : last_tokens;
          x.push_back(Rows::random(random, count, dim));
          y.push_back(to_bfloat16(Rows::random(random, count, value_dim)));
          if (b == 0 && poison == 0) x[0](count / 2, dim / 2) = double(nan_float);
          if (b == 0 && poison == 1) y[0](count / 2, value_dim / 2) = double(nan_float);
          const KernelMemory<float> one = packed<float>(x.back()), two = packed<float>(y.back());
          std::copy_n(one.data(), packed_step, x_packed.data() + b * packed_step);
          kernels.forward.query_tiles(two.data(), count, value_dim, target.data() + b * target_step);
          for (Index t = 0; t < padded_tokens<float>(count); ++t)
            target_normalizer[b * size + t] = t < count ? float(random.normal()) : 0.0f;
        }

        csq::detail::simd::MatrixPullBack<float> block;
        block.packed = x_packed.data();
        block.target = target.data();
        block.target_normalizer = target_normalizer.data();
        block.packed_step = packed_step;
        block.target_step = target_step;
        block.target_normalizer_step = block.shift_step = size;
        block.gradient_step = gradient_step;
        block.blocks = blocks;
        block.tokens = tokens;
        block.last_tokens = last_tokens;
        block.value_dim = value_dim;
        block.map = map;
        block.coefficients = {1.5f, 0.75f, -2.0f, 0.5f};
        block.shift_constant = 0.375f;
        block.first = first;
        block.last = last;
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        block.scratch = scratch.data();
        block.gradient = gradient.data();
        block.shift = shift.data();
        kernels.backward.pull_back(block);

        Worst worst;
        for (Index b = 0; b < blocks; ++b) {
          const Rows &mine = x[std::size_t(b)], &targets = y[std::size_t(b)];
          for (Index t = 0; t < mine.tokens; ++t) {
            std::vector<double> expected(std::size_t(dim + 1)), magnitude(expected.size());
            for (Index a = 0; a <= dim; ++a) {
              expected[std::size_t(a)] =
                  double(a == dim ? shift_before[b * size + t] : gradient_before[b * gradient_step + a * size + t]);
              magnitude[std::size_t(a)] = std::abs(expected[std::size_t(a)]);
            }
            const auto add = [&](Index a, double p, double size_of_p, double factor) {
              expected[std::size_t(a)] += p * factor;
              magnitude[std::size_t(a)] += size_of_p * std::abs(factor);
            };
            // P with S rounded as its degree asks for.
            const auto p_of = [&](Index f, bool degree_2, double& magnitude_of_p) {
              const Index row = f - first;
              const double z = double(normalizer[row]) * double(target_normalizer[b * size + t]);
              const double coefficient = degree_2 ? 1.5 : 1;
              double sum = coefficient * z;
              magnitude_of_p = std::abs(sum);
              for (Index c = 0; c < value_dim; ++c) {
                const double s = coefficient * double(summary[row * stride + c]);
                const double rounded = to_bfloat16(s), rest = degree_2 ? 0 : to_bfloat16(s - rounded);
                sum += (rounded + rest) * targets(t, c);
                magnitude_of_p += std::abs(s * targets(t, c));
              }
              return sum;
            };
            double size_of_p = 0;
            Index f = 0;
            for (Index a = 0; map.pairs && a < dim; ++a)
              for (Index other = a; other < dim; ++other, ++f) {
                if (f < first || f >= last) continue;
                const double p = p_of(f, true, size_of_p);
                add(a, p, size_of_p, double(float(mine(t, other))));
                if (other != a) add(other, p, size_of_p, double(float(mine(t, a))));
              }
            for (Index a = 0; map.linear && a < dim; ++a, ++f) {
              if (f < first || f >= last) continue;
              const double p = p_of(f, false, size_of_p);
              add(a, p, size_of_p, -2);
              add(dim, p, size_of_p, 1.5 * double(float(mine(t, a))));
            }
            if (map.constant && f >= first && f < last) add(dim, p_of(f, false, size_of_p), size_of_p, 0.375);
            for (Index a = 0; a <= dim; ++a)
              worst.compare(a == dim ? shift[b * size + t] : gradient[b * gradient_step + a * size + t],
                            expected[std::size_t(a)], magnitude[std::size_t(a)]);
          }
        }
        CHECK(worst.units() <= rounding);
        for (const auto* memory : {&gradient, &shift, &scratch, &summary}) CHECK(memory->frame_is_whole());
      }
  });
}

Rows random_rows_of_scores(Random& random, Index tokens, Index dim) {
  Rows rows = Rows::random(random, tokens, dim);
  for (double& value : rows.values) value *= 1.5 / std::sqrt(std::sqrt(double(dim)));
  return to_bfloat16(rows);
}

double product(const Rows& x, Index i, const Rows& y, Index j) {
  double sum = 0;
  for (Index a = 0; a < x.dim; ++a) sum += x(i, a) * y(j, a);
  return sum;
}

// A block of queries against one of keys, with all that both kernels want.
struct Pairs {
  Rows q, k, v, r;
  Index diagonal, band_start;
  KernelMemory<float> dot{size, 0.0f}, log_normalizer{size, 0.0f};
  csq::detail::simd::Adjustment<float> adjust;
  bool wants_key_sums = false;

  Pairs(Random& random, Index queries, Index keys, Index key_dim, Index value_dim, Index diag, Index start)
      : q(random_rows_of_scores(random, queries, key_dim)),
        k(random_rows_of_scores(random, keys, key_dim)),
        v(to_bfloat16(Rows::random(random, keys, value_dim))),
        r(to_bfloat16(Rows::random(random, queries, value_dim))),
        diagonal(diag),
        band_start(start) {
    for (Index i = 0; i < queries; ++i) {
      dot[i] = float(random.normal());
      log_normalizer[i] = float(random.normal());
    }
  }
};

struct PairGradients {
  Index queries, keys;
  KernelMemory<float> query, key, value, key_sums;  // rows
  double slope_sum = 0.5;
  bool frames_are_whole = true, padding_is_whole = true;

  PairGradients(Random& random, const Pairs& pairs)
      : queries(pairs.q.tokens),
        keys(pairs.k.tokens),
        query(size * padded_columns<float>(pairs.q.dim), 0.0f),
        key(size * padded_columns<float>(pairs.k.dim), 0.0f),
        value(size * padded_columns<float>(pairs.v.dim), 0.0f),
        key_sums(keys, 0.0f) {
    for (auto* memory : {&query, &key, &value, &key_sums}) memory->fill(random);
  }

  // What is added: by the matrix unit, or by the float kernel.
  void add(const Kernels& kernels, const Pairs& pairs, const KernelWeight& weight, bool plain) {
    const KernelMemory<float> q = packed<float>(pairs.q), k = packed<float>(pairs.k), v = packed<float>(pairs.v);
    const KernelMemory<float> r = packed<float>(pairs.r), q_rows = padded<float>(pairs.q),
                              k_rows = padded<float>(pairs.k);
    const KernelMemory<float> r_rows = padded<float>(pairs.r);
    const Index key_stride = padded_columns<float>(pairs.q.dim);
    KernelMemory<float> weights(size * size), slopes(size * size), cap_slopes(size * size);
    KernelMemory<float> scratch(matrix_direct_backward_bytes<float>(key_stride) / 4), rows(size * key_stride);
    KernelMemory<float> sums(tiles_of(queries) * tiles_of(key_stride) * 256, 0.0f);
    const KernelMemory<float> key_before = key, value_before = value;
    MatrixDirectBackward<float> matrix;
    csq::detail::simd::DirectBackwardBlock<float>& block = matrix.block;
    block.query = q.data();
    block.query_rows = q_rows.data();
    block.key = k.data();
    block.key_rows = k_rows.data();
    block.value = v.data();
    block.gradient = r.data();
    block.gradient_rows = r_rows.data();
    block.dot = pairs.dot.data();
    block.log_normalizer = pairs.log_normalizer.data();
    block.queries = queries;
    block.keys = keys;
    block.key_dim = pairs.q.dim;
    block.value_dim = pairs.v.dim;
    block.diagonal = pairs.diagonal;
    block.band_start = pairs.band_start;
    block.weight = weight;
    block.weights = weights.data();
    block.slopes = slopes.data();
    block.cap_slopes = cap_slopes.data();
    block.key_sums = pairs.wants_key_sums ? key_sums.data() : nullptr;
    block.query_gradient = plain ? query.data() : rows.data();
    block.key_gradient = key.data();
    block.value_gradient = value.data();
    block.slope_sum = &slope_sum;
    block.adjust = pairs.adjust;
    if (plain) {
      kernels.plain.direct(block);
      return;
    }
    TileMemory queries_tiles = TileMemory::of_packed(kernels.forward.query_tiles, pairs.q);
    TileMemory query_pairs = TileMemory::of_rows(kernels.forward.value_pair_tiles, pairs.q);
    TileMemory key_tiles = TileMemory::of_packed(kernels.forward.key_tiles, pairs.k);
    TileMemory key_lanes = TileMemory::of_rows(kernels.forward.value_lane_tiles, pairs.k);
    TileMemory value_tiles = TileMemory::of_packed(kernels.forward.key_tiles, pairs.v);
    TileMemory gradient = TileMemory::of_packed(kernels.forward.query_tiles, pairs.r);
    TileMemory gradient_pairs = TileMemory::of_rows(kernels.forward.value_pair_tiles, pairs.r);
    matrix.query = queries_tiles.data();
    matrix.query_pairs = query_pairs.data();
    matrix.key = key_tiles.data();
    matrix.key_lanes = key_lanes.data();
    matrix.value = value_tiles.data();
    matrix.gradient = gradient.data();
    matrix.gradient_pairs = gradient_pairs.data();
    matrix.rows_are_finite = true;
    for (const auto* finite : {&q_rows, &k_rows, &r_rows})
      matrix.rows_are_finite = matrix.rows_are_finite && kernels.backward.are_finite(finite->size(), finite->data());
    matrix.query_sums = sums.data();
    matrix.scratch = scratch.data();
    kernels.backward.direct(matrix);
    kernels.forward.move_sums(queries, key_stride, sums.data(), query.data());
    for (const auto* memory : {&weights, &slopes, &scratch, &rows, &sums, &query, &key, &value, &key_sums})
      frames_are_whole = frames_are_whole && memory->frame_is_whole();
    if (!matrix.rows_are_finite) return;
    for (const auto& [now, before, stride] :
         {std::tuple{&key, &key_before, key_stride}, {&value, &value_before, padded_columns<float>(pairs.v.dim)}})
      for (Index cell = keys * stride; cell < size * stride; ++cell)
        padding_is_whole = padding_is_whole && (*now)[cell] == (*before)[cell];
  }
};

// Sums with the sums of absolute values beside them.
struct Sums {
  Rows value, magnitude;

  Sums(Index tokens, Index dim) : value(tokens, dim), magnitude(tokens, dim) {}
  void add(Index t, const Rows& row, Index j, double factor, double weight) {
    for (Index a = 0; a < row.dim; ++a) {
      value(t, a) += factor * row(j, a);
      magnitude(t, a) += std::isnan(factor * row(j, a)) ? 0 : weight * std::abs(row(j, a));
    }
  }
  // Of what weights and slopes rounded to bfloat16 may be off.
  double worst(const KernelMemory<float>& result, const KernelMemory<float>& before) const {
    const Index stride = padded_columns<float>(value.dim);
    Worst worst;
    for (Index t = 0; t < value.tokens; ++t)
      for (Index a = 0; a < value.dim; ++a) {
        const double old = double(before[t * stride + a]);
        worst.compare(result[t * stride + a], old + value(t, a), std::abs(old) + 0x1p14 * magnitude(t, a));
      }
    return worst.units();
  }
};

TEST_CASE("direct_backward on the matrix unit") {
  Random random(1903);
  for_each_matrix_set([&](const Kernels& kernels) {
    for (const PlainWeight& weight : plain_weights(true))
      for (int repeat = 0; repeat < 80; ++repeat) {
        const Index key_dim = random.pick(dims), value_dim = random.pick(dims);
        const Index queries = random.pick(token_counts), keys = random.pick(token_counts);
        // All see all; a triangle; a triangle whose first queries see nothing, or some keys more.
        const Index diagonal =
            random.pick<Index>({keys, 1, 1 - random.integer(0, queries - 1), random.integer(1, keys)});
        const Index band_start = random.pick<Index>({far_before, diagonal - random.integer(1, keys)});
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", key dim " << key_dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", band start " << band_start);
        const Pairs pairs(random, queries, keys, key_dim, value_dim, diagonal, band_start);
        PairGradients gradients(random, pairs);
        const PairGradients before = gradients;
        gradients.add(kernels, pairs, weight.kernel, false);

        Sums dq(queries, key_dim), dk(keys, key_dim), dv(keys, value_dim);
        double slopes = 0.5, slopes_magnitude = 0.5;
        const bool exponential = weight.kernel.kind == WeightKind::exponential;
        for (Index i = 0; i < queries; ++i)
          for (Index j = std::clamp<Index>(band_start + i, 0, keys); j < std::clamp<Index>(diagonal + i, 0, keys);
               ++j) {
            const double s = product(pairs.q, i, pairs.k, j) - (exponential ? double(pairs.log_normalizer[i]) : 0);
            const auto [w, w_slope] = weight(s);
            const double rv = product(pairs.r, i, pairs.v, j), dot = double(pairs.dot[i]);
            const double slope = double(w_slope) * (rv - dot);
            // Scores in float move w of the kinds that grow fast, and r·v a slope that cancels.
            const double w_size = double(w) + 0x1p-10 * (1 + std::abs(s));
            const double slope_size = std::abs(slope) + 0x1p-10 * (1 + std::abs(double(w_slope))) * (1 + std::abs(s)) *
                                                            (std::sqrt(double(value_dim)) + std::abs(dot));
            dv.add(j, pairs.r, i, double(w), w_size);
            dk.add(j, pairs.q, i, slope, slope_size);
            dq.add(i, pairs.k, j, slope, slope_size);
            slopes += slope;
            slopes_magnitude += slope_size;
          }
        CHECK(dq.worst(gradients.query, before.query) <= 2);
        CHECK(dk.worst(gradients.key, before.key) <= 2);
        CHECK(dv.worst(gradients.value, before.value) <= 2);
        CHECK(std::abs(gradients.slope_sum - slopes) <= 0x1p-17 * slopes_magnitude);
        CHECK(gradients.frames_are_whole);
        CHECK(gradients.padding_is_whole);
      }
  });
}

TEST_CASE("what a query does not see reaches none of its gradients on the matrix unit") {
  Random random(1904);
  KernelWeight square;
  square.c2 = 1;
  for_each_matrix_set([&](const Kernels& kernels) {
    for (const Index tokens : token_counts)
      for (const Index dim : {1, 16, 33})
        for (const float bad : {nan_float, infinity_float})
          for (const char what : {'k', 'v', 'q', 'r'}) {
            const Index at = random.integer(0, tokens - 1), stride = padded_columns<float>(dim);
            INFO("tokens " << tokens << ", dim " << dim << ", " << bad << " in " << what << " " << at);
            Pairs pairs(random, tokens, tokens, dim, dim, 1, far_before);
            (what == 'k' ? pairs.k : what == 'v' ? pairs.v : what == 'q' ? pairs.q : pairs.r)(at, 0) = double(bad);
            PairGradients gradients(random, pairs);
            gradients.add(kernels, pairs, square, false);
            const bool is_key = what == 'k' || what == 'v';
            for (Index t = 0; t < tokens; ++t) {
              const bool query_may = is_key ? t >= at : t == at, key_may = is_key ? t == at : t <= at;
              const float dq = gradients.query[t * stride], dk = gradients.key[t * stride];
              const float dv = gradients.value[t * stride];
              CHECK(std::isfinite(dq) == !query_may);
              CHECK(std::isfinite(dk) == !key_may);
              CHECK(std::isfinite(dv) == !(key_may && what != 'v'));
            }
            CHECK(gradients.frames_are_whole);
          }
  });
}

double norm_of_difference(const KernelMemory<float>& x, const KernelMemory<float>& y, Index rows, Index dim,
                          Index stride) {
  double difference = 0, norm = 0;
  for (Index t = 0; t < rows; ++t)
    for (Index a = 0; a < dim; ++a) {
      const double one = double(x[t * stride + a]), other = double(y[t * stride + a]);
      difference += (one - other) * (one - other);
      norm += other * other;
    }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// What cap, gates and bias make of weights and slopes is the float kernels' own code: the same up to rounding.
TEST_CASE("direct_backward on the matrix unit with adjustments") {
  Random random(1905);
  for_each_matrix_set([&](const Kernels& kernels) {
    for (const PlainWeight& weight : plain_weights())
      for (int repeat = 0; repeat < 24; ++repeat) {
        const bool exponential = weight.kernel.kind == WeightKind::exponential;
        const Index key_dim = random.pick(dims), value_dim = random.pick(dims);
        const Index queries = random.pick(token_counts), keys = random.pick(token_counts);
        const Index diagonal = random.pick<Index>({keys, 1, random.integer(1, keys)});
        const Index band_start = random.pick<Index>({far_before, random.integer(-queries, 0)});
        const int option = exponential ? int(random.integer(0, 2)) : 0;
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", key dim " << key_dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", band start " << band_start << ", option "
                         << option);
        KernelMemory<float> query_gate(size, 0.0f), key_gate(size, 0.0f), low(size, 0.0f), bias(queries * keys, 0.0f);
        for (Index t = 0; t < size; ++t) {  // position of query i among the keys is i + diagonal − 1
          key_gate[t] = -0.125f * float(t);
          query_gate[t] = -0.125f * float(t + diagonal - 1);
        }
        bias.fill(random);
        Pairs pairs(random, queries, keys, key_dim, value_dim, diagonal, band_start);
        if (option == 0) {
          pairs.adjust.query_gate = query_gate.data();
          pairs.adjust.key_gate = key_gate.data();
          pairs.adjust.query_gate_low = pairs.adjust.key_gate_low = low.data();
          pairs.wants_key_sums = random.coin();
        } else if (option == 1) {
          pairs.adjust.soft_cap = 3;
        } else {
          pairs.adjust.bias = bias.data();
          pairs.adjust.bias_query_stride = keys;
          pairs.adjust.bias_key_stride = 1;
        }
        PairGradients gradients(random, pairs);
        for (auto* memory : {&gradients.query, &gradients.key, &gradients.value, &gradients.key_sums})
          std::fill_n(memory->data(), memory->size(), 0.0f);
        gradients.slope_sum = 0;
        PairGradients expected = gradients;
        gradients.add(kernels, pairs, weight.kernel, false);
        expected.add(kernels, pairs, weight.kernel, true);
        const Index key_stride = padded_columns<float>(key_dim), value_stride = padded_columns<float>(value_dim);
        // A few terms may cancel more than 2^-9 of each leaves right.
        const double tolerance = queries * keys < 2000 ? 0.25 : 0x1p-7;
        CHECK(norm_of_difference(gradients.query, expected.query, queries, key_dim, key_stride) < tolerance);
        CHECK(norm_of_difference(gradients.key, expected.key, keys, key_dim, key_stride) < tolerance);
        CHECK(norm_of_difference(gradients.value, expected.value, keys, value_dim, value_stride) < tolerance);
        CHECK(norm_of_difference(gradients.key_sums, expected.key_sums, keys, 1, 1) < 1e-4);
        CHECK(std::abs(gradients.slope_sum - expected.slope_sum) <= 1e-3 * (1 + std::abs(expected.slope_sum)));
        CHECK(gradients.frames_are_whole);
        CHECK(gradients.padding_is_whole);
      }
  });
}

}  // namespace
