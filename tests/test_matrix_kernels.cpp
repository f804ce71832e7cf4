// Every forward kernel of the matrix unit, by itself, against plain loops in double over operands that are rounded the
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

using csq::detail::WeightKind;
using csq::detail::simd::BFloat16Bits;
using csq::detail::simd::block_tokens;
using csq::detail::simd::depth_steps;
using csq::detail::simd::FeatureMap;
using csq::detail::simd::KernelSet;
using csq::detail::simd::KernelWeight;
using csq::detail::simd::matrix_scratch_bytes;
using csq::detail::simd::MatrixKernelSet;
using csq::detail::simd::padded_columns;
using csq::detail::simd::padded_tokens;
using csq::detail::simd::tiles_of;
namespace emulated = csq::detail::simd::emulated_amx;

constexpr float nan_float = std::numeric_limits<float>::quiet_NaN();
constexpr Index size = block_tokens<float>;

// Sums of up to some hundred terms in float, in units of rounding.
constexpr double rounding = 24;

// check(matrix kernels, float kernels).
template <class Check>
void for_each_matrix_set(const Check& check) {
  {
    INFO("tiles in C++");
    check(emulated::matrix_kernel_set<float>, emulated::kernel_set<float>);
  }
#if defined(__x86_64__)
  using Real = csq::detail::simd::avx512_amx::Target;
  if (Real::is_supported() && csq::detail::simd::avx512_amx::may_use_tiles()) {
    INFO("Intel AMX");
    check(*Real::matrix<float>, *csq::detail::simd::avx512::Target::forward<float>);
  }
#endif
}

TEST_CASE("whether the matrix unit is there") {
#if defined(__x86_64__)
  if (!csq::detail::simd::avx512_amx::Target::is_supported())
    WARN("no Intel AMX here: its kernels run on emulated tiles");
#else
  WARN("no Intel AMX here: its kernels run on emulated tiles");
#endif
  SUCCEED();
}

// To the nearest bfloat16, to even.
double to_bfloat16(double value) { return double(emulated::float_of(emulated::bfloat16_of(float(value)))); }
// To the nearest, halves away from zero: S and the features that read it, which are made in a hurry.
double hastily_to_bfloat16(double value) {
  const float x = float(value);
  if (std::isnan(x)) return double(nan_float);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return double(emulated::float_of(std::uint16_t((bits + 0x8000) >> 16)));
}
Rows to_bfloat16(Rows rows) {
  for (double& value : rows.values) value = to_bfloat16(value);
  return rows;
}

const std::vector<Index> dims{1, 3, 16, 31, 32, 33, 64, 80, 128};
const std::vector<Index> token_counts{1, 15, 16, 17, 33, 96, 128, 143, 144};

// Memory in frames, all of it at whole cache lines.
struct TileMemory {
  KernelMemory<float> memory;
  explicit TileMemory(Index numbers) : memory(numbers / 2, nan_float) {}
  BFloat16Bits* data() { return reinterpret_cast<BFloat16Bits*>(memory.data()); }
  double operator[](Index i) { return double(emulated::float_of(data()[i])); }
};

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

TEST_CASE("tiles of tokens and values") {
  Random random(1801);
  for_each_matrix_set([&](const MatrixKernelSet<float>& kernels, const auto&) {
    for (const Index dim : dims)
      for (const Index tokens : token_counts) {
        INFO("dim " << dim << ", tokens " << tokens);
        Rows x = Rows::random(random, tokens, dim);
        x(tokens - 1, dim - 1) = std::numeric_limits<double>::quiet_NaN();
        if (tokens * dim > 1) x(0, 0) = -std::numeric_limits<double>::infinity();
        const auto at = [&](Index t, Index a) { return t < tokens && a < dim ? to_bfloat16(x(t, a)) : 0.0; };
        const KernelMemory<float> x_packed = packed<float>(x), values = padded<float>(x);
        const Index stride = padded_columns<float>(dim), steps = depth_steps(dim), token_steps = depth_steps(tokens);
        TileMemory queries(tiles_of(tokens) * steps * 512), keys(tiles_of(tokens) * steps * 512);
        TileMemory pairs(token_steps * tiles_of(stride) * 512), value_lanes(token_steps * tiles_of(stride) * 512);
        kernels.query_tiles(x_packed.data(), tokens, dim, queries.data());
        kernels.key_tiles(x_packed.data(), tokens, dim, keys.data());
        kernels.value_pair_tiles(values.data(), tokens, stride, pairs.data());
        CHECK(!kernels.value_lane_tiles(values.data(), tokens, stride, value_lanes.data()));
        bool right = true;
        for (Index t = 0; t < tiles_of(tokens) * 16; ++t)
          for (Index a = 0; a < steps * 32; ++a) {
            const Index tile = (t / 16 * steps + a / 32) * 512;
            right = right && same(queries[tile + a % 32 / 2 * 32 + t % 16 * 2 + a % 2], at(t, a)) &&
                    same(keys[tile + t % 16 * 32 + a % 32], at(t, a));
          }
        for (Index t = 0; t < token_steps * 32; ++t)
          for (Index e = 0; e < stride; ++e) {
            const Index in_pairs = (t / 32 * tiles_of(stride) + e / 16) * 512 + t % 32 / 2 * 32 + e % 16 * 2 + t % 2;
            const Index in_lanes = (e / 16 * token_steps + t / 32) * 512 + e % 16 * 32 + t % 32;
            right = right && same(pairs[in_pairs], at(t, e)) && same(value_lanes[in_lanes], at(t, e));
          }
        CHECK(right);
        for (auto* memory : {&queries, &keys, &pairs, &value_lanes}) CHECK(memory->memory.frame_is_whole());
        x(tokens - 1, dim - 1) = x(0, 0) = 1;
        const KernelMemory<float> finite = padded<float>(x);
        CHECK(kernels.value_lane_tiles(finite.data(), tokens, stride, value_lanes.data()));
      }
  });
}

// Monomials in float, in the order of FeatureMap.
std::vector<float> features(const FeatureMap& map, const Rows& x, Index t) {
  std::vector<float> result;
  for (Index a = 0; map.pairs && a < map.dim; ++a)
    for (Index b = a; b < map.dim; ++b) result.push_back(float(x(t, a)) * float(x(t, b)));
  for (Index a = 0; map.linear && a < map.dim; ++a) result.push_back(float(x(t, a)));
  if (map.constant) result.push_back(1);
  return result;
}
std::vector<float> coefficients_of(const FeatureMap& map) {
  std::vector<float> result;
  for (Index a = 0; map.pairs && a < map.dim; ++a)
    for (Index b = a; b < map.dim; ++b) result.push_back(a == b ? 0.75f : 1.5f);
  for (Index a = 0; map.linear && a < map.dim; ++a) result.push_back(-2);
  if (map.constant) result.push_back(0.5f);
  return result;
}
FeatureMap random_map(Random& random, Index dim) {
  FeatureMap map{dim, true, true, true};
  switch (random.integer(0, 3)) {
    case 0:
      return {dim, true, false, false};
    case 1:
      return {dim, dim > 80 ? true : random.coin(), true, random.coin()};
    default:
      return map;
  }
}
// A slice starts at a multiple of slice_features and ends at one, or at the last feature; a few hundred features.
std::array<Index, 2> random_slice(Random& random, Index count) {
  const Index unit = csq::detail::simd::slice_features, units = (count + unit - 1) / unit;
  const Index first = random.coin() ? 0 : random.integer(0, units - 1);
  const Index last = random.coin() ? units : random.integer(first + 1, units);
  const Index begin = std::max(first, last - 14);
  return {begin * unit, std::min(count, last * unit)};
}
Index padded_rows(Index rows) {
  const Index unit = csq::detail::simd::slice_features;
  return (rows + unit - 1) / unit * unit;
}

TEST_CASE("absorb on the matrix unit") {
  Random random(1802);
  for_each_matrix_set([&](const MatrixKernelSet<float>& kernels, const auto&) {
    for (const Index dim : dims)
      for (const Index tokens : token_counts) {
        const Index value_dim = random.pick(dims), blocks = random.integer(1, 3),
                    last_tokens = random.integer(1, tokens);
        const FeatureMap map = random_map(random, dim);
        const auto [first, last] = random_slice(random, map.size());
        const float keep = random.coin() ? 1.0f : 0.375f;
        const Index stride = padded_columns<float>(value_dim);
        const int poison = int(random.integer(0, 3));  // 0: a key, 1: a value
        INFO("dim " << dim << ", pairs " << map.pairs << ", tokens " << tokens << " and " << last_tokens << ", blocks "
                    << blocks << ", value dim " << value_dim << ", features " << first << " to " << last << ", keep "
                    << keep << ", poison " << poison);
        const Index packed_step = (dim + 1) * size, value_step = depth_steps(tokens) * tiles_of(stride) * 512;
        KernelMemory<float> x_packed(blocks * packed_step), row_weights(blocks * size, 0.0f);
        TileMemory values(blocks * value_step);
        std::vector<Rows> x, v;
        for (Index b = 0; b < blocks; ++b) {
          const Index count = b + 1 < blocks ? tokens : last_tokens;
          x.push_back(Rows::random(random, count, dim));
          v.push_back(Rows::random(random, count, value_dim));
          if (b == 0 && poison == 0) x[0](count / 2, dim / 2) = double(nan_float);
          if (b == 0 && poison == 1) v[0](count / 2, value_dim / 2) = double(nan_float);
          const KernelMemory<float> one = packed<float>(x.back()), rows = padded<float>(v.back());
          std::copy_n(one.data(), packed_step, x_packed.data() + b * packed_step);
          for (Index t = 0; t < count; ++t) row_weights[b * size + t] = float(random.normal());
          kernels.value_pair_tiles(rows.data(), count, stride, values.data() + b * value_step);
        }
        KernelMemory<float> scratch(matrix_scratch_bytes<float>(stride) / 4, nan_float);
        KernelMemory<float> summary(padded_rows(last - first) * stride, 0.0f), normalizer(last - first, 0.0f);
        summary.fill(random);
        normalizer.fill(random);
        const KernelMemory<float> summary_before = summary, normalizer_before = normalizer;

        csq::detail::simd::MatrixAbsorb<float> block;
        block.packed = x_packed.data();
        block.values = values.data();
        block.row_weights = row_weights.data();
        block.packed_step = packed_step;
        block.value_step = value_step;
        block.row_weight_step = size;
        block.blocks = blocks;
        block.tokens = tokens;
        block.last_tokens = last_tokens;
        block.value_stride = stride;
        block.map = map;
        block.first = first;
        block.last = last;
        block.keep = keep;
        block.scratch = scratch.data();
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        kernels.absorb(block);

        const std::size_t rows = std::size_t(last - first), columns = std::size_t(value_dim);
        std::vector<double> expected(rows * (columns + 1)), magnitude(expected.size());
        for (std::size_t f = 0; f < rows; ++f)
          for (std::size_t c = 0; c <= columns; ++c) {
            double& sum = expected[f * (columns + 1) + c];
            sum = c == columns ? normalizer_before[Index(f)] : summary_before[Index(f) * stride + Index(c)];
            sum *= keep;
            magnitude[f * (columns + 1) + c] = std::abs(sum);
          }
        for (Index b = 0; b < blocks; ++b) {
          const Rows& mine = v[std::size_t(b)];
          for (Index t = 0; t < mine.tokens; ++t) {
            const std::vector<float> phi = features(map, x[std::size_t(b)], t);
            for (std::size_t f = 0; f < rows; ++f) {
              const float exact = phi[std::size_t(first) + f];
              const double rounded = to_bfloat16(double(exact));
              for (std::size_t c = 0; c <= columns; ++c) {
                const double term = c == columns ? double(exact) * double(row_weights[b * size + t])
                                                 : rounded * to_bfloat16(mine(t, Index(c)));
                expected[f * (columns + 1) + c] += term;
                magnitude[f * (columns + 1) + c] += std::abs(term);
              }
            }
          }
        }
        Worst worst;
        for (std::size_t f = 0; f < rows; ++f)
          for (std::size_t c = 0; c <= columns; ++c)
            worst.compare(c == columns ? normalizer[Index(f)] : summary[Index(f) * stride + Index(c)],
                          expected[f * (columns + 1) + c], magnitude[f * (columns + 1) + c]);
        CHECK(worst.units() <= rounding);
        for (const auto* memory : {&summary, &normalizer, &scratch}) CHECK(memory->frame_is_whole());
        // Rows past the last feature are padding that nobody reads, but they are there.
        bool padding_is_whole = true;
        for (Index cell = (last - first) * stride; cell < summary.size(); ++cell)
          padding_is_whole = padding_is_whole && summary[cell] == summary_before[cell];
        CHECK(padding_is_whole);
      }
  });
}

TEST_CASE("read on the matrix unit") {
  Random random(1803);
  for_each_matrix_set([&](const MatrixKernelSet<float>& kernels, const auto&) {
    for (const Index dim : dims)
      for (const Index tokens : token_counts) {
        const Index value_dim = random.pick(dims), blocks = random.integer(1, 3),
                    last_tokens = random.integer(1, tokens);
        const FeatureMap map = random_map(random, dim);
        const auto [first, last] = random_slice(random, map.size());
        const Index stride = padded_columns<float>(value_dim);
        const bool poisoned = random.integer(0, 3) == 0;
        INFO("dim " << dim << ", pairs " << map.pairs << ", tokens " << tokens << " and " << last_tokens << ", blocks "
                    << blocks << ", value dim " << value_dim << ", features " << first << " to " << last
                    << ", poisoned " << poisoned);
        const Index packed_step = (dim + 1) * size, sum_step = tiles_of(tokens) * tiles_of(stride) * 256;
        KernelMemory<float> x_packed(blocks * packed_step), sums(blocks * sum_step, 0.0f);
        KernelMemory<float> normalizer_rows(blocks * size, 0.0f), scratch(matrix_scratch_bytes<float>(stride) / 4);
        std::vector<Rows> x;
        for (Index b = 0; b < blocks; ++b) {
          x.push_back(Rows::random(random, b + 1 < blocks ? tokens : last_tokens, dim));
          if (b == 0 && poisoned) x[0](x[0].tokens / 2, dim / 2) = double(nan_float);
          const KernelMemory<float> one = packed<float>(x.back());
          std::copy_n(one.data(), packed_step, x_packed.data() + b * packed_step);
        }
        KernelMemory<float> summary((last - first) * stride, 0.0f), normalizer(last - first, 0.0f);
        for (auto* memory : {&summary, &normalizer, &normalizer_rows}) memory->fill(random);
        const KernelMemory<float> rows_before = normalizer_rows;

        csq::detail::simd::MatrixRead<float> block;
        block.packed = x_packed.data();
        block.sums = sums.data();
        block.normalizer_rows = normalizer_rows.data();
        block.packed_step = packed_step;
        block.sum_step = sum_step;
        block.normalizer_step = size;
        block.blocks = blocks;
        block.tokens = tokens;
        block.last_tokens = last_tokens;
        block.value_stride = stride;
        block.map = map;
        block.coefficients = {1.5f, 0.75f, -2.0f, 0.5f};
        block.first = first;
        block.last = last;
        block.scratch = scratch.data();
        block.summary = summary.data();
        block.normalizer = normalizer.data();
        kernels.read(block);

        const std::vector<float> coefficients = coefficients_of(map);
        Worst worst;
        for (Index b = 0; b < blocks; ++b) {
          const Rows& mine = x[std::size_t(b)];
          KernelMemory<float> numerator(padded_tokens<float>(mine.tokens) * stride, 0.0f);
          numerator.fill(random);
          const KernelMemory<float> numerator_before = numerator;
          kernels.move_sums(mine.tokens, stride, sums.data() + b * sum_step, numerator.data());
          for (Index t = 0; t < mine.tokens; ++t) {
            const std::vector<float> phi = features(map, mine, t);
            std::vector<double> expected(std::size_t(value_dim + 1)), magnitude(expected.size());
            for (Index c = 0; c <= value_dim; ++c) {
              expected[std::size_t(c)] =
                  double(c == value_dim ? rows_before[b * size + t] : numerator_before[t * stride + c]);
              magnitude[std::size_t(c)] = std::abs(expected[std::size_t(c)]);
            }
            for (Index f = first; f < last; ++f) {
              const float coefficient = coefficients[std::size_t(f)], exact = phi[std::size_t(f)];
              const double rounded = hastily_to_bfloat16(double(exact));
              for (Index c = 0; c <= value_dim; ++c) {
                const double term =
                    c == value_dim
                        ? double(exact) * double(coefficient) * double(normalizer[f - first])
                        : rounded * hastily_to_bfloat16(double(coefficient * summary[(f - first) * stride + c]));
                expected[std::size_t(c)] += term;
                magnitude[std::size_t(c)] += std::abs(term);
              }
            }
            for (Index c = 0; c <= value_dim; ++c)
              worst.compare(c == value_dim ? normalizer_rows[b * size + t] : numerator[t * stride + c],
                            expected[std::size_t(c)], magnitude[std::size_t(c)]);
          }
          CHECK(numerator.frame_is_whole());
        }
        CHECK(worst.units() <= rounding);
        CHECK(std::all_of(sums.data(), sums.data() + sums.size(), [](float sum) { return sum == 0; }));
        for (const auto* memory : {&summary, &normalizer, &scratch, &sums, &normalizer_rows})
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

// A block of queries and its sums, against one block of keys after another.
struct DirectQueries {
  Rows q;
  Index queries, dim, value_dim, stride;
  KernelMemory<float> query, weights, scale, numerator, normalizer, maximum, sums, scratch;
  TileMemory tiles;

  DirectQueries(const MatrixKernelSet<float>& kernels, const Rows& rows, Index values)
      : q(rows),
        queries(rows.tokens),
        dim(rows.dim),
        value_dim(values),
        stride(padded_columns<float>(values)),
        query(packed<float>(rows)),
        weights(size * size, nan_float),
        scale(size, nan_float),
        numerator(padded_tokens<float>(queries) * stride, 0.0f),
        normalizer(size, 0.0f),
        maximum(size, csq::detail::simd::lowest_score<float>),
        sums(tiles_of(queries) * tiles_of(stride) * 256, 0.0f),
        scratch(matrix_scratch_bytes<float>(stride) / 4, nan_float),
        tiles(tiles_of(queries) * depth_steps(dim) * 512) {
    kernels.query_tiles(query.data(), queries, dim, tiles.data());
  }

  void add(const MatrixKernelSet<float>& kernels, const KernelWeight& weight, const Rows& k, const Rows& v,
           Index diagonal, Index band_start, const csq::detail::simd::Adjustment<float>& adjust = {}) {
    const KernelMemory<float> key = packed<float>(k), values = padded<float>(v);
    TileMemory keys(tiles_of(k.tokens) * depth_steps(dim) * 512);
    TileMemory value_tiles(depth_steps(k.tokens) * tiles_of(stride) * 512);
    csq::detail::simd::MatrixDirect<float> matrix;
    kernels.key_tiles(key.data(), k.tokens, dim, keys.data());
    matrix.values_are_finite = kernels.value_lane_tiles(values.data(), k.tokens, stride, value_tiles.data());
    matrix.query = tiles.data();
    matrix.key = keys.data();
    matrix.values = value_tiles.data();
    matrix.sums = sums.data();
    matrix.scratch = scratch.data();
    csq::detail::simd::DirectBlock<float>& block = matrix.block;
    block.query = query.data();
    block.key = key.data();
    block.values = values.data();
    block.queries = queries;
    block.keys = k.tokens;
    block.dim = dim;
    block.value_stride = stride;
    block.diagonal = diagonal;
    block.band_start = band_start;
    block.weight = weight;
    block.weights = weights.data();
    block.scale = scale.data();
    block.numerator = numerator.data();
    block.normalizer = normalizer.data();
    block.maximum = maximum.data();
    block.adjust = adjust;
    kernels.direct(matrix);
  }
  void finish(const MatrixKernelSet<float>& kernels) {
    kernels.move_sums(queries, stride, sums.data(), numerator.data());
  }
  void check_frames() const {
    for (const auto* memory : {&weights, &scale, &numerator, &normalizer, &maximum, &sums, &scratch})
      CHECK(memory->frame_is_whole());
  }
};

TEST_CASE("direct on the matrix unit") {
  Random random(1804);
  for_each_matrix_set([&](const MatrixKernelSet<float>& kernels, const auto&) {
    for (const PlainWeight& weight : plain_weights())
      for (int repeat = 0; repeat < 120; ++repeat) {
        const Index dim = random.pick(dims), value_dim = random.pick(dims);
        const Index queries = random.pick(token_counts), keys = random.pick(token_counts);
        // All see all; a triangle; a triangle whose first queries see nothing, or some keys more.
        const Index diagonal =
            random.pick<Index>({keys, 1, 1 - random.integer(0, queries - 1), random.integer(1, keys)});
        // No window; one that begins before the block, or within it.
        const Index band_start = random.pick<Index>({csq::detail::far_before, random.integer(-queries, keys)});
        const int poison = int(random.integer(0, 5));  // of the second block: 0, 1 values, 2 a key, 3 a query
        const Index poisoned = random.integer(0, keys - 1);
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", dim " << dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", band start " << band_start << ", poison "
                         << poison << " at " << poisoned);
        Rows q = to_bfloat16(random_rows_of_scores(random, queries, dim));
        const std::size_t blocks = 3;
        std::vector<Rows> k, v;
        for (std::size_t b = 0; b < blocks; ++b) {
          k.push_back(to_bfloat16(random_rows_of_scores(random, keys, dim)));
          v.push_back(to_bfloat16(Rows::random(random, keys, value_dim)));
        }
        if (poison == 0) v[1](poisoned, value_dim / 2) = double(nan_float);
        if (poison == 1) v[1](poisoned, value_dim / 2) = std::numeric_limits<double>::infinity();
        if (poison == 2) k[1](poisoned, dim / 2) = double(nan_float);
        if (poison == 3) q(queries / 2, dim / 2) = double(nan_float);
        DirectQueries direct(kernels, q, value_dim);
        for (std::size_t b = 0; b < blocks; ++b)
          direct.add(kernels, weight.kernel, k[b], v[b], b == 1 ? diagonal : keys,
                     b == 1 ? band_start : csq::detail::far_before);
        direct.finish(kernels);

        const bool exponential = weight.kernel.kind == WeightKind::exponential;
        Worst sums, normalizers;
        for (Index i = 0; i < queries; ++i) {
          const double unit = exponential ? std::exp2(double(direct.maximum[i])) : 1;
          double total = 0;
          std::vector<double> expected(std::size_t(value_dim), 0.0), magnitude(expected);
          for (std::size_t b = 0; b < blocks; ++b) {
            const Index first = b == 1 ? std::clamp<Index>(band_start + i, 0, keys) : 0;
            const Index last = b == 1 ? std::clamp<Index>(diagonal + i, 0, keys) : keys;
            for (Index j = first; j < last; ++j) {
              double score = 0;
              for (Index a = 0; a < dim; ++a) score += q(i, a) * k[b](j, a);
              const double w = double(weight.of(score));
              total += w;
              for (Index c = 0; c < value_dim; ++c) {
                expected[std::size_t(c)] += w * v[b](j, c);
                magnitude[std::size_t(c)] += std::abs(w * v[b](j, c));
              }
            }
          }
          // Scores in float; weights to 2^-9 where they are multiplied.
          normalizers.compare(direct.normalizer[i], total / unit, 128 * total / unit);
          for (std::size_t c = 0; c < expected.size(); ++c)
            sums.compare(direct.numerator[i * direct.stride + Index(c)], expected[c] / unit,
                         0x1p14L * magnitude[c] / unit);
        }
        CHECK(normalizers.units() <= 8);
        CHECK(sums.units() <= 2);  // 2^-9 of each
        direct.check_frames();
      }
  });
}

// What cap, gates and bias make of scores and weights is the float kernels' own code: the same up to rounding.
TEST_CASE("direct on the matrix unit with adjustments") {
  Random random(1805);
  for_each_matrix_set([&](const MatrixKernelSet<float>& kernels, const KernelSet<float>& plain) {
    for (const PlainWeight& weight : plain_weights())
      for (int repeat = 0; repeat < 24; ++repeat) {
        const bool exponential = weight.kernel.kind == WeightKind::exponential;
        const Index dim = random.pick(dims), value_dim = random.pick(dims);
        const Index queries = random.pick(token_counts), keys = random.pick(token_counts);
        const Index diagonal = random.pick<Index>({keys, 1, random.integer(1, keys)});
        const Index band_start = random.pick<Index>({csq::detail::far_before, random.integer(-queries, 0)});
        const int option = exponential ? int(random.integer(0, 2)) : 0;
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", dim " << dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", band start " << band_start << ", option "
                         << option);
        KernelMemory<float> query_gate(size, 0.0f), key_gate(size, 0.0f), low(size, 0.0f), bias(queries * keys, 0.0f);
        // Position of query i among the keys is i + diagonal − 1.
        for (Index t = 0; t < size; ++t) {
          key_gate[t] = -0.125f * float(t);
          query_gate[t] = -0.125f * float(t + diagonal - 1);
        }
        bias.fill(random);
        csq::detail::simd::Adjustment<float> adjust;
        if (option == 0) {
          adjust.query_gate = query_gate.data();
          adjust.key_gate = key_gate.data();
          adjust.query_gate_low = adjust.key_gate_low = low.data();
        } else if (option == 1) {
          adjust.soft_cap = 3;
        } else {
          adjust.bias = bias.data();
          adjust.bias_query_stride = keys;
          adjust.bias_key_stride = 1;
        }
        const Rows q = to_bfloat16(random_rows_of_scores(random, queries, dim));
        const Rows k = to_bfloat16(random_rows_of_scores(random, keys, dim));
        Rows v = to_bfloat16(Rows::random(random, keys, value_dim));
        for (double& value : v.values) value = std::abs(value);
        DirectQueries direct(kernels, q, value_dim), expected(kernels, q, value_dim);
        direct.add(kernels, weight.kernel, k, v, diagonal, band_start, adjust);
        direct.finish(kernels);
        MatrixKernelSet<float> by_plain = kernels;
        static void (*plain_direct)(const csq::detail::simd::DirectBlock<float>&);
        plain_direct = plain.direct;
        by_plain.direct = [](const csq::detail::simd::MatrixDirect<float>& matrix) { plain_direct(matrix.block); };
        expected.add(by_plain, weight.kernel, k, v, diagonal, band_start, adjust);
        double worst = 0;
        for (Index i = 0; i < queries; ++i) {
          const double unit = exponential ? std::exp2(double(direct.maximum[i] - expected.maximum[i])) : 1;
          const double total = double(expected.normalizer[i]);
          if (total == 0) {
            CHECK(direct.normalizer[i] == 0);
            continue;
          }
          worst = std::max(worst, std::abs(double(direct.normalizer[i]) * unit / total - 1) * 256);
          for (Index c = 0; c < value_dim; ++c) {
            const double sum = double(expected.numerator[i * direct.stride + c]);
            const double off = std::abs(double(direct.numerator[i * direct.stride + c]) * unit - sum);
            worst = std::max(worst, sum > 0 ? off / sum : off);
          }
        }
        CHECK(worst <= 0x1p-8);
        direct.check_frames();
      }
  });
}

}  // namespace
