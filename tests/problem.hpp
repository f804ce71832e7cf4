// One attention call as data: sizes, options, memory layouts and values; run by the library on arrays of float, double
// or 16 bits, or by the plain reference.
#pragma once

#include <array>
#include <cctype>
#include <cmath>
#include <csq/csq.hpp>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "compare.hpp"
#include "mechanisms.hpp"
#include "reference.hpp"

using csq::Index;
using reference::Tensor;

// The same numbers from every standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }
  Index integer(Index low, Index high) { return low + Index(bits() % std::uint64_t(high - low + 1)); }
  bool coin() { return (bits() >> 63) != 0; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[std::size_t(integer(0, Index(from.size()) - 1))];
  }
  // Normal, rounded to a multiple of 2^−12: exact in float, also after small integers are added.
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return std::round(radius * std::cos(2 * std::numbers::pi * uniform()) * 4096) / 4096;
  }

 private:
  std::uint64_t state_;
};

// How [batch, heads, tokens, dim] lies in memory.
enum class Layout {
  contiguous,       // [B, H, N, D]
  tokens_first,     // [B, N, H, D]
  packed,           // the middle third of [B, N, 3, H, D]
  column_major,     // [B, H, D, N]
  gaps,             // every third element of padded rows
  reversed,         // all strides negative
  broadcast_batch,  // inputs only: zero strides
  broadcast_heads,
  broadcast_tokens,
};
inline const std::vector<Layout> output_layouts{Layout::contiguous,   Layout::tokens_first, Layout::packed,
                                                Layout::column_major, Layout::gaps,         Layout::reversed};
inline const std::vector<Layout> input_layouts{
    Layout::contiguous, Layout::tokens_first,    Layout::packed,          Layout::column_major,    Layout::gaps,
    Layout::reversed,   Layout::broadcast_batch, Layout::broadcast_heads, Layout::broadcast_tokens};

inline std::array<Index, 4> strides_of(Layout layout, std::array<Index, 4> shape) {
  const auto [batch, heads, tokens, dim] = shape;
  switch (layout) {
    case Layout::contiguous:
      return {heads * tokens * dim, tokens * dim, dim, 1};
    case Layout::tokens_first:
      return {tokens * heads * dim, dim, heads * dim, 1};
    case Layout::packed:
      return {tokens * 3 * heads * dim, dim, 3 * heads * dim, 1};
    case Layout::column_major:
      return {heads * tokens * dim, tokens * dim, 1, tokens};
    case Layout::gaps:
      return {heads * tokens * (3 * dim + 2) + 7, tokens * (3 * dim + 2), 3 * dim + 2, 3};
    case Layout::reversed:
      return {-heads * tokens * dim, -tokens * dim, -dim, -1};
    case Layout::broadcast_batch:
      return {0, tokens * dim, dim, 1};
    case Layout::broadcast_heads:
      return {tokens * dim, 0, dim, 1};
    case Layout::broadcast_tokens:
      return {heads * dim, dim, 0, 1};
  }
  return {};
}

// Memory with a guard before and behind, and a view of it. Everything outside the view holds `outside`.
template <class T>
struct Array {
  std::vector<T> memory;
  csq::Heads<T> view;
  T outside{};

  Array() = default;
  Array(Layout layout, std::array<Index, 4> shape, T fill) : outside(fill) {
    const auto stride = strides_of(layout, shape);
    Index low = 0, high = 0;
    for (std::size_t axis = 0; axis < 4; ++axis)
      if (shape[axis] > 0) (stride[axis] < 0 ? low : high) += (shape[axis] - 1) * stride[axis];
    constexpr Index guard = 32;
    memory.assign(std::size_t(high - low + 1 + 2 * guard), fill);
    view = csq::Heads<T>(memory.data() + guard - low, shape, stride);
  }
  Array(Array&&) noexcept = default;
  Array& operator=(Array&&) noexcept = default;

  template <class Visit>
  void for_each(const Visit& visit) const {
    for (Index b = 0; b < view.shape[0]; ++b)
      for (Index h = 0; h < view.shape[1]; ++h)
        for (Index t = 0; t < view.shape[2]; ++t)
          for (Index a = 0; a < view.shape[3]; ++a) visit(view.head(b, h)(t, a), b, h, t, a);
  }

  Tensor tensor() const {
    Tensor result(view.shape[0], view.shape[1], view.shape[2], view.shape[3]);
    for_each([&](T& element, Index b, Index h, Index t, Index a) { result(b, h, t, a) = double(element); });
    return result;
  }

  std::vector<T> elements() const {
    std::vector<T> result;
    for_each([&](T& element, Index, Index, Index, Index) { result.push_back(element); });
    return result;
  }

  // Nothing but the elements of the view was ever written.
  bool outside_untouched() const {
    std::vector<T> rest = memory;
    for_each([&](T& element, Index, Index, Index, Index) { rest[std::size_t(&element - memory.data())] = outside; });
    for (const T& element : rest)
      if (std::memcmp(&element, &outside, sizeof(T)) != 0) return false;
    return true;
  }
};

// An input: what lies between its elements is NaN, so that reading it is noticed.
template <class T>
Array<T> place(Layout layout, const Tensor& tensor) {
  Array<T> array(layout, {tensor.batch, tensor.heads, tensor.tokens, tensor.dim}, std::numeric_limits<T>::quiet_NaN());
  array.for_each([&](T& element, Index b, Index h, Index t, Index a) { element = T(tensor(b, h, t, a)); });
  return array;
}

// Normal values; equal along an axis that the layout broadcasts.
inline Tensor random_tensor(Random& random, Index batch, Index heads, Index tokens, Index dim,
                            Layout layout = Layout::contiguous) {
  Tensor tensor(batch, heads, tokens, dim);
  for (double& value : tensor.values) value = random.normal();
  Tensor result = tensor;
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index t = 0; t < tokens; ++t)
        for (Index a = 0; a < dim; ++a)
          result(b, h, t, a) =
              tensor(layout == Layout::broadcast_batch ? 0 : b, layout == Layout::broadcast_heads ? 0 : h,
                     layout == Layout::broadcast_tokens ? 0 : t, a);
  return result;
}

struct Sizes {
  Index n, m, d, dv;
  Index batch = 1, heads = 1, kv_heads = 1;
};

struct Problem {
  Tensor q, k, v;
  std::optional<double> scale{};
  bool causal = false;
  csq::Centering centering = csq::Centering::automatic;
  std::vector<Index> key_length{}, query_length{};
  std::optional<reference::History> query_history{}, key_history{};
  Layout q_layout = Layout::contiguous, k_layout = Layout::contiguous, v_layout = Layout::contiguous;
  Layout output_layout = Layout::contiguous;
  Tensor dout{};  // ∂L/∂out of L = Σ dout·out; for backward only
  Layout gradient_layout = Layout::contiguous;
  Index window = 0;
  std::vector<double> sink{};
  double soft_cap = 0;
  Tensor bias{};      // an axis of size 1 is broadcast by a zero stride
  Tensor log_gate{};  // [batch, gate heads, keys, 1]

  // Normal values.
  static Problem random(Random& random, const Sizes& s, bool causal = false,
                        csq::Centering centering = csq::Centering::automatic) {
    Problem p;
    p.q = random_tensor(random, s.batch, s.heads, s.n, s.d);
    p.k = random_tensor(random, s.batch, s.kv_heads, s.m, s.d);
    p.v = random_tensor(random, s.batch, s.kv_heads, s.m, s.dv);
    p.causal = causal;
    p.centering = centering;
    return p;
  }

  // The same with a gradient of the output.
  static Problem random_backward(Random& random, const Sizes& s, bool causal = false,
                                 csq::Centering centering = csq::Centering::automatic) {
    Problem p = Problem::random(random, s, causal, centering);
    p.dout = random_tensor(random, s.batch, s.heads, s.n, s.dv);
    return p;
  }

  std::string describe() const {
    std::ostringstream text;
    text << "batch " << q.batch << ", heads " << q.heads << "/" << k.heads << ", n " << q.tokens << ", m " << k.tokens
         << ", d " << q.dim << ", dv " << v.dim << (causal ? ", causal" : "") << ", centering " << int(centering)
         << ", layouts " << int(q_layout) << int(k_layout) << int(v_layout) << int(output_layout)
         << int(gradient_layout);
    for (const Index length : key_length) text << ", key_length " << length;
    for (const Index length : query_length) text << ", query_length " << length;
    if (query_history) text << ", query history";
    if (key_history) text << ", key history";
    if (scale) text << ", scale " << *scale;
    if (window > 0) text << ", window " << window;
    if (!sink.empty()) text << ", sink";
    if (soft_cap > 0) text << ", cap " << soft_cap;
    if (bias.batch > 0) text << ", bias";
    if (log_gate.batch > 0) text << ", gates of " << log_gate.heads << " heads";
    return text.str();
  }
};

inline reference::History random_history(Random& random, const Tensor& x, Index low, Index high) {
  reference::History history;
  for (Index b = 0; b < x.batch; ++b) history.count.push_back(random.integer(low, high));
  for (Index i = 0; i < x.batch * x.heads * x.dim; ++i) history.mean.push_back(random.normal());
  return history;
}

// The centring that a call has in the end.
inline csq::Centering effective_centering(const Problem& p, bool centred_mechanism) {
  if (p.centering != csq::Centering::automatic) return p.centering;
  if (!centred_mechanism) return csq::Centering::none;
  return p.causal ? csq::Centering::prefix : csq::Centering::sequence;
}
inline bool has_prefix_means(csq::Centering centering) {
  return centering == csq::Centering::prefix || centering == csq::Centering::prefix_exclusive;
}

// A single query is lost to `sequence`, which then must be asked for by name.
inline void name_needed_centering(Problem& p, bool centred_mechanism) {
  if (p.centering != csq::Centering::automatic || effective_centering(p, centred_mechanism) != csq::Centering::sequence)
    return;
  for (std::size_t b = 0; b < std::size_t(p.q.batch); ++b) {
    const Index queries = p.query_length.empty() ? p.q.tokens : p.query_length[b];
    if (queries == 1) p.centering = csq::Centering::sequence;
  }
}

// Causal prefix means with fewer queries than keys need the mean of the queries before; and under a causal mask the
// histories agree with where the queries stand.
inline void give_needed_history(Random& random, Problem& p, bool centred_mechanism) {
  name_needed_centering(p, centred_mechanism);
  if (!p.causal || !has_prefix_means(effective_centering(p, centred_mechanism))) return;
  const Index before = p.k.tokens - p.q.tokens;
  if (before <= 0 && !p.query_history && !p.key_history) return;
  if (!p.query_history && before > 0) p.query_history = random_history(random, p.q, 0, 0);
  Random beside(101);  // what the callers draw stays what it was
  if (!p.key_history && before < 0) p.key_history = random_history(beside, p.k, 0, 50);
  if (!p.query_history) p.query_history = random_history(beside, p.q, 0, 0);
  for (std::size_t b = 0; b < std::size_t(p.q.batch); ++b) {
    Index keys = p.key_history ? p.key_history->count[b] : 0;
    if (p.key_history) keys = p.key_history->count[b] = std::max(keys, -before);
    p.query_history->count[b] = keys + before;
  }
}

template <class M>
reference::Call reference_call(const NamedMechanism<M>& named, const Problem& p) {
  using reference::Centre;
  reference::Call call{p.q,          p.k,          p.v,          named.weight,   p.scale,
                       p.causal,     Centre::none, p.key_length, p.query_length, p.query_history,
                       p.key_history};
  if (!named.takes_scale) call.scale = 1;
  call.window = p.window;
  call.sink = p.sink;
  call.soft_cap = p.soft_cap;
  call.bias = p.bias;
  call.log_gate = p.log_gate;
  switch (effective_centering(p, named.centred)) {
    case csq::Centering::sequence:
      call.centre = Centre::sequence;
      break;
    case csq::Centering::prefix:
      call.centre = Centre::prefix;
      break;
    case csq::Centering::prefix_exclusive:
      call.centre = Centre::prefix_exclusive;
      break;
    default:
      break;
  }
  return call;
}

template <class M>
reference::Result reference_result(const NamedMechanism<M>& named, const Problem& p,
                                   const std::vector<Index>* rows = nullptr) {
  const reference::Call call = reference_call(named, p);
  return rows != nullptr ? reference::attention(call, *rows) : reference::attention(call);
}

// How a problem is computed, as opposed to what.
struct Run {
  csq::Method method = csq::Method::automatic;
  Index chunk = 0;
  int threads = 1;
  csq::Workspace* workspace = nullptr;
  csq::KeptSummary* summary = nullptr;
  csq::Executor executor{};
};

// What normalisers, gates and biases of arrays of T are made of: T, or float beside 16 bits.
template <class T>
using Computed = std::conditional_t<sizeof(T) == 2, float, T>;

template <class T>
struct Outputs {
  std::vector<T> output;  // [batch, heads, tokens, dim], contiguous
  std::vector<Computed<T>> statistic;
  bool outside_untouched = true;
};

inline csq::Options options_of(const Problem& p, const Run& run, const csq::History* query_history,
                               const csq::History* key_history) {
  csq::Options options;
  options.scale = p.scale;
  options.causal = p.causal;
  options.window = p.window;
  options.sink = p.sink;
  options.soft_cap = p.soft_cap;
  options.key_length = p.key_length;
  options.query_length = p.query_length;
  options.centering = p.centering;
  options.query_history = query_history;
  options.key_history = key_history;
  options.method = run.method;
  options.chunk = run.chunk;
  options.threads = run.threads;
  options.executor = run.executor;
  options.workspace = run.workspace;
  options.summary = run.summary;
  return options;
}

// visit(options), the histories being there as long as the call.
template <class Visit>
void with_options(const Problem& p, const Run& run, const Visit& visit) {
  csq::History query_history, key_history;
  if (p.query_history) query_history = {p.query_history->count, p.query_history->mean};
  if (p.key_history) key_history = {p.key_history->count, p.key_history->mean};
  visit(options_of(p, run, p.query_history ? &query_history : nullptr, p.key_history ? &key_history : nullptr));
}

// A problem whose arrays lie in memory, so that it can be run again without being placed again.
template <class T>
struct Placed {
  const Problem& problem;
  Array<T> q, k, v, output;
  Array<Computed<T>> statistic, log_gate;
  std::vector<Computed<T>> bias;

  explicit Placed(const Problem& p) : problem(p) {
    q = place<T>(p.q_layout, p.q);
    k = place<T>(p.k_layout, p.k);
    v = place<T>(p.v_layout, p.v);
    if (p.log_gate.batch > 0) log_gate = place<Computed<T>>(p.k_layout, p.log_gate);
    bias.assign(p.bias.values.begin(), p.bias.values.end());
    output = Array<T>(p.output_layout, {p.q.batch, p.q.heads, p.q.tokens, p.v.dim}, T(-12345.75));
    statistic = Array<Computed<T>>(p.output_layout, {p.q.batch, p.q.heads, p.q.tokens, 1}, Computed<T>(-12345.75));
  }

  // With the options that are arrays.
  csq::Options complete(csq::Options options) const {
    if (problem.log_gate.batch > 0) options.log_gate = &log_gate.view;
    if (problem.bias.batch == 0) return options;
    const Tensor& b = problem.bias;
    const auto step = [](Index size, Index stride) { return size == 1 ? 0 : stride; };
    const csq::Heads<const Computed<T>> view(bias.data(),
                                             {problem.q.batch, problem.q.heads, problem.q.tokens, problem.k.tokens},
                                             {step(b.batch, b.heads * b.tokens * b.dim),
                                              step(b.heads, b.tokens * b.dim), step(b.tokens, b.dim), step(b.dim, 1)});
    options.bias = view;
    return options;
  }

  template <class M>
  Outputs<T> attend(const M& mechanism, const Run& run) {
    with_options(problem, run, [&](const csq::Options& plain) {
      const csq::Options options = complete(plain);
      csq::attention(mechanism, csq::Heads<const T>(q.view), csq::Heads<const T>(k.view), csq::Heads<const T>(v.view),
                     output.view, statistic.view, options);
    });
    Outputs<T> result;
    result.output = output.elements();
    result.statistic = statistic.elements();
    result.outside_untouched = output.outside_untouched() && statistic.outside_untouched();
    return result;
  }
};

template <class T, class M>
Outputs<T> attend(const M& mechanism, const Problem& p, const Run& run = {}) {
  return Placed<T>(p).attend(mechanism, run);
}

// ∂L/∂q, ∂L/∂k, ∂L/∂v as [batch, heads, tokens, dim], contiguous, and ∂L/∂shift.
template <class T>
struct GradientOutputs {
  std::vector<T> query, key, value;
  double shift = 0;                   // stays so for a mechanism without one
  std::vector<Computed<T>> log_gate;  // empty without gates
  std::vector<double> sink;           // empty without sinks
  bool outside_untouched = true;
};

// The same with backward, which takes the outputs of the forward pass before it.
template <class T>
struct PlacedBackward : Placed<T> {
  Array<T> dout, dq, dk, dv;
  Array<Computed<T>> dlog_gate;

  explicit PlacedBackward(const Problem& p) : Placed<T>(p) {
    const auto gradient_of = [&]<class Element>(const Tensor& x, Array<Element>& gradient) {
      gradient = Array<Element>(p.gradient_layout, {x.batch, x.heads, x.tokens, x.dim}, Element(-12345.75));
    };
    dout = place<T>(p.output_layout, p.dout);
    gradient_of(p.q, dq);
    gradient_of(p.k, dk);
    gradient_of(p.v, dv);
    if (p.log_gate.batch > 0) gradient_of(p.log_gate, dlog_gate);
  }

  template <class M>
  GradientOutputs<T> gradients(const M& mechanism, const Run& run) {
    this->attend(mechanism, run);
    return backward(mechanism, run);
  }

  template <class M>
  GradientOutputs<T> backward(const M& mechanism, const Run& run) {
    GradientOutputs<T> result;
    csq::Gradients<T> gradients{dq.view, dk.view, dv.view};
    if constexpr (requires { mechanism.shift_slope(); }) gradients.shift = &result.shift;
    if (this->problem.log_gate.batch > 0) gradients.log_gate = dlog_gate.view;
    result.sink.resize(this->problem.sink.size());
    gradients.sink = result.sink;
    with_options(this->problem, run, [&](const csq::Options& plain) {
      const csq::Options options = this->complete(plain);
      csq::attention_backward(mechanism, csq::Heads<const T>(this->q.view), csq::Heads<const T>(this->k.view),
                              csq::Heads<const T>(this->v.view), csq::Heads<const T>(this->output.view),
                              csq::Heads<const Computed<T>>(this->statistic.view), csq::Heads<const T>(dout.view),
                              gradients, options);
    });
    result.query = dq.elements();
    result.key = dk.elements();
    result.value = dv.elements();
    result.outside_untouched = dq.outside_untouched() && dk.outside_untouched() && dv.outside_untouched();
    if (this->problem.log_gate.batch > 0) {
      result.log_gate = dlog_gate.elements();
      result.outside_untouched = result.outside_untouched && dlog_gate.outside_untouched();
    }
    return result;
  }
};

template <class T, class M>
GradientOutputs<T> gradients(const M& mechanism, const Problem& p, const Run& run = {}) {
  return PlacedBackward<T>(p).gradients(mechanism, run);
}

template <class T>
double distance(const std::vector<T>& x, const Tensor& expected) {
  return distance(std::vector<double>(x.begin(), x.end()), expected.values);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class T>
bool same_bits(const Outputs<T>& a, const Outputs<T>& b) {
  return same_bits(a.output, b.output) && same_bits(a.statistic, b.statistic);
}
template <class T>
bool same_bits(const GradientOutputs<T>& a, const GradientOutputs<T>& b) {
  return same_bits(a.query, b.query) && same_bits(a.key, b.key) && same_bits(a.value, b.value) &&
         same_bits(a.log_gate, b.log_gate) && same_bits(a.sink, b.sink) &&
         same_bits(std::vector<double>{a.shift}, {b.shift});
}

// The message of a call that must throw std::invalid_argument; empty if it does not.
template <class Call>
std::string rejection(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& thrown) {
    return thrown.what();
  }
  return {};
}

// `word` stands in the message by itself, not inside another name.
inline bool names(const std::string& message, const std::string& word) {
  const auto is_part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (std::size_t at = message.find(word); at != std::string::npos; at = message.find(word, at + 1)) {
    const bool starts = at == 0 || !is_part(message[at - 1]);
    const bool ends = at + word.size() == message.size() || !is_part(message[at + word.size()]);
    if (starts && ends) return true;
  }
  return false;
}
