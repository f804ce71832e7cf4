// The only file that knows MPI: what the ranks of a communicator say to each other.
//
// Messages of any length: counts of MPI are of 32 bits, so that what is long goes in whole megabytes and a rest. Calls
// are collective, but for `Exchange`, and stand in the same order on every rank. MPI's own errors end the job unless
// the caller has set another handler of the communicator.
#pragma once

// Without the C++ bindings that MPI has given up in 2012: programs would have to be linked with them.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "csq/detail/base/arithmetic.hpp"

namespace CSQ_CODE::detail {

class Communicator {
 public:
  explicit Communicator(MPI_Comm communicator) : communicator_(communicator) {
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &size_);
    MPI_Type_contiguous(static_cast<int>(megabyte), MPI_BYTE, &megabyte_);
    MPI_Type_commit(&megabyte_);
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator() { MPI_Type_free(&megabyte_); }

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool has(int rank) const { return rank >= 0 && rank < size_; }

  bool any(bool here) const {
    int value = here ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MAX, communicator_);
    return value != 0;
  }
  // `count` numbers of every rank, in the order of the ranks.
  template <class Number>
  void gather(const Number* own, Index count, Number* all) const {
    const int bytes = static_cast<int>(count * static_cast<Index>(sizeof(Number)));
    MPI_Allgather(own, bytes, MPI_BYTE, all, bytes, MPI_BYTE, communicator_);
  }
  // The same of pieces that differ in length, `counts` and `starts` of each rank.
  template <class Number>
  void gather(const Number* own, const int* counts, const int* starts, Number* all) const {
    MPI_Allgatherv(own, counts[rank_], type_of<Number>(), all, counts, starts, type_of<Number>(), communicator_);
  }
  void broadcast(char* text, Index bytes, int root) const {
    MPI_Bcast(text, static_cast<int>(bytes), MPI_CHAR, root, communicator_);
  }
  // Σ over the ranks, on each.
  template <class Number>
  void sum(Number* numbers, Index count) const {
    constexpr Index most = Index{1} << 28;
    for (Index first = 0; first < count; first += most)
      MPI_Allreduce(MPI_IN_PLACE, numbers + first, static_cast<int>(smaller(most, count - first)), type_of<Number>(),
                    MPI_SUM, communicator_);
  }

  // Messages under way; none when it is made, and none when it goes.
  class Exchange {
   public:
    explicit Exchange(const Communicator& communicator) : all_(communicator) {}
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
    ~Exchange() { wait(); }

    template <class Number>
    void send(const Number* numbers, Index count, int to) {
      in_pieces(count * static_cast<Index>(sizeof(Number)), [&](Index first, int size, MPI_Datatype type) {
        MPI_Isend(reinterpret_cast<const char*>(numbers) + first, size, type, to, tag, all_.communicator_, next());
      });
    }
    template <class Number>
    void receive(Number* numbers, Index count, int from) {
      in_pieces(count * static_cast<Index>(sizeof(Number)), [&](Index first, int size, MPI_Datatype type) {
        MPI_Irecv(reinterpret_cast<char*>(numbers) + first, size, type, from, tag, all_.communicator_, next());
      });
    }
    void wait() {
      if (count_ > 0) MPI_Waitall(count_, requests_, MPI_STATUSES_IGNORE);
      count_ = 0;
    }

   private:
    template <class Move>
    void in_pieces(Index bytes, const Move& move) {
      const Index whole = bytes / megabyte * megabyte;
      if (whole > 0) move(Index{0}, static_cast<int>(whole / megabyte), all_.megabyte_);
      if (bytes > whole) move(whole, static_cast<int>(bytes - whole), MPI_BYTE);
    }
    MPI_Request* next() { return &requests_[count_++]; }

    const Communicator& all_;
    MPI_Request requests_[4];  // of one message each way
    int count_ = 0;
  };

  // result ← what the ranks before this one hold (direction 1), or those behind it (−1), in log₂ rounds:
  //
  //   result_r = Σ_s own_s·Π decay_u     over the ranks u between s and r
  //
  // `own`, `received` and `result` are [blocks][size]; own is used up. decay(block, rank) = ln of what a rank leaves of
  // what comes from farther away.
  template <class Number, class LogDecay>
  void exclusive_scan(int direction, Index blocks, Index size, Number* own, Number* received, Number* result,
                      const LogDecay& log_decay) const {
    std::fill_n(result, blocks * size, Number(0));
    // `own` covers this rank and those up to `reach` before it; `result` the same without this rank.
    for (int reach = 1; reach < size_; reach *= 2) {
      const int to = rank_ + direction * reach, from = rank_ - direction * reach;
      Exchange exchange(*this);
      if (has(from)) exchange.receive(received, blocks * size, from);
      if (has(to)) exchange.send(own, blocks * size, to);
      exchange.wait();
      if (!has(from)) continue;
      for (Index block = 0; block < blocks; ++block) {
        double between = 0;
        for (int u = 1; u < reach; ++u) between += log_decay(block, rank_ - direction * u);
        const Index first = block * size;
        add_decayed(received + first, size, between, result + first);
        add_decayed(received + first, size, between + log_decay(block, rank_), own + first);
      }
    }
  }

 private:
  static constexpr Index megabyte = Index{1} << 20;
  static constexpr int tag = 25457;  // every MPI has tags up to 32767

  template <class Number>
  static MPI_Datatype type_of() {
    static_assert(std::is_same_v<Number, float> || std::is_same_v<Number, double>);
    if constexpr (std::is_same_v<Number, float>)
      return MPI_FLOAT;
    else
      return MPI_DOUBLE;
  }
  // What is forgotten may be NaN.
  template <class Number>
  static void add_decayed(const Number* from, Index count, double log_decay, Number* to) {
    const double decay = std::exp(log_decay);
    if (decay < static_cast<double>((std::numeric_limits<Number>::min)())) return;
    const auto factor = static_cast<Number>(decay);
    for (Index i = 0; i < count; ++i) to[i] += factor * from[i];
  }

  MPI_Comm communicator_;
  MPI_Datatype megabyte_ = MPI_DATATYPE_NULL;
  int rank_ = 0, size_ = 1;
};

}  // namespace CSQ_CODE::detail
