// Gates of a layer, one per token and head, learned from the layer's input (as in the forgetting transformer, Lin et
// al. 2025, for softmax, and gated linear attention, Yang et al. 2024):
//
//   ℓ = log σ(z),   z = LN₁(x)·W_gᵀ + b_g        [B·n, H]: csq's Options::log_gate
#pragma once

#include "layers.hpp"

namespace paper {

// z becomes ℓ = min(z, 0) − log(1 + e^−|z|).
template <class T>
void log_sigmoid(T* z, Index count) {
  for (Index i = 0; i < count; ++i) z[i] = std::min(z[i], T(0)) - std::log1p(std::exp(-std::abs(z[i])));
}

// ℓ = log σ(z):   dz = dℓ·(1 − σ(z)) = −dℓ·(e^ℓ − 1)        dℓ becomes dz
template <class T>
void log_sigmoid_backward(T* dlog_gate, const T* log_gate, Index count) {
  for (Index i = 0; i < count; ++i) dlog_gate[i] *= -std::expm1(log_gate[i]);
}

// The starting bias of head h of H: tokens are forgotten after horizons from 4 to `longest`, a geometric series, where
// a bias of log(horizon − 1) means a gate of 1 − 1/horizon.
inline double gate_bias(Index head, Index heads, double longest) {
  constexpr double shortest = 4;
  const double share = heads > 1 ? static_cast<double>(head) / static_cast<double>(heads - 1) : 1;
  return std::log(shortest * std::pow(longest / shortest, share) - 1);
}

}  // namespace paper
