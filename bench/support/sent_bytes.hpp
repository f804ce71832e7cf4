// What this process gives to MPI's calls, counted in them: MPI's own names are wrapped, as its profiling interface
// allows. Counted as machines_traffic.hpp counts. Of one source of a program only.
#pragma once

#include <mpi.h>

#include "machines_traffic.hpp"

namespace bench {

inline Traffic sent_here;

inline double bytes_of(int count, MPI_Datatype type) {
  int size = 0;
  PMPI_Type_size(type, &size);
  return static_cast<double>(count) * size;
}
inline int size_of(MPI_Comm ranks) {
  int size = 1;
  PMPI_Comm_size(ranks, &size);
  return size;
}

}  // namespace bench

extern "C" {
int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm ranks, MPI_Request* request) {
  ++bench::sent_here.messages;
  bench::sent_here.bytes += bench::bytes_of(count, type);
  return PMPI_Isend(data, count, type, to, tag, ranks, request);
}
int MPI_Allreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op operation, MPI_Comm ranks) {
  bench::sent_here.add_reduce(bench::bytes_of(count, type), bench::size_of(ranks));
  return PMPI_Allreduce(from, to, count, type, operation, ranks);
}
int MPI_Allgather(const void* from, int count, MPI_Datatype type, void* to, int to_count, MPI_Datatype to_type,
                  MPI_Comm ranks) {
  bench::sent_here.add_gather(bench::bytes_of(count, type), bench::size_of(ranks));
  return PMPI_Allgather(from, count, type, to, to_count, to_type, ranks);
}
int MPI_Allgatherv(const void* from, int count, MPI_Datatype type, void* to, const int* counts, const int* starts,
                   MPI_Datatype to_type, MPI_Comm ranks) {
  bench::sent_here.add_gather(bench::bytes_of(count, type), bench::size_of(ranks));
  return PMPI_Allgatherv(from, count, type, to, counts, starts, to_type, ranks);
}
}
