// Associative recall by one attention layer: the sequences and the model, forward and backward.
//
//   stored   E episodes of P rows (key, value): P distinct keys, the same in every episode, in an order of its own and
//            with other values; E = 1 unless what was stored is to be overwritten
//   asked    each key once, after all of them: the value that the last episode gave it
//   q, k, v  rows of three learned tables; logits = attention(q, k, v)·Wᵀ + b
//   gates    ℓ = log σ(g), g one learned number for the first row of an episode and one for the others
//
// With gates the call is causal, as gates must be: P rows behind the stored ones, beyond the key length, let every
// question see all that was stored.
#pragma once

#include <chrono>
#include <numeric>

#include "cross_attention.hpp"
#include "gates.hpp"

namespace paper {

struct RecallTask {
  Index key_ids = 0, value_ids = 0, pairs = 0, episodes = 1;

  Index stored() const { return episodes * pairs; }
};

struct RecallBatch {
  std::vector<Index> key, value;     // [sequences·stored]
  std::vector<Index> asked, answer;  // [sequences·pairs]
};

class RecallSequences {
 public:
  RecallSequences(const RecallTask& task, std::uint64_t seed)
      : task_(task), stream_(seed), ids_(unsigned_of(task.key_ids)) {
    std::iota(ids_.begin(), ids_.end(), Index{0});
  }

  void draw(Index sequences, RecallBatch& batch) {
    batch.key.resize(unsigned_of(sequences * task_.stored()));
    batch.value.resize(batch.key.size());
    batch.asked.resize(unsigned_of(sequences * task_.pairs));
    batch.answer.resize(batch.asked.size());
    for (Index s = 0; s < sequences; ++s) {
      const auto asked = unsigned_of(s * task_.pairs), first = unsigned_of(s * task_.stored());
      shuffle(ids_, task_.key_ids, [&](std::size_t pair) {
        batch.answer[asked + pair] = random_index(stream_, counter_++, task_.value_ids);
      });
      std::copy_n(ids_.begin(), task_.pairs, batch.asked.begin() + static_cast<std::ptrdiff_t>(asked));
      for (Index episode = 0; episode < task_.episodes; ++episode)
        store(batch, asked, first + unsigned_of(episode * task_.pairs), episode + 1 == task_.episodes);
    }
  }

 private:
  static std::size_t unsigned_of(Index count) { return static_cast<std::size_t>(count); }

  // The first `pairs` of `from` become a random choice of its first `count` (Fisher and Yates, cut after `pairs`).
  template <class Then>
  void shuffle(std::vector<Index>& from, Index count, const Then& then) {
    for (std::size_t pair = 0; pair < unsigned_of(task_.pairs); ++pair) {
      const Index left = count - static_cast<Index>(pair);
      std::swap(from[pair], from[pair + unsigned_of(random_index(stream_, counter_++, left))]);
      then(pair);
    }
  }

  // One episode: the keys that will be asked for, with their answers if it is the last one.
  void store(RecallBatch& batch, std::size_t asked, std::size_t row, bool last) {
    order_.resize(unsigned_of(task_.pairs));
    std::iota(order_.begin(), order_.end(), Index{0});
    if (!last) shuffle(order_, task_.pairs, [](std::size_t) {});
    for (const Index pair : order_) {
      const std::size_t question = asked + unsigned_of(pair);
      batch.key[row] = batch.asked[question];
      batch.value[row++] = last ? batch.answer[question] : random_index(stream_, counter_++, task_.value_ids);
    }
  }

  RecallTask task_;
  std::uint64_t stream_, counter_ = 0;
  std::vector<Index> ids_, order_;
};

template <class T>
class RecallModel {
 public:
  // shape.keys: what is stored, and with gates `queries` more.
  RecallModel(const Mechanism& mechanism, bool gated, const RecallTask& task, const CrossShape& shape,
              std::uint64_t seed)
      : mechanism_(mechanism), gated_(gated), task_(task), shape_(shape) {
    query_ = place(task.key_ids, shape.key_width());
    key_ = place(task.key_ids, shape.key_width());
    value_ = place(task.value_ids, shape.value_width());
    weight_ = place(task.value_ids, shape.value_width());
    bias_ = place(1, task.value_ids);
    const std::uint64_t stream = random_stream(seed, 1);
    const double bound = 1 / std::sqrt(static_cast<double>(shape.value_width()));
    for (std::size_t i = 0; i < parameters.size(); ++i)
      parameters[i] =
          static_cast<T>(static_cast<Index>(i) < weight_.offset ? random_normal(stream, i)
                                                                : bound * (2 * random_uniform(stream, 2 * i) - 1));
    gate_ = place(1, gated ? 2 : 0);
    std::fill(parameters.begin() + gate_.offset, parameters.end(), T(4));  // forgets over some 50 rows
    gradient.resize(parameters.size());
    const auto rows = [](Index count, Index columns) {
      return std::vector<T>(static_cast<std::size_t>(count * columns));
    };
    q_ = dq_ = rows(shape.query_rows(), shape.key_width());
    k_ = dk_ = rows(shape.key_rows(), shape.key_width());
    v_ = dv_ = rows(shape.key_rows(), shape.value_width());
    out_ = dout_ = rows(shape.query_rows(), shape.value_width());
    log_gate_ = dlog_gate_ = rows(shape.key_rows(), gated ? shape.heads : 0);
    key_length_.assign(static_cast<std::size_t>(shape.sequences), task.stored());
    normalizer_ = rows(shape.normalizer_size(), 1);
    logits_ = dlogits_ = rows(shape.query_rows(), task.value_ids);
  }

  // Mean loss of a batch; with `learn` the gradient too.
  CrossEntropy run(const RecallBatch& batch, bool learn) {
    const Index rows = shape_.query_rows();
    gather(query_, batch.asked, task_.pairs, shape_.queries, q_);
    gather(key_, batch.key, task_.stored(), shape_.keys, k_);
    gather(value_, batch.value, task_.stored(), shape_.keys, v_);
    set_gates();
    cross_attention(mechanism_, shape_, q_.data(), k_.data(), v_.data(), out_.data(), normalizer_.data(), options());
    const ConstRows<T> out(out_.data(), rows, shape_.value_width()), weight = table(weight_);
    linear(out, weight, ConstRow<T>(parameters.data() + bias_.offset, task_.value_ids),
           Rows<T>(logits_.data(), rows, task_.value_ids));
    const auto result =
        cross_entropy(ConstRows<T>(logits_.data(), rows, task_.value_ids), batch.answer, 1 / static_cast<double>(rows),
                      Rows<T>(learn ? dlogits_.data() : nullptr, rows, task_.value_ids));
    if (learn) back(batch, out, weight);
    return result;
  }

  // The attention call of one sequence of the last batch, repeated: microseconds a call, of 9 rounds the fastest.
  double attention_microseconds() {
    using Clock = std::chrono::steady_clock;
    CrossShape one = shape_;
    one.sequences = 1;
    const auto seconds = [&](int calls) {
      csq::Options alone = options();
      if (gated_) alone.log_gate = gates(log_gate_.data(), one);
      if (gated_) alone.key_length = alone.key_length.first(1);
      const auto start = Clock::now();
      for (int call = 0; call < calls; ++call)
        cross_attention(mechanism_, one, q_.data(), k_.data(), v_.data(), out_.data(), normalizer_.data(), alone);
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    seconds(2);
    const int calls = std::max(1, static_cast<int>(0.01 / std::max(seconds(2) / 2, 1e-7)));
    double fastest = seconds(calls) / calls;
    for (int round = 1; round < 9; ++round) fastest = std::min(fastest, seconds(calls) / calls);
    return 1e6 * fastest;
  }

  std::vector<T> parameters, gradient;

 private:
  struct Table {
    Index offset = 0, rows = 0, columns = 0;
  };

  Table place(Index rows, Index columns) {
    const Table table{static_cast<Index>(parameters.size()), rows, columns};
    parameters.resize(parameters.size() + static_cast<std::size_t>(rows * columns));
    return table;
  }
  ConstRows<T> table(const Table& t) const { return {parameters.data() + t.offset, t.rows, t.columns}; }
  Rows<T> gradient_of(const Table& t) { return {gradient.data() + t.offset, t.rows, t.columns}; }

  // [B·m, H] as [B, H, m, 1].
  template <class U>
  static Heads<U> gates(U* data, const CrossShape& s) {
    return {data, {s.sequences, s.heads, s.keys, 1}, {s.keys * s.heads, 1, s.heads, 1}};
  }
  csq::Options options() {
    csq::Options options{.threads = 1, .workspace = &workspace_};
    if (!gated_) return options;
    options.causal = true;  // and the mean taken as without a mask: all rows are there from the start
    options.centering =
        std::visit([](const auto& chosen) { return csq::default_centering(chosen, false); }, mechanism_);
    options.key_length = key_length_;
    options.log_gate = gates(log_gate_.data(), shape_);
    return options;
  }

  // Which gate is a row's own. Rows beyond the key length have one too, which counts as 0.
  Index gate_of(Index row) const { return gate_.offset + (row % shape_.keys % task_.pairs == 0 ? 0 : 1); }
  void set_gates() {
    for (std::size_t i = 0; i < log_gate_.size(); ++i)
      log_gate_[i] = parameters[static_cast<std::size_t>(gate_of(static_cast<Index>(i) / shape_.heads))];
    log_sigmoid(log_gate_.data(), static_cast<Index>(log_gate_.size()));
  }

  // row i = table[ids[i]], the first `used` of every `count` rows; the others are 0.
  void gather(const Table& t, const std::vector<Index>& ids, Index used, Index count, std::vector<T>& rows) const {
    const T* const source = parameters.data() + t.offset;
    for (Index i = 0; i < static_cast<Index>(ids.size()); ++i)
      std::copy_n(source + ids[static_cast<std::size_t>(i)] * t.columns, t.columns,
                  rows.data() + row_of_id(i, used, count) * t.columns);
  }
  // row i = table[ids[i]]:   dtable[ids[i]] += drow i
  void scatter_add(const Table& t, const std::vector<Index>& ids, Index used, Index count,
                   const std::vector<T>& drows) {
    for (Index i = 0; i < static_cast<Index>(ids.size()); ++i)
      gradient_of(t).row(ids[static_cast<std::size_t>(i)]) +=
          ConstRow<T>(drows.data() + row_of_id(i, used, count) * t.columns, t.columns);
  }
  static Index row_of_id(Index i, Index used, Index count) { return i / used * count + i % used; }

  void back(const RecallBatch& batch, const ConstRows<T>& out, const ConstRows<T>& weight) {
    std::fill(gradient.begin(), gradient.end(), T(0));
    const ConstRows<T> dlogits(dlogits_.data(), shape_.query_rows(), task_.value_ids);
    linear_backward_parameters(dlogits, out, gradient_of(weight_),
                               Row<T>(gradient.data() + bias_.offset, task_.value_ids));
    linear_backward_input(dlogits, weight, Rows<T>(dout_.data(), shape_.query_rows(), shape_.value_width()));
    cross_attention_backward(mechanism_, shape_, q_.data(), k_.data(), v_.data(), out_.data(), normalizer_.data(),
                             dout_.data(), dq_.data(), dk_.data(), dv_.data(),
                             gated_ ? gates(dlog_gate_.data(), shape_) : Heads<T>{}, options());
    scatter_add(query_, batch.asked, task_.pairs, shape_.queries, dq_);
    scatter_add(key_, batch.key, task_.stored(), shape_.keys, dk_);
    scatter_add(value_, batch.value, task_.stored(), shape_.keys, dv_);
    log_sigmoid_backward(dlog_gate_.data(), log_gate_.data(), static_cast<Index>(log_gate_.size()));
    for (std::size_t i = 0; i < dlog_gate_.size(); ++i)
      gradient[static_cast<std::size_t>(gate_of(static_cast<Index>(i) / shape_.heads))] += dlog_gate_[i];
  }

  Mechanism mechanism_;
  bool gated_;
  RecallTask task_;
  CrossShape shape_;
  Table query_, key_, value_, weight_, bias_, gate_;
  std::vector<T> q_, k_, v_, out_, normalizer_, logits_, log_gate_, dq_, dk_, dv_, dout_, dlogits_, dlog_gate_;
  std::vector<Index> key_length_;
  csq::Workspace workspace_;
};

}  // namespace paper
