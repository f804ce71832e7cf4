// A pre-norm transformer (Vaswani et al. 2017, Xiong et al. 2020) with any csq mechanism in each layer.
//
//   x = E[token] + P[position]                                            [B·n, C]; rotary positions have no P
//   for each layer:   x += attention(LN₁(x)·W_qkvᵀ + b, gates)·W_oᵀ + b
//                     x += gelu(LN₂(x)·W₁ᵀ + b)·W₂ᵀ + b
//   logits = LN(x[rows])·W_headᵀ + b                                      [rows, V], only where they are wanted
//
// Parameters are one flat vector and a table of names, so that an optimiser, a norm or a finite difference is one loop.
// Activations belong to the caller: a few sequences at a time stay in cache (training.hpp).
#pragma once

#include <functional>
#include <optional>

#include "gates.hpp"
#include "rotary.hpp"

namespace paper {

struct ModelConfig {
  Index vocabulary = 97;
  Index positions = 64;  // the longest sequence
  Index d_model = 128;
  Index heads = 4;
  Index head_dim = 32;  // need not be d_model/heads
  Index ffn = 512;
  double embedding_scale = 1;  // standard deviation of token and position embeddings at the start
  bool rotary = false;         // positions by rotation of queries and keys, and no table of them
  std::vector<AttentionSettings> attention = std::vector<AttentionSettings>(6);  // one a layer
};

// One tensor [rows, columns] at `offset` of the flat vector; a vector has one row.
struct Parameter {
  enum class Start { normal, uniform, ones, zeros, horizons };

  std::string name;
  Index offset = 0, rows = 0, columns = 0;
  Start start = Start::zeros;
  double spread = 0;  // standard deviation of normal, half-width of uniform, the longest of horizons

  Index size() const { return rows * columns; }
};

struct NormParameters {
  Parameter gain, bias;
};
struct LinearParameters {
  Parameter weight, bias;
};
struct LayerParameters {
  NormParameters norm1;
  LinearParameters qkv, projection;
  NormParameters norm2;
  LinearParameters up, down;
  std::optional<LinearParameters> gate;
};

struct ParameterTable {
  std::vector<Parameter> all;
  Index count = 0;  // numbers in all
  Parameter token, position;
  std::vector<LayerParameters> layers;
  NormParameters norm;
  LinearParameters head;

  explicit ParameterTable(const ModelConfig& c) {
    using Start = Parameter::Start;
    token = add("token", c.vocabulary, c.d_model, Start::normal, c.embedding_scale);
    if (!c.rotary) position = add("position", c.positions, c.d_model, Start::normal, c.embedding_scale);
    for (std::size_t l = 0; l < c.attention.size(); ++l) {
      const std::string layer = "layer" + std::to_string(l) + ".";
      LayerParameters parameters;
      parameters.norm1 = add_norm(layer + "norm1", c.d_model);
      parameters.qkv = add_linear(layer + "qkv", 3 * c.heads * c.head_dim, c.d_model);
      parameters.projection = add_linear(layer + "projection", c.d_model, c.heads * c.head_dim);
      parameters.norm2 = add_norm(layer + "norm2", c.d_model);
      parameters.up = add_linear(layer + "up", c.ffn, c.d_model);
      parameters.down = add_linear(layer + "down", c.d_model, c.ffn);
      layers.push_back(parameters);
    }
    norm = add_norm("norm", c.d_model);
    head = add_linear("head", c.vocabulary, c.d_model);
    // Behind all others, which start at the same values with gates as without.
    for (std::size_t l = 0; l < c.attention.size(); ++l) {
      if (!c.attention[l].gated) continue;
      LinearParameters gate = add_linear("layer" + std::to_string(l) + ".gate", c.heads, c.d_model);
      gate.bias.start = all.back().start = Start::horizons;
      gate.bias.spread = all.back().spread = static_cast<double>(c.positions);
      layers[l].gate = gate;
    }
  }

 private:
  Parameter add(const std::string& name, Index rows, Index columns, Parameter::Start start, double spread) {
    all.push_back({name, count, rows, columns, start, spread});
    count += rows * columns;
    return all.back();
  }
  NormParameters add_norm(const std::string& name, Index width) {
    return {add(name + ".gain", 1, width, Parameter::Start::ones, 0),
            add(name + ".bias", 1, width, Parameter::Start::zeros, 0)};
  }
  // U(±1/√fan_in) for weights and biases, PyTorch's default.
  LinearParameters add_linear(const std::string& name, Index out, Index in) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    return {add(name + ".weight", out, in, Parameter::Start::uniform, bound),
            add(name + ".bias", 1, out, Parameter::Start::uniform, bound)};
  }
};

// Views of one parameter in a flat vector of parameters or of gradients.
template <class T>
ConstRows<T> matrix_of(const T* base, const Parameter& p) {
  return {base + p.offset, p.rows, p.columns};
}
template <class T>
Rows<T> matrix_of(T* base, const Parameter& p) {
  return {base + p.offset, p.rows, p.columns};
}
template <class T>
ConstRow<T> row_of(const T* base, const Parameter& p) {
  return {base + p.offset, p.columns};
}
template <class T>
Row<T> row_of(T* base, const Parameter& p) {
  return {base + p.offset, p.columns};
}

template <class T>
struct Model {
  ModelConfig config;
  ParameterTable table;
  std::vector<T> parameters;

  Model(const ModelConfig& config_in, std::uint64_t seed) : config(config_in), table(config_in) {
    parameters.resize(static_cast<std::size_t>(table.count));
    for (std::size_t which = 0; which < table.all.size(); ++which) {
      const Parameter& p = table.all[which];
      const std::uint64_t stream = random_stream(seed, which);
      for (Index i = 0; i < p.size(); ++i) {
        const auto counter = static_cast<std::uint64_t>(i);
        double value = p.start == Parameter::Start::ones ? 1 : 0;
        if (p.start == Parameter::Start::normal) value = p.spread * random_normal(stream, counter);
        if (p.start == Parameter::Start::horizons) value = gate_bias(i, p.size(), p.spread);
        if (p.start == Parameter::Start::uniform) value = p.spread * (2 * random_uniform(stream, counter) - 1);
        parameters[static_cast<std::size_t>(p.offset + i)] = static_cast<T>(value);
      }
    }
  }
};

// What forward leaves for backward, and backward's own scratch.
template <class T>
struct NormActivations {
  Matrix<T> normalized, out;
  std::vector<T> reciprocal;

  void resize(Index rows, Index width) {
    normalized.resize(rows, width);
    out.resize(rows, width);
    reciprocal.resize(static_cast<std::size_t>(rows));
  }
};

template <class T>
struct LayerActivations {
  NormActivations<T> norm1, norm2;
  Matrix<T> qkv, attended;    // [B·n, 3·H·d], [B·n, H·d]
  std::vector<T> normalizer;  // [B, H, n]
  Matrix<T> log_gate;         // [B·n, H], or empty
  Matrix<T> hidden, slope;    // [B·n, F]: gelu's output and derivative
};

template <class T>
struct Activations {
  AttentionShape shape;
  Matrix<T> stream;  // x, [B·n, C]
  std::vector<LayerActivations<T>> layers;
  std::vector<Index> read_rows;  // rows of x whose logits are wanted
  Matrix<T> read;                // x[rows], [rows, C]
  NormActivations<T> norm;
  Matrix<T> logits;  // [rows, V]
  Matrix<T> dstream, dnormed, dgated, dattended, dqkv, dlog_gate, dhidden, dread;
  Rotary<T> rotary;
  csq::Workspace workspace;

  Heads<const T> query(std::size_t layer) const { return heads_view(layers[layer].qkv.data(), shape, 0, 3); }
  Heads<const T> key(std::size_t layer) const { return heads_view(layers[layer].qkv.data(), shape, 1, 3); }
};

template <class T>
ConstRows<T> reading(const Matrix<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}
template <class T>
Rows<T> writing(Matrix<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}

template <class T>
void norm_forward(const T* parameters, const NormParameters& p, const Matrix<T>& x, NormActivations<T>& a) {
  a.resize(x.rows(), x.cols());
  layer_norm(reading(x), row_of(parameters, p.gain), row_of(parameters, p.bias), writing(a.normalized),
             Row<T>(a.reciprocal.data(), x.rows()), writing(a.out));
}
template <class T>
void norm_backward_add(const T* parameters, const NormParameters& p, const NormActivations<T>& a, Matrix<T>& dy,
                       Matrix<T>& dx, T* gradient) {
  layer_norm_backward_add(writing(dy), reading(a.normalized), ConstRow<T>(a.reciprocal.data(), dy.rows()),
                          row_of(parameters, p.gain), writing(dx), row_of(gradient, p.gain), row_of(gradient, p.bias));
}

template <class T>
void linear_forward(const T* parameters, const LinearParameters& p, const Matrix<T>& x, Matrix<T>& y) {
  y.resize(x.rows(), p.weight.rows);
  linear(reading(x), matrix_of(parameters, p.weight), row_of(parameters, p.bias), writing(y));
}
template <class T>
void linear_forward_add(const T* parameters, const LinearParameters& p, const Matrix<T>& x, Matrix<T>& y) {
  add_linear(reading(x), matrix_of(parameters, p.weight), row_of(parameters, p.bias), writing(y));
}
template <class T>
void linear_backward(const T* parameters, const LinearParameters& p, const Matrix<T>& x, const Matrix<T>& dy,
                     Matrix<T>& dx, T* gradient) {
  dx.resize(x.rows(), x.cols());
  linear_backward_parameters(reading(dy), reading(x), matrix_of(gradient, p.weight), row_of(gradient, p.bias));
  linear_backward_input(reading(dy), matrix_of(parameters, p.weight), writing(dx));
}

// tokens [sequences, length] → activations.stream, x behind the last layer.
template <class T>
void forward(const Model<T>& model, const Index* tokens, Index sequences, Index length, Activations<T>& a) {
  const ModelConfig& c = model.config;
  const T* const p = model.parameters.data();
  a.shape = {sequences, length, c.heads, c.head_dim};
  a.layers.resize(c.attention.size());
  const Index rows = a.shape.rows();
  const auto token = matrix_of(p, model.table.token), position = matrix_of(p, model.table.position);
  a.stream.resize(rows, c.d_model);
  for (Index i = 0; i < rows; ++i) {
    a.stream.row(i) = token.row(tokens[i]);
    if (!c.rotary) a.stream.row(i) += position.row(i % length);
  }

  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    const LayerParameters& layer = model.table.layers[l];
    LayerActivations<T>& act = a.layers[l];
    norm_forward(p, layer.norm1, a.stream, act.norm1);
    linear_forward(p, layer.qkv, act.norm1.out, act.qkv);
    if (c.rotary) a.rotary.turn(act.qkv.data(), a.shape);
    if (layer.gate) {
      linear_forward(p, *layer.gate, act.norm1.out, act.log_gate);
      log_sigmoid(act.log_gate.data(), act.log_gate.size());
    }
    act.attended.resize(rows, a.shape.width());
    act.normalizer.resize(static_cast<std::size_t>(rows * c.heads));
    attention(c.attention[l], a.shape, act.qkv.data(), layer.gate ? act.log_gate.data() : nullptr, act.attended.data(),
              act.normalizer.data(), a.workspace);
    linear_forward_add(p, layer.projection, act.attended, a.stream);

    norm_forward(p, layer.norm2, a.stream, act.norm2);
    linear_forward(p, layer.up, act.norm2.out, act.hidden);
    act.slope.resize(rows, c.ffn);
    gelu(act.hidden.data(), act.slope.data(), act.hidden.size());
    linear_forward_add(p, layer.down, act.hidden, a.stream);
  }
}

// activations.logits of some rows of x.
template <class T>
void read_out(const Model<T>& model, const std::vector<Index>& rows, Activations<T>& a) {
  const T* const p = model.parameters.data();
  const auto count = static_cast<Index>(rows.size());
  a.read_rows = rows;
  a.read.resize(count, model.config.d_model);
  for (Index r = 0; r < count; ++r) a.read.row(r) = a.stream.row(rows[static_cast<std::size_t>(r)]);
  norm_forward(p, model.table.norm, a.read, a.norm);
  linear_forward(p, model.table.head, a.norm.out, a.logits);
}

// A loss on the queries and keys of a layer besides the task's own: adds its gradients to dq and dk.
template <class T>
using ScoreLoss = std::function<void(std::size_t layer, Heads<T> dq, Heads<T> dk)>;

// Adds ∂loss/∂parameters to gradient[0 … table.count), given dlogits; uses what forward and read_out left.
template <class T>
void backward(const Model<T>& model, const Index* tokens, const Matrix<T>& dlogits, Activations<T>& a, T* gradient,
              const ScoreLoss<T>& score_loss = {}) {
  const ModelConfig& c = model.config;
  const T* const p = model.parameters.data();
  const Index rows = a.shape.rows();

  // logits = LN(x[rows])·W_headᵀ + b
  linear_backward(p, model.table.head, a.norm.out, dlogits, a.dnormed, gradient);
  a.dread.setZero(a.read.rows(), a.read.cols());
  norm_backward_add(p, model.table.norm, a.norm, a.dnormed, a.dread, gradient);
  a.dstream.setZero(rows, c.d_model);
  for (Index r = 0; r < a.dread.rows(); ++r) a.dstream.row(a.read_rows[static_cast<std::size_t>(r)]) += a.dread.row(r);

  for (std::size_t l = a.layers.size(); l-- > 0;) {
    const LayerParameters& layer = model.table.layers[l];
    const LayerActivations<T>& act = a.layers[l];
    // x += gelu(LN₂(x)·W₁ᵀ + b)·W₂ᵀ + b
    linear_backward(p, layer.down, act.hidden, a.dstream, a.dhidden, gradient);
    gelu_backward(a.dhidden.data(), act.slope.data(), a.dhidden.size());
    linear_backward(p, layer.up, act.norm2.out, a.dhidden, a.dnormed, gradient);
    norm_backward_add(p, layer.norm2, act.norm2, a.dnormed, a.dstream, gradient);

    // x += attention(LN₁(x)·W_qkvᵀ + b, gates)·W_oᵀ + b
    linear_backward(p, layer.projection, act.attended, a.dstream, a.dattended, gradient);
    a.dqkv.resize(rows, act.qkv.cols());
    if (layer.gate) a.dlog_gate.resize(rows, c.heads);
    attention_backward(c.attention[l], a.shape, act.qkv.data(), layer.gate ? act.log_gate.data() : nullptr,
                       act.attended.data(), act.normalizer.data(), a.dattended.data(), a.dqkv.data(),
                       layer.gate ? a.dlog_gate.data() : nullptr, a.workspace);
    if (score_loss) score_loss(l, heads_view(a.dqkv.data(), a.shape, 0, 3), heads_view(a.dqkv.data(), a.shape, 1, 3));
    if (c.rotary) a.rotary.turn_back(a.dqkv.data(), a.shape);
    linear_backward(p, layer.qkv, act.norm1.out, a.dqkv, a.dnormed, gradient);
    if (layer.gate) {
      // ℓ = log σ(LN₁(x)·W_gᵀ + b_g)
      log_sigmoid_backward(a.dlog_gate.data(), act.log_gate.data(), act.log_gate.size());
      linear_backward(p, *layer.gate, act.norm1.out, a.dlog_gate, a.dgated, gradient);
      a.dnormed += a.dgated;
    }
    norm_backward_add(p, layer.norm1, act.norm1, a.dnormed, a.dstream, gradient);
  }

  // x = E[token] + P[position]
  auto dtoken = matrix_of(gradient, model.table.token), dposition = matrix_of(gradient, model.table.position);
  for (Index i = 0; i < rows; ++i) {
    dtoken.row(tokens[i]) += a.dstream.row(i);
    if (!c.rotary) dposition.row(i % a.shape.length) += a.dstream.row(i);
  }
}

}  // namespace paper
