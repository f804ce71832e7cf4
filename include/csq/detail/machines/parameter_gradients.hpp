// Gradients that all ranks share: of the shift, of sinks, and of gates, whose sums run over all tokens behind them.
//
//   ∂L/∂ℓ_t = Σ_{p ≥ t} R_p − Σ_{j ≥ t} c_j        (block/gate_gradient.hpp)
//   R_p = Σ_i G_i·o_i·e^(sink − lse_i) of the queries i at position p, 0 without a sink;  ∂L/∂sink = −Σ_i of the same
//
// Each rank sends a number a head, and where gates and sinks have gradients together one a token and gate head.
#pragma once

#include "csq/detail/block/gate_gradient.hpp"
#include "csq/detail/machines/piece_arrays.hpp"

namespace CSQ_CODE::detail {

#include "csq/detail/base/precise_begin.inl"

template <class T>
class ParameterGradients {
 public:
  static ParameterGradients lay_out(Arena& arena, const Communicator& ranks, const PieceCall<T>& call) {
    ParameterGradients result;
    result.ranks_ = &ranks;
    result.call_ = &call;
    const Problem<T>& p = call.problem();
    result.sinks_ = arena.template take<double>(p.query.heads());
    if (!call.wants_gates) return result;
    result.totals_ = arena.template take<double>(result.gate_heads() * (ranks.size() + 1));
    result.rows_ = arena.template take<double>(result.has_rows() ? result.gate_heads() * call.pieces.keys() : 0);
    return result;
  }

  void write(const PieceArrays<T>& arrays) const {
    const StoredGradients<T>& gradients = call_->given.gradients;
    if (gradients.shift != nullptr) {
      double sum = arrays.shift;
      ranks_->sum(&sum, 1);
      *gradients.shift = call_->given.shift_rate * sum;
    }
    if (has_rows()) std::fill_n(rows_, gate_heads() * call_->pieces.keys(), 0.0);
    if (!call_->problem().sink.empty() && (has_rows() || !gradients.sink.empty())) sum_sinks(arrays);
    if (!gradients.sink.empty()) std::copy_n(sinks_, gradients.sink.size(), gradients.sink.data());
    if (call_->wants_gates) write_gates(arrays);
  }

 private:
  Index gate_heads() const { return call_->problem().query.batch() * call_->problem().log_gate.heads(); }
  bool has_rows() const { return call_->wants_gates && !call_->problem().sink.empty(); }

  void sum_sinks(const PieceArrays<T>& arrays) const {
    const Problem<T>& p = call_->problem();
    const Index heads = p.query.heads(), keys = call_->pieces.keys();
    const Index start = call_->pieces.position(ranks_->rank(), 0);
    std::fill_n(sinks_, heads, 0.0);
    for (Index b = 0; b < p.query.batch(); ++b)
      for (Index h = 0; h < heads; ++h) {
        const Head<T> out = arrays.output.head(b, h), gradient = arrays.output_gradient.head(b, h);
        const double level = p.sink[static_cast<std::size_t>(h)];
        const Index gate_head = b * p.log_gate.heads() + h * p.log_gate.heads() / heads;
        for (Index row = 0; row < out.tokens && !is_minus_infinity(level); ++row) {
          double dot = 0;
          for (Index a = 0; a < out.dim; ++a)
            dot += static_cast<double>(out(row, a)) * static_cast<double>(gradient(row, a));
          const double sum = static_cast<double>(arrays.normalizer.head(b, h)(row, 0));
          const double term = dot * std::exp(smaller(0.0, level - sum));
          sinks_[h] -= term;
          if (has_rows() && start + row >= 0) rows_[gate_head * keys + start + row] += term;
        }
      }
    ranks_->sum(sinks_, heads);
    if (has_rows()) ranks_->sum(rows_, gate_heads() * keys);
  }

  void write_gates(const PieceArrays<T>& arrays) const {
    const Problem<T>& p = call_->problem();
    const Index m = p.keys(), all_keys = call_->pieces.keys(), first = call_->pieces.first_key(ranks_->rank());
    double* const own = totals_ + gate_heads() * ranks_->size();
    for (Index h = 0; h < gate_heads(); ++h) {
      own[h] = 0;
      for (Index t = 0; t < m; ++t) own[h] += arrays.key_terms[h * m + t];
    }
    ranks_->gather(own, gate_heads(), totals_);
    for (Index h = 0; h < gate_heads(); ++h) {
      const Index b = h / p.log_gate.heads(), head = h % p.log_gate.heads();
      double sum = 0;
      for (int rank = ranks_->size() - 1; rank > ranks_->rank(); --rank) sum -= totals_[rank * gate_heads() + h];
      for (Index t = all_keys - 1; t >= first + m && has_rows(); --t) sum += rows_[h * all_keys + t];
      for (Index t = m - 1; t >= 0; --t) {
        sum -= arrays.key_terms[h * m + t];
        if (has_rows()) sum += rows_[h * all_keys + first + t];
        const double gate = static_cast<double>(p.log_gate.head(b, head)(t, 0));
        const bool has_say = first + t > 0 && !(gate < lowest_log_gate);
        call_->given.gradients.log_gate.head(b, head)(t, 0) = has_say ? static_cast<T>(sum) : T(0);
      }
    }
  }

  const Communicator* ranks_ = nullptr;
  const PieceCall<T>* call_ = nullptr;
  double *sinks_ = nullptr, *totals_ = nullptr, *rows_ = nullptr;
};

#include "csq/detail/base/precise_end.inl"

}  // namespace CSQ_CODE::detail
