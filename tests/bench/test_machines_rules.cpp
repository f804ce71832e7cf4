// The rules of bench/machines on made-up numbers: what travels, how long the model says it takes, where it says that
// CSQ is faster; and bench/machines itself under mpirun, whose messages are those of the rules.
#include <algorithm>
#include <cmath>

#include "../catch.hpp"
#include "program.hpp"
#include "support/machines_results.hpp"
#include "table.hpp"

namespace {

using bench::Link;
using bench::PieceMechanism;
using bench::Traffic;

// 4 query heads on 2 key heads, d = 16, a summary of 153 features of 17 numbers.
bench::MachinesShape made_shape(bool backward = false) { return {16, 4, 2, 153 * 17, backward}; }

constexpr double means = 8 * 6 * 16;            // bytes: d doubles of 6 heads
constexpr double summaries = 4 * 2 * 153 * 17;  // of 2 key heads

bool near(double value, double expected) { return std::abs(value / expected - 1) < 1e-9; }

// CSQ: 1 µs a token for its own, 1/2 for what others have; softmax: 1 ns a pair without a mask, half of that with one.
bench::MachinesModel made_model() {
  bench::MachinesModel model;
  model.shape = made_shape();
  for (const bench::Index tokens : {100, 1000}) {
    const double n = static_cast<double>(tokens);
    model.pieces[0].push_back({tokens, 1e-6 * n, 0.5e-6 * n});
    model.pieces[1].push_back({tokens, 2e-6 * n, 1e-6 * n});
    model.pieces[2].push_back({tokens, 0.5e-9 * n * n, 1e-9 * n * n});
  }
  return model;
}

}  // namespace

TEST_CASE("messages: whole megabytes and a rest, collectives in rounds") {
  Traffic traffic;
  traffic.add(0);
  CHECK(traffic == Traffic{0, 0});
  traffic.add(100);
  CHECK(traffic == Traffic{1, 100});
  traffic.add(3 * 0x1p20);
  CHECK(traffic == Traffic{2, 100 + 3 * 0x1p20});
  traffic.add(0x1p20 + 1);
  CHECK(traffic.messages == 4);
  Traffic collectives;
  collectives.add_gather(10, 5);
  CHECK(collectives == Traffic{3, 40});
  collectives.add_reduce(4, 5);
  CHECK(collectives == Traffic{6, 52});
  CHECK(bench::rounds_of(1) == 0);
  CHECK(bench::rounds_of(2) == 1);
  CHECK(bench::rounds_of(1000) == 10);
  CHECK(bench::rounds_of(1024) == 10);
}

TEST_CASE("CSQ sends summaries, as many whatever the tokens") {
  // 4 ranks: the agreement is 192 bytes to 3 others and a word in each of 2 rounds.
  const Traffic agreement{4, 192 * 3 + 2 * 4};
  for (const bench::Index tokens : {100, 1000000}) {
    const bench::PieceTraffic traffic(made_shape(), PieceMechanism::csq, {tokens, 4});
    // Ranks 0 and 1 send in both rounds, rank 2 in the first, rank 3 never.
    const Traffic both{agreement.messages + 4, agreement.bytes + 2 * (means + summaries)};
    CHECK(traffic.sent_by(0) == both);
    CHECK(traffic.sent_by(1) == both);
    CHECK(traffic.sent_by(2) == Traffic{agreement.messages + 2, agreement.bytes + means + summaries});
    CHECK(traffic.sent_by(3) == agreement);
    CHECK(traffic.on_path() == both);
    CHECK(bench::busiest_of(traffic, 4) == both);
    CHECK(bench::all_bytes_of(traffic, 4) == 4 * agreement.bytes + 5 * (means + summaries));
  }
  // Gates: 2 doubles to each of 3 others.
  const bench::PieceTraffic gated(made_shape(), PieceMechanism::gated_csq, {100, 4});
  CHECK(gated.on_path() == Traffic{4 + 4 + 2, agreement.bytes + 2 * (means + summaries) + 3 * 16});
  // Backward: the same, and once more each way; the middle ranks send in three of the four rounds both ways.
  const bench::PieceTraffic backward(made_shape(true), PieceMechanism::csq, {100, 4});
  CHECK(backward.on_path() == Traffic{8 + 12, 2 * agreement.bytes + 6 * (means + summaries)});
  CHECK(backward.sent_by(0) == Traffic{8 + 8, 2 * agreement.bytes + 4 * (means + summaries)});
  CHECK(backward.sent_by(1).bytes == 2 * agreement.bytes + 5 * (means + summaries));
  CHECK(backward.sent_by(3).bytes == 2 * agreement.bytes + 2 * (means + summaries));
  // One rank has nobody.
  CHECK(bench::PieceTraffic(made_shape(true), PieceMechanism::gated_csq, {100, 1}).on_path() == Traffic{});
}

TEST_CASE("softmax sends its keys and values to every rank behind") {
  const Traffic agreement{4, 192 * 3 + 2 * 4};
  // 102 tokens: pieces of 25, 26, 25 and 26; 2 heads of 32 floats are 256 bytes a token.
  const bench::EvenPieces pieces{102, 4};
  CHECK(pieces.of(0) == 25);
  CHECK(pieces.of(1) == 26);
  const bench::PieceTraffic forward(made_shape(), PieceMechanism::ring_softmax, pieces);
  CHECK(forward.sent_by(0) == Traffic{4 + 3, agreement.bytes + 3 * 25 * 256});
  CHECK(forward.sent_by(1) == Traffic{4 + 2, agreement.bytes + 2 * 26 * 256});
  CHECK(forward.sent_by(3) == agreement);
  CHECK(forward.on_path() == Traffic{4 + 3, agreement.bytes + (25 + 26 + 25) * 256});
  // Gradients go back to the owners.
  const bench::PieceTraffic backward(made_shape(true), PieceMechanism::ring_softmax, pieces);
  CHECK(backward.sent_by(0) == Traffic{8 + 6, 2 * agreement.bytes + 6 * 25 * 256});
  CHECK(backward.sent_by(3) == Traffic{8 + 3, 2 * agreement.bytes + (25 + 26 + 25) * 256});
  CHECK(backward.on_path() == Traffic{8 + 9, 2 * agreement.bytes + 3 * (25 + 26 + 25) * 256});
}

TEST_CASE("latency and bandwidth are found again") {
  std::vector<bench::LinkSample> samples;
  for (const double bytes : {8.0, 1024.0, 65536.0, 4194304.0}) samples.push_back({bytes, 2e-6 + bytes / 5e9});
  Link link = bench::fit_link(samples);
  CHECK(near(link.latency, 2e-6));
  CHECK(near(link.seconds_a_byte, 1 / 5e9));
  // A long message that takes a tenth longer leaves the latency as it is.
  samples.back().seconds *= 1.1;
  link = bench::fit_link(samples);
  CHECK(std::abs(link.latency / 2e-6 - 1) < 0.02);
  CHECK(link.seconds_a_byte > 1 / 5e9);
  CHECK(near(Link{2e-6, 1e-9}.seconds({3, 1000}), 7e-6));
}

TEST_CASE("compute: the busiest rank, or all of them on the cores that are there") {
  const bench::MachinesModel model = made_model();
  const Link none;
  const auto seconds = [&](PieceMechanism mechanism, bench::Index tokens, int ranks, double reach) {
    return model.time(mechanism, tokens, ranks, none, reach).seconds();
  };
  // Pieces of 1,000 tokens. CSQ: own 1 ms and .5 ms; all together 4 and 3 times that.
  CHECK(near(seconds(PieceMechanism::csq, 4000, 4, 4), 1.5e-3));
  CHECK(near(seconds(PieceMechanism::csq, 4000, 4, 2), 5.5e-3 / 2));
  CHECK(near(seconds(PieceMechanism::gated_csq, 4000, 4, 4), 3e-3));
  // Softmax: half a square and 3 whole ones; all together 4 halves and 6 of 16 squares.
  CHECK(near(seconds(PieceMechanism::ring_softmax, 4000, 4, 4), 3.5e-3));
  CHECK(near(seconds(PieceMechanism::ring_softmax, 4000, 4, 2), 4e-3));
  CHECK(near(seconds(PieceMechanism::ring_softmax, 4000, 4, 1), 8e-3));
  // Between the lengths that were measured, and beyond them either way.
  CHECK(near(seconds(PieceMechanism::csq, 1200, 4, 4), 0.45e-3));
  CHECK(near(seconds(PieceMechanism::ring_softmax, 1200, 4, 4), 3.5e-9 * 300 * 300));
  CHECK(near(seconds(PieceMechanism::csq, 100000000, 1000, 1000), 0.15));
  CHECK(near(seconds(PieceMechanism::ring_softmax, 100000000, 1000, 1000), 999.5 * 1e-9 * 1e10));
  CHECK(near(seconds(PieceMechanism::ring_softmax, 40, 4, 4), 3.5e-9 * 100));
  CHECK(near(seconds(PieceMechanism::csq, 500, 1, 1), 0.5e-3));
}

TEST_CASE("messages are added, each mechanism's own") {
  const bench::MachinesModel model = made_model();
  const Link link{1e-5, 1e-9};
  const Traffic csq = bench::PieceTraffic(model.shape, PieceMechanism::csq, {4000, 4}).on_path();
  const bench::ModelTime time = model.time(PieceMechanism::csq, 4000, 4, link, 4);
  CHECK(near(time.compute, 1.5e-3));
  CHECK(near(time.messages, csq.messages * 1e-5 + csq.bytes * 1e-9));
  CHECK(near(time.messages, 8 * 1e-5 + (584 + 2 * (768 + 20808)) * 1e-9));
}

TEST_CASE("from which length on CSQ is faster") {
  const bench::MachinesModel model = made_model();
  // 8 ranks, pieces of l: 1.5 µs·l against (0.5 + 7) ns·l², so that l = 200.
  const double found = model.crossover(PieceMechanism::csq, 8, {}, 1e8);
  CHECK(found >= 1600);
  CHECK(found < 1600 * 1.03);
  CHECK_FALSE(model.is_at_least_tokens(found, 8));
  // 64 ranks: l = 23.6, shorter than any piece that was measured.
  CHECK(model.is_at_least_tokens(model.crossover(PieceMechanism::csq, 64, {}, 1e8), 64));
  // A latency that no length makes good.
  bench::MachinesModel slow = made_model();
  slow.pieces[0] = {{100, 1e3, 1e3}, {1000, 1e7, 1e7}};
  CHECK(slow.crossover(PieceMechanism::csq, 8, {}, 1e8) == 0);
}

TEST_CASE("efficiency, busy ranks, and the CSV's two kinds of lines") {
  bench::MachinesResults results;
  results.machine.cores = 2;
  results.together = {{1, 100e9, {}}, {2, 190e9, {1e-6, 1e-10}}, {4, 200e9, {1e-6, 1e-10}}};
  bench::MachinesTable table{made_model(), {}, 1e-7};
  const auto add = [&](int ranks, double ms, double peak) {
    const double s = ms * 1e-3;
    table.times.push_back({PieceMechanism::csq, 4000, ranks, {0.95 * s, s, 1.05 * s}, peak, {}, 0});
  };
  add(1, 4, 100e9);
  add(2, 2.5, 190e9);
  add(4, 3, 120e9);
  results.tables.push_back(table);
  CHECK(near(results.efficiency(table, table.times[2]), 4.0 / (4 * 3)));
  CHECK(near(results.reached_efficiency(table, table.times[2]), 4.0 / (2 * 3)));
  CHECK(results.disturbance_of(table.times[1]) == bench::Disturbance::none);
  CHECK(results.disturbance_of(table.times[2]) == bench::Disturbance::peak);
  CHECK(near(results.model_here(table, table.times[2]).compute, 5.5e-3 / 2));

  const std::string csv = bench::csv_of(results);
  const std::vector<std::string> kind = column(csv, "kind"), model = column(csv, "model_ms"),
                                 measured = column(csv, "median_ms"), disturbed = column(csv, "disturbed"),
                                 ranks = column(csv, "ranks");
  REQUIRE(kind.size() == 3 + 27);
  CHECK(std::count(kind.begin(), kind.end(), "extrapolated") == 27);
  for (std::size_t i = 0; i < kind.size(); ++i) {
    CHECK(measured[i].empty() == (kind[i] == "extrapolated"));
    CHECK(model[i].empty() == (ranks[i] == "1"));
  }
  CHECK(disturbed[2] == "peak");
  // 8 ranks, a million tokens: pieces of 125,000.
  CHECK(column(csv, "model_compute_ms")[3] == "187.5");

  results.together[2].peak = 140e9;  // 1.4 times one's, on two cores
  CHECK(results.disturbance_of(table.times[2]) == bench::Disturbance::threads);
  // A piece that is served directly tells nothing of longer ones.
  results.tables[0].model.longest_is_factored = false;
  CHECK(column(bench::csv_of(results), "kind") == std::vector<std::string>(3, "measured"));
}

namespace {

Words on_two_ranks(const Words& more) {
  Words words{CSQ_MPIEXEC, CSQ_MPIEXEC_NUMPROC_FLAG, "2", CSQ_MACHINES, "--dims", "8", "--repeats", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}
// As root too, and with more ranks than cores.
const Environment mpi_environment{{"OMP_NUM_THREADS", "1"},
                                  {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                                  {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                                  {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
                                  {"PRTE_ALLOW_RUN_AS_ROOT", "1"},
                                  {"PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                                  {"PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"}};

}  // namespace

TEST_CASE("machines on two ranks: every time is there, and what is sent is what the model has") {
  for (const bool backward : {false, true}) {
    const TemporaryFolder folder;
    Words words =
        on_two_ranks({"--tokens", "256,3001", "--csv", folder.file("out.csv"), "--json", folder.file("out.json")});
    if (backward) words.push_back("--backward");
    const Finished finished = run(folder, words, mpi_environment);
    INFO(finished.output << finished.error);
    REQUIRE(finished.exit_code == 0);
    CHECK(holds(finished.output, bench::extrapolated_label));
    const std::string csv = contents(folder.file("out.csv"));
    const std::vector<std::string> kind = column(csv, "kind"), ranks = column(csv, "ranks"),
                                   tokens = column(csv, "tokens"), mechanism = column(csv, "mechanism");
    CHECK(std::count(kind.begin(), kind.end(), "measured") == 3 * 2 * 2);
    CHECK(std::count(kind.begin(), kind.end(), "extrapolated") == 27);
    for (const char* name : {"csq", "gated_csq", "ring_softmax"})
      CHECK(std::count(mechanism.begin(), mechanism.end(), name) == 4 + 9);
    for (std::size_t i = 0; i < kind.size(); ++i) {
      INFO(mechanism[i] << ", " << tokens[i] << " tokens, " << ranks[i] << " ranks");
      if (kind[i] != "measured") continue;
      CHECK(std::stod(column(csv, "median_ms")[i]) > 0);
      if (ranks[i] == "1") continue;
      CHECK(std::stod(column(csv, "model_ms")[i]) > 0);
      for (const std::string counted : {"busiest_messages", "busiest_bytes", "all_bytes"})
        CHECK(column(csv, counted)[i] == column(csv, "model_" + counted)[i]);
    }
    nlohmann::json json = nlohmann::json::parse(contents(folder.file("out.json")));
    CHECK(json["tables"][0]["backward"] == backward);
    CHECK(json["tables"][0]["times"].size() == 12);
    CHECK(json["tables"][0]["extrapolated"]["note"] == bench::extrapolated_label);
    CHECK(json["ranks"][1]["latency_us"] > 0);
  }
}

TEST_CASE("machines refuses a wrong argument once, for all ranks") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n");
  struct Wrong {
    Words words;
    std::string message;
  };
  for (const auto& [words, message] :
       std::vector<Wrong>{{{"--ranks", "3"}, "--ranks: 3 is more than the 2 that were started"},
                          {{"--ranks", "0"}, "--ranks: 0 is not between"},
                          {{"--tokens", "63"}, "--tokens: 63 is not between"},
                          {{"--kv-heads", "3"}, "--kv-heads: 3 does not divide --heads 2"},
                          {{"--repeats", "0"}, "--repeats: 0 is not between"},
                          {{"--json", csv}, "--csv and --json name the same file"},
                          {{"--csv", folder.file("missing/new.csv")}, "--csv: "}}) {
    INFO(message);
    Words all{"--csv", csv};
    all.insert(all.end(), words.begin(), words.end());
    const Finished finished = run(folder, on_two_ranks(all), mpi_environment);
    CHECK(finished.exit_code == 2);
    const std::size_t first = finished.error.find("machines: " + message);
    CHECK(first != std::string::npos);
    CHECK(finished.error.find("machines: " + message, first + 1) == std::string::npos);
    CHECK(contents(csv) == "old\n");
  }
}
