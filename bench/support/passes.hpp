// Forward and backward of one mechanism on arrays that are there before anything is timed.
//
//   inputs    q, k, v, dout        views
//   Passes    out; for backward also the normaliser, dq, dk, dv; a workspace that serves both
//
// Elements are of float or double, or of 16 bits: then the normaliser and gradients of gates are float.
//
// Flops are those of the formulas, whatever the kernels do: the cost model's multiply-adds, times 2. For dᵥ = d, one
// head and no mask, with D = (d+1)(d+2)/2:
//             direct      factored
//   forward    4·n·m·d    2·(n + m)·D·(d+1)
//   backward  10·n·m·d    2·(2n + 3m)·D·(d+1)
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "csq/csq.hpp"
#include "dtype.hpp"

namespace bench {

using csq::Index;

enum class Pass { forward, backward };

inline double flops(const csq::Shape& shape, bool factored, Pass pass, const csq::Options& options = {}) {
  if (pass == Pass::forward)
    return 2 * (factored ? csq::factored_multiply_adds(shape, options) : csq::direct_multiply_adds(shape, options));
  return 2 * (factored ? csq::factored_backward_multiply_adds(shape, options)
                       : csq::direct_backward_multiply_adds(shape, options));
}

// Options beyond those of the shape.
struct CallExtras {
  bool gated = false;  // with gates of the key heads, and their gradient
  Index window = 0;
};

// dout has no data where only forward is called.
template <class Element>
struct Operands {
  csq::Heads<const Element> q, k, v, dout;
};

template <class Element>
class Passes {
 public:
  using T = Computed<Element>;
  std::vector<Element> out, dq, dk, dv;
  std::vector<T> normalizer, dlog_gate;

  // Makes room for calls of this shape; every byte is touched, so that no call pays for its first pages.
  template <class M>
  void reserve(const M& mechanism, const csq::Shape& shape, bool backward, const csq::Options& options) {
    const auto resize = [&](auto& values, Index heads, Index tokens, Index dim) {
      values.resize(static_cast<std::size_t>(shape.batch * heads * tokens * dim));
    };
    resize(out, shape.heads, shape.queries, shape.value_dim);
    std::size_t bytes = csq::workspace_bytes<T>(mechanism, shape, options);
    if (backward) {
      resize(normalizer, shape.heads, shape.queries, 1);
      resize(dq, shape.heads, shape.queries, shape.key_dim);
      const Index kv_heads = shape.kv_heads > 0 ? shape.kv_heads : shape.heads;
      resize(dk, kv_heads, shape.keys, shape.key_dim);
      resize(dv, kv_heads, shape.keys, shape.value_dim);
      if (options.log_gate.given()) resize(dlog_gate, options.log_gate.shape[1], shape.keys, 1);
      bytes = std::max(bytes, csq::backward_workspace_bytes<T>(mechanism, shape, options));
    }
    if (bytes > workspace_.bytes()) std::memset(workspace_.reserve(bytes), 0, bytes);
  }

  template <class M>
  void forward(const M& mechanism, const Operands<Element>& in, csq::Options options) {
    options.workspace = &workspace_;
    if (normalizer.empty())
      csq::attention(mechanism, in.q, in.k, in.v, out_view(in), options);
    else
      csq::attention(mechanism, in.q, in.k, in.v, out_view(in), normalizer_view(in), options);
  }

  // After forward, with the same operands and options.
  template <class M>
  void backward(const M& mechanism, const Operands<Element>& in, csq::Options options) {
    options.workspace = &workspace_;
    csq::Gradients<Element> gradients{{dq.data(), in.q.shape}, {dk.data(), in.k.shape}, {dv.data(), in.v.shape}};
    if (options.log_gate.given()) gradients.log_gate = csq::Heads<T>(dlog_gate.data(), options.log_gate.shape);
    csq::attention_backward(mechanism, in.q, in.k, in.v, out_view(in), normalizer_view(in), in.dout, gradients,
                            options);
  }

  std::size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  csq::Heads<Element> out_view(const Operands<Element>& in) {
    return {out.data(), {in.q.batch(), in.q.heads(), in.q.tokens(), in.v.dim()}};
  }
  csq::Heads<T> normalizer_view(const Operands<Element>& in) {
    return {normalizer.data(), {in.q.batch(), in.q.heads(), in.q.tokens(), 1}};
  }

  csq::Workspace workspace_;
};

}  // namespace bench
