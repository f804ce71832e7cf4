// How long a causal call over R ranks takes, by a model whose numbers are measured on one rank and between two:
//
//   time(R, n) = compute + messages·α + bytes·β           what travels: machines_traffic.hpp
//
//   CSQ        compute = own + others                     a rank in the middle; the first and the last do less
//   softmax    compute = own + (R − 1)·others             the last rank, which sees all pieces
//
// own: a causal call on a piece of n/R tokens; others: the same piece through the summary of other tokens, or with
// another piece's keys, which is a call without a mask (where pieces are short, with many pieces' keys at once, over
// their number: the cost of making a call comes once). Gates need a mask, so that gated CSQ's others are timed without.
// Ranks that share cores reach `reach` times one rank's speed together, so that compute is at least what all of them do
// over that. A piece that is longer or shorter than all that were measured costs CSQ in proportion, softmax with the
// square.
//
// Left out, on both sides: messages that are under way while a rank computes, and the adding of what has come.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "machines_traffic.hpp"

namespace bench {

// Between two ranks: seconds = latency + bytes·seconds_a_byte.
struct Link {
  double latency = 0, seconds_a_byte = 0;

  double seconds(const Traffic& traffic) const { return traffic.messages * latency + traffic.bytes * seconds_a_byte; }
};

struct LinkSample {
  double bytes = 0, seconds = 0;
};

// Least squares of the relative errors: of the absolute ones a long message has thousands of times those of a short
// one, which alone tells the latency.
inline Link fit_link(const std::vector<LinkSample>& samples) {
  double w = 0, wx = 0, wxx = 0, wy = 0, wxy = 0;
  for (const LinkSample& sample : samples) {
    const double weight = 1 / (sample.seconds * sample.seconds);
    w += weight;
    wx += weight * sample.bytes;
    wxx += weight * sample.bytes * sample.bytes;
    wy += weight * sample.seconds;
    wxy += weight * sample.bytes * sample.seconds;
  }
  const double determinant = w * wxx - wx * wx;
  return {std::max(0.0, (wy * wxx - wx * wxy) / determinant), std::max(0.0, (w * wxy - wx * wy) / determinant)};
}

// Seconds that one rank computes with a piece.
struct PieceTime {
  Index tokens = 0;
  double own = 0, others = 0;
  bool disturbed = false;  // other programs showed, each time that it was tried
};

inline PieceTime piece_time_at(PieceMechanism mechanism, const std::vector<PieceTime>& by_rising_tokens,
                               double tokens) {
  const auto scaled = [&](const PieceTime& from) {
    const double ratio = tokens / static_cast<double>(from.tokens);
    const double factor = mechanism == PieceMechanism::ring_softmax ? ratio * ratio : ratio;
    return PieceTime{static_cast<Index>(tokens), from.own * factor, from.others * factor};
  };
  const PieceTime& first = by_rising_tokens.front();
  const PieceTime& last = by_rising_tokens.back();
  if (tokens <= static_cast<double>(first.tokens)) return scaled(first);
  if (tokens >= static_cast<double>(last.tokens)) return scaled(last);
  std::size_t above = 1;
  while (static_cast<double>(by_rising_tokens[above].tokens) < tokens) ++above;
  const PieceTime &a = by_rising_tokens[above - 1], &b = by_rising_tokens[above];
  const double share = std::log(tokens / static_cast<double>(a.tokens)) /
                       std::log(static_cast<double>(b.tokens) / static_cast<double>(a.tokens));
  const auto between = [&](double from, double to) { return from * std::pow(to / from, share); };
  return {static_cast<Index>(tokens), between(a.own, b.own), between(a.others, b.others)};
}

inline double busiest_compute(PieceMechanism mechanism, const PieceTime& piece, int ranks) {
  if (ranks == 1) return piece.own;
  return piece.own + (mechanism == PieceMechanism::ring_softmax ? ranks - 1 : 1) * piece.others;
}
// Of all ranks together: the first takes nothing from others, and the causal triangle is half of a square.
inline double summed_compute(PieceMechanism mechanism, const PieceTime& piece, int ranks) {
  const double count = ranks;
  const double others = mechanism == PieceMechanism::ring_softmax ? count * (count - 1) / 2 : count - 1;
  return count * piece.own + others * piece.others;
}

struct ModelTime {
  double compute = 0, messages = 0;
  double seconds() const { return compute + messages; }
};

// One head size's model: what was measured of its pieces.
struct MachinesModel {
  MachinesShape shape;
  std::vector<PieceTime> pieces[3];  // of each mechanism, by rising tokens
  // CSQ's longest piece is served by a summary. One that is served directly says nothing of a longer one's cost.
  bool longest_is_factored = true;

  int disturbed_pieces() const {
    int count = 0;
    for (const std::vector<PieceTime>& of_mechanism : pieces)
      for (const PieceTime& piece : of_mechanism) count += piece.disturbed;
    return count;
  }

  // `reach`: R where each rank has a core of its own.
  ModelTime time(PieceMechanism mechanism, Index tokens, int ranks, const Link& link, double reach) const {
    const PieceTime piece = piece_time_at(mechanism, pieces[static_cast<int>(mechanism)],
                                          static_cast<double>(tokens) / static_cast<double>(ranks));
    return {std::max(busiest_compute(mechanism, piece, ranks), summed_compute(mechanism, piece, ranks) / reach),
            link.seconds(PieceTraffic(shape, mechanism, {tokens, ranks}).on_path())};
  }

  // The fewest tokens from which `mechanism` is faster than ring softmax at every length up to `most`; of pieces no
  // shorter than those that were measured. 0: it is not at `most`. Cores of their own.
  double crossover(PieceMechanism mechanism, int ranks, const Link& link, double most) const {
    constexpr double step = 1.02;
    double found = 0;
    for (double tokens = most; tokens >= least_tokens(ranks); tokens /= step) {
      const auto whole = static_cast<Index>(tokens);
      if (time(mechanism, whole, ranks, link, ranks).seconds() >=
          time(PieceMechanism::ring_softmax, whole, ranks, link, ranks).seconds())
        break;
      found = tokens;
    }
    return found;
  }
  double least_tokens(int ranks) const { return static_cast<double>(pieces[0].front().tokens) * ranks; }
  // It holds at the shortest lengths that the model can tell, so that the true one may be below.
  bool is_at_least_tokens(double crossover, int ranks) const {
    return crossover > 0 && crossover < 1.03 * least_tokens(ranks);
  }
};

// What the model is asked that cannot be run here.
inline constexpr int extrapolated_ranks[] = {8, 64, 1024};
inline constexpr Index extrapolated_tokens[] = {1'000'000, 10'000'000, 100'000'000};
inline constexpr const char* extrapolated_label = "extrapolated by the model, nothing of this was run";

}  // namespace bench
