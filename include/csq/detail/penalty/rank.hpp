// The rank penalty, a training loss that keeps q and k spread over all directions:
//
//   L_r = −mean over heads (and batch) of logdet(Xcᵀ·Xc/L + λI)                    Xc the centred rows of q or k
//
// O(L·d²) per head, in double, by the triangle of a QR: triangle.hpp. Returns the value and adds weight·∂L_r/∂x,
// through the centring, to dx; a view without data asks for the value alone. Memory for each thread: O(d²), and with a
// gradient O(L·d). Source: the paper, §8.
#pragma once

#include "csq/detail/penalty/scores.hpp"
#include "csq/detail/penalty/triangle.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

// What one thread needs for a head.
template <class T>
struct RankThreadScratch {
  T* rows = nullptr;          // of one block, centred
  double* sums = nullptr;     // of the centring
  double* block = nullptr;    // the same rows, over √L
  double* columns = nullptr;  // some of them, as right-hand sides
  Triangle triangle;
  T* row_gradient = nullptr;  // [tokens up to whole blocks][padded d], of the centred rows; with a gradient alone
  T* gradient = nullptr;      // [tokens][d]

  static RankThreadScratch lay_out(Arena& arena, Index tokens, Index dim, bool has_gradient) {
    constexpr Index size = simd::block_tokens<T>;
    RankThreadScratch scratch;
    scratch.rows = arena.template take<T>(RowPacker<T>::scratch_rows(dim));
    scratch.sums = arena.template take<double>(RowPacker<T>::scratch_sums(dim));
    scratch.block = arena.template take<double>(size * Triangle::padded(dim));
    scratch.columns = arena.template take<double>(dim * Triangle::lanes);
    scratch.triangle = Triangle::lay_out(arena, dim);
    if (!has_gradient) return scratch;
    const Index blocks = block_count(tokens, size);
    scratch.row_gradient =
        arena.template take<T>(checked_product(blocks, RowPacker<T>::scratch_rows(dim), "workspace"));
    scratch.gradient = arena.template take<T>(checked_product(tokens, dim, "workspace"));
    return scratch;
  }
};

template <class T>
struct RankScratch {
  Packers<T> packers;
  double* values = nullptr;  // [heads]
  RankThreadScratch<T>* threads = nullptr;

  static RankScratch lay_out(Arena& arena, const Problem<T>& problem, bool has_gradient) {
    RankScratch scratch;
    scratch.packers = Packers<T>::lay_out(arena, problem, problem.key_heads());
    scratch.values = arena.template take<double>(problem.key_heads());
    scratch.threads = arena.template take<RankThreadScratch<T>>(problem.threads);
    const bool counting = scratch.threads == nullptr;
    for (int thread = 0; thread < problem.threads; ++thread) {
      const auto own = RankThreadScratch<T>::lay_out(arena, problem.keys(), problem.key_dim(), has_gradient);
      if (!counting) scratch.threads[thread] = own;
    }
    return scratch;
  }
};

// One head: its rows through a triangle, block by block, and with a gradient once more through its inverse.
template <class T>
class RankHead {
 public:
  static constexpr Index size = simd::block_tokens<T>;
  static constexpr Index lanes = Triangle::lanes;

  RankHead(const RowPacker<T>& packer, const RankThreadScratch<T>& mine)
      : packer_(packer),
        mine_(mine),
        dim_(packer.head.dim),
        stride_(simd::padded_columns<T>(dim_)),
        length_(static_cast<double>(larger<Index>(packer.length, 1))) {}

  // −logdet.
  double value(double ridge) const {
    const Index padded = Triangle::padded(dim_);
    const double scale = 1 / std::sqrt(length_);
    mine_.triangle.start(ridge);
    for_each_block([&](Index, Index count) {
      for (Index t = 0; t < count; ++t)
        for (Index a = 0; a < padded; ++a)  // rows are zero past dim
          mine_.block[t * padded + a] = static_cast<double>(mine_.rows[t * stride_ + a]) * scale;
      mine_.triangle.absorb(mine_.block, count);
    });
    return -mine_.triangle.log_determinant();
  }

  // dx += factor·∂(−logdet)/∂x, after value().
  void add_gradient(double factor, const StoredHead<T>& dx) const {
    const double slope = -2 / length_ * factor;
    for_each_block([&](Index first, Index count) {
      for (Index some = 0; some < count; some += lanes) {
        const Index width = smaller(lanes, count - some);
        std::fill_n(mine_.columns, dim_ * lanes, 0.0);
        for (Index t = 0; t < width; ++t)
          for (Index a = 0; a < dim_; ++a)
            mine_.columns[a * lanes + t] = static_cast<double>(mine_.rows[(some + t) * stride_ + a]);
        mine_.triangle.solve(mine_.columns);
        for (Index t = 0; t < width; ++t) {
          T* row = mine_.row_gradient + (first + some + t) * stride_;
          for (Index a = 0; a < dim_; ++a) row[a] = static_cast<T>(mine_.columns[a * lanes + t] * slope);
          std::fill(row + dim_, row + stride_, T(0));
        }
      }
    });
    const StoredHead<T> gradient{mine_.gradient, dx.tokens, dim_, dim_, 1};
    write_input_gradient<T>(packer_, 1, mine_.row_gradient, mine_.sums, nullptr, nullptr, gradient);
    add_scaled(mine_.gradient, 1, dx);
  }

 private:
  template <class Visit>  // visit(first row, rows), the centred rows lying in mine.rows
  void for_each_block(const Visit& visit) const {
    for (Index first = 0; first < packer_.length; first += size) {
      const Index count = smaller(size, packer_.length - first);
      packer_.pack(first, count, mine_.rows, mine_.sums, nullptr);
      visit(first, count);
    }
  }

  const RowPacker<T>& packer_;
  const RankThreadScratch<T>& mine_;
  Index dim_, stride_;
  double length_;
};

// L_r of one array, q or k (add the two for the paper's): −mean of logdet(XcᵀXc/L + λI), L the rows within
// options.query_length; options.query_history is x's. ∂L_r/∂Xc = −2/(L·heads·batch)·Xc·(XcᵀXc/L + λI)⁻¹.
template <class T>
double rank_penalty(const StoredHeads<const T>& x, const StoredHeads<T>& dx, double ridge, double weight,
                    const Options& options) {
  require(is_finite(ridge) && ridge > 0, "ridge: is ", ridge, " but must be positive and finite");
  check_heads("x", x);
  const bool has_gradient = dx.data != nullptr;
  if (has_gradient) {
    check_shape_like("dx", dx, "x", x);
    check_no_self_overlap("dx", dx);
    check_not_same("dx", dx, "x", x);
  }
  check_lengths("query_length", options.query_length, x.batch(), x.tokens());
  Options centring_only = options;  // every head a key head of its own, and no scale
  centring_only.key_length = options.query_length;
  centring_only.key_history = options.query_history;
  centring_only.scale = 1;
  const T one = 1;
  Problem<T> problem = score_problem<T>(x, x, &one, dx, Heads<T>{}, 0, weight, centring_only);
  const Index heads = problem.key_heads();
  if (heads == 0) return 0;
  const double multiply_adds = static_cast<double>(heads) * static_cast<double>(x.tokens()) *
                               static_cast<double>(x.dim()) * static_cast<double>(x.dim()) * (has_gradient ? 3 : 2);
  problem.threads = threads_for_work(multiply_adds, threads_of(options));

  Workspace local;
  Arena counter;
  RankScratch<T>::lay_out(counter, problem, has_gradient);
  Arena arena((options.workspace != nullptr ? *options.workspace : local).reserve(counter.bytes()));
  RankScratch<T> scratch = RankScratch<T>::lay_out(arena, problem, has_gradient);
  scratch.packers.bind(problem, 0, heads);
  parallel_for(heads, problem.threads, [&](Index h, int thread) {
    const RankHead<T> head(scratch.packers.key[h], scratch.threads[thread]);
    scratch.values[h] = head.value(ridge);
    if (has_gradient) head.add_gradient(weight / static_cast<double>(heads), dx.head(h / x.heads(), h % x.heads()));
  });
  double sum = 0;
  for (Index h = 0; h < heads; ++h) sum += scratch.values[h];
  return sum / static_cast<double>(heads);
}

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail
