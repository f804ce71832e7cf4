// What travels: with summaries the same for any number of tokens, with keys in proportion to them, with a window what
// it reaches. Counted in MPI's own calls.   mpirun -n R test_mpi_bytes
#include "compared.hpp"

namespace {

std::int64_t sent_bytes = 0;

std::int64_t bytes_of(int count, MPI_Datatype type) {
  int size = 0;
  PMPI_Type_size(type, &size);
  return std::int64_t{count} * size;
}

}  // namespace

// A collective counts what this rank gives to it, an all-reduce twice.
extern "C" {
int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm ranks, MPI_Request* request) {
  sent_bytes += bytes_of(count, type);
  return PMPI_Isend(data, count, type, to, tag, ranks, request);
}
int MPI_Allreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op operation, MPI_Comm ranks) {
  sent_bytes += 2 * bytes_of(count, type);
  return PMPI_Allreduce(from, to, count, type, operation, ranks);
}
int MPI_Allgather(const void* from, int count, MPI_Datatype type, void* to, int to_count, MPI_Datatype to_type,
                  MPI_Comm ranks) {
  sent_bytes += bytes_of(count, type);
  return PMPI_Allgather(from, count, type, to, to_count, to_type, ranks);
}
int MPI_Allgatherv(const void* from, int count, MPI_Datatype type, void* to, const int* counts, const int* starts,
                   MPI_Datatype to_type, MPI_Comm ranks) {
  sent_bytes += bytes_of(count, type);
  return PMPI_Allgatherv(from, count, type, to, counts, starts, to_type, ranks);
}
int MPI_Bcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm ranks) {
  sent_bytes += bytes_of(count, type);
  return PMPI_Bcast(data, count, type, root, ranks);
}
}

namespace {

// Of the rank that sends most.
template <class Mechanism>
double most_sent(const Mechanism& mechanism, Case c, Index tokens, bool gradients) {
  c.n = c.m = tokens;
  c.gradients = gradients;
  Arrays<float> arrays(c);
  const Starts starts = cut(tokens, 0, 1);
  sent_bytes = 0;
  run(mechanism, c, arrays, starts, starts, rank_here, MPI_COMM_WORLD);
  auto most = static_cast<double>(sent_bytes);
  PMPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return most;
}

void say(const char* name, double few, double many) {
  if (rank_here == 0) std::printf("%-28s %10.0f bytes for 512 tokens, %10.0f for 4096\n", name, few, many);
}

}  // namespace

int main(int argc, char** argv) {
  begin_test(&argc, &argv);
  int rounds = 0;
  while (1 << rounds < rank_count) ++rounds;
  Case c;
  c.d = 16;
  c.dv = 16;
  c.batch = 1;
  for (const bool causal : {true, false})
    for (const bool gradients : {false, true}) {
      c.causal = causal;
      c.gate_heads = causal ? 1 : 0;
      c.method = csq::Method::factored;
      const double few = most_sent(csq::Csq{}, c, 512, gradients), many = most_sent(csq::Csq{}, c, 4096, gradients);
      say(causal ? "Csq, causal, gates" : "Csq", few, many);
      expect(few == many, "Csq: what travels grows with the number of tokens");
      // S and z of one key head, forward once and backward twice; means and a few words.
      const double summary = 153 * 17 * 4, words = 4096 + 1024 * rounds;
      const double messages = (causal ? rounds : 2) * (gradients ? 3 : 1);
      expect(many <= 1.1 * summary * messages + words, "Csq: more travels than summaries");

      c.method = csq::Method::automatic;
      c.gate_heads = 0;
      const double few_keys = most_sent(csq::Softmax{}, c, 512, gradients);
      const double many_keys = most_sent(csq::Softmax{}, c, 4096, gradients);
      say(causal ? "Softmax, causal" : "Softmax", few_keys, many_keys);
      expect(rank_count == 1 || many_keys > 4 * few_keys, "Softmax: keys and values do not travel");
      c.window = 20;
      const double few_seen = most_sent(csq::Softmax{}, c, 512, gradients);
      const double many_seen = most_sent(csq::Softmax{}, c, 4096, gradients);
      say("Softmax, window of 20", few_seen, many_seen);
      expect(few_seen == many_seen, "Softmax: with a window more travels than its edges");
      c.window = 0;
    }
  return finish_test();
}
