// A trained model a token at a time, at the same memory for every token: what came before is in one csq::Stream a
// layer.
//
//   Decoder decoder(model);
//   const auto& logits = decoder.step(token);      // of the next token, [V]
//
// The same numbers as forward and read_out of model.hpp on all tokens at once, up to rounding. A position is a token's
// number since the start, however far that is from what the model was trained on. Cost a token: two for each parameter,
// and a step of each stream.
#pragma once

#include "model.hpp"

namespace paper {

class Decoder {
 public:
  // `model` must stay where it is.
  explicit Decoder(const Model<float>& model) : model_(model) {
    const ModelConfig& c = model.config;
    shape_ = {1, 1, c.heads, c.head_dim};
    for (const AttentionSettings& settings : c.attention)
      streams_.push_back(std::visit(
          [&](const auto& mechanism) {
            return csq::Stream<float>(
                mechanism, {.heads = c.heads, .key_dim = c.head_dim, .value_dim = c.head_dim},
                {.gated = settings.gated, .centering = settings.resolved_centering(), .rollback = 0, .threads = 1});
          },
          settings.mechanism));
    attended_.resize(1, shape_.width());
  }

  const Matrix<float>& step(Index token) {
    const ModelConfig& c = model_.config;
    const float* const p = model_.parameters.data();
    x_ = matrix_of(p, model_.table.token).row(token);
    if (!c.rotary) x_ += matrix_of(p, model_.table.position).row(position_);
    for (std::size_t l = 0; l < streams_.size(); ++l) {
      const LayerParameters& layer = model_.table.layers[l];
      norm_forward(p, layer.norm1, x_, norm_);
      linear_forward(p, layer.qkv, norm_.out, qkv_);
      if (c.rotary) rotary_.turn_at(position_, qkv_.data(), shape_);  // before the stream centres or maps them
      if (layer.gate) {
        linear_forward(p, *layer.gate, norm_.out, log_gate_);
        log_sigmoid(log_gate_.data(), log_gate_.size());
      }
      streams_[l].step(part(0), part(1), part(2), heads_view(attended_.data(), shape_, 0, 1),
                       layer.gate ? gate_view<const float>(log_gate_.data(), shape_) : Heads<const float>{});
      linear_forward_add(p, layer.projection, attended_, x_);

      norm_forward(p, layer.norm2, x_, norm_);
      linear_forward(p, layer.up, norm_.out, hidden_);
      slope_.resize(1, c.ffn);
      gelu(hidden_.data(), slope_.data(), hidden_.size());
      linear_forward_add(p, layer.down, hidden_, x_);
    }
    norm_forward(p, model_.table.norm, x_, norm_);
    linear_forward(p, model_.table.head, norm_.out, logits_);
    ++position_;
    return logits_;
  }

  Index tokens() const { return position_; }
  // Of the streams: all that stands for the tokens so far.
  std::size_t state_bytes() const {
    std::size_t bytes = 0;
    for (const csq::Stream<float>& stream : streams_) bytes += stream.bytes();
    return bytes;
  }

 private:
  // Queries, keys or values of the token.
  Heads<const float> part(Index which) const { return heads_view(qkv_.data(), shape_, which, 3); }

  const Model<float>& model_;
  AttentionShape shape_;
  std::vector<csq::Stream<float>> streams_;
  Index position_ = 0;
  NormActivations<float> norm_;
  Matrix<float> x_, qkv_, log_gate_, attended_, hidden_, slope_, logits_;  // one row each
  Rotary<float> rotary_;
};

}  // namespace paper
