// Softmax attention composed of plain Eigen products, in 128-row blocks of queries, without fusion: what one writes
// oneself. Checked against csq's softmax before it is timed.
//
//   forward, a block of rows Q, O, with keys K and values V        [rows, d], [m, d]
//     S = Q Kᵀ;  P = exp(scale·S − L),  L = log Σ exp(scale·S);  O = P V
//   backward: five products, S among them, since P is not kept      Δ = rowsum(dO ∘ O)
//     P from S and L;  dV += Pᵀ dO;  dP = dO Vᵀ;  dS = scale·P ∘ (dP − Δ);  dQ = dS K;  dK += dSᵀ Q
//
// Under a causal mask a block takes the keys up to its last row. Forward runs blocks side by side, backward heads, as
// PyTorch does; no product is split further. Eigen follows the flags of its unit, so this program alone is built with
// -O3 -march=native and without Eigen's assertions: the peer is at its best.
#include <Eigen/Core>
#include <cmath>
#include <memory>

#include "../support/threads.hpp"
#include "rows.hpp"

namespace {

using peers::Index;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Input = Eigen::Map<const Matrix>;
using Output = Eigen::Map<Matrix>;
using Block = Eigen::Block<Matrix>;

constexpr Index block_rows = 128;

class Composed {
 public:
  Composed(const peers::Case& the_case, const bench::Operands<float>& in)
      : heads_(the_case.size.heads),
        tokens_(the_case.size.tokens),
        dim_(the_case.size.dim),
        blocks_((tokens_ + block_rows - 1) / block_rows),
        scale_(1 / std::sqrt(static_cast<float>(dim_))),
        causal_(the_case.causal),
        threads_(bench::threads_for("threads", the_case.threads)),
        in_(in),
        scratch_(static_cast<std::size_t>(threads_)) {
    out.resize(static_cast<std::size_t>(heads_ * tokens_ * dim_));
    log_sum_exp_.resize(static_cast<std::size_t>(heads_ * tokens_));
    for (Scratch& scratch : scratch_) scratch.weights.setZero(block_rows, tokens_);
    if (the_case.pass == peers::Pass::forward) return;
    for (std::vector<float>* gradient : {&dq, &dk, &dv}) gradient->resize(out.size());
    for (Scratch& scratch : scratch_) scratch.gradient.setZero(block_rows, tokens_);
  }

  std::vector<float> out, dq, dk, dv;  // [heads, tokens, dim]

  void forward() {
    bench::parallel_for(heads_ * blocks_, threads_, [&](Index task, int thread) {
      const Index head = task / blocks_, first = task % blocks_ * block_rows;
      const Index rows = std::min(block_rows, tokens_ - first), keys = causal_ ? first + rows : tokens_;
      Block weights = scratch_[static_cast<std::size_t>(thread)].weights.topLeftCorner(rows, keys);
      weights.noalias() = input(in_.q, head).middleRows(first, rows) * input(in_.k, head).topRows(keys).transpose();
      float* const log_sum_exp = log_sum_exp_.data() + head * tokens_ + first;
      for (Index i = 0; i < rows; ++i) {
        const Index visible = causal_ ? first + i + 1 : keys;
        auto row = weights.row(i).head(visible).array();
        const float largest = scale_ * row.maxCoeff();
        row = (row * scale_ - largest).exp();
        log_sum_exp[i] = largest + std::log(row.sum());
        weights.row(i).tail(keys - visible).setZero();
      }
      auto block = output(out, head).middleRows(first, rows);
      block.noalias() = weights * input(in_.v, head).topRows(keys);
      for (Index i = 0; i < rows; ++i) block.row(i) /= weights.row(i).sum();
    });
  }

  // After forward.
  void backward() {
    bench::parallel_for(heads_, threads_, [&](Index head, int thread) {
      output(dk, head).setZero();
      output(dv, head).setZero();
      for (Index first = 0; first < tokens_; first += block_rows)
        backward_block(head, first, scratch_[static_cast<std::size_t>(thread)]);
    });
  }

 private:
  struct Scratch {
    Matrix weights, gradient;  // [block_rows, tokens]: P, and dP that becomes dS
  };

  void backward_block(Index head, Index first, Scratch& scratch) {
    const Index rows = std::min(block_rows, tokens_ - first), keys = causal_ ? first + rows : tokens_;
    const auto q = input(in_.q, head).middleRows(first, rows), dout = input(in_.dout, head).middleRows(first, rows);
    const auto k = input(in_.k, head).topRows(keys), v = input(in_.v, head).topRows(keys);
    const auto o = output(out, head).middleRows(first, rows);
    Block p = scratch.weights.topLeftCorner(rows, keys), ds = scratch.gradient.topLeftCorner(rows, keys);

    p.noalias() = q * k.transpose();
    ds.noalias() = dout * v.transpose();
    for (Index i = 0; i < rows; ++i) {
      const Index visible = causal_ ? first + i + 1 : keys;
      const float log_sum_exp = log_sum_exp_[static_cast<std::size_t>(head * tokens_ + first + i)];
      const float delta = dout.row(i).dot(o.row(i));
      auto weight = p.row(i).head(visible).array();
      auto gradient = ds.row(i).head(visible).array();
      weight = (weight * scale_ - log_sum_exp).exp();
      gradient = scale_ * weight * (gradient - delta);
      p.row(i).tail(keys - visible).setZero();
      ds.row(i).tail(keys - visible).setZero();
    }
    output(dv, head).topRows(keys).noalias() += p.transpose() * dout;
    output(dq, head).middleRows(first, rows).noalias() = ds * k;
    output(dk, head).topRows(keys).noalias() += ds.transpose() * q;
  }

  Input input(const csq::Heads<const float>& heads, Index head) const {
    return {heads.data + head * tokens_ * dim_, tokens_, dim_};
  }
  Output output(std::vector<float>& values, Index head) {
    return {values.data() + head * tokens_ * dim_, tokens_, dim_};
  }

  Index heads_, tokens_, dim_, blocks_;
  float scale_;
  bool causal_;
  int threads_;
  bench::Operands<float> in_;
  std::vector<float> log_sum_exp_;
  std::vector<Scratch> scratch_;
};

void check(const char* name, const std::vector<float>& values, const std::vector<float>& reference) {
  const double error = bench::relative_error(values, reference);
  if (!(error < 1e-5))
    throw std::runtime_error(std::string(name) + " differs from csq's: relative error " + std::to_string(error));
}

struct Prepared {
  peers::Arrays<float> arrays;
  Composed composed;

  explicit Prepared(const peers::Case& the_case) : arrays(the_case), composed(the_case, arrays.operands) {
    composed.forward();
    check("out", composed.out, arrays.passes.out);
    if (the_case.pass == peers::Pass::forward) return;
    arrays.backward();
    composed.backward();
    check("dq", composed.dq, arrays.passes.dq);
    check("dk", composed.dk, arrays.passes.dk);
    check("dv", composed.dv, arrays.passes.dv);
  }
};

std::function<void()> prepare(const peers::Case& the_case) {
  const auto prepared = std::make_shared<Prepared>(the_case);
  if (the_case.pass == peers::Pass::backward) return [prepared] { prepared->composed.backward(); };
  return [prepared] { prepared->composed.forward(); };
}

}  // namespace

int main(int count, char** words) {
  const std::string name = "eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) +
                           "." + std::to_string(EIGEN_MINOR_VERSION);
  return peers::print_rows(count, words, {name, {bench::Dtype::float32}, prepare});
}
