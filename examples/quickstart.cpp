// Softmax and CSQ attention in one page.
#include <csq/csq.hpp>
#include <cstdio>

int main() {
  constexpr int n = 1024, d = 32;
  csq::Matrix<float> q = csq::Matrix<float>::Random(n, d);  // in [-1, 1]
  csq::Matrix<float> k = csq::Matrix<float>::Random(n, d);
  csq::Matrix<float> v = csq::Matrix<float>::Random(n, d);

  csq::Matrix<float> out = csq::attention(csq::Csq{}, q, k, v);  // method chosen by size
  csq::Matrix<float> softmax(n, d);
  csq::attention(csq::Softmax{}, q, k, v, softmax, {.causal = true});  // into your own matrix

  const csq::Method method = csq::choose_method({.queries = n, .keys = n, .key_dim = d, .value_dim = d});
  std::printf("csq      row 0: %+.3f %+.3f %+.3f ...\n", out(0, 0), out(0, 1), out(0, 2));
  std::printf("softmax  row 9: %+.3f %+.3f %+.3f ...\n", softmax(9, 0), softmax(9, 1), softmax(9, 2));
  std::printf("method at n = %d, d = %d: %s; the model's crossover is at n = %.0f\n", n, d,
              method == csq::Method::factored ? "factored" : "direct", csq::predicted_crossover(d, d));
}
