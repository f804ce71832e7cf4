// Backward kernels of the matrix unit, each by itself on one core, beside those of the float kernels.
//
//   direct      10·queries·keys·d flops a pair of blocks: one block of keys against 16 blocks of queries
//   pull_back   2·n·D·d flops, over all features: 1, 2, 4 or 8 blocks a call
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <new>
#include <random>
#include <vector>

#include "csq/detail/simd/target/avx512_amx.hpp"

namespace {

using namespace csq::detail;
using namespace csq::detail::simd;
using csq::detail::Index;

// Whole cache lines, of small random numbers.
template <class T>
class Memory {
 public:
  explicit Memory(Index count, float scale = 0) : data_(new (std::align_val_t{64}) T[std::size_t(count)]()) {
    static std::mt19937 generator(1);
    std::normal_distribution<float> normal(0, scale);
    if (scale > 0)
      for (Index i = 0; i < count; ++i) data_[i] = T(normal(generator));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::operator delete[](data_, std::align_val_t{64}); }
  operator T*() const { return data_; }  // NOLINT: as a pointer
  T* at(Index i) const { return data_ + i; }

 private:
  T* data_;
};

template <class Run>
double best_seconds(const Run& run) {
  double best = 1e9;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    int count = 0;
    double elapsed = 0;
    do {
      run();
      ++count;
      elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    } while (elapsed < 0.02);
    best = std::min(best, elapsed / count);
  }
  return best;
}

constexpr Index size = block_tokens<float>;

void direct(const MatrixKernelSet<float>& forward, const MatrixBackwardKernelSet<float>& matrix,
            const BackwardKernelSet<float>& plain, Index dim, WeightKind kind, bool diagonal) {
  constexpr Index blocks = 16;
  const float scale = 0.5f / std::sqrt(float(dim)) * 2;
  const Index stride = padded_columns<float>(dim), token_tiles = token_tiles_size<float>(dim);
  const Index pair_tiles = value_tiles_size<float>(stride);
  const Memory<float> q((dim + 1) * size, 1), k((dim + 1) * size, scale), v((dim + 1) * size, 1),
      r((dim + 1) * size, 1);
  const Memory<float> rows(size * stride, 1), zeros(size);
  const Memory<float> weights(size * size), slopes(size * size), dq(blocks * size * stride), dk(size * stride),
      dv(size * stride);
  const Memory<char> scratch(matrix_direct_backward_bytes<float>(stride));
  std::vector<MatrixDirectBackward<float>> pairs(blocks);
  const Memory<BFloat16Bits> keys(token_tiles), lanes(pair_tiles), values(token_tiles);
  const Memory<BFloat16Bits> queries(blocks * 2 * token_tiles), query_pairs(blocks * 2 * pair_tiles);
  forward.key_tiles(k, size, dim, keys);
  forward.key_tiles(v, size, dim, values);
  forward.value_lane_tiles(rows, size, stride, lanes);
  for (Index b = 0; b < blocks; ++b) {
    MatrixDirectBackward<float>& pair = pairs[std::size_t(b)];
    forward.query_tiles(q, size, dim, queries.at(2 * b * token_tiles));
    forward.query_tiles(r, size, dim, queries.at((2 * b + 1) * token_tiles));
    forward.value_pair_tiles(rows, size, stride, query_pairs.at(2 * b * pair_tiles));
    forward.value_pair_tiles(rows, size, stride, query_pairs.at((2 * b + 1) * pair_tiles));
    pair.query = queries.at(2 * b * token_tiles);
    pair.gradient = queries.at((2 * b + 1) * token_tiles);
    pair.query_pairs = query_pairs.at(2 * b * pair_tiles);
    pair.gradient_pairs = query_pairs.at((2 * b + 1) * pair_tiles);
    pair.key = keys;
    pair.key_lanes = lanes;
    pair.value = values;
    pair.query_sums = dq.at(b * size * stride);
    pair.scratch = scratch;
    DirectBackwardBlock<float>& block = pair.block;
    block.query = q;
    block.key = k;
    block.value = v;
    block.gradient = r;
    block.query_rows = block.key_rows = block.gradient_rows = rows;
    block.dot = zeros;
    block.log_normalizer = zeros;
    block.queries = block.keys = size;
    block.key_dim = block.value_dim = dim;
    block.diagonal = diagonal ? 1 : size;
    block.weight.kind = kind;
    block.weight.offset = 1;
    block.weight.c2 = 1;
    block.weights = weights;
    block.slopes = slopes;
    block.query_gradient = dq.at(b * size * stride);
    block.key_gradient = dk;
    block.value_gradient = dv;
  }
  const double flops = 10.0 * double(blocks) * double(size * size) * double(dim) * (diagonal ? 0.5 : 1);
  const double tiles = best_seconds([&] {
    for (const auto& pair : pairs) matrix.direct(pair);
  });
  const double floats = best_seconds([&] {
    for (const auto& pair : pairs) plain.direct(pair.block);
  });
  std::printf("direct     d %3d  %-11s %-8s %8.0f GF/s   float %6.0f   %.1f times\n", int(dim),
              kind == WeightKind::exponential ? "exponential" : "quadratic", diagonal ? "diagonal" : "full",
              flops / tiles * 1e-9, flops / floats * 1e-9, floats / tiles);
}

void pull_back(const MatrixKernelSet<float>& forward, const MatrixBackwardKernelSet<float>& matrix,
               const BackwardKernelSet<float>& plain, Index dim) {
  constexpr Index most = 8;
  const FeatureMap map{dim, true, true, true};
  const Index stride = padded_columns<float>(dim), features = map.size(), tiles = token_tiles_size<float>(dim);
  const Memory<float> x(most * (dim + 1) * size, 1), y((dim + 1) * size, 1);
  const Memory<float> summary((features + 64) * stride, 1), normalizer(features + 64, 1);
  const Memory<float> gradient(most * dim * size), shift(most * size), panel(panel_features * size),
      summary_panel(panel_features * size);
  const Memory<BFloat16Bits> targets(most * tiles);
  for (Index b = 0; b < most; ++b) forward.query_tiles(y, size, dim, targets.at(b * tiles));
  const Memory<char> scratch(matrix_pull_back_bytes<float>(dim));
  const auto rate = [&](double blocks, double seconds) {
    return 2e-9 * blocks * double(size * features) * double(dim) / seconds;
  };
  std::printf("pull_back  d %3d ", int(dim));
  for (const Index blocks : {1, 2, 4, 8}) {
    MatrixPullBack<float> block;
    block.packed = x;
    block.target = targets;
    block.target_normalizer = y.at(dim * size);
    block.packed_step = (dim + 1) * size;
    block.target_step = tiles;
    block.blocks = blocks;
    block.tokens = block.last_tokens = size;
    block.value_dim = dim;
    block.map = map;
    block.last = features;
    block.summary = summary;
    block.normalizer = normalizer;
    block.scratch = scratch;
    block.gradient = gradient;
    block.shift = shift;
    block.gradient_step = dim * size;
    block.shift_step = size;
    std::printf(" %d: %5.0f", int(blocks), rate(double(blocks), best_seconds([&] { matrix.pull_back(block); })));
  }
  PullBackBlock<float> block;
  block.packed = x;
  block.target = y;
  block.tokens = size;
  block.value_dim = dim;
  block.map = map;
  block.last = features;
  block.summary = summary;
  block.normalizer = normalizer;
  block.panel = panel;
  block.summary_panel = summary_panel;
  block.gradient = gradient;
  block.shift = shift;
  std::printf(" GF/s   float %4.0f\n", rate(1, best_seconds([&] { plain.pull_back(block); })));
}

}  // namespace

int main() {
  using Unit = csq::detail::simd::avx512_amx::Target;
  if (!Unit::is_supported()) {
    std::puts("no Intel AMX here");
    return 0;
  }
  const auto& forward = *Unit::matrix<float>;
  const auto& matrix = *Unit::matrix_backward<float>;
  const auto& plain = *csq::detail::simd::avx512::Target::backward<float>;
  for (const Index dim : {32, 64, 128})
    for (const WeightKind kind : {WeightKind::exponential, WeightKind::quadratic})
      for (const bool diagonal : {false, true}) direct(forward, matrix, plain, dim, kind, diagonal);
  for (const Index dim : {32, 64, 96, 128}) pull_back(forward, matrix, plain, dim);
}
