// What the ranks of csq::mpi send each other under a causal mask, by the algorithm: numbers of messages and bytes.
//
//   agreement   an all-gather of the ranks' statements and an all-reduce of a word, once a pass
//   CSQ         scans in ⌈log₂ R⌉ rounds: of the means' sums, d doubles a query and key head, and of the summary,
//   floats
//               a key head; backward both once more each way. With gates an all-gather of a number a key head
//   softmax     keys and values, n_r·(d+dᵥ) floats a key head, to every rank behind; backward their gradients back
//
// Messages of a megabyte and more go as whole megabytes and a rest. A collective counts as ⌈log₂ R⌉ messages: an
// all-gather sends what a rank gives R − 1 times, an all-reduce of a word that word in each round.
#pragma once

#include <cmath>

#include "csq/csq.hpp"

namespace bench {

using csq::Index;

enum class PieceMechanism { csq, gated_csq, ring_softmax };
inline constexpr PieceMechanism piece_mechanisms[] = {PieceMechanism::csq, PieceMechanism::gated_csq,
                                                      PieceMechanism::ring_softmax};
inline const char* name_of(PieceMechanism mechanism) {
  constexpr const char* names[] = {"CSQ", "gated CSQ", "ring softmax"};
  return names[static_cast<int>(mechanism)];
}
inline const char* key_of(PieceMechanism mechanism) {
  constexpr const char* keys[] = {"csq", "gated_csq", "ring_softmax"};
  return keys[static_cast<int>(mechanism)];
}

// Of the whole sequence, but for its length. Floats; the values are as wide as the keys.
struct MachinesShape {
  Index dim = 0, heads = 0, kv_heads = 0;
  double summary_numbers = 0;  // of a key head: D·(d+1), and what the kernels pad it to
  bool backward = false;       // forward and backward, or forward alone
};

// A sequence in pieces as even as can be.
struct EvenPieces {
  Index tokens = 0;
  int ranks = 1;

  Index first(int rank) const { return tokens * rank / ranks; }
  Index of(int rank) const { return first(rank + 1) - first(rank); }
};

inline int rounds_of(int ranks) {
  int rounds = 0;
  while ((Index{1} << rounds) < ranks) ++rounds;
  return rounds;
}

struct Traffic {
  double messages = 0, bytes = 0;

  void add(double of_bytes) {
    constexpr double megabyte = 0x1p20;
    messages += (of_bytes >= megabyte ? 1 : 0) + (std::fmod(of_bytes, megabyte) > 0 ? 1 : 0);
    bytes += of_bytes;
  }
  void add_gather(double own_bytes, int ranks) {
    messages += rounds_of(ranks);
    bytes += own_bytes * (ranks - 1);
  }
  void add_reduce(double own_bytes, int ranks) {
    messages += rounds_of(ranks);
    bytes += own_bytes * rounds_of(ranks);
  }
  bool operator==(const Traffic&) const = default;
};

inline constexpr double statement_bytes = 24 * 8;  // what a rank says of its call

class PieceTraffic {
 public:
  PieceTraffic(const MachinesShape& shape, PieceMechanism mechanism, const EvenPieces& pieces)
      : shape_(shape), mechanism_(mechanism), pieces_(pieces) {}

  // What a rank sends.
  Traffic sent_by(int rank) const { return collect(rank, rank); }
  // What comes one after the other: every round of the scans, and all messages of the last rank, which has most to
  // wait for.
  Traffic on_path() const { return collect(every_round, pieces_.ranks - 1); }

 private:
  static constexpr int every_round = -1;

  // `scanning`: the rank whose rounds count.
  Traffic collect(int scanning, int rank) const {
    Traffic all;
    for (int pass = 0; pass < (shape_.backward ? 2 : 1); ++pass) {
      all.add_gather(statement_bytes, pieces_.ranks);
      all.add_reduce(4, pieces_.ranks);
      if (mechanism_ == PieceMechanism::ring_softmax)
        add_keys(all, rank, scanning == every_round, pass == 1);
      else
        add_scans(all, scanning, pass == 1);
    }
    return all;
  }

  void add_scans(Traffic& all, int rank, bool backward) const {
    const double means = 8 * static_cast<double>((shape_.heads + shape_.kv_heads) * shape_.dim);
    const double summaries = 4 * static_cast<double>(shape_.kv_heads) * shape_.summary_numbers;
    const double gates = 8 * static_cast<double>(shape_.kv_heads);
    for (const int direction : {1, -1}) {
      if (direction < 0 && !backward) break;
      add_scan(all, rank, direction, means);
      add_scan(all, rank, direction, summaries);
      if (mechanism_ == PieceMechanism::gated_csq) all.add_gather(gates, pieces_.ranks);
    }
  }
  void add_scan(Traffic& all, int rank, int direction, double bytes) const {
    for (int reach = 1; reach < pieces_.ranks; reach *= 2) {
      const int to = rank + direction * reach;
      if (rank == every_round || (to >= 0 && to < pieces_.ranks)) all.add(bytes);
    }
  }

  void add_keys(Traffic& all, int rank, bool on_path, bool backward) const {
    const auto keys = [&](int owner) {
      return 4 * static_cast<double>(shape_.kv_heads * pieces_.of(owner) * 2 * shape_.dim);
    };
    // The last rank has nobody behind it: it waits for what the others send.
    if (on_path)
      for (int from = 0; from < rank; ++from) all.add(keys(from));
    else
      for (int to = rank + 1; to < pieces_.ranks; ++to) all.add(keys(rank));
    for (int owner = 0; owner < rank && backward; ++owner) all.add(keys(owner));
  }

  MachinesShape shape_;
  PieceMechanism mechanism_;
  EvenPieces pieces_;
};

// Of the rank that sends most bytes, and of all.
inline Traffic busiest_of(const PieceTraffic& traffic, int ranks) {
  Traffic busiest;
  for (int rank = 0; rank < ranks; ++rank)
    if (const Traffic sent = traffic.sent_by(rank); sent.bytes > busiest.bytes) busiest = sent;
  return busiest;
}
inline double all_bytes_of(const PieceTraffic& traffic, int ranks) {
  double all = 0;
  for (int rank = 0; rank < ranks; ++rank) all += traffic.sent_by(rank).bytes;
  return all;
}

}  // namespace bench
