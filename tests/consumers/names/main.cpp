// A program with macros and functions of its own that are called like much else: csq's headers neither break on them
// nor make them ambiguous. min and max come late, as from a system header that is included after the standard
// library's.
#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define check(condition) ((void)(condition))
#define fail(message) std::abort()
#define A broken A
#define B broken B
#define C broken C
#define D broken D
#define E broken E
#define G broken G
#define H broken H
#define I broken I
#define K broken K
#define L broken L
#define M broken M
#define N broken N
#define O broken O
#define P broken P
#define Q broken Q
#define R broken R
#define S broken S
#define U broken U
#define V broken V
#define W broken W
#define X broken X
#define Y broken Y
#define Z broken Z

#include <csq/csq.hpp>

#undef check
#undef fail
#undef A
#undef K

namespace mine {

using namespace csq;

// Names that csq once had in its own namespace.
inline bool check(bool condition) { return condition; }
template <class... Parts>
bool fail(const Parts&...) {
  return false;
}
struct Problem {};
struct Weight {};
struct Arena {};
inline int parallel_for(int count) { return count; }

inline bool run() {
  const Matrix<float> a = Matrix<float>::Constant(9, 4, 0.5f);
  const Matrix<float> out = attention(Csq{}, a, a, a, {.centering = Centering::none});
  std::vector<float> q(24, 1.0f), o(24), z(6);
  const Heads<float> view(q.data(), {1, 2, 3, 4}), result(o.data(), {1, 2, 3, 4}), statistic(z.data(), {1, 2, 3, 1});
  attention(Softmax{}, view, view, view, result, statistic, {.causal = true});
  std::vector<float> dq(24), dk(24), dv(24);
  attention_backward(Softmax{}, view, view, view, result, statistic, view,
                     Gradients<float>{{dq.data(), view.shape}, {dk.data(), view.shape}, {dv.data(), view.shape}},
                     {.causal = true});
  rank_penalty(view, Heads<float>{});
  static_cast<void>(Problem{});
  static_cast<void>(Weight{});
  static_cast<void>(Arena{});
  return check(std::abs(out(8, 3) - 0.5f) < 1e-6f) && parallel_for(3) == 3 &&
         (std::abs(o[0] - 1) < 1e-6f || fail(o[0]));
}

}  // namespace mine

int main() { return mine::run() ? 0 : 1; }
