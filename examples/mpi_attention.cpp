// Attention of a sequence that is cut over ranks: each makes its own tokens, and gets the rows of its own queries.
//
//   mpirun -n 4 mpi_attention [tokens]
//
// The first rank then computes the whole by itself, and says how far the rows of all are from that.
#include <cmath>
#include <csq/mpi.hpp>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

using csq::Index;

constexpr Index head_count = 4, dim = 16;

// Tokens [first, last) of every head, [heads, tokens, dim]: a token's numbers depend on where it stands alone.
std::vector<float> tokens_between(Index first, Index last, unsigned seed) {
  std::vector<float> values;
  for (Index h = 0; h < head_count; ++h)
    for (Index t = first; t < last; ++t) {
      std::mt19937 random(seed + static_cast<unsigned>(h * 1'000'003 + t));
      for (Index a = 0; a < dim; ++a) values.push_back(static_cast<float>(random()) * 0x1p-31f - 1.0f);
    }
  return values;
}

template <class T>
csq::Heads<T> view(std::vector<T>& values) {
  return {values.data(), {1, head_count, static_cast<Index>(values.size()) / (head_count * dim), dim}};
}

// Rows of this rank's queries, sent to the first rank and compared with the whole's there.
double difference_on_first(const std::vector<float>& rows, const std::vector<float>& whole, Index tokens) {
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (rank > 0) {
    MPI_Send(rows.data(), static_cast<int>(rows.size()), MPI_FLOAT, 0, 0, MPI_COMM_WORLD);
    return 0;
  }
  double squares = 0, all = 0;
  for (Index r = 0; r < ranks; ++r) {
    const Index first = tokens * r / ranks, count = tokens * (r + 1) / ranks - first;
    std::vector<float> theirs = rows;
    theirs.resize(static_cast<std::size_t>(head_count * count * dim));
    if (r > 0)
      MPI_Recv(theirs.data(), static_cast<int>(theirs.size()), MPI_FLOAT, static_cast<int>(r), 0, MPI_COMM_WORLD,
               MPI_STATUS_IGNORE);
    for (Index h = 0; h < head_count; ++h)
      for (Index i = 0; i < count * dim; ++i) {
        const double x = static_cast<double>(whole[static_cast<std::size_t>((h * tokens + first) * dim + i)]);
        const double apart = x - static_cast<double>(theirs[static_cast<std::size_t>(h * count * dim + i)]);
        squares += apart * apart;
        all += x * x;
      }
  }
  return std::sqrt(squares / all);
}

template <class Mechanism>
bool show(const char* name, const Mechanism& mechanism, Index tokens) {
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const Index first = tokens * rank / ranks, last = tokens * (rank + 1) / ranks;
  std::vector<float> q = tokens_between(first, last, 1), k = tokens_between(first, last, 2),
                     v = tokens_between(first, last, 3), out(q.size());

  const double start = MPI_Wtime();
  csq::mpi::attention(MPI_COMM_WORLD, mechanism, view(q), view(k), view(v), view(out), {.causal = true});
  const double seconds = MPI_Wtime() - start;

  std::vector<float> whole;
  if (rank == 0) {
    std::vector<float> all_q = tokens_between(0, tokens, 1), all_k = tokens_between(0, tokens, 2),
                       all_v = tokens_between(0, tokens, 3);
    whole.resize(all_q.size());
    csq::attention(mechanism, view(all_q), view(all_k), view(all_v), view(whole), {.causal = true});
  }
  const double difference = difference_on_first(out, whole, tokens);
  if (rank == 0)
    std::printf("%-8s %lld tokens over %d ranks in %.3f s: %.1e from one rank's result\n", name,
                static_cast<long long>(tokens), ranks, seconds, difference);
  return difference < 1e-5;
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const Index tokens = argc > 1 ? std::atoll(argv[1]) : 4000;
  const bool csq_agrees = show("CSQ", csq::Csq{}, tokens);
  const bool softmax_agrees = show("softmax", csq::Softmax{}, tokens);
  MPI_Finalize();
  return csq_agrees && softmax_agrees ? 0 : 1;
}
