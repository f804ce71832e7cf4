// Distillation of a softmax teacher into a student with other attention (the paper's Table 4), the teacher frozen:
//
//   loss = CE + w_kl·KL + w_pullback·P
//   CE   mean over marked positions of −log p_s(target)
//   KL   mean over all positions of KL(p_t ‖ p_s): unlike the labels, the teacher has a target everywhere (at marked
//        positions alone, the KL from a teacher that solves the task is the cross-entropy again)
//   P    mean over layers, heads and sequences of ‖Xᵀ(A_s − A_t)X‖²_F / ‖XᵀA_tX‖²_F, the pullback surrogate; X [n, C]
//   is
//        the teacher's normalised input of the layer, A [n, n] the attention matrices
//
// KL is in nats as CE is, and P = 1 for a student whose pullback has nothing of the teacher's, so both weigh 1. With
// E = A_s − A_t and the Gram matrix K = XXᵀ: ‖XᵀEX‖² = ⟨E, KEK⟩ and ∂/∂A_s = 2·KEK, O(n³) a head. A is attention with
// V = I, and the gradient of A flows back through attention_backward with V = I.
#pragma once

#include "training.hpp"

namespace paper {

struct DistillationWeights {
  double kl = 0, pullback = 0;
};

struct DistillationReport {
  double kl = 0, pullback = 0;
  double attention_error = 0;  // mean over layers, heads and sequences of ‖A_s − A_t‖_F/‖A_t‖_F

  void add(const DistillationReport& other) {
    kl += other.kl;
    pullback += other.pullback;
    attention_error += other.attention_error;
  }
};

// A [B, H, n, n] of one layer: attention with V = I.
template <class T>
struct AttentionMatrices {
  AttentionShape shape;
  Matrix<T> identity;  // [n, n], of all heads by zero strides
  Matrix<T> matrices;  // [B·H·n, n]
  std::vector<T> normalizer;

  typename Heads<T>::Shape sizes() const { return {shape.sequences, shape.heads, shape.length, shape.length}; }
  Heads<const T> value() const { return {identity.data(), sizes(), {0, 0, shape.length, 1}}; }
  Heads<const T> heads() const { return {matrices.data(), sizes()}; }
  ConstRows<T> head(Index which) const {
    return {matrices.data() + which * shape.length * shape.length, shape.length, shape.length};
  }

  void compute(const AttentionSettings& settings, std::size_t layer, const Activations<T>& a) {
    shape = a.shape;
    identity.setIdentity(shape.length, shape.length);
    matrices.resize(shape.rows() * shape.heads, shape.length);
    normalizer.resize(static_cast<std::size_t>(matrices.rows()));
    std::visit(
        [&](const auto& mechanism) {
          csq::attention(mechanism, a.query(layer), a.key(layer), value(), Heads<T>(matrices.data(), sizes()),
                         normalizer_view(normalizer.data(), shape), settings.options(nullptr));
        },
        settings.mechanism);
  }

  // target += source, which is contiguous
  static void add(const std::vector<T>& source, const Heads<T>& target) {
    auto number = source.begin();
    for (Index b = 0; b < target.batch(); ++b)
      for (Index h = 0; h < target.heads(); ++h)
        for (Index t = 0; t < target.tokens(); ++t)
          for (Index a = 0; a < target.dim(); ++a) target.head(b, h)(t, a) += *number++;
  }

  // dq and dk += what `slope`, ∂loss/∂A, says
  void backward_add(const AttentionSettings& settings, std::size_t layer, const Activations<T>& a,
                    const Matrix<T>& slope, const Heads<T>& dq, const Heads<T>& dk) const {
    const auto numbers = static_cast<std::size_t>(shape.rows() * shape.width());
    std::vector<T> query_gradient(numbers), key_gradient(numbers), unused(static_cast<std::size_t>(slope.size()));
    std::visit(
        [&](const auto& mechanism) {
          csq::attention_backward(
              mechanism, a.query(layer), a.key(layer), value(), heads(), normalizer_view(normalizer.data(), shape),
              Heads<const T>(slope.data(), sizes()),
              csq::Gradients<T>{Heads<T>(query_gradient.data(), dq.shape), Heads<T>(key_gradient.data(), dk.shape),
                                Heads<T>(unused.data(), sizes())},
              settings.options(nullptr));
        },
        settings.mechanism);
    add(query_gradient, dq);
    add(key_gradient, dk);
  }
};

// A teacher and the weights of the losses; the student changes from call to call.
template <class T>
class Distillation {
 public:
  Distillation(const Model<T>& teacher, DistillationWeights weights) : teacher_(teacher), weights_(weights) {}

  // ∂loss/∂parameters of a batch, into scratch.gradient. Returns CE and accuracy; report() has the rest, the attention
  // matrices' part only where the loss has it.
  LossReport loss_gradient(const Model<T>& student, const Batch& batch, TrainingScratch<T>& scratch, int threads) {
    const Index marked = batch.marked();
    start();
    const auto task = [&](Shard& shard, const Chunk& chunk) {
      Side& side = sides_[shard.number];
      output_loss(student, chunk, marked, shard, side);
      const auto pullback = [&](std::size_t layer, Heads<T> dq, Heads<T> dk) {
        attention_loss(student, layer, chunk.share(), shard.activations, side);
        side.student_matrices.backward_add(student.config.attention[layer], layer, shard.activations, side.slope, dq,
                                           dk);
      };
      backward(student, chunk.tokens(), shard.dlogits, shard.activations, shard.gradient.data(),
               weights_.pullback != 0 ? ScoreLoss<T>(pullback) : ScoreLoss<T>());
    };
    const LossReport report = accumulate_gradient(student, batch, scratch, threads, task);
    finish();
    return report;
  }

  // All of the losses on a batch, whatever their weights.
  LossReport evaluate(const Model<T>& student, const Batch& batch, TrainingScratch<T>& scratch, int threads) {
    const Index marked = batch.marked();
    start();
    const LossReport report = for_each_chunk(batch, scratch, threads, [&](Shard& shard, const Chunk& chunk) {
      Side& side = sides_[shard.number];
      output_loss(student, chunk, marked, shard, side);
      for (std::size_t layer = 0; layer < student.config.attention.size(); ++layer)
        attention_loss(student, layer, chunk.share(), shard.activations, side);
    });
    finish();
    return report;
  }

  const DistillationReport& report() const { return report_; }

 private:
  using Shard = typename TrainingScratch<T>::Shard;

  struct Side {
    Activations<T> teacher;
    AttentionMatrices<T> student_matrices, teacher_matrices;
    Matrix<T> slope;  // w_pullback·∂P/∂A_s, [B·H·n, n]
    DistillationReport report;
  };

  void start() {
    for (Side& side : sides_) side.report = {};
  }
  void finish() {
    report_ = {};
    for (const Side& side : sides_) report_.add(side.report);
  }

  // Forward of both, CE, KL and dlogits at every position.
  void output_loss(const Model<T>& student, const Chunk& chunk, Index marked, Shard& shard, Side& side) {
    const Index length = chunk.batch->length;
    std::vector<Index> rows(static_cast<std::size_t>(chunk.count * length));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<Index>(i);
    forward(teacher_, chunk.tokens(), chunk.count, length, side.teacher);
    forward(student, chunk.tokens(), chunk.count, length, shard.activations);
    read_out(teacher_, rows, side.teacher);
    read_out(student, rows, shard.activations);

    const Matrix<T>& logits = shard.activations.logits;
    shard.dlogits.resize(logits.rows(), logits.cols());
    const double label_weight = 1 / static_cast<double>(marked);
    const double position_weight = 1 / static_cast<double>(chunk.batch->sequences * length);
    for (const Index i : rows) {
      const LogProbabilities theirs = log_probabilities(side.teacher.logits, i), ours = log_probabilities(logits, i);
      const LogProbabilities p_t = theirs.exp(), p_s = ours.exp();
      side.report.kl += position_weight * (p_t * (theirs - ours)).sum();
      LogProbabilities slope = weights_.kl * position_weight * (p_s - p_t);
      const Index target = chunk.batch->targets[static_cast<std::size_t>(chunk.first * length + i)];
      if (target >= 0) {
        Index best = 0;
        ours.maxCoeff(&best);
        shard.report.add({-label_weight * ours[target], best == target ? 1 : 0, 1, 0, 0});
        slope += label_weight * p_s;
        slope[target] -= label_weight;
      }
      shard.dlogits.row(i) = slope.matrix().template cast<T>();
    }
  }

  // A of both, their error, P and its slope: this chunk's share of one layer.
  void attention_loss(const Model<T>& student, std::size_t layer, double share, const Activations<T>& a, Side& side) {
    side.student_matrices.compute(student.config.attention[layer], layer, a);
    side.teacher_matrices.compute(teacher_.config.attention[layer], layer, side.teacher);
    const AttentionShape& shape = a.shape;
    const Matrix<T>& inputs = side.teacher.layers[layer].norm1.out;
    const double each = share / static_cast<double>(teacher_.config.attention.size()) /
                        static_cast<double>(shape.sequences * shape.heads);
    side.slope.resize(shape.rows() * shape.heads, shape.length);
    Matrix<T> gram, error, product, pulled;
    for (Index b = 0; b < shape.sequences; ++b) {
      const auto x = inputs.middleRows(b * shape.length, shape.length);
      gram.noalias() = x * x.transpose();
      // ⟨A, KAK⟩ = ‖XᵀAX‖²; leaves KAK in `pulled`.
      const auto pull = [&](const auto& matrix) {
        product.noalias() = gram * matrix;
        pulled.noalias() = product * gram;
        return static_cast<double>(pulled.cwiseProduct(matrix).sum());
      };
      for (Index h = 0; h < shape.heads; ++h) {
        const Index head = b * shape.heads + h;
        const ConstRows<T> theirs = side.teacher_matrices.head(head);
        const double whole = pull(theirs);
        error = side.student_matrices.head(head) - theirs;
        side.report.pullback += each * pull(error) / whole;
        side.report.attention_error += each * static_cast<double>(error.norm() / theirs.norm());
        side.slope.middleRows(head * shape.length, shape.length) =
            static_cast<T>(2 * weights_.pullback * each / whole) * pulled;
      }
    }
  }

  using LogProbabilities = Eigen::Array<double, 1, Eigen::Dynamic>;

  static LogProbabilities log_probabilities(const Matrix<T>& logits, Index row) {
    LogProbabilities p = logits.row(row).template cast<double>().array();
    p -= p.maxCoeff();
    return p - std::log(p.exp().sum());
  }

  const Model<T>& teacher_;
  DistillationWeights weights_;
  std::array<Side, TrainingScratch<T>::shard_count> sides_;
  DistillationReport report_;
};

// One step of a student's training.
template <class T>
StepReport distillation_step(Model<T>& student, Distillation<T>& distillation, AdamW<T>& optimizer, const Batch& batch,
                             double rate, TrainingScratch<T>& scratch, int threads) {
  StepReport report{distillation.loss_gradient(student, batch, scratch, threads), 0};
  report.gradient_norm = update_parameters(student, optimizer, scratch, rate);
  return report;
}

}  // namespace paper
