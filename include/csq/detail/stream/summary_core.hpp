// The summaries behind csq::Summary: [S | z] of every key head of a batch, and what is known of the keys in them.
//
// A call of theirs is one of the factored engine's, which goes on from them (Problem::continued): queries and keys at
// the same positions, keys alone, or queries alone.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "csq/detail/checked_calls.hpp"
#include "csq/detail/stream/bytes.hpp"

namespace CSQ_CODE::detail {

// What a summary is asked to be. `start_count`, `start_mean` [batch, kv_heads, key_dim]: of the keys before its first.
struct SummaryRequest {
  Index batch, kv_heads, key_dim, value_dim;
  std::optional<double> scale;
  Centering centering;  // resolved
  bool gated;
  Index start_count;
  std::span<const double> start_mean;
  Threads threads;
};

template <class T>
class SummaryCore {
 public:
  SummaryCore(const Weight& weight, const SummaryRequest& r)
      : weight_(weight),
        batch_(r.batch),
        heads_(r.kv_heads),
        key_dim_(r.key_dim),
        value_dim_(r.value_dim),
        scale_(r.scale.value_or(1 / std::sqrt(static_cast<double>(larger<Index>(r.key_dim, 1))))),
        centering_(r.centering),
        gated_(r.gated),
        threads_(r.threads),
        start_count_(r.start_count) {
    check_held<T>(weight_);
    require(weight_.has_factored_form(), "mechanism: has no summary: its weight is no polynomial of degree 2 or less");
    const Shape shape{.queries = 1,
                      .keys = 1,
                      .key_dim = key_dim_,
                      .value_dim = value_dim_,
                      .batch = batch_,
                      .heads = heads_,
                      .kv_heads = heads_};
    check_scratch_fits({checked_shape(shape), {}, {}}, weight_);
    require(!r.scale.has_value() || weight_.kind != Weight::Kind::feature_product, "scale: Linear takes none");
    require(is_finite(scale_), "scale: is ", scale_, " but must be finite");
    require(centering_ != Centering::sequence, "centering: a summary cannot know the mean of the whole sequence");
    check_threads(threads_);
    require(start_count_ >= 0 && start_count_ <= largest_size, "start_count: is ", start_count_,
            " but must be between 0 and ", largest_size);
    require(start_count_ == 0 || centred(),
            "start_count: only the centrings prefix and prefix_exclusive continue a mean");
    const Index means = centred() ? batch_ * heads_ * key_dim_ : 0;
    require(r.start_mean.empty() ? start_count_ == 0 : static_cast<Index>(r.start_mean.size()) == means,
            "start_mean: has ", r.start_mean.size(), " numbers but must have ", means);
    for (const double mean : r.start_mean) require(is_finite(mean), "start_mean: a number is not finite");
    start_mean_.assign(static_cast<std::size_t>(means), 0);  // of no keys, whatever was given
    if (start_count_ > 0) std::copy(r.start_mean.begin(), r.start_mean.end(), start_mean_.begin());
    end_sum_ = start_mean_;
    for (double& sum : end_sum_) sum *= static_cast<double>(start_count_);
    gate_sum_.assign(static_cast<std::size_t>(gated_ ? batch_ * heads_ : 0), 0);
    numbers_.assign(static_cast<std::size_t>(batch_ * heads_ * numbers_of_head()), T(0));
  }

  Index tokens() const { return tokens_; }
  Index start_count() const { return start_count_; }
  Index end_count() const { return start_count_ + tokens_; }
  const std::vector<double>& start_mean() const { return start_mean_; }
  std::vector<double> end_mean() const {
    std::vector<double> mean = end_sum_;
    if (end_count() > 0)
      for (double& value : mean) value /= static_cast<double>(end_count());
    return mean;
  }
  std::size_t bytes() const {
    return numbers_.size() * sizeof(T) + (start_mean_.size() + end_sum_.size() + gate_sum_.size()) * sizeof(double);
  }

  void absorb(const StoredHeads<const T>& k, const StoredHeads<const T>& v, const Heads<const T>& gate) {
    check_view("k", k, heads_, k.tokens(), key_dim_);
    go_on(problem_of(Heads<const T>(nullptr, {batch_, heads_, 0, key_dim_}), k, v,
                     Heads<T>(nullptr, {batch_, heads_, 0, value_dim_}), nullptr, gate, nullptr),
          gate);
  }
  void attend(const StoredHeads<const T>& q, const StoredHeads<const T>& k, const StoredHeads<const T>& v,
              const StoredHeads<T>& out, const Heads<const T>& gate, const History* query_history) {
    check_view("k", k, heads_, k.tokens(), key_dim_);
    check_view("q", q, q.heads(), k.tokens(), key_dim_);
    Problem<T> problem = problem_of(q, k, v, out, nullptr, gate, query_history);
    if (query_history != nullptr)
      for (const Index count : query_history->count)
        require(count == end_count(), "query_history: count is ", count, " but the summary ends after ", end_count(),
                " tokens, and queries and keys go together");
    go_on(std::move(problem), gate);
  }
  // Queries that see all keys.
  void read(const StoredHeads<const T>& q, const StoredHeads<T>& out, const Heads<T>* normalizer,
            const History* query_history) const {
    Problem<T> problem =
        problem_of(q, Heads<const T>(nullptr, {batch_, heads_, 0, key_dim_}),
                   Heads<const T>(nullptr, {batch_, heads_, 0, value_dim_}), out, normalizer, {}, query_history);
    problem.plan.scan.chunk = simd::block_tokens<T>;
    if (!out.empty()) execute(problem);
  }

  // What this would be if the other's tokens had followed.
  void merge(const SummaryCore& right) {
    require(identity() == right.identity(), "merge: the summaries differ in sizes, mechanism or options");
    require(right.tokens_ <= largest_size - end_count(), "merge: the tokens of both overflow");
    if (centred()) check_start(right);
    for (Index h = 0; h < batch_ * heads_; ++h) {
      const double kept = gated_ ? decay_of_gates<T>(right.gate_sum_[static_cast<std::size_t>(h)]) : 1;
      const Index numbers = numbers_of_head();
      T* to = numbers_.data() + h * numbers;
      const T* from = right.numbers_.data() + h * numbers;
      for (Index i = 0; i < numbers; ++i) to[i] = to[i] * static_cast<T>(kept) + from[i];
    }
    for (std::size_t h = 0; h < gate_sum_.size(); ++h) gate_sum_[h] += right.gate_sum_[h];
    end_sum_ = right.end_sum_;
    tokens_ += right.tokens_;
  }
  void reset() {
    tokens_ = 0;
    std::fill(numbers_.begin(), numbers_.end(), T(0));
    std::fill(gate_sum_.begin(), gate_sum_.end(), 0.0);
    end_sum_ = start_mean_;
    for (double& sum : end_sum_) sum *= static_cast<double>(start_count_);
  }

  std::vector<std::byte> save() const {
    ByteWriter writer;
    writer.add_bytes(identity());
    writer.add(start_count_);
    writer.add(tokens_);
    visit_numbers(*this, [&](const auto& numbers) { writer.add(numbers.data(), static_cast<Index>(numbers.size())); });
    return writer.finish();
  }
  void load(std::span<const std::byte> bytes) {
    ByteReader reader(checked_body(bytes));
    const std::vector<std::byte> own = identity();
    const std::span<const std::byte> other = reader.take_bytes(own.size());
    require(std::equal(own.begin(), own.end(), other.begin()),
            "load: is the summary of other sizes, type, mechanism or options");
    SummaryCore loaded = *this;
    loaded.start_count_ = reader.take<Index>();
    loaded.tokens_ = reader.take<Index>();
    require(loaded.start_count_ >= 0 && loaded.tokens_ >= 0 && loaded.start_count_ <= largest_size &&
                loaded.tokens_ <= largest_size - loaded.start_count_,
            "load: holds ", loaded.tokens_, " tokens after ", loaded.start_count_);
    visit_numbers(loaded, [&](auto& numbers) { reader.take(numbers.data(), static_cast<Index>(numbers.size())); });
    require(reader.left() == 0, "load: goes on behind its summary");
    *this = std::move(loaded);
  }

 private:
  // Brings the summaries to the end of the problem's keys.
  void go_on(Problem<T> problem, const Heads<const T>& gate) {
    const Index n = problem.keys();
    require(gated_ || gate.heads() == 0, "log_gate: the summary is not gated");
    if (gated_) check_view("log_gate", gate, heads_, n, 1);
    require(n <= largest_size - end_count(), "tokens: the summary holds ", tokens_, " and cannot hold ", n, " more");
    problem.causal = true;
    problem.plan.scan.chunk = tuned_chunk(key_dim_, simd::block_tokens<T>);
    problem.plan.scan.first_kept = block_count(n, problem.plan.scan.chunk);
    if (n == 0) return;
    std::vector<double> sums = end_sum_, gates = gate_sum_;
    add_keys(problem, sums, gates);
    const std::vector<double> mean = end_mean();
    const std::vector<Index> counts(static_cast<std::size_t>(batch_), end_count());
    const History history{counts, mean};
    if (centred() && end_count() > 0) problem.key_history = &history;
    execute(problem);
    end_sum_ = std::move(sums);
    gate_sum_ = std::move(gates);
    tokens_ += n;
  }

  bool centred() const { return centering_ != Centering::none; }
  SummarySlice<T> whole() const {
    SummarySlice<T> slice;
    slice.map = feature_map(weight_, key_dim_);
    slice.value_stride = simd::padded_columns<T>(value_dim_);
    slice.last = slice.map.size();
    return slice;
  }
  Index numbers_of_head() const { return whole().numbers(); }
  template <class Self, class Visit>
  static void visit_numbers(Self& self, const Visit& visit) {
    visit(self.numbers_);
    visit(self.start_mean_);
    visit(self.end_sum_);
    visit(self.gate_sum_);
  }
  // The same for two of them exactly if one can go on from the other's numbers.
  std::vector<std::byte> identity() const {
    ByteWriter writer;
    writer.add_bytes(std::as_bytes(std::span("csqsumm1", 8)));
    for (const Index number :
         {static_cast<Index>(sizeof(T)), batch_, heads_, key_dim_, value_dim_, static_cast<Index>(gated_),
          static_cast<Index>(centering_), static_cast<Index>(weight_.kind), static_cast<Index>(weight_.exponent)})
      writer.add(number);
    const Quadratic& c = weight_.quadratic;
    for (const double number : {scale_, c.c0, c.c1, c.c2}) writer.add(number + 0.0);  // -0 is 0
    return {writer.bytes().begin(), writer.bytes().end()};
  }
  // Prefix means run on, up to the rounding of whoever summed them: 1e-9 of what a head's keys are in size. A NaN in
  // them is in the rows as well.
  void check_start(const SummaryCore& right) const {
    require(right.start_count_ == end_count(), "merge: the right summary starts after ", right.start_count_,
            " keys but the left ends after ", end_count());
    const std::vector<double> mean = end_mean();
    for (Index h = 0; h < batch_ * heads_; ++h) {
      double size = key_size(h);
      for (Index a = 0; a < key_dim_; ++a)
        size = larger(size, std::abs(mean[static_cast<std::size_t>(h * key_dim_ + a)]));
      for (Index a = 0; a < key_dim_; ++a) {
        const auto i = static_cast<std::size_t>(h * key_dim_ + a);
        require(!(std::abs(mean[i] - right.start_mean_[i]) > 1e-9 * size),
                "merge: the keys before the right summary have the mean ", right.start_mean_[i],
                " but those of the left end with ", mean[i]);
      }
    }
  }
  // The root mean square of a head's centred keys, of what gates have left of them.
  double key_size(Index h) const {
    const SummarySlice<T> slice = whole().at(const_cast<T*>(numbers_.data()) + h * numbers_of_head());
    const double keys = slice.count_sum();
    return keys > 0 ? std::sqrt(slice.square_sum() / keys) : 0;
  }

  void check_view(const char* name, const auto& view, Index heads, Index tokens, Index dim) const {
    check_heads(name, view);
    const auto& v = view.shape;
    require(v[0] == batch_ && v[1] == heads && v[2] == tokens && v[3] == dim, name, ": shape is [", v[0], ", ", v[1],
            ", ", v[2], ", ", v[3], "] but must be [", batch_, ", ", heads, ", ", tokens, ", ", dim, "]");
  }
  Problem<T> problem_of(const StoredHeads<const T>& q, const StoredHeads<const T>& k, const StoredHeads<const T>& v,
                        const StoredHeads<T>& out, const Heads<T>* normalizer, const Heads<const T>& gate,
                        const History* query_history) const {
    Problem<T> problem;
    problem.weight = weight_;
    problem.query = normalized(q);
    problem.key = normalized(k);
    problem.value = normalized(v);
    problem.output = normalized(out);
    problem.scale = scale_;
    problem.centering = centering_;
    problem.log_gate = normalized(gate);
    check_inputs(problem);
    check_view("k", problem.key, heads_, problem.keys(), key_dim_);
    check_view("v", problem.value, heads_, problem.keys(), value_dim_);
    check_view("q", problem.query, problem.query.heads(), problem.queries(), key_dim_);
    check_output(problem);
    if (normalizer != nullptr) {
      problem.normalizer = normalized(*normalizer);
      check_normalizer(problem);
    }
    const Footprint outputs[] = {footprint("out", problem.output), footprint("normalizer", problem.normalizer)};
    const Footprint inputs[] = {footprint("q", problem.query), footprint("k", problem.key),
                                footprint("v", problem.value), footprint("log_gate", problem.log_gate)};
    check_apart(outputs, inputs);
    check_history("query_history", query_history, centering_, batch_, problem.query.heads(), key_dim_);
    require(
        query_history != nullptr || !centred() || end_count() == 0 || problem.queries() == 0,
        "query_history: prefix centring goes on from the mean of the earlier queries, which a summary does not keep: "
        "give it, or take the centring none, or a Stream, which keeps it");
    problem.query_history = query_history;
    problem.continued = const_cast<T*>(numbers_.data());  // written where the call is causal alone
    problem.held = tokens_;
    problem.plan.engine = Engine::factored;
    problem.plan.longest = {problem.queries(), problem.keys()};
    const Workload work = workload_of(problem);
    check_scratch_fits(work, weight_);
    problem.plan.features = feature_count(weight_, key_dim_);
    problem.plan.slices = slices_of(work, problem.plan.features);
    return problem;
  }
  void execute(Problem<T>& problem) const {
    const double tokens = static_cast<double>(problem.queries() * problem.query.heads() + problem.keys() * heads_);
    const double work = tokens * static_cast<double>(batch_) * static_cast<double>(problem.plan.features) *
                        static_cast<double>(value_dim_ + 1);
    form_teams(problem, work, threads_for_work(work, threads_));
    simd::chosen_target();
    run(problem, {});
  }
  // Σ of raw keys, which prefix means are made of, and Σ of gates.
  void add_keys(const Problem<T>& problem, std::vector<double>& sums, std::vector<double>& gates) const {
    std::vector<double> padded(static_cast<std::size_t>(simd::padded_columns<double>(key_dim_)));
    for (Index h = 0; h < batch_ * heads_; ++h) {
      for (Index t = 0; gated_ && t < problem.keys(); ++t)
        gates[static_cast<std::size_t>(h)] +=
            readable_gate(static_cast<double>(problem.log_gate.head(h / heads_, h % heads_)(t, 0)));
      if (!centred()) continue;
      double* const sum = sums.data() + h * key_dim_;
      std::copy_n(sum, key_dim_, padded.data());
      const StoredHead<const T> keys = problem.key.head(h / heads_, h % heads_);
      constexpr Index block = simd::block_tokens<T>;
      for (Index first = 0; first < problem.keys(); first += block)
        simd::kernels<T>().add_rows(rows_of(keys, first, smaller(block, problem.keys() - first)), padded.data());
      std::copy_n(padded.data(), key_dim_, sum);
    }
  }

  Weight weight_;
  Index batch_, heads_, key_dim_, value_dim_;
  double scale_;
  Centering centering_;
  bool gated_;
  Threads threads_;
  Index start_count_ = 0, tokens_ = 0;
  std::vector<T> numbers_;                               // [batch][kv_heads] [S, z]
  std::vector<double> start_mean_, end_sum_, gate_sum_;  // of the keys before the first, of all up to the last
};

}  // namespace CSQ_CODE::detail
