// Training and evaluation of a model: batches cut into chunks that stay in cache, penalties on the scores, AdamW.
//
//   loss = mean over marked positions of −log p(target) + Σ_layers (λ_b·L_b + λ_r·(L_r(q) + L_r(k)))
//
// L_b and L_r: csq/penalties.hpp, on the scores as the layer centres them. A batch is cut
// into a few shards, a shard into chunks; both depend on shapes alone and are summed in order, so results are bitwise
// the same for any number of threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "model.hpp"

namespace paper {

struct Batch {
  Index sequences = 0, length = 0;
  std::vector<Index> tokens;   // [sequences, length]
  std::vector<Index> targets;  // [sequences, length], −1 where no loss is taken

  Index marked() const {
    return static_cast<Index>(std::count_if(targets.begin(), targets.end(), [](Index t) { return t >= 0; }));
  }
};

// Sequences [first, first + count) of a batch.
struct Chunk {
  const Batch* batch = nullptr;
  Index first = 0, count = 0;

  const Index* tokens() const { return batch->tokens.data() + first * batch->length; }
  double share() const { return static_cast<double>(count) / static_cast<double>(batch->sequences); }
};

// Rows of the chunk where a loss is taken, and their targets.
struct MarkedRows {
  std::vector<Index> rows, targets;

  explicit MarkedRows(const Chunk& chunk) {
    const Index length = chunk.batch->length;
    for (Index i = 0; i < chunk.count * length; ++i) {
      const Index target = chunk.batch->targets[static_cast<std::size_t>(chunk.first * length + i)];
      if (target < 0) continue;
      rows.push_back(i);
      targets.push_back(target);
    }
  }
};

struct Penalties {
  double bound = 0;   // λ_b
  double radius = 4;  // R of L_b
  double rank = 0;    // λ_r
  double ridge = 1e-3;

  bool any() const { return bound != 0 || rank != 0; }
};

// Sums over the chunks of a batch.
struct LossReport {
  double loss = 0;  // mean cross-entropy of the marked positions, without penalties
  Index correct = 0, marked = 0;
  double bound = 0, rank = 0;  // Σ_layers L_b and L_r, where they were asked for

  double accuracy() const { return marked > 0 ? static_cast<double>(correct) / static_cast<double>(marked) : 0; }
  void add(const LossReport& other) {
    loss += other.loss;
    correct += other.correct;
    marked += other.marked;
    bound += other.bound;
    rank += other.rank;
  }
};

// Reused between steps; a shard is what one thread works on.
template <class T>
struct TrainingScratch {
  struct Shard {
    std::size_t number = 0;  // which of the shards: for a caller that keeps more beside each
    Activations<T> activations;
    Matrix<T> dlogits;
    std::vector<T> gradient;
    LossReport report;
  };
  static constexpr std::size_t shard_count = 4;

  std::array<Shard, shard_count> shards;
  std::vector<T> gradient;  // of the last accumulate_gradient
};

inline int usable_threads([[maybe_unused]] int requested) {
#ifdef _OPENMP
  return requested > 0 ? requested : omp_get_max_threads();
#else
  return 1;
#endif
}

// task(shard, chunk) for all chunks of a batch. Reports add up in order.
template <class T, class Task>
LossReport for_each_chunk(const Batch& batch, TrainingScratch<T>& scratch, int threads, const Task& task) {
  constexpr Index tokens_per_chunk = 256;
  constexpr auto shards = static_cast<Index>(TrainingScratch<T>::shard_count);
  Eigen::setNbThreads(1);  // threads take shards; a product split over threads would sum in another order
  const Index chunk = std::max<Index>(1, tokens_per_chunk / std::max<Index>(1, batch.length));
  const Index chunks = (batch.sequences + chunk - 1) / chunk;
  [[maybe_unused]] const int used = usable_threads(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(used)
  for (Index s = 0; s < shards; ++s) {
    typename TrainingScratch<T>::Shard& shard = scratch.shards[static_cast<std::size_t>(s)];
    shard.number = static_cast<std::size_t>(s);
    shard.report = {};
    for (Index at = chunks * s / shards; at < chunks * (s + 1) / shards; ++at)
      task(shard, Chunk{&batch, at * chunk, std::min(chunk, batch.sequences - at * chunk)});
  }
  LossReport total;
  for (const auto& shard : scratch.shards) total.add(shard.report);
  return total;
}

// The same for tasks that add to shard.gradient; leaves the sum in scratch.gradient.
template <class T, class Task>
LossReport accumulate_gradient(const Model<T>& model, const Batch& batch, TrainingScratch<T>& scratch, int threads,
                               const Task& task) {
  for (auto& shard : scratch.shards) shard.gradient.assign(model.parameters.size(), T(0));
  const LossReport report = for_each_chunk(batch, scratch, threads, task);
  scratch.gradient.assign(model.parameters.size(), T(0));
  const auto count = static_cast<Index>(model.parameters.size());
  Row<T> sum(scratch.gradient.data(), count);
  for (const auto& shard : scratch.shards) sum += ConstRow<T>(shard.gradient.data(), count);
  return report;
}

// Forward, logits of the marked rows and their cross-entropy; dlogits only where `gradient` says so.
template <class T>
void task_loss(const Model<T>& model, const Chunk& chunk, Index marked, bool gradient,
               typename TrainingScratch<T>::Shard& shard) {
  Activations<T>& a = shard.activations;
  const MarkedRows marks(chunk);
  forward(model, chunk.tokens(), chunk.count, chunk.batch->length, a);
  read_out(model, marks.rows, a);
  if (gradient) shard.dlogits.resize(a.logits.rows(), a.logits.cols());
  const CrossEntropy result =
      cross_entropy(reading(a.logits), marks.targets, 1 / static_cast<double>(marked),
                    gradient ? writing(shard.dlogits) : Rows<T>(nullptr, a.logits.rows(), a.logits.cols()));
  shard.report.add({result.loss, result.correct, static_cast<Index>(marks.rows.size()), 0, 0});
}

// The penalties' share of this chunk, as a loss on the scores of every layer.
template <class T>
ScoreLoss<T> penalty_loss(const Model<T>& model, const Penalties& penalties, double share, const Activations<T>& a,
                          LossReport& report) {
  if (!penalties.any()) return {};
  return [&, share](std::size_t layer, Heads<T> dq, Heads<T> dk) {
    const csq::Options options = model.config.attention[layer].options(nullptr);
    if (penalties.bound != 0)
      report.bound += share * csq::bound_penalty(a.query(layer), a.key(layer), dq, dk, penalties.radius,
                                                 penalties.bound * share, options)
                                  .value;
    if (penalties.rank != 0)
      report.rank += share * (csq::rank_penalty(a.query(layer), dq, penalties.ridge, penalties.rank * share, options) +
                              csq::rank_penalty(a.key(layer), dk, penalties.ridge, penalties.rank * share, options));
  };
}

// ∂loss/∂parameters of a whole batch, into scratch.gradient.
template <class T>
LossReport loss_gradient(const Model<T>& model, const Batch& batch, const Penalties& penalties,
                         TrainingScratch<T>& scratch, int threads) {
  const Index marked = batch.marked();
  return accumulate_gradient(model, batch, scratch, threads, [&](auto& shard, const Chunk& chunk) {
    task_loss(model, chunk, marked, true, shard);
    backward(model, chunk.tokens(), shard.dlogits, shard.activations, shard.gradient.data(),
             penalty_loss(model, penalties, chunk.share(), shard.activations, shard.report));
  });
}

struct NothingToWatch {
  template <class Shard>
  void operator()(const Shard&, const Chunk&) const {}
};

// Loss and accuracy of a batch; `watch(shard, chunk)` sees the activations of every chunk.
template <class T, class Watch = NothingToWatch>
LossReport evaluate(const Model<T>& model, const Batch& batch, TrainingScratch<T>& scratch, int threads,
                    const Watch& watch = {}) {
  const Index marked = batch.marked();
  return for_each_chunk(batch, scratch, threads, [&](auto& shard, const Chunk& chunk) {
    task_loss(model, chunk, marked, false, shard);
    watch(shard, chunk);
  });
}

// Clips scratch.gradient and applies it; returns its norm before clipping.
template <class T>
double update_parameters(Model<T>& model, AdamW<T>& optimizer, TrainingScratch<T>& scratch, double rate,
                         double largest_norm = 1) {
  const double norm = clip_global_norm(scratch.gradient, largest_norm);
  optimizer.update(model.parameters, scratch.gradient, rate);
  return norm;
}

// One step of training: returns the loss before it and the gradient's norm before clipping.
struct StepReport : LossReport {
  double gradient_norm = 0;
};

template <class T>
StepReport train_step(Model<T>& model, AdamW<T>& optimizer, const Batch& batch, const Penalties& penalties, double rate,
                      TrainingScratch<T>& scratch, int threads, double largest_norm = 1) {
  StepReport report{loss_gradient(model, batch, penalties, scratch, threads), 0};
  report.gradient_norm = update_parameters(model, optimizer, scratch, rate, largest_norm);
  return report;
}

}  // namespace paper
