// Your own memory: [batch, tokens, heads, dim] through strides, 8 query heads on 2 key heads, causal, one workspace.
//
// The same numbers laid out as [batch, heads, tokens, dim] must give the same result.
#include <algorithm>
#include <cmath>
#include <csq/csq.hpp>
#include <cstdio>
#include <random>
#include <vector>

using csq::Index;

constexpr Index batch = 2, tokens = 300, query_heads = 8, key_heads = 2, dim = 32;

// [batch, tokens, heads, dim] in memory, seen as the [batch, heads, tokens, dim] that every call takes.
template <class T>
csq::Heads<T> tokens_before_heads(T* data, Index heads) {
  return {data, {batch, heads, tokens, dim}, {tokens * heads * dim, dim, heads * dim, 1}};
}

std::vector<float> random_values(Index heads, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<std::size_t>(batch * tokens * heads * dim));
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-31f - 1.0f;
  return values;
}

// Contiguous [batch, heads, tokens, dim] copy of a view.
std::vector<float> heads_before_tokens(const csq::Heads<const float>& view) {
  std::vector<float> values;
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < view.heads(); ++h)
      for (Index t = 0; t < tokens; ++t)
        for (Index a = 0; a < dim; ++a) values.push_back(view.head(b, h)(t, a));
  return values;
}

int main() {
  const std::vector<float> q = random_values(query_heads, 1), k = random_values(key_heads, 2),
                           v = random_values(key_heads, 3);
  std::vector<float> out(q.size()), expected(q.size());

  csq::Workspace workspace;  // no allocation from the second call on
  const csq::Options options{.causal = true, .workspace = &workspace};
  const auto Q = tokens_before_heads(q.data(), query_heads), K = tokens_before_heads(k.data(), key_heads),
             V = tokens_before_heads(v.data(), key_heads);
  const auto O = tokens_before_heads(out.data(), query_heads);
  csq::attention(csq::Csq{}, Q, K, V, O, options);

  const std::vector<float> q_copy = heads_before_tokens(Q), k_copy = heads_before_tokens(K),
                           v_copy = heads_before_tokens(V);
  const csq::Heads<float> contiguous(expected.data(), {batch, query_heads, tokens, dim});
  csq::attention(csq::Csq{}, csq::Heads(q_copy.data(), {batch, query_heads, tokens, dim}),
                 csq::Heads(k_copy.data(), {batch, key_heads, tokens, dim}),
                 csq::Heads(v_copy.data(), {batch, key_heads, tokens, dim}), contiguous, options);

  const std::vector<float> out_copy = heads_before_tokens(O);
  float difference = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const float here = std::abs(out_copy[i] - expected[i]);
    if (!(here <= difference) && !std::isnan(difference)) difference = here;  // a NaN stays
  }
  const bool agree = difference <= 1e-6f;
  std::printf("[B, N, H, D] = [%d, %d, %d, %d] with %d key heads, causal: %s with contiguous [B, H, N, D]\n",
              static_cast<int>(batch), static_cast<int>(tokens), static_cast<int>(query_heads), static_cast<int>(dim),
              static_cast<int>(key_heads), agree ? "agrees" : "DISAGREES");
  return agree ? 0 : 1;
}
