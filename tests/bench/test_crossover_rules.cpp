// The rules of bench/crossover on made-up measurements: when a machine is too busy to judge, what is measured again,
// what CSV and JSON say then; which rows are measured; how a file of results takes the place of an old one.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "../catch.hpp"
#include "../temporary_folder.hpp"
#include "program.hpp"
#include "support/result_file.hpp"
#include "support/results.hpp"
#include "support/row_measurement.hpp"

namespace {

using bench::Crossover;
using bench::Disturbance;
using bench::Machine;
using bench::Point;

constexpr double peak = 200e9;

Machine quiet_machine() {
  Machine machine;
  machine.threads = machine.cores = 2;
  machine.peak_one_thread = peak / 2;
  machine.peak_all_threads = machine.best_peak_turn = peak;
  return machine;
}

// Milliseconds; quartiles `scatter` of the median apart.
bench::Quartiles spread(double ms, double scatter) {
  return {ms * 1e-3 * (1 - scatter / 2), ms * 1e-3, ms * 1e-3 * (1 + scatter / 2)};
}

Point point(bench::Index tokens, double softmax_ms, double factored_ms, double scatter = 0.05, double share = 0.95) {
  Point made;
  made.tokens = tokens;
  made.repeats = 9;
  made.seconds = {spread(softmax_ms, scatter), spread(softmax_ms * 0.9, scatter), spread(factored_ms, scatter)};
  made.peak = share * peak;
  return made;
}

// As measured at d = 16 on two quiet cores; crossovers at 242 and 281.
std::vector<Point> quiet_points() {
  return {point(80, 0.0585, 0.155), point(224, 0.271, 0.286), point(256, 0.329, 0.316), point(320, 0.45, 0.37),
          point(8192, 300, 8)};
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

Disturbance judge(const std::vector<Point>& points, const Machine& machine = quiet_machine(),
                  bench::Contestant rival = bench::softmax) {
  return bench::disturbance_of(bench::find_crossover(points, rival), points, rival, machine);
}

}  // namespace

TEST_CASE("on a quiet machine a crossover is given") {
  const std::vector<Point> points = quiet_points();
  const Crossover crossover = bench::find_crossover(points, bench::softmax);
  CHECK(crossover.kind == Crossover::Kind::measured);
  CHECK(std::abs(crossover.tokens - 242) < 3);
  CHECK(judge(points) == Disturbance::none);
  CHECK(judge(points, quiet_machine(), bench::csq_direct) == Disturbance::none);
}

TEST_CASE("two threads with no more peak than one: nothing is judged") {
  Machine machine = quiet_machine();
  machine.peak_one_thread = 203e9, machine.peak_all_threads = 169e9;  // seen beside one busy loop
  CHECK(bench::threads_do_not_help(machine));
  CHECK(judge(quiet_points(), machine) == Disturbance::threads);

  const auto helps = [](int threads, int cores, double speedup) {
    Machine made;
    made.threads = threads, made.cores = cores;
    made.peak_one_thread = 100e9, made.peak_all_threads = speedup * 100e9;
    return !bench::threads_do_not_help(made);
  };
  CHECK(helps(1, 1, 1));
  CHECK(helps(1, 8, 0.9));  // one thread is not asked to be faster than itself
  CHECK_FALSE(helps(2, 2, 1.49));
  CHECK(helps(2, 2, 1.51));
  CHECK(helps(2, 1, 1));  // hyper-threads of one core
  CHECK_FALSE(helps(16, 16, 8.4));
  CHECK(helps(16, 16, 8.6));
  CHECK(helps(16, 8, 4.6));
}

TEST_CASE("a peak that fell while a size was timed, or scattered quartiles, take the number away") {
  for (const std::size_t at : {std::size_t{1}, std::size_t{2}}) {  // those around the crossover
    std::vector<Point> points = quiet_points();
    points[at].peak = (bench::least_peak_share - 0.01) * peak;
    CHECK(judge(points) == Disturbance::peak);
    points[at].peak = (bench::least_peak_share + 0.01) * peak;
    CHECK(judge(points) == Disturbance::none);

    points[at].seconds[bench::csq_factored] = spread(0.3, bench::most_scatter + 0.01);
    CHECK(judge(points) == Disturbance::scatter);
    points[at].seconds[bench::csq_factored] = spread(0.3, bench::most_scatter - 0.01);
    CHECK(judge(points) == Disturbance::none);
  }
}

TEST_CASE("a crossover is judged by what it was read from, and by nothing else") {
  std::vector<Point> points = quiet_points();
  points[0] = point(80, 0.0585, 0.155, 2, 0.2);
  points[4] = point(8192, 300, 8, 2, 0.2);
  CHECK(judge(points) == Disturbance::none);

  // CSQ direct scatters where softmax does not: only the crossover with it is lost.
  points = quiet_points();
  for (Point& made : points)
    made.seconds[bench::csq_direct] = spread(made.seconds[bench::csq_direct].median * 1e3, 0.4);
  CHECK(judge(points) == Disturbance::none);
  CHECK(judge(points, quiet_machine(), bench::csq_direct) == Disturbance::scatter);

  // Never faster, always faster: the largest and the smallest size that was read.
  points = {point(80, 0.05, 0.15, 2), point(4096, 80, 90)};
  CHECK(judge(points) == Disturbance::none);
  points = {point(80, 0.05, 0.15), point(4096, 80, 90, 2)};
  CHECK(judge(points) == Disturbance::scatter);
  points = {point(512, 5, 4, 2), point(4096, 80, 9)};
  CHECK(judge(points) == Disturbance::scatter);
  points = {point(512, 5, 4), point(4096, 80, 9, 2)};
  CHECK(judge(points) == Disturbance::none);

  // Served directly is arithmetic.
  points = {point(80, 0.05, 0.15, 2, 0.1)};
  points[0].served_directly = true;
  CHECK(judge(points) == Disturbance::none);
}

TEST_CASE("what came out disturbed is measured again, and the better measurement stays") {
  std::vector<Point> points = quiet_points();
  CHECK(bench::disturbed_size(points, {8192}, true, peak) == 0);
  points[0].peak = 0.3 * peak;  // decides nothing
  CHECK(bench::disturbed_size(points, {8192}, true, peak) == 0);
  points[2].peak = 0.5 * peak;
  CHECK(bench::disturbed_size(points, {8192}, true, peak) == 256);
  points[4] = point(8192, 300, 8, 2);  // asked for, and worse
  CHECK(bench::disturbed_size(points, {8192}, true, peak) == 8192);
  CHECK(bench::disturbed_size(points, {}, true, peak) == 256);
  CHECK(bench::disturbed_size(points, {}, false, peak) == 0);

  bench::add_point(points, point(256, 9, 9, 0.05, 0.4), peak);  // worse still
  CHECK(std::abs(points[2].median(bench::softmax) - 0.329e-3) < 1e-9);
  bench::add_point(points, point(256, 0.33, 0.31), peak);
  CHECK(std::abs(points[2].median(bench::softmax) - 0.33e-3) < 1e-9);
  bench::add_point(points, point(288, 0.4, 0.34), peak);
  REQUIRE(points.size() == 6);
  CHECK(points[3].tokens == 288);
}

TEST_CASE("CSV and JSON say that the machine was too busy instead of a number") {
  bench::Results results;
  results.machine = quiet_machine();
  results.planned_rows = 2;
  results.rows.push_back({.row = {16, 64, 8, 2, false, false}, .points = quiet_points()});
  using Cells = std::vector<std::string>;
  // Of a line, the cells of these columns.
  const Cells columns{"crossover_softmax",  "crossover_csq_direct", "verdict_softmax",
                      "verdict_csq_direct", "peak_share",           "disturbed"};
  const auto cells_of_line = [&](std::size_t line) {
    std::vector<Cells> lines;
    std::istringstream text(bench::csv_of(results));
    for (std::string whole; std::getline(text, whole);) {
      std::istringstream parts(whole + ",");  // the last cell may be empty
      lines.emplace_back();
      for (std::string cell; std::getline(parts, cell, ',');) lines.back().push_back(cell);
    }
    Cells found;
    for (const std::string& column : columns) {
      const auto at = std::find(lines[0].begin(), lines[0].end(), column);
      REQUIRE(at != lines[0].end());
      found.push_back(lines.at(line).at(static_cast<std::size_t>(at - lines[0].begin())));
    }
    return found;
  };
  CHECK(cells_of_line(1) == Cells{"242", "281", "measured", "measured", "0.95", ""});

  results.rows[0].points[1].peak = 0.5 * peak;
  CHECK(cells_of_line(1) == Cells{"", "281", "too_busy", "measured", "0.95", ""});
  CHECK(cells_of_line(2) == Cells{"", "281", "too_busy", "measured", "0.5", "peak"});
  const nlohmann::json json = nlohmann::json::parse(bench::json_of(results));
  CHECK(json["interrupted"] == true);
  CHECK(json["machine"]["threads_do_not_help"] == false);
  CHECK(json["rows"][0]["value_dim"] == 64);
  CHECK(json["rows"][0]["crossover_softmax"] == nlohmann::json{{"kind", "too_busy"}, {"sign", "peak"}});
  CHECK(json["rows"][0]["crossover_csq_direct"]["kind"] == "measured");
  CHECK(json["rows"][0]["points"][1]["disturbed"] == "peak");

  results.machine.peak_all_threads = 0.9 * results.machine.peak_one_thread;
  CHECK(cells_of_line(1)[2] == "too_busy");
  CHECK(cells_of_line(1)[5] == "threads");
}

TEST_CASE("own tensors have the heads that their files have, unless others are asked for") {
  const auto heads = [](std::optional<bench::Index> query, std::optional<bench::Index> key) {
    bench::CrossoverSettings settings;
    settings.heads = query, settings.kv_heads = key;
    return bench::own_heads(settings, 8, 2);
  };
  using Pair = std::pair<bench::Index, bench::Index>;
  CHECK(heads({}, {}) == Pair{8, 2});
  CHECK(heads({}, 8) == Pair{8, 8});
  CHECK(heads(4, {}) == Pair{4, 2});
  CHECK(heads(16, 4) == Pair{16, 4});
  CHECK(error_of([&] { heads(3, {}); }) == "--k: 2 heads do not divide the 3 heads of --heads");
  CHECK(error_of([&] { heads({}, 3); }) == "--kv-heads: 3 heads do not divide the 8 heads of --q");
}

TEST_CASE("rows: every head size with every value size, the critic's case once") {
  bench::CrossoverSettings settings;
  settings.dims = {32, 16, 32};
  settings.value_dims = {64, 16};
  std::vector<std::string> names;
  for (const bench::Task& task : bench::make_tasks(settings))
    if (!task.row.causal) names.push_back(task.row.name() + (task.search ? "" : ", no search"));
  CHECK(names == std::vector<std::string>{"d = 16, full", "d = 16/64, full", "d = 32/16, full", "d = 32/64, full",
                                          "d = 128, full, no search"});
  settings.dims = {128};
  settings.value_dims = {};
  std::vector<bench::Task> tasks = bench::make_tasks(settings);
  CHECK(tasks.size() == 3);
  CHECK(tasks[0].row.is_critics());
  CHECK(tasks[0].sizes == std::vector<bench::Index>{bench::critic_tokens});
  settings.value_dims = {64};  // another function than the critic's
  tasks = bench::make_tasks(settings);
  CHECK(tasks.size() == 4);
  CHECK(tasks.back().row.is_critics());

  // Small keys, large values: by the count far earlier than d = dᵥ = 64.
  const bench::Row small{16, 64, 8, 8, false, false}, equal{64, 64, 8, 8, false, false};
  CHECK(std::lround(small.model()) == 249);
  CHECK(std::lround(equal.model()) == 2179);
}

TEST_CASE("a file of results takes the place of an old one when it is kept, not before") {
  const TemporaryFolder folder;
  const std::string path = folder.file("r.csv", "old\n"), unfinished = path + ".unfinished";
  {
    bench::ResultFile file("--csv", path);
    file.save("one row\n");
    CHECK(contents(path) == "old\n");
    CHECK(contents(unfinished) == "one row\n");
    CHECK(file.left_behind() == std::filesystem::weakly_canonical(unfinished).string());
    file.save("two rows\n");
    file.keep();
    CHECK(contents(path) == "two rows\n");
    CHECK(file.left_behind().empty());
  }
  CHECK(contents(path) == "two rows\n");
  CHECK_FALSE(std::filesystem::exists(unfinished));
  { bench::ResultFile nothing_measured("--csv", path); }
  CHECK(contents(path) == "two rows\n");
  CHECK_FALSE(std::filesystem::exists(unfinished));
  { bench::ResultFile("--csv", path).save("failed later\n"); }
  CHECK(contents(path) == "two rows\n");
  CHECK(contents(unfinished) == "failed later\n");

  std::filesystem::create_symlink(path, folder.file("link"));
  {
    bench::ResultFile file("--csv", folder.file("link"));
    file.save("through\n");
    file.keep();
  }
  CHECK(std::filesystem::is_symlink(folder.file("link")));
  CHECK(contents(path) == "through\n");

  // Devices stay what they are.
  {
    bench::ResultFile file("--csv", "/dev/null");
    file.save("x");
    file.keep();
  }
  CHECK(std::filesystem::is_character_file("/dev/null"));
  bench::ResultFile full("--json", "/dev/full");
  full.save("x");
  CHECK(error_of([&] { full.keep(); }) == "--json: /dev/full cannot be written: No space left on device");
}
