// Everything of csq/mpi.hpp, instantiated.
#include <Eigen/Core>
#include <csq/mpi.hpp>

template <class T>
void use_ranks() {
  using Number = std::conditional_t<sizeof(T) == 2, float, T>;
  const csq::Heads<const T> q, k, v;
  const csq::Heads<T> out;
  const csq::Heads<Number> normalizer;
  double shift = 0;
  csq::mpi::attention(MPI_COMM_WORLD, csq::Csq{}, q, k, v, out, {.causal = true});
  csq::mpi::attention(MPI_COMM_WORLD, csq::Softmax{}, q, k, v, out, normalizer);
  csq::mpi::attention_backward(MPI_COMM_WORLD, csq::Linear{}, q, k, v, out, normalizer, out, {out, out, out});
  csq::mpi::attention_backward(MPI_COMM_WORLD, csq::Csq{}, q, k, v, out, normalizer, out, {out, out, out, &shift});
}

int main() {
  use_ranks<float>();
  use_ranks<double>();
  use_ranks<Eigen::bfloat16>();
}
