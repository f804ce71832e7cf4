// The transformer against plain loops (reference.hpp): values, gradients of every parameter, the float GELU, and the
// same bits for any number of threads. Tolerances: central differences with step 1e-5 in double carry an error near
// 1e-8 of a typical gradient; 1e-6 leaves room for a hundred times that and none for a wrong formula.
#pragma once

#include <cstdio>

#include "distillation.hpp"
#include "reference.hpp"

namespace paper {

class Checks {
 public:
  void at_most(const std::string& what, double value, double limit) {
    const bool good = value <= limit;
    std::printf("%-62s %10.2e  at most %.0e  %s\n", what.c_str(), value, limit, good ? "ok" : "FAILED");
    failures_ += good ? 0 : 1;
  }
  int failures() const { return failures_; }

 private:
  int failures_ = 0;
};

// Small, with a head size that is not d_model/heads.
inline ModelConfig small_config(const Mechanism& mechanism, csq::Centering centering = csq::Centering::automatic) {
  ModelConfig config{.vocabulary = 11, .positions = 12, .d_model = 16, .heads = 2, .head_dim = 6, .ffn = 20};
  config.attention.assign(2, {mechanism, centering});
  return config;
}

// Random tokens; a loss at every third position.
inline Batch small_batch(std::uint64_t stream) {
  Batch batch{5, 10, {}, {}};
  for (std::uint64_t i = 0; i < 50; ++i) {
    batch.tokens.push_back(random_index(stream, 2 * i, 11));
    batch.targets.push_back(i % 3 == 0 ? random_index(stream, 2 * i + 1, 11) : -1);
  }
  return batch;
}

inline void check_model(Checks& checks, const std::string& name, const ModelConfig& config, const Penalties& penalties,
                        std::uint64_t seed) {
  const Model<double> model(config, seed);
  const Batch batch = small_batch(random_stream(seed, 1));
  TrainingScratch<double> scratch;
  const LossReport report = loss_gradient(model, batch, penalties, scratch, 1);
  const double loss = report.loss + penalties.bound * report.bound + penalties.rank * report.rank;
  const auto reference = [&](const double* p) { return reference_loss(config, model.table, p, batch, penalties); };
  checks.at_most(name + ": loss", std::abs(loss - reference(model.parameters.data())), 1e-12);
  checks.at_most(name + ": gradient", check_gradient(model, scratch.gradient, 3, random_stream(seed, 2), reference),
                 1e-6);
}

// Distillation's loss in plain loops: ‖XᵀEX‖² as it is written.
inline double reference_distillation(const Model<double>& teacher, const Model<double>& student, const double* p,
                                     const Batch& batch, DistillationWeights weights) {
  const auto pulled_norm = [](const Table& x, const Table& matrix) {
    double sum = 0;
    for (std::size_t a = 0; a < x.front().size(); ++a)
      for (std::size_t b = 0; b < x.front().size(); ++b) {
        double entry = 0;
        for (std::size_t i = 0; i < x.size(); ++i)
          for (std::size_t j = 0; j < x.size(); ++j) entry += x[i][a] * matrix[i][j] * x[j][b];
        sum += entry * entry;
      }
    return sum;
  };
  const double positions = static_cast<double>(batch.sequences * batch.length);
  double loss = 0;
  for (Index s = 0; s < batch.sequences; ++s) {
    const Index* const tokens = &batch.tokens[cell(s * batch.length)];
    const ReferenceForward theirs =
        reference_forward(teacher.config, teacher.table, teacher.parameters.data(), tokens, batch.length);
    const ReferenceForward ours = reference_forward(student.config, student.table, p, tokens, batch.length);
    for (Index i = 0; i < batch.length; ++i) {
      const Index target = batch.targets[cell(s * batch.length + i)];
      const auto& mine = ours.logits[cell(i)];
      if (target >= 0) loss += reference_cross_entropy(mine, target) / static_cast<double>(batch.marked());
      for (Index v = 0; v < student.config.vocabulary; ++v) {
        const double log_p_t = -reference_cross_entropy(theirs.logits[cell(i)], v);
        loss += weights.kl * std::exp(log_p_t) * (log_p_t + reference_cross_entropy(mine, v)) / positions;
      }
    }
    for (std::size_t l = 0; l < ours.layers.size(); ++l)
      for (std::size_t h = 0; h < ours.layers[l].heads.size(); ++h) {
        const Table& target = theirs.layers[l].heads[h].attention;
        Table error = ours.layers[l].heads[h].attention;
        for (std::size_t i = 0; i < error.size(); ++i)
          for (std::size_t j = 0; j < error.size(); ++j) error[i][j] -= target[i][j];
        const Table& x = theirs.layers[l].input;
        loss += weights.pullback * pulled_norm(x, error) / pulled_norm(x, target) /
                static_cast<double>(ours.layers.size() * ours.layers[l].heads.size()) /
                static_cast<double>(batch.sequences);
      }
  }
  return loss;
}

inline void check_distillation(Checks& checks, std::uint64_t seed) {
  const Model<double> teacher(small_config(csq::Softmax{}), seed), student(small_config(csq::Csq{}), seed + 1);
  const DistillationWeights weights{0.7, 1.3};
  const Batch batch = small_batch(random_stream(seed, 3));
  TrainingScratch<double> scratch;
  Distillation<double> distillation(teacher, weights);
  const LossReport report = distillation.loss_gradient(student, batch, scratch, 1);
  const double loss =
      report.loss + weights.kl * distillation.report().kl + weights.pullback * distillation.report().pullback;
  const auto reference = [&](const double* p) { return reference_distillation(teacher, student, p, batch, weights); };
  checks.at_most("distillation: loss", std::abs(loss - reference(student.parameters.data())), 1e-12);
  checks.at_most("distillation: gradient",
                 check_gradient(student, scratch.gradient, 1, random_stream(seed, 4), reference), 1e-6);
}

// Float GELU and its slope, relative to |x|, against erfc in double. The last places of the float arithmetic make up
// nearly all of it: 2⁻²² is four units of 2⁻²⁴.
inline void check_gelu(Checks& checks) {
  double largest = 0;
  for (int i = -1200; i <= 1200; ++i) {
    const double x = static_cast<double>(static_cast<float>(i) * 0.01f);
    float y = static_cast<float>(x), slope = 0;
    gelu(&y, &slope, 1);
    const double distribution = std::erfc(-x / std::numbers::sqrt2) / 2;
    const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    largest = std::max(largest, std::abs(static_cast<double>(slope) - distribution - x * density));
    if (i != 0) largest = std::max(largest, std::abs(static_cast<double>(y) / x - distribution));
  }
  checks.at_most("gelu in float", largest, 0x1p-22);
}

// Float gradients with one and with three threads, penalties on; a batch of several chunks.
inline void check_threads(Checks& checks, std::uint64_t seed) {
  const Model<float> model(small_config(csq::Csq{}), seed);
  Batch batch = small_batch(random_stream(seed, 5));
  const Batch piece = batch;
  for (; batch.sequences < 200; batch.sequences += piece.sequences) {
    batch.tokens.insert(batch.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    batch.targets.insert(batch.targets.end(), piece.targets.begin(), piece.targets.end());
  }
  TrainingScratch<float> one, three;
  loss_gradient(model, batch, {.bound = 0.1, .radius = 0.2, .rank = 0.1}, one, 1);
  loss_gradient(model, batch, {.bound = 0.1, .radius = 0.2, .rank = 0.1}, three, 3);
  checks.at_most("gradients of 1 and 3 threads: different numbers", one.gradient == three.gradient ? 0 : 1, 0);
}

}  // namespace paper
