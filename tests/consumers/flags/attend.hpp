// One head of causal attention in float, forward and backward, as a unit with flags of its own computes it.
#pragma once

enum class Weight { softmax, csq_direct, csq_factored };

struct Sizes {
  int queries, keys, dim, value_dim;
};

struct Inputs {
  const float *query, *key, *value, *output_gradient;
};
struct Outputs {
  float *output, *normalizer, *query_gradient, *key_gradient, *value_gradient;
  double* shift_gradient;  // csq alone
};

void attend(Weight weight, const Sizes& sizes, const Inputs& in, const Outputs& out);
