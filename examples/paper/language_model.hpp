// The byte-level language model of language.cpp by name and sizes: which mechanism each layer has, and whether gates.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "language_task.hpp"

namespace paper {

struct LanguageModel {
  std::string name = "gated_csq";
  Index layers = 4, heads = 8, head_dim = 16, context = 512, d_model = 128, ffn = 512;
};

inline const std::vector<std::string> language_models = {"softmax",   "csq",          "gated_softmax",
                                                         "gated_csq", "gated_linear", "mixed"};

// mixed: gated CSQ, with gated softmax in the last layer.
inline AttentionSettings layer_settings(const std::string& name, bool last) {
  AttentionSettings settings;
  if (name == "softmax" || name == "gated_softmax" || (name == "mixed" && last)) settings.mechanism = csq::Softmax{};
  if (name == "gated_linear") settings.mechanism = csq::Linear{};
  settings.gated = name != "softmax" && name != "csq";
  return settings;
}

inline ModelConfig config_of(const LanguageModel& model) {
  ModelConfig config{.vocabulary = LanguageTask::vocabulary,
                     .positions = model.context,
                     .d_model = model.d_model,
                     .heads = model.heads,
                     .head_dim = model.head_dim,
                     .ffn = model.ffn,
                     .rotary = true,
                     .attention = {}};
  for (Index layer = 0; layer < model.layers; ++layer)
    config.attention.push_back(layer_settings(model.name, layer + 1 == model.layers));
  return config;
}

}  // namespace paper
