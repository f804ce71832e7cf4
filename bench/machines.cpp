// What does causal attention over ranks cost, what do they send, and what would more of them do?
//
//   mpirun -n R machines [options]        `machines --help` lists them; `sh bench/run.sh --machines` builds and runs it
//
// For 1, 2, 4, … of the ranks, while the others sleep: what they reach of the FMA peak at once, latency and bandwidth
// between them; for CSQ, gated CSQ and ring softmax whether pieces and one call agree, then time and bytes sent. One
// rank times its pieces alone, from which a model (support/machines_model.hpp) says what R ranks should take. It is
// printed beside what they do take, and asked for numbers of ranks and tokens that cannot be run here, labelled so.
//
// Exit status: 0; 1 pieces and one call disagree; 2 a wrong argument, or no memory, or no file.
#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "support/contest.hpp"
#include "support/machines_piece.hpp"
#include "support/machines_report.hpp"
#include "support/machines_settings.hpp"
#include "support/progress.hpp"
#include "support/ranks.hpp"
#include "support/result_file.hpp"
#include "support/run_to_the_end.hpp"
#include "support/sent_bytes.hpp"

namespace {

using bench::Index;
using bench::PieceMechanism;

static_assert(sizeof(csq::detail::Statement) == bench::statement_bytes, "machines_traffic.hpp knows what travels");

// The first rank's, which prints.
struct Files {
  explicit Files(const bench::MachinesSettings& settings) : csv("--csv", settings.csv) {
    if (!settings.json.empty()) json.emplace("--json", settings.json);
  }
  void save(const bench::MachinesResults& results) {
    csv.save(bench::csv_of(results));
    if (json) json->save(bench::json_of(results));
  }
  void keep() {
    csv.keep();
    if (json) json->keep();
  }
  bench::ResultFile csv;
  std::optional<bench::ResultFile> json;
};

class Run {
 public:
  explicit Run(const bench::MachinesSettings& settings) : settings_(settings) {
    if (first()) files_.emplace(settings);
    results_.machine.processor = bench::processor_name();
    results_.machine.build = csq::build_info();
    results_.machine.cores = bench::cores_of_all_ranks();
    results_.repeats = settings.repeats;
  }

  void measure() {
    const bench::PeakTogether peak;
    for (const int count : settings_.ranks)
      on_first(count, [&](MPI_Comm ranks) {
        show(std::to_string(count) + (count == 1 ? " rank" : " ranks"), "FMA peak and messages");
        bench::RanksTogether together{count, peak(ranks, 8), {}};
        if (count > 1) together.link = bench::measure_link(ranks, count, 5);
        results_.together.push_back(together);
      });
    for (const Index dim : settings_.dims) {
      bench::MachinesShape shape{dim, settings_.heads, settings_.kv_heads, summary_numbers(dim), settings_.backward};
      results_.tables.push_back({{shape, {}, true}, {}, 0});
      bench::MachinesTable& table = results_.tables.back();
      on_first(1, [&](MPI_Comm ranks) { time_pieces(ranks, peak, table.model); });
      for (const int count : settings_.ranks)
        on_first(count, [&](MPI_Comm ranks) { time_ranks(ranks, count, peak, table); });
    }
  }

  void finish() {
    if (!first()) return;
    results_.seconds = progress_.seconds();
    progress_.finish();
    files_->save(results_);
    files_->keep();
    bench::print_heading(results_, results_.tables.front().model.shape);
    bench::print_together(results_);
    for (const bench::MachinesTable& table : results_.tables) bench::print_table(results_, table);
    bench::print_notes(results_);
    if (results_.has_link())
      for (const bench::MachinesTable& table : results_.tables) bench::print_extrapolation(results_, table);
    else
      std::printf("\nNo model: it takes two ranks at least (mpirun -n 2).\n");
    std::printf("\nTook %.0f s. Every time is in %s\n", results_.seconds, settings_.csv.c_str());
    std::fflush(stdout);
  }

 private:
  static bool first() { return bench::rank_in(MPI_COMM_WORLD) == 0; }
  void show(const std::string& heading, const std::string& detail) {
    if (first()) progress_.show(heading, detail);
  }

  template <class Task>
  static void on_first(int count, const Task& task) {
    const bench::FirstRanks ranks(count);
    if (ranks.is_one()) task(ranks.get());
    bench::meet_asleep(MPI_COMM_WORLD);
  }

  // Whole panels of features, and columns of whole vectors.
  static double summary_numbers(Index dim) {
    const Index features = csq::feature_count(csq::Csq{}, dim);
    return static_cast<double>(csq::detail::SummarySlice<float>::padded_rows(features) *
                                   csq::detail::simd::padded_columns<float>(dim) +
                               features);
  }

  // Of one rank. Short calls are repeated within a sample.
  bench::Quartiles seconds_alone(MPI_Comm alone, const auto& call) const {
    constexpr double shortest = 0.002;
    call();
    const int count = static_cast<int>(std::clamp(shortest / bench::seconds_together(alone, call), 1.0, 1000.0));
    std::vector<double> seconds;
    for (int repeat = 0; repeat < settings_.repeats; ++repeat)
      seconds.push_back(bench::seconds_together(alone,
                                                [&] {
                                                  for (int i = 0; i < count; ++i) call();
                                                }) /
                        count);
    return bench::quartiles(seconds);
  }

  // On one rank: every length of piece, for the model; and shorter ones, as the crossover with many ranks is there.
  void time_pieces(MPI_Comm alone, const bench::PeakTogether& peak, bench::MachinesModel& model) {
    std::vector<Index> lengths;
    for (const Index tokens : settings_.tokens)
      for (const int count : settings_.ranks)
        if (count > 1 || settings_.ranks.size() == 1) lengths.push_back(tokens / count);
    const Index shortest = *std::min_element(lengths.begin(), lengths.end());
    for (Index tokens = 16; tokens < shortest; tokens *= 2) lengths.push_back(tokens);
    bench::sort_once(lengths);
    model.longest_is_factored = is_all_factored(model.shape, lengths.back());
    for (const PieceMechanism mechanism : bench::piece_mechanisms)
      for (const Index tokens : lengths) {
        show(heading(model.shape, 1), "a piece of " + std::to_string(tokens));
        model.pieces[static_cast<int>(mechanism)].push_back(time_piece(alone, peak, model.shape, mechanism, tokens));
      }
  }
  static bool is_factored(const bench::MachinesShape& shape, Index tokens) {
    const csq::Shape call{tokens, tokens, shape.dim, shape.dim, 1, shape.heads, shape.kv_heads, true};
    return csq::used_method(csq::Csq{}, call, {.causal = true}) == csq::Method::factored;
  }
  // In every pass.
  static bool is_all_factored(const bench::MachinesShape& shape, Index tokens) {
    const csq::Shape call{tokens, tokens, shape.dim, shape.dim, 1, shape.heads, shape.kv_heads, true};
    return is_factored(shape, tokens) &&
           (!shape.backward || csq::used_backward_method(csq::Csq{}, call, {.causal = true}) == csq::Method::factored);
  }
  // Again where other programs show: all of the model rests on it.
  bench::PieceTime time_piece(MPI_Comm alone, const bench::PeakTogether& peak, const bench::MachinesShape& shape,
                              PieceMechanism mechanism, Index tokens) const {
    // A short call is mostly what every call costs, and ring softmax makes one for all pieces: it gets several at once.
    const bool is_ring = mechanism == PieceMechanism::ring_softmax;
    const Index at_once = is_ring ? std::clamp<Index>(2048 / tokens, 1, 16) : 1;
    bench::Piece own(shape, 0, tokens), others(shape, 0, tokens, at_once * tokens);
    bench::PieceTime time;
    // A piece that is served by a summary leaves it behind; one that is served directly has it made for the others.
    const bool leaves_summary = !is_ring && is_factored(shape, tokens);
    const double all = static_cast<double>(shape.heads + shape.kv_heads);
    const double share = leaves_summary ? static_cast<double>(shape.heads) / all : 1;
    for (int attempt = 0; attempt < 3; ++attempt) {
      bench::PieceTime next{tokens, 0, 0, false};
      const auto note = [&](const bench::Quartiles& seconds) {
        const bool fell = peak(alone, 1) < bench::least_peak_share * results_.together.front().peak;
        next.disturbed = next.disturbed || fell || bench::scatter(seconds) > bench::most_scatter;
        return seconds.median;
      };
      for (const bool causal : {true, false}) {
        bench::Piece& piece = causal ? own : others;
        const double forward = note(seconds_alone(alone, [&] { piece.forward(alone, mechanism, causal); }));
        const double backward =
            shape.backward ? note(seconds_alone(alone, [&] { piece.backward(alone, mechanism, causal); })) : 0;
        if (causal)
          next.own = forward + backward;
        else
          next.others = (share * forward + backward) / static_cast<double>(at_once);
      }
      time = next;
      if (!time.disturbed) break;
    }
    return time;
  }

  void time_ranks(MPI_Comm ranks, int count, const bench::PeakTogether& peak, bench::MachinesTable& table) {
    const bench::MachinesShape& shape = table.model.shape;
    for (const PieceMechanism mechanism : bench::piece_mechanisms) {
      show(heading(shape, count), std::string(bench::name_of(mechanism)) + ", checked");
      if (count > 1) check(ranks, count, mechanism, table);
      for (const Index tokens : settings_.tokens) {
        show(heading(shape, count), std::string(bench::name_of(mechanism)) + ", " + std::to_string(tokens) + " tokens");
        table.times.push_back(time_call(ranks, {tokens, count}, mechanism, peak, shape));
      }
    }
    if (first()) files_->save(results_);
  }

  static void call(MPI_Comm ranks, int count, PieceMechanism mechanism, bool backward, bench::Piece& piece) {
    if (count == 1) {
      piece.forward_alone(mechanism);
      if (backward) piece.backward_alone(mechanism);
    } else {
      piece.forward(ranks, mechanism);
      if (backward) piece.backward(ranks, mechanism);
    }
  }

  // Uneven pieces of a short sequence against one call on the whole, which every rank makes.
  void check(MPI_Comm ranks, int count, PieceMechanism mechanism, bench::MachinesTable& table) const {
    const bench::MachinesShape& shape = table.model.shape;
    const bench::EvenPieces pieces{std::max<Index>(8 * count + 3, std::min<Index>(settings_.tokens.front(), 1003)),
                                   count};
    const int rank = bench::rank_in(ranks);
    bench::Piece whole(shape, 0, pieces.tokens), piece(shape, pieces.first(rank), pieces.of(rank));
    call(ranks, 1, mechanism, shape.backward, whole);
    call(ranks, count, mechanism, shape.backward, piece);
    const auto here = piece.results(mechanism, 0, pieces.of(rank));
    const auto there = whole.results(mechanism, pieces.first(rank), pieces.of(rank));
    double error = 0;
    for (std::size_t array = 0; array < here.size(); ++array) {
      const double apart = bench::relative_error(here[array], there[array]);
      error = std::max(error, std::isnan(apart) ? HUGE_VAL : apart);
    }
    error = bench::over_ranks(ranks, error, MPI_MAX);
    table.largest_error = std::max(table.largest_error, error);
    if (error > bench::tolerance_of(bench::Dtype::float32) && rank == 0)
      throw bench::Disagreement(std::string(bench::name_of(mechanism)) + ": " + std::to_string(count) +
                                " ranks and one call disagree at d = " + std::to_string(shape.dim) + ", " +
                                std::to_string(pieces.tokens) + " tokens: relative error " +
                                bench::text("%.1e", error));
  }

  bench::MachinesTime time_call(MPI_Comm ranks, const bench::EvenPieces& pieces, PieceMechanism mechanism,
                                const bench::PeakTogether& peak, const bench::MachinesShape& shape) const {
    const int rank = bench::rank_in(ranks);
    bench::Piece piece(shape, pieces.first(rank), pieces.of(rank));
    bench::MachinesTime time{mechanism, pieces.tokens, pieces.ranks, {}, 0, {}, 0};
    const auto run = [&] { call(ranks, pieces.ranks, mechanism, shape.backward, piece); };
    bench::sent_here = {};
    run();
    const bench::Traffic sent = bench::sent_here;
    std::vector<bench::Traffic> all(static_cast<std::size_t>(pieces.ranks));
    PMPI_Allgather(&sent, 2, MPI_DOUBLE, all.data(), 2, MPI_DOUBLE, ranks);
    for (const bench::Traffic& each : all) {
      time.all_bytes += each.bytes;
      if (each.bytes > time.busiest.bytes) time.busiest = each;
    }
    std::vector<double> seconds, peaks;
    for (int repeat = 0; repeat < settings_.repeats; ++repeat) {
      seconds.push_back(bench::seconds_together(ranks, run));
      peaks.push_back(peak(ranks, 1));
    }
    time.seconds = bench::quartiles(seconds);
    time.peak = bench::quartiles(peaks).median;
    return time;
  }

  static std::string heading(const bench::MachinesShape& shape, int count) {
    return "d = " + std::to_string(shape.dim) + ", " + std::to_string(count) + (count == 1 ? " rank" : " ranks");
  }

  const bench::MachinesSettings settings_;
  std::optional<Files> files_;
  bench::Progress progress_;
  bench::MachinesResults results_;
};

constexpr const char* program = "machines";

// All ranks read the same words, so that the first speaks for all.
int refuse(const std::string& what, int code) {
  return bench::rank_in(MPI_COMM_WORLD) == 0 ? bench::report_failure(program, what, code) : code;
}

// What one rank alone knows ends the others too.
[[noreturn]] void end_all(const std::string& what, int code) {
  bench::report_failure(program, what, code);
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();
}

int measure_and_print(const bench::MachinesSettings& settings) {
  try {
    Run run(settings);
    run.measure();
    run.finish();
    return 0;
  } catch (const bench::Disagreement& error) {
    end_all(error.what(), 1);
  } catch (const std::bad_alloc&) {
    end_all("not enough memory; --tokens, --heads and --ranks make it smaller", 2);
  } catch (const std::exception& error) {
    end_all(error.what(), 2);
  }
}

int parse_and_run(int count, char** words) {
  CLI::App app{"What does causal attention over ranks cost, and what do they send? Run by mpirun.", program};
  int started = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &started);
  bench::MachinesSettings settings;
  try {
    settings = bench::parse_machines(app, count, words, started);
  } catch (const CLI::Success& help) {
    return bench::rank_in(MPI_COMM_WORLD) == 0 ? app.exit(help) : 0;
  } catch (const std::exception& error) {
    return refuse(error.what(), 2);
  }
  return measure_and_print(settings);
}

}  // namespace

int main(int count, char** words) {
  MPI_Init(&count, &words);
  const int status = parse_and_run(count, words);
  MPI_Finalize();
  return status;
}
