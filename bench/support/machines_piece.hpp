// A rank's piece of a sequence of normal random numbers, and the calls on it: over ranks, or alone. A token's numbers
// depend on where it stands, so that pieces of any cut are pieces of the same sequence.
#pragma once

#include <array>
#include <csq/mpi.hpp>
#include <vector>

#include "inputs.hpp"
#include "machines_traffic.hpp"

namespace bench {

class Piece {
 public:
  Piece(const MachinesShape& shape, Index first, Index tokens) : Piece(shape, first, tokens, tokens) {}
  // Of other keys than its queries': for calls without a mask.
  Piece(const MachinesShape& shape, Index first, Index tokens, Index keys)
      : shape_(shape), tokens_(tokens), keys_(keys) {
    fill(q_, shape.heads, tokens, first, 1);
    fill(k_, shape.kv_heads, keys, first, 2);
    fill(v_, shape.kv_heads, keys, first, 3);
    out_.resize(q_.size());
    fill_gates(first);
    normalizer_.resize(static_cast<std::size_t>(shape.heads * tokens));
    if (!shape.backward) return;
    fill(dout_, shape.heads, tokens, first, 4);
    dq_.resize(q_.size());
    dk_.resize(k_.size());
    dv_.resize(v_.size());
    dgates_.resize(gates_.size());
  }

  // One ordinary call, causal, by the method that is best for its length.
  void forward_alone(PieceMechanism mechanism) {
    with(mechanism, [&](const auto& m) {
      csq::attention(m, q(), k(), v(), out(), normalizer(), options(mechanism, csq::Method::automatic, true));
    });
  }
  void backward_alone(PieceMechanism mechanism) {
    with(mechanism, [&](const auto& m) {
      csq::attention_backward(m, q(), k(), v(), out(), normalizer(), dout(), gradients(mechanism, true),
                              options(mechanism, csq::Method::automatic, true));
    });
  }
  // Of all pieces. CSQ's summaries travel, and not its keys, however short they are.
  void forward(MPI_Comm ranks, PieceMechanism mechanism, bool causal = true) {
    with(mechanism, [&](const auto& m) {
      csq::mpi::attention(ranks, m, q(), k(), v(), out(), normalizer(), options(mechanism, method(mechanism), causal));
    });
  }
  void backward(MPI_Comm ranks, PieceMechanism mechanism, bool causal = true) {
    with(mechanism, [&](const auto& m) {
      csq::mpi::attention_backward(ranks, m, q(), k(), v(), out(), normalizer(), dout(), gradients(mechanism, causal),
                                   options(mechanism, method(mechanism), causal));
    });
  }

  // Tokens [first, first + count) of every result, array by array.
  std::vector<std::vector<float>> results(PieceMechanism mechanism, Index first, Index count) const {
    std::vector<std::vector<float>> all;
    const auto add = [&](const std::vector<float>& from, Index heads, Index dim) {
      std::vector<float>& rows = all.emplace_back();
      for (Index h = 0; h < heads; ++h) {
        const auto begin = from.begin() + (h * tokens_ + first) * dim;
        rows.insert(rows.end(), begin, begin + count * dim);
      }
    };
    add(out_, shape_.heads, shape_.dim);
    if (!shape_.backward) return all;
    add(dq_, shape_.heads, shape_.dim);
    add(dk_, shape_.kv_heads, shape_.dim);
    add(dv_, shape_.kv_heads, shape_.dim);
    if (mechanism == PieceMechanism::gated_csq) add(dgates_, shape_.kv_heads, 1);
    return all;
  }

 private:
  template <class Call>
  static void with(PieceMechanism mechanism, const Call& call) {
    if (mechanism == PieceMechanism::ring_softmax)
      call(csq::Softmax{});
    else
      call(csq::Csq{});
  }
  static csq::Method method(PieceMechanism mechanism) {
    return mechanism == PieceMechanism::ring_softmax ? csq::Method::direct : csq::Method::factored;
  }
  csq::Options options(PieceMechanism mechanism, csq::Method method, bool causal) {
    csq::Options options{.causal = causal, .method = method, .threads = 1};
    options.workspace = &workspace_;
    if (mechanism == PieceMechanism::gated_csq && causal)
      options.log_gate = csq::Heads<const float>(gates_.data(), {1, shape_.kv_heads, keys_, 1});
    return options;
  }

  // Streams of NormalNumbers that begin less than a token's numbers apart would overlap.
  static std::uint64_t seed(std::uint64_t array, Index head, Index token) {
    const auto place = (array * 4096 + static_cast<std::uint64_t>(head)) << 30;
    return (place + static_cast<std::uint64_t>(token)) * 512;
  }
  void fill(std::vector<float>& values, Index heads, Index tokens, Index first, std::uint64_t array) const {
    values.resize(static_cast<std::size_t>(heads * tokens * shape_.dim));
    for (Index h = 0; h < heads; ++h)
      for (Index t = 0; t < tokens; ++t) {
        NormalNumbers numbers(seed(array, h, first + t));
        float* const row = values.data() + (h * tokens + t) * shape_.dim;
        for (Index a = 0; a < shape_.dim; a += 2) {
          const std::array<float, 2> pair = numbers.next();
          row[a] = pair[0];
          if (a + 1 < shape_.dim) row[a + 1] = pair[1];
        }
      }
  }
  // As mild_gates, of inputs.hpp.
  void fill_gates(Index first) {
    gates_.resize(static_cast<std::size_t>(shape_.kv_heads * keys_));
    for (Index h = 0; h < shape_.kv_heads; ++h)
      for (Index t = 0; t < keys_; ++t) {
        const float x = std::abs(NormalNumbers(seed(5, h, first + t)).next()[0]);
        gates_[static_cast<std::size_t>(h * keys_ + t)] = -x * x * x / 10;
      }
  }

  template <class T>
  csq::Heads<T> view(T* data, Index heads, Index dim) const {
    return {data, {1, heads, tokens_, dim}};
  }
  template <class T>
  csq::Heads<T> key_view(T* data, Index dim) const {
    return {data, {1, shape_.kv_heads, keys_, dim}};
  }
  csq::Heads<const float> q() const { return view<const float>(q_.data(), shape_.heads, shape_.dim); }
  csq::Heads<const float> k() const { return key_view<const float>(k_.data(), shape_.dim); }
  csq::Heads<const float> v() const { return key_view<const float>(v_.data(), shape_.dim); }
  csq::Heads<const float> dout() const { return view<const float>(dout_.data(), shape_.heads, shape_.dim); }
  csq::Heads<float> out() { return view(out_.data(), shape_.heads, shape_.dim); }
  csq::Heads<float> normalizer() { return view(normalizer_.data(), shape_.heads, 1); }
  csq::Gradients<float> gradients(PieceMechanism mechanism, bool causal) {
    csq::Gradients<float> gradients{view(dq_.data(), shape_.heads, shape_.dim), key_view(dk_.data(), shape_.dim),
                                    key_view(dv_.data(), shape_.dim)};
    if (mechanism == PieceMechanism::gated_csq && causal) gradients.log_gate = key_view(dgates_.data(), 1);
    return gradients;
  }

  MachinesShape shape_;
  Index tokens_, keys_;
  std::vector<float> q_, k_, v_, gates_, out_, normalizer_, dout_, dq_, dk_, dv_, dgates_;
  csq::Workspace workspace_;
};

}  // namespace bench
