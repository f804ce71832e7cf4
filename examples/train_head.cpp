// Fits one CSQ head to a softmax head, by gradient descent on two linear maps and the shift.
//
//   x_q, x_k, v  [n, d]   head 0 of a language model's queries, keys and values (bench/data), n = 512, d = 64
//   target       [n, d]   softmax attention of them, causal
//   q = x_q·A             A, B [d, d] and the shift are learnt, from A = B = I and 1
//   k = x_k·B
//   out          [n, d]   CSQ attention of q, k, v, causal
//   loss = ‖out − target‖²/‖target‖² + L_b      L_b = mean of max(0, |s| − 4)², a soft bound on the scores
//
//   build/release/examples/train_head [folder of the tensors]
#include <cmath>
#include <csq/csq.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "npy.hpp"

using Matrix = csq::Matrix<float>;
constexpr csq::Index tokens = 512, dim = 64;
constexpr int steps = 200;

Matrix first_head(const std::string& path) {
  const npy::Array<float> array = npy::read<float>(path);  // [heads, tokens, dim]
  if (array.shape.size() != 3 || array.shape[0] < 1 || array.shape[1] < tokens || array.shape[2] != dim)
    npy::fail(path, "its shape is " + npy::shape_text(array.shape));
  return Eigen::Map<const Matrix>(array.data.data(), tokens, dim);
}

// Adam (Kingma and Ba 2015) for one matrix of parameters.
struct Adam {
  Matrix mean = Matrix::Zero(dim, dim), square = Matrix::Zero(dim, dim);

  void update(Matrix& parameters, const Matrix& gradient, int step) {
    constexpr float rate = 0.003f, b1 = 0.9f, b2 = 0.999f;
    mean = b1 * mean + (1 - b1) * gradient;
    square = b2 * square + (1 - b2) * gradient.cwiseAbs2();
    const float size = rate * std::sqrt(1 - std::pow(b2, float(step))) / (1 - std::pow(b1, float(step)));
    parameters.array() -= size * mean.array() / (square.array().sqrt() + 1e-8f);
  }
};

void train(const std::string& folder) {
  const Matrix x_q = first_head(folder + "/byte_lm_softmax_q.npy"), x_k = first_head(folder + "/byte_lm_softmax_k.npy"),
               v = first_head(folder + "/byte_lm_softmax_v.npy");
  const csq::Options options{.causal = true};
  const Matrix target = csq::attention(csq::Softmax{}, x_q, x_k, v, options);
  const float scale = 1 / target.squaredNorm();

  Matrix A = Matrix::Identity(dim, dim), B = A, out, normalizer, dq(tokens, dim), dk(tokens, dim), dv(tokens, dim);
  Adam adam_A, adam_B;
  csq::Csq mechanism{.shift = 1};
  double first = 0, loss = 0, dshift = 0;
  for (int step = 1; step <= steps; ++step) {
    const Matrix q = x_q * A, k = x_k * B;
    csq::attention(mechanism, q, k, v, out, normalizer, options);  // the normaliser, one number a row, is for backward
    const Matrix dout = 2 * scale * (out - target);                // ∂loss/∂out
    csq::attention_backward(mechanism, csq::heads_of(q), csq::heads_of(k), csq::heads_of(v), csq::heads_of(out),
                            csq::heads_of(normalizer), csq::heads_of(dout),
                            {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv), &dshift}, options);
    const csq::BoundPenalty bound = csq::bound_penalty(  // adds ∂L_b/∂q and ∂L_b/∂k to dq and dk
        csq::heads_of(q), csq::heads_of(k), csq::heads_of(dq), csq::heads_of(dk), 4, 1, options);

    const double fit = scale * (out - target).squaredNorm();
    loss = fit + bound.value;
    if (step == 1) first = loss;
    if (step == 1 || step % 20 == 0)
      std::printf("step %3d   loss %.4f   fit %.4f   bound %.4f   max |s| %5.2f   Pr(|s| > 4) %.4f   shift %.3f\n",
                  step, loss, fit, bound.value, bound.max_abs, bound.overflow, mechanism.shift);
    adam_A.update(A, x_q.transpose() * dq, step);  // q = x_q·A, so ∂loss/∂A = x_qᵀ·dq
    adam_B.update(B, x_k.transpose() * dk, step);
    mechanism.shift -= 0.1 * dshift;
  }
  std::printf("loss: first %.4f, last %.4f\n", first, loss);
}

int main(int count, char** words) try {
  train(count > 1 ? words[1] : "bench/data");
} catch (const std::exception& error) {
  std::fprintf(stderr, "train_head: %s\n", error.what());
  return 2;
}
