// The layers of a small transformer, forward and backward, on flat memory, in the manner of Karpathy's llm.c; dense
// products are Eigen's, attention is csq's. T is float for training and double for gradient checks.
//
//   x [N, C]   N rows, the tokens of all sequences of a block one after another; row-major
//
// Every backward quotes the forward line that it differentiates. Gradients of parameters are added to; gradients of
// inputs are overwritten unless the name says `add`.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <csq/csq.hpp>
#include <numbers>
#include <string>
#include <variant>
#include <vector>

namespace paper {

using csq::Heads;
using csq::Index;
using csq::Matrix;  // row-major Eigen

// Views of somebody else's memory.
template <class T>
using Rows = Eigen::Map<Matrix<T>>;
template <class T>
using ConstRows = Eigen::Map<const Matrix<T>>;
template <class T>
using Row = Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic>>;
template <class T>
using ConstRow = Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>;

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers from a counter: the same for any number of threads and with every standard library.

// 64 random bits from a counter (SplitMix64's finaliser, Steele et al. 2014).
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t x = seed + 0x9e3779b97f4a7c15u * (counter + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Independent streams of one seed: data, parameters, …
inline std::uint64_t random_stream(std::uint64_t seed, std::uint64_t purpose) {
  return random_bits(random_bits(0x63737120u, seed), purpose);
}

// In (0, 1).
inline double random_uniform(std::uint64_t stream, std::uint64_t counter) {
  return (static_cast<double>(random_bits(stream, counter) >> 11) + 0.5) * 0x1p-53;
}

// Standard normal (Box and Muller 1958).
inline double random_normal(std::uint64_t stream, std::uint64_t counter) {
  const double radius = std::sqrt(-2 * std::log(random_uniform(stream, 2 * counter)));
  return radius * std::cos(2 * std::numbers::pi * random_uniform(stream, 2 * counter + 1));
}

// In [0, count). The bias of the remainder is below count/2⁶⁴.
inline Index random_index(std::uint64_t stream, std::uint64_t counter, Index count) {
  return static_cast<Index>(random_bits(stream, counter) % static_cast<std::uint64_t>(count));
}

// ---------------------------------------------------------------------------------------------------------------------
// Linear: y = x·Wᵀ + b        x [N, in], W [out, in], b [out], y [N, out]

template <class T>
void add_linear(const ConstRows<T>& x, const ConstRows<T>& weight, const ConstRow<T>& bias, Rows<T> y) {
  y.rowwise() += bias;
  y.noalias() += x * weight.transpose();
}

template <class T>
void linear(const ConstRows<T>& x, const ConstRows<T>& weight, const ConstRow<T>& bias, Rows<T> y) {
  y.rowwise() = bias;
  y.noalias() += x * weight.transpose();
}

// y = x·Wᵀ + b:   dW += dyᵀ·x,   db += Σ_rows dy
template <class T>
void linear_backward_parameters(const ConstRows<T>& dy, const ConstRows<T>& x, Rows<T> dweight, Row<T> dbias) {
  dweight.noalias() += dy.transpose() * x;
  for (Index i = 0; i < dy.rows(); ++i) dbias += dy.row(i);  // row by row: Eigen's colwise().sum() walks columns
}

// y = x·Wᵀ + b:   dx = dy·W
template <class T>
void linear_backward_input(const ConstRows<T>& dy, const ConstRows<T>& weight, Rows<T> dx) {
  dx.noalias() = dy * weight;
}

// ---------------------------------------------------------------------------------------------------------------------
// Layer normalisation (Ba et al. 2016):  x̂ = (x − μ)·r,  r = 1/√(σ² + ε),  y = x̂∘g + b        x [N, C], r [N]

template <class T>
void layer_norm(const ConstRows<T>& x, const ConstRow<T>& gain, const ConstRow<T>& bias, Rows<T> normalized,
                Row<T> reciprocal, Rows<T> y) {
  constexpr T epsilon = T(1e-5);
  for (Index i = 0; i < x.rows(); ++i) {
    normalized.row(i).array() = x.row(i).array() - x.row(i).mean();
    const T variance = normalized.row(i).squaredNorm() / static_cast<T>(x.cols());
    reciprocal(i) = 1 / std::sqrt(variance + epsilon);
    normalized.row(i) *= reciprocal(i);
    y.row(i).array() = normalized.row(i).array() * gain.array() + bias.array();
  }
}

// y = x̂∘g + b:      dg += Σ_rows dy∘x̂,   db += Σ_rows dy
// x̂ = (x − μ)·r:    dx += r·(dx̂ − mean(dx̂) − x̂·mean(dx̂∘x̂)),   dx̂ = dy∘g        dy is used up
template <class T>
void layer_norm_backward_add(Rows<T> dy, const ConstRows<T>& normalized, const ConstRow<T>& reciprocal,
                             const ConstRow<T>& gain, Rows<T> dx, Row<T> dgain, Row<T> dbias) {
  const T columns = static_cast<T>(dy.cols());
  for (Index i = 0; i < dy.rows(); ++i) {
    dgain.array() += dy.row(i).array() * normalized.row(i).array();
    dbias += dy.row(i);
    dy.row(i).array() *= gain.array();
    const T mean = dy.row(i).sum() / columns, along = dy.row(i).dot(normalized.row(i)) / columns;
    dx.row(i).array() += reciprocal(i) * (dy.row(i).array() - mean - along * normalized.row(i).array());
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Exact GELU (Hendrycks and Gimpel 2016):  y = x·Φ(x),  Φ the standard normal distribution function, ½·erfc(−x/√2)
//
// Φ(−z) = φ(z)·M(z) with the density φ and Mills' ratio M, which is smooth in t = (z−4)/(z+4): interpolated at the
// Chebyshev nodes of z ∈ [0, 14] (beyond, φ < 3e-43), a polynomial of degree 11 is within 1.1e-9 of M, one of degree 20
// within 6e-17, relatively: 1/50 and 1/2 of half a unit in the last place of float and double. So GELU is as accurate
// as erf in that precision makes it, in vector registers (Eigen 3.4's own float erf is off by 4.4e-7).

template <class T>
constexpr std::size_t mills_terms = sizeof(T) == 4 ? 12 : 21;
inline constexpr int mills_center = 4, mills_end = 14;

// Coefficients of powers of t.
template <class T>
std::array<T, mills_terms<T>> mills_polynomial() {
  constexpr std::size_t terms = mills_terms<T>;
  constexpr long double pi = std::numbers::pi_v<long double>, count = terms;
  const long double low = -1, high = static_cast<long double>(mills_end - mills_center) / (mills_end + mills_center);
  std::array<long double, terms> node{}, value{};
  for (std::size_t i = 0; i < terms; ++i) {
    const long double t = node[i] =
        (low + high) / 2 + (high - low) / 2 * std::cos(pi * (static_cast<long double>(i) + 0.5L) / count);
    const long double z = mills_center * (1 + t) / (1 - t);
    value[i] = std::erfc(z / std::sqrt(2.0L)) / 2 * std::exp(z * z / 2) * std::sqrt(2 * pi);
  }
  for (std::size_t order = 1; order < terms; ++order)  // Newton's divided differences
    for (std::size_t i = terms - 1; i >= order; --i) value[i] = (value[i] - value[i - 1]) / (node[i] - node[i - order]);
  std::array<long double, terms> power{};
  for (std::size_t i = terms; i-- > 0;) {  // power = power·(t − node) + value
    for (std::size_t p = terms; p-- > 0;) power[p] = (p > 0 ? power[p - 1] : 0) - node[i] * power[p];
    power[0] += value[i];
  }
  std::array<T, terms> rounded{};
  std::transform(power.begin(), power.end(), rounded.begin(), [](long double c) { return static_cast<T>(c); });
  return rounded;
}

// One block of numbers, in registers.
template <class T>
using GeluBlock = Eigen::Array<T, 32, 1>;

template <class T>
void gelu_block(GeluBlock<T>& x, GeluBlock<T>& slope) {
  static const std::array<T, mills_terms<T>> mills = mills_polynomial<T>();
  constexpr T peak = static_cast<T>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  const GeluBlock<T> density = peak * (x.square() * T(-0.5)).exp();
  const GeluBlock<T> z = x.abs().min(T(mills_end));
  const GeluBlock<T> t = (z - T(mills_center)) / (z + T(mills_center));
  GeluBlock<T> ratio = GeluBlock<T>::Constant(mills.back());
  for (std::size_t p = mills.size() - 1; p-- > 0;) ratio = ratio * t + mills[p];
  const GeluBlock<T> tail = density * ratio;  // Φ(−|x|)
  // Φ(x) = x > 0 ? 1 − tail : tail, without a comparison, which Eigen does not vectorise. Where |x| < 1e-30 the step is
  // anything in [0, 1], and 1 − 2·tail is 0.
  const GeluBlock<T> step = (x * T(1e30)).max(T(0)).min(T(1));
  const GeluBlock<T> distribution = tail + step * (T(1) - T(2) * tail);
  slope = distribution + x * density;
  x *= distribution;
}

// x becomes y; slope = dy/dx = Φ(x) + x·φ(x), all that backward needs. `count` numbers each.
template <class T>
void gelu(T* x, T* slope, Index count) {
  constexpr Index size = GeluBlock<T>::SizeAtCompileTime;
  GeluBlock<T> in, out;
  for (Index first = 0; first < count; first += size) {
    const Index used = std::min(size, count - first);
    if (used < size) in.setZero();
    std::copy_n(x + first, used, in.data());
    gelu_block<T>(in, out);
    std::copy_n(in.data(), used, x + first);
    std::copy_n(out.data(), used, slope + first);
  }
}

// y = gelu(x):   dx = dy∘slope        dy becomes dx
template <class T>
void gelu_backward(T* dy, const T* slope, Index count) {
  Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>(dy, count) *=
      Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>(slope, count);
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention, the mechanism chosen at run time:  out = attention(q, k, v) on qkv [B·n, 3·H·d], each row q, k, v of all
// heads one after another; out [B·n, H·d]; normalizer [B, H, n]. q, k and v are [B, H, n, d] by strides.

using Mechanism = std::variant<csq::Softmax, csq::Squared, csq::ShiftedQuadratic, csq::Csq, csq::Taylor, csq::Linear,
                               csq::Quadratic, csq::Polynomial, csq::PositivePolynomial>;

struct AttentionSettings {
  Mechanism mechanism = csq::Csq{};
  csq::Centering centering = csq::Centering::automatic;  // automatic: the mechanism's own
  csq::Method method = csq::Method::automatic;
  bool causal = true;
  bool gated = false;  // a gate per token and head (gates.hpp)

  csq::Centering resolved_centering() const {
    if (centering != csq::Centering::automatic) return centering;
    return std::visit([&](const auto& chosen) { return csq::default_centering(chosen, causal); }, mechanism);
  }
  // With the centring resolved, so that penalties see the scores that the layer uses.
  csq::Options options(csq::Workspace* workspace) const {
    return {
        .causal = causal, .centering = resolved_centering(), .method = method, .threads = 1, .workspace = workspace};
  }
};

struct AttentionShape {
  Index sequences = 0, length = 0, heads = 0, head_dim = 0;

  Index rows() const { return sequences * length; }
  Index width() const { return heads * head_dim; }
};

// Part 0, 1 or 2 (q, k or v) of qkv, or with parts = 1 all of out.
template <class T>
Heads<T> heads_view(T* data, const AttentionShape& s, Index part, Index parts) {
  const Index row = parts * s.width();
  return {data + part * s.width(), {s.sequences, s.heads, s.length, s.head_dim}, {s.length * row, s.head_dim, row, 1}};
}
template <class T>
Heads<T> normalizer_view(T* data, const AttentionShape& s) {
  return {data, {s.sequences, s.heads, s.length, 1}};
}
// Gates [B·n, H], or none.
template <class T>
Heads<T> gate_view(T* data, const AttentionShape& s) {
  if (data == nullptr) return {};
  return {data, {s.sequences, s.heads, s.length, 1}, {s.length * s.heads, 1, s.heads, 1}};
}
template <class T>
csq::Options gated(csq::Options options, const T* log_gate, const AttentionShape& s) {
  if (log_gate != nullptr) options.log_gate = gate_view(log_gate, s);
  return options;
}

template <class T>
void attention(const AttentionSettings& settings, const AttentionShape& shape, const T* qkv, const T* log_gate, T* out,
               T* normalizer, csq::Workspace& workspace) {
  std::visit(
      [&](const auto& mechanism) {
        csq::attention(mechanism, heads_view(qkv, shape, 0, 3), heads_view(qkv, shape, 1, 3),
                       heads_view(qkv, shape, 2, 3), heads_view(out, shape, 0, 1), normalizer_view(normalizer, shape),
                       gated(settings.options(&workspace), log_gate, shape));
      },
      settings.mechanism);
}

// out = attention(q, k, v):   dqkv, and dlog_gate where there are gates, from dout, by recomputing the weights
template <class T>
void attention_backward(const AttentionSettings& settings, const AttentionShape& shape, const T* qkv, const T* log_gate,
                        const T* out, const T* normalizer, const T* dout, T* dqkv, T* dlog_gate,
                        csq::Workspace& workspace) {
  std::visit(
      [&](const auto& mechanism) {
        csq::attention_backward(mechanism, heads_view(qkv, shape, 0, 3), heads_view(qkv, shape, 1, 3),
                                heads_view(qkv, shape, 2, 3), heads_view(out, shape, 0, 1),
                                normalizer_view(normalizer, shape), heads_view(dout, shape, 0, 1),
                                csq::Gradients<T>{.query = heads_view(dqkv, shape, 0, 3),
                                                  .key = heads_view(dqkv, shape, 1, 3),
                                                  .value = heads_view(dqkv, shape, 2, 3),
                                                  .log_gate = gate_view(dlog_gate, shape)},
                                gated(settings.options(&workspace), log_gate, shape));
      },
      settings.mechanism);
}

// ---------------------------------------------------------------------------------------------------------------------
// Cross-entropy:  loss = −weight·Σ_rows log p_target,  p = softmax(logits)        logits [R, V], target [R]

struct CrossEntropy {
  double loss = 0;    // weighted
  Index correct = 0;  // rows whose largest logit is the target's
};

// dlogits = weight·(p − onehot(target)); without memory the loss alone.
template <class T>
CrossEntropy cross_entropy(const ConstRows<T>& logits, const std::vector<Index>& target, double weight,
                           Rows<T> dlogits) {
  CrossEntropy result;
  Eigen::Array<T, 1, Eigen::Dynamic> p(logits.cols());
  for (Index r = 0; r < logits.rows(); ++r) {
    const Index truth = target[static_cast<std::size_t>(r)];
    Index best = 0;
    const T largest = logits.row(r).maxCoeff(&best);
    p = (logits.row(r).array() - largest).exp();
    const T sum = p.sum();
    result.loss -= weight * (static_cast<double>(logits(r, truth) - largest) - std::log(static_cast<double>(sum)));
    result.correct += best == truth ? 1 : 0;
    if (dlogits.data() == nullptr) continue;
    dlogits.row(r).array() = p * (static_cast<T>(weight) / sum);
    dlogits(r, truth) -= static_cast<T>(weight);
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// AdamW (Loshchilov and Hutter 2019), decay on every parameter as in PyTorch's default, and clipping by global norm.

template <class T>
double global_norm(const std::vector<T>& gradient) {
  constexpr std::size_t block = 4096;  // sums of float squares in blocks, blocks in double
  double sum = 0;
  for (std::size_t first = 0; first < gradient.size(); first += block) {
    const auto count = static_cast<Index>(std::min(block, gradient.size() - first));
    sum += static_cast<double>(ConstRow<T>(gradient.data() + first, count).squaredNorm());
  }
  return std::sqrt(sum);
}

// gradient ·= min(1, largest/(norm + 1e-6)); returns the norm before.
template <class T>
double clip_global_norm(std::vector<T>& gradient, double largest) {
  const double norm = global_norm(gradient);
  const double factor = largest / (norm + 1e-6);
  if (factor < 1) Row<T>(gradient.data(), static_cast<Index>(gradient.size())) *= static_cast<T>(factor);
  return norm;
}

//   m = β₁m + (1−β₁)g,   v = β₂v + (1−β₂)g²,   θ = (1 − ηλ)θ − η·m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)
template <class T>
struct AdamW {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0.01;
  std::vector<T> mean{}, square{};
  Index step = 0;

  void update(std::vector<T>& parameters, const std::vector<T>& gradient, double rate) {
    mean.resize(parameters.size());
    square.resize(parameters.size());
    ++step;
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(step));
    const double correction2 = 1 - std::pow(beta2, static_cast<double>(step));
    const auto number = [](double value) { return static_cast<T>(value); };
    constexpr std::size_t block = 4096;  // one pass over the memory
    for (std::size_t first = 0; first < parameters.size(); first += block) {
      const auto count = static_cast<Index>(std::min(block, parameters.size() - first));
      const auto g = ConstRow<T>(gradient.data() + first, count).array();
      auto m = Row<T>(mean.data() + first, count).array();
      auto v = Row<T>(square.data() + first, count).array();
      auto p = Row<T>(parameters.data() + first, count).array();
      m = number(beta1) * m + number(1 - beta1) * g;
      v = number(beta2) * v + number(1 - beta2) * g.square();
      p = number(1 - rate * decay) * p -
          number(rate / correction1) * m / ((v * number(1 / correction2)).sqrt() + number(epsilon));
    }
  }
};

}  // namespace paper
