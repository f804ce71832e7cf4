// The ranks that measure, the ranks that wait for them, and what there is between them.
#pragma once

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "fma_peak.hpp"
#include "machine.hpp"
#include "machines_model.hpp"
#include "statistics.hpp"

namespace bench {

inline int rank_in(MPI_Comm ranks) {
  int rank = 0;
  MPI_Comm_rank(ranks, &rank);
  return rank;
}
// Around the counters of sent_bytes.hpp.
inline double over_ranks(MPI_Comm ranks, double value, MPI_Op operation) {
  PMPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, operation, ranks);
  return value;
}

// Cores that some rank may run on, of every machine: mpirun may have bound each rank to one.
inline int cores_of_all_ranks() {
  MPI_Comm machine;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof usable, &usable) != 0) CPU_ZERO(&usable);
  PMPI_Allreduce(MPI_IN_PLACE, &usable, sizeof usable, MPI_BYTE, MPI_BOR, machine);
  const int cores = rank_in(machine) == 0 ? cores_of(usable) : 0;
  MPI_Comm_free(&machine);
  return static_cast<int>(over_ranks(MPI_COMM_WORLD, cores, MPI_SUM));
}

// All meet. MPI's own barrier spins, and whoever waits for others here may share a core with them.
inline void meet_asleep(MPI_Comm ranks) {
  MPI_Request request;
  MPI_Ibarrier(ranks, &request);
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

// The first `count` ranks of all; the others get MPI_COMM_NULL. Every rank makes it.
class FirstRanks {
 public:
  explicit FirstRanks(int count) : is_one_(rank_in(MPI_COMM_WORLD) < count) {
    MPI_Comm_split(MPI_COMM_WORLD, is_one_ ? 0 : MPI_UNDEFINED, 0, &ranks_);
  }
  ~FirstRanks() {
    if (is_one_) MPI_Comm_free(&ranks_);
  }
  FirstRanks(const FirstRanks&) = delete;
  FirstRanks& operator=(const FirstRanks&) = delete;

  bool is_one() const { return is_one_; }
  MPI_Comm get() const { return ranks_; }

 private:
  bool is_one_;
  MPI_Comm ranks_ = MPI_COMM_NULL;
};

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds of a call that all ranks make: from a common start to the last one's end.
template <class Call>
double seconds_together(MPI_Comm ranks, const Call& call) {
  MPI_Barrier(ranks);
  const auto start = std::chrono::steady_clock::now();
  call();
  return over_ranks(ranks, seconds_since(start), MPI_MAX);
}

// Flops per second of the FMA peak's loop on all ranks at once, each with one thread. The best of some runs.
class PeakTogether {
 public:
  PeakTogether() : run_(csq::simd_name(), 1, 0.02) {}

  double operator()(MPI_Comm ranks, int repeats) const {
    const double flops = over_ranks(ranks, run_.flops(), MPI_SUM);
    double best = 0;
    for (int repeat = 0; repeat < repeats; ++repeat)
      best = std::max(best, flops / seconds_together(ranks, [&] { run_(); }));
    return best;
  }

 private:
  PeakRun run_;
};

// Messages to and fro between ranks 0 and 1, 2 and 3, … at once, of 8 bytes to 4 MiB: half of the time of a round, the
// slowest pair's, medians. More pairs than cores wait for a core too, as they do while they compute.
inline Link measure_link(MPI_Comm ranks, int size, int repeats) {
  constexpr int tag = 1;
  const int rank = rank_in(ranks), partner = rank ^ 1;
  std::vector<LinkSample> samples;
  for (const int bytes : {8, 512, 8 << 10, 64 << 10, 512 << 10, 4 << 20}) {
    std::vector<char> memory(static_cast<std::size_t>(bytes), '\1');
    const int rounds = bytes <= (8 << 10) ? 50 : 4;
    std::vector<double> seconds;
    for (int repeat = -1; repeat < repeats; ++repeat) {  // the first touches the memory
      const double taken = seconds_together(ranks, [&] {
        for (int round = 0; round < rounds && partner < size; ++round) {
          if (rank % 2 == 0) PMPI_Send(memory.data(), bytes, MPI_BYTE, partner, tag, ranks);
          PMPI_Recv(memory.data(), bytes, MPI_BYTE, partner, tag, ranks, MPI_STATUS_IGNORE);
          if (rank % 2 == 1) PMPI_Send(memory.data(), bytes, MPI_BYTE, partner, tag, ranks);
        }
      });
      if (repeat >= 0) seconds.push_back(taken / (2 * rounds));
    }
    samples.push_back({static_cast<double>(bytes), quartiles(seconds).median});
  }
  return fit_link(samples);
}

}  // namespace bench
