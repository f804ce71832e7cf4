// A libFuzzer target: bytes → a call with any shapes, strides, options and data, special numbers included. Both methods
// agree with the plain loops of reference.hpp, forward, and with each other, backward; on arrays of 16 bits, with
// float. Nothing but the outputs is written, and a refused call is refused with std::invalid_argument. CSQ_SIMD chooses
// the set of kernels.
#include <cstdio>
#include <cstdlib>

#include "../sixteen.hpp"

namespace {

// The input as a stream of small numbers; zeros past its end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  Index below(Index count) {
    if (size_ == 0) return 0;
    --size_;
    return Index(*data_++) % count;
  }
  bool coin() { return below(2) != 0; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[std::size_t(below(Index(from.size())))];
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

[[noreturn]] void report(const Problem& p, const char* mechanism, const char* what) {
  std::fprintf(stderr, "%s, %s, %s: %s\n", csq::simd_name(), mechanism, p.describe().c_str(), what);
  std::abort();
}

struct Data {
  double size = 1;     // of the numbers
  double special = 0;  // what stands at a few places
  int specials = 0;    // how many
  std::uint64_t seed = 0;
};

// Values that float holds exactly.
void fill(Random& random, const Data& data, Tensor& x, Layout layout) {
  x = random_tensor(random, x.batch, x.heads, x.tokens, x.dim, layout);
  for (double& value : x.values) value = double(float(value * data.size));
}

void put_specials(Random& random, const Data& data, Tensor& x, Layout layout) {
  const bool broadcast =
      layout == Layout::broadcast_batch || layout == Layout::broadcast_heads || layout == Layout::broadcast_tokens;
  if (broadcast || x.values.empty()) return;
  for (int i = 0; i < data.specials; ++i)
    x.values[std::size_t(random.integer(0, Index(x.values.size()) - 1))] = data.special;
}

Problem read_problem(Bytes& bytes) {
  Problem p;
  const Index longest = bytes.pick<Index>({4, 20, 60, 170});
  const Index n = bytes.below(longest), m = bytes.coin() ? n : bytes.below(longest);
  const Index d = 1 + bytes.below(19), dv = 1 + bytes.below(19), batch = bytes.below(3);
  const Index kv_heads = 1 + bytes.below(3), heads = kv_heads * (1 + bytes.below(3));
  p.q = Tensor(batch, heads, n, d);
  p.k = Tensor(batch, kv_heads, m, d);
  p.v = Tensor(batch, kv_heads, m, dv);
  p.dout = Tensor(batch, heads, n, dv);
  p.causal = bytes.coin();
  p.centering = bytes.pick<csq::Centering>({csq::Centering::automatic, csq::Centering::none, csq::Centering::sequence,
                                            csq::Centering::prefix, csq::Centering::prefix_exclusive});
  if (bytes.coin()) p.scale = bytes.pick<double>({0.25, 1, -0.5, 0});
  for (Index b = 0; b < batch && bytes.coin(); ++b) p.key_length.push_back(bytes.below(m + 1));
  for (Index b = 0; b < batch && bytes.coin(); ++b) p.query_length.push_back(bytes.below(n + 1));
  for (Layout* layout : {&p.q_layout, &p.k_layout, &p.v_layout}) *layout = bytes.pick(input_layouts);
  for (Layout* layout : {&p.output_layout, &p.gradient_layout}) *layout = bytes.pick(output_layouts);

  Data data;
  data.size = bytes.pick<double>({1, 0, 0x1p-10, 4, 0x1p-40});
  data.special = bytes.pick<double>({0, std::numeric_limits<double>::quiet_NaN(), 0x1p6, -0x1p-130, -0.0});
  data.specials = int(bytes.below(4));
  for (int i = 0; i < 8; ++i) data.seed = data.seed << 8 | std::uint64_t(bytes.below(256));
  Random random(data.seed);
  fill(random, data, p.q, p.q_layout);
  fill(random, data, p.k, p.k_layout);
  fill(random, data, p.v, p.v_layout);
  fill(random, data, p.dout, Layout::contiguous);
  put_specials(random, data, p.k, p.k_layout);
  put_specials(random, data, p.v, p.v_layout);
  if (bytes.coin()) p.window = 1 + bytes.below(40);
  if (p.causal && batch > 0 && bytes.coin()) {
    // Laid out as the keys are: where their strides repeat an element, the gates are the same numbers too.
    p.log_gate = random_tensor(random, batch, bytes.coin() ? kv_heads : heads, m, 1, p.k_layout);
    const double size = bytes.pick<double>({0, 0.01, 1, 30});
    for (double& gate : p.log_gate.values) gate = double(float(-std::abs(gate) * size));
  }
  return p;
}

bool is_finite(const Tensor& x) {
  return std::all_of(x.values.begin(), x.values.end(), [](double value) { return std::isfinite(value); });
}

double norm(const Tensor& x) {
  double sum = 0;
  for (const double value : x.values) sum += value * value;
  return std::sqrt(sum);
}

// What rounding may make of a row: the scores' own rounding for softmax, the cancellation of the features for a sum.
template <class T>
void compare(const Problem& p, const char* name, const reference::Result& expected, const Outputs<T>& result) {
  const double unit = std::numeric_limits<T>::epsilon();
  double largest = 0, largest_score = 1;
  for (const double value : p.v.values)
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  double longest_query = 0, longest_key = 0;
  for (const double value : p.q.values) longest_query = std::max(longest_query, std::abs(value));
  for (const double value : p.k.values)
    if (std::isfinite(value)) longest_key = std::max(longest_key, std::abs(value));
  largest_score += 4 * double(p.q.dim) * longest_query * longest_key;  // centred rows are at most twice as long
  for (std::size_t row = 0; row < expected.statistic.values.size(); ++row) {
    const double statistic = expected.statistic.values[row], condition = 1 + expected.condition.values[row];
    const double slack = 256 * unit * (largest_score + condition);
    if (slack > 0.1) continue;  // nothing is left of such a row
    if (std::isfinite(statistic) != std::isfinite(double(result.statistic[row])) ||
        (std::isfinite(statistic) &&
         std::abs(statistic - double(result.statistic[row])) > slack * (1 + std::abs(statistic)) + 1e-30))
      report(p, name, "normaliser");
    for (std::size_t a = 0; a < std::size_t(p.v.dim); ++a) {
      const double o = expected.output.values[row * std::size_t(p.v.dim) + a];
      const double mine = double(result.output[row * std::size_t(p.v.dim) + a]);
      if (std::isfinite(o) != std::isfinite(mine)) report(p, name, "a number that is not finite, or is");
      if (std::isfinite(o) && std::abs(o - mine) > slack * largest + 1e-30) report(p, name, "output");
    }
  }
  if (!result.outside_untouched) report(p, name, "something else was written");
}

template <class T, class M>
requires(sizeof(T) > 2) void run(const NamedMechanism<M>& named, const Problem& p, Index chunk, int threads) {
  std::optional<reference::Result> expected;
  std::optional<GradientOutputs<T>> direct;
  double worst_condition = 0;
  const bool direct_only = p.window > 0 || (p.log_gate.batch > 0 && p.log_gate.heads != p.k.heads);
  for (const csq::Method method : methods(named.factored && !direct_only)) {
    PlacedBackward<T> placed(p);
    Outputs<T> result;
    try {
      result = placed.attend(named.mechanism, {method, chunk, threads});
    } catch (const std::invalid_argument&) {
      if (!placed.output.outside_untouched()) report(p, named.name, "an error has written");
      return;  // every method refuses it
    }
    if (!expected) {
      expected = reference_result(named, p);
      for (const double condition : expected->condition.values) worst_condition = std::max(worst_condition, condition);
    }
    compare(p, named.name, *expected, result);

    const GradientOutputs<T> gradient = placed.backward(named.mechanism, {method, chunk, threads});
    if (!gradient.outside_untouched) report(p, named.name, "backward has written something else");
    if (!direct) direct = gradient;
    const bool comparable = is_finite(p.k) && is_finite(p.v) && worst_condition < 100 && sizeof(T) == 8;
    // Gradients that should be zero are what is left of terms of this size.
    const double floor = 1e-9 * norm(p.dout) * (1 + norm(p.v)) * (1 + norm(p.q) + norm(p.k));
    const auto far = [&](const std::vector<T>& x, const std::vector<T>& y) {
      double difference = 0, size = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        difference += double(x[i] - y[i]) * double(x[i] - y[i]);
        size += double(y[i]) * double(y[i]);
      }
      return !(std::sqrt(difference) <= 1e-6 * std::sqrt(size) + floor);
    };
    if (comparable &&
        (far(gradient.query, direct->query) || far(gradient.key, direct->key) || far(gradient.value, direct->value)))
      report(p, named.name, "gradients of the two methods");
  }
}

// 16 bits: what float calls on the same numbers write, rounded once.
template <class T, class M>
requires(sizeof(T) == 2) void run(const NamedMechanism<M>& named, const Problem& drawn, Index chunk, int threads) {
  const Problem p = sixteen::rounded<T>(drawn);
  Problem contiguous = p;  // 16 bits are written from contiguous rows, which are divided otherwise than others
  contiguous.output_layout = Layout::contiguous;
  const bool direct_only = p.window > 0 || (p.log_gate.batch > 0 && p.log_gate.heads != p.k.heads);
  for (const csq::Method method : methods(named.factored && !direct_only)) {
    const Run run{method, chunk, threads};
    PlacedBackward<T> placed(p);
    Outputs<T> result;
    try {
      result = placed.attend(named.mechanism, run);
    } catch (const std::invalid_argument&) {
      if (!placed.output.outside_untouched()) report(p, named.name, "an error has written");
      return;
    }
    const Outputs<float> expected = attend<float>(named.mechanism, contiguous, run);
    if (!result.outside_untouched) report(p, named.name, "something else was written");
    if (!sixteen::are_roundings_of(result.output, expected.output)) report(p, named.name, "output");
    for (std::size_t row = 0; row < expected.statistic.size(); ++row)
      if (!std::isnan(expected.statistic[row]) && result.statistic[row] != expected.statistic[row])
        report(p, named.name, "normaliser");
    if (!placed.backward(named.mechanism, run).outside_untouched)
      report(p, named.name, "backward has written something else");
  }
}

template <class T>
void run_mechanism(Index mechanism, const Problem& p, Index chunk, int threads) {
  Index at = 0;
  for_typical_mechanisms([&](const auto& named) {
    if (at++ == mechanism) run<T>(named, p, chunk, threads);
  });
  if (mechanism == at)
    run<T>(NamedMechanism<csq::Quadratic>{"quadratic", {2, -1, 0.5}, power_series({2, -1, 0.5})}, p, chunk, threads);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const Index mechanism = bytes.below(4), chunk = bytes.pick<Index>({0, 1, 7, 16});
  const int threads = int(1 + bytes.below(2));
  const Index type = bytes.below(4);
  Problem p = read_problem(bytes);
  if (mechanism == 2) p.scale.reset();  // Linear has none
  if (type == 0) run_mechanism<double>(mechanism, p, chunk, threads);
  if (type == 1) run_mechanism<float>(mechanism, p, chunk, threads);
  if (type == 2) run_mechanism<Eigen::bfloat16>(mechanism, p, chunk, threads);
  if (type == 3) run_mechanism<Eigen::half>(mechanism, p, chunk, threads);
  return 0;
}
