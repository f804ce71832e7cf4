// Whether a call over ranks is the single call, array by array.
#pragma once

#include <cmath>

#include "pieces_of_calls.hpp"

inline int rank_here = 0, rank_count = 1, failures = 0, checks = 0;
inline double worst[2][2] = {};  // [float, double][forward, gradients]

// Uneven pieces of `count` tokens; kind 0: as even as can be, 1: random, 2: random with empty ones, 3: all on the last.
inline Starts cut(Index count, int kind, std::uint64_t seed) {
  Numbers numbers(seed);
  std::vector<double> share(static_cast<std::size_t>(rank_count), 1);
  for (std::size_t r = 0; r < share.size(); ++r) {
    if (kind > 0) share[r] = numbers.uniform();
    if (kind == 2 && r % 2 == 1) share[r] = 0;
    if (kind == 3 && r + 1 < share.size()) share[r] = 0;
  }
  double all = 0, sum = 0;
  for (const double s : share) all += s;
  Starts starts{0};
  for (const double s : share) {
    sum += s;
    starts.push_back(static_cast<Index>(std::round(static_cast<double>(count) * sum / all)));
  }
  return starts;
}

// Each rank has the queries that stand at its keys.
inline Starts cut_at_keys(const Case& c, Starts starts) {
  for (Index& start : starts) start = start < c.m - c.n ? 0 : start - (c.m - c.n);
  return starts;
}

template <class T>
double squared(const std::vector<T>& x) {
  double sum = 0;
  for (const T value : x)
    if (std::isfinite(value)) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

// Of this rank's rows; the others must not have been written to. `rows`: [heads, tokens, dim].
template <class T>
void compare(const Case& c, const char* name, const std::vector<T>& here, const std::vector<T>& whole, Index heads,
             Index tokens, const Starts& starts, double tolerance, int kind) {
  if (whole.empty()) return;
  const Index first = starts[static_cast<std::size_t>(rank_here)],
              last = starts[static_cast<std::size_t>(rank_here) + 1];
  const Index dim = static_cast<Index>(whole.size()) / (heads * tokens);
  double difference = 0;
  bool good = true;
  for (Index h = 0; h < heads; ++h)
    for (Index t = 0; t < tokens; ++t)
      for (Index a = 0; a < dim; ++a) {
        const auto i = static_cast<std::size_t>((h * tokens + t) * dim + a);
        if (t < first || t >= last) {
          good = good && std::isnan(here[i]);
        } else if (std::isinf(whole[i]) || std::isnan(whole[i])) {
          good = good && (here[i] == whole[i] || (std::isnan(here[i]) && std::isnan(whole[i])));
        } else {
          const double apart = static_cast<double>(here[i]) - static_cast<double>(whole[i]);
          difference += apart * apart;
        }
      }
  // What is 0 but for rounding, as gates that only a sink could feel, is compared with numbers of about 1.
  const double size = squared(whole), distance = std::sqrt(difference / (size > 1 ? size : 1));
  ++checks;
  double& most = worst[sizeof(T) / 8][kind];
  if (distance > most && tolerance < 1e-3) most = distance;
  if (good && distance <= tolerance) return;
  ++failures;
  std::printf("rank %d of %d: %s: %s differs by %.3g%s\n", rank_here, rank_count, c.name.c_str(), name, distance,
              good ? "" : ", or has NaN or numbers where the other has not");
}

template <class T, class Mechanism>
void check_case(const Mechanism& mechanism, const char* mechanism_name, Case c, const Starts& queries,
                const Starts& keys) {
  c.name = std::string(mechanism_name) + (sizeof(T) == 4 ? " float " : " double ") + c.name;
  Arrays<T> whole(c), here(c);
  run(mechanism, c, whole, {0, c.n}, {0, c.m}, 0, std::nullopt);
  try {
    run(mechanism, c, here, queries, keys, rank_here, MPI_COMM_WORLD);
  } catch (const std::exception& error) {
    ++failures;
    std::printf("rank %d of %d: %s: %s\n", rank_here, rank_count, c.name.c_str(), error.what());
    return;
  }
  const double tolerance = sizeof(T) == 4 ? 2e-4 : 1e-12;
  const Index query_heads = c.batch * c.heads, key_heads = c.batch * c.kv_heads;
  compare(c, "out", here.out, whole.out, query_heads, c.n, queries, tolerance, 0);
  compare(c, "normalizer", here.normalizer, whole.normalizer, query_heads, c.n, queries, tolerance, 0);
  if (!c.gradients) return;
  compare(c, "dq", here.dq, whole.dq, query_heads, c.n, queries, tolerance, 1);
  compare(c, "dk", here.dk, whole.dk, key_heads, c.m, keys, tolerance, 1);
  compare(c, "dv", here.dv, whole.dv, key_heads, c.m, keys, tolerance, 1);
  compare(c, "dlog_gate", here.dgate, whole.dgate, c.batch * c.gate_heads, c.m, keys, tolerance, 1);
  const double shift = std::abs(here.dshift - whole.dshift);
  const double size = 1 + std::abs(whole.dshift) + std::sqrt(squared(whole.dout));
  double sinks = 0;
  for (std::size_t h = 0; h < whole.dsink.size(); ++h) sinks += std::abs(here.dsink[h] - whole.dsink[h]);
  if (!(shift <= 10 * tolerance * size && sinks <= 10 * tolerance * size)) {
    ++failures;
    std::printf("rank %d of %d: %s: dshift differs by %.3g, dsink by %.3g\n", rank_here, rank_count, c.name.c_str(),
                shift, sinks);
  }
}

// Pieces where queries go with their keys, and pieces that are cut apart.
template <class T, class Mechanism>
void check_cuts(const Mechanism& mechanism, const char* name, Case c, bool together) {
  const std::string base = c.name;
  for (int kind = 0; kind < 4; ++kind) {
    c.seed = static_cast<std::uint64_t>(17 + kind);
    c.name = base + ", cut " + std::to_string(kind);
    const Starts keys = cut(c.m, kind, c.seed);
    if (together && c.n == c.m)
      check_case<T>(mechanism, name, c, keys, keys);
    else
      check_case<T>(mechanism, name, c, together ? cut_at_keys(c, keys) : cut(c.n, (kind + 1) % 4, c.seed + 5), keys);
  }
}

// Fails on one rank and says so.
inline void expect(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("rank %d of %d: %s\n", rank_here, rank_count, what.c_str());
}

// The end of a test program: failures of all ranks.
inline int finish_test() {
  MPI_Allreduce(MPI_IN_PLACE, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  MPI_Allreduce(MPI_IN_PLACE, worst, 4, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  if (rank_here == 0)
    std::printf(
        "%d ranks: %d checks on the first, %d failures; largest distance: double %.2g, gradients %.2g; float "
        "%.2g, %.2g\n",
        rank_count, checks, failures, worst[1][0], worst[1][1], worst[0][0], worst[0][1]);
  MPI_Finalize();
  return failures == 0 && checks > 0 ? 0 : 1;
}
inline void begin_test(int* argc, char*** argv) {
  MPI_Init(argc, argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_here);
  MPI_Comm_size(MPI_COMM_WORLD, &rank_count);
}
