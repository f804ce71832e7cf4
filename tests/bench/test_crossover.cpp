// bench/crossover from outside: what it refuses, what it measures of own tensors, what a failed, killed or interrupted
// run leaves behind.
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "../../examples/npy.hpp"
#include "../catch.hpp"
#include "program.hpp"
#include "table.hpp"

namespace {

// A few seconds: one thread, one head, one mask, short sequences. The critic's case comes on top.
Words small_run(const Words& more) {
  Words words{CSQ_CROSSOVER, "--threads", "1",       "--heads", "1",        "--causal", "--dims",    "16",
              "--max-n",     "128",       "--sizes", "64",      "--budget", "1",        "--repeats", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

bool all_are(const std::vector<std::string>& values, const std::string& wanted) {
  return !values.empty() && std::all_of(values.begin(), values.end(), [&](const auto& v) { return v == wanted; });
}

std::string tensor(const TemporaryFolder& folder, const std::string& name, npy::Index heads, npy::Index tokens,
                   npy::Index dim) {
  std::vector<float> values(std::size_t(heads * tokens * dim));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i * 7919 % 1000) / 500 - 1;
  npy::write<float>(folder.file(name), std::vector<npy::Index>{heads, tokens, dim}, values);
  return folder.file(name);
}

std::size_t files_in(const TemporaryFolder& folder) {
  const std::filesystem::directory_iterator files(folder.file(""));
  return std::size_t(std::count_if(begin(files), end(files), [](const auto&) { return true; }));
}

}  // namespace

TEST_CASE("a wrong argument is refused in one line, and no file is touched") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n"), json = folder.file("old.json", "old too\n");
  const std::string q = tensor(folder, "q.npy", 8, 32, 16), k = tensor(folder, "k.npy", 2, 32, 16),
                    v = tensor(folder, "v.npy", 2, 32, 24), three = tensor(folder, "three.npy", 3, 32, 16),
                    wide = tensor(folder, "wide.npy", 2, 32, 600);
  std::filesystem::create_directory(folder.file("folder"));
  folder.file("stdout", "");
  folder.file("stderr", "");
  const std::size_t files = files_in(folder);
  struct Wrong {
    Words words;
    std::string message;
  };
  for (const auto& [words, message] :
       std::vector<Wrong>{{{"--budget", "-3"}, "--budget: -3 is not a positive number of seconds"},
                          {{"--budget", "0"}, "--budget: 0 is not a positive"},
                          {{"--budget", "nan"}, "--budget: nan is not a positive"},
                          {{"--budget", "inf"}, "--budget: inf is not a positive"},
                          {{"--threads", "99999"}, "--threads: 99999 is more than"},
                          {{"--threads", "-1"}, "--threads: -1 is negative"},
                          {{"--repeats", "-1"}, "--repeats: -1"},
                          {{"--heads", "0"}, "--heads: 0"},
                          {{"--heads", "4000000000000000000"}, "--heads: 4000000000000000000"},
                          {{"--kv-heads", "3"}, "--kv-heads: 3 does not divide"},
                          {{"--max-n", "4000000000000000000"}, "--max-n: 4000000000000000000"},
                          {{"--sizes", "64,4000000000000000000"}, "--sizes: 4000000000000000000"},
                          {{"--dims", "0"}, "--dims: 0"},
                          {{"--value-dim", "0"}, "--value-dim: 0"},
                          {{"--value-dim", "513"}, "--value-dim: 513"},
                          {{"--q", q}, "--q, --k and --v go together"},
                          {{"--q", q, "--k", three, "--v", three}, "--k: 3 heads do not divide the 8 heads of --q"},
                          {{"--q", q, "--k", k, "--v", v, "--value-dim", "32"}, "--value-dim"},
                          {{"--q", q, "--k", k, "--v", v, "--dims", "32"}, "--dims"},
                          {{"--q", q, "--k", k, "--v", wide}, "--v: 600"},
                          {{"--csv", ""}, "--csv"},
                          {{"--csv", folder.file("folder")}, "--csv: "},
                          {{"--csv", folder.file("missing/new.csv")}, "--csv: "},
                          {{"--json", folder.file("folder")}, "--json: "},
                          {{"--csv", json}, "--csv and --json name the same file"},
                          {{"--dtype", "double"}, "--dtype: 'double' is none of float|bfloat16|float16"},
                          {{"--nonsense"}, "--nonsense"}}) {
    INFO(message);
    Words all{CSQ_CROSSOVER, "--max-n", "64", "--csv", csv, "--json", json};
    all.insert(all.end(), words.begin(), words.end());
    const Finished finished = run(folder, all);
    CHECK(finished.exit_code == 2);
    CHECK(finished.output.empty());
    CHECK(holds(finished.error, message));
    CHECK(std::count(finished.error.begin(), finished.error.end(), '\n') == 1);
    CHECK(contents(csv) == "old\n");
    CHECK(contents(json) == "old too\n");
    CHECK(files_in(folder) == files);
  }
}

TEST_CASE("own tensors are measured with the heads that they have") {
  const TemporaryFolder folder;
  const std::string q = tensor(folder, "q.npy", 8, 96, 16), k = tensor(folder, "k.npy", 2, 96, 16),
                    v = tensor(folder, "v.npy", 2, 96, 24);
  const Words own{CSQ_CROSSOVER,
                  "--q",
                  q,
                  "--k",
                  k,
                  "--v",
                  v,
                  "--threads",
                  "1",
                  "--max-n",
                  "128",
                  "--sizes",
                  "64",
                  "--budget",
                  "1",
                  "--repeats",
                  "1",
                  "--csv",
                  folder.file("own.csv")};
  const Finished finished = run(folder, own);
  INFO(finished.error);
  REQUIRE(finished.exit_code == 0);
  const std::string csv = contents(folder.file("own.csv"));
  const std::vector<std::string> dims = column(csv, "head_dim"), heads = column(csv, "heads"),
                                 kv_heads = column(csv, "kv_heads"), value_dims = column(csv, "value_dim"),
                                 causal = column(csv, "causal");
  std::size_t masks[2] = {};
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == "128") continue;  // the critic's case
    CHECK(dims[i] == "16");
    CHECK(value_dims[i] == "24");
    CHECK(heads[i] == "8");
    CHECK(kv_heads[i] == "2");
    ++masks[causal[i] == "1"];
  }
  CHECK(masks[0] > 0);
  CHECK(masks[1] > 0);
  CHECK(holds(finished.output, " 8/2 "));
  CHECK(!holds(finished.output, "heads repeat"));

  Words repeated = own;
  repeated.insert(repeated.end(), {"--kv-heads", "8", "--causal"});
  const Finished forced = run(folder, repeated);
  REQUIRE(forced.exit_code == 0);
  CHECK(holds(forced.output, " 8/8 "));
  CHECK(holds(forced.output, "heads repeat"));
}

TEST_CASE("--value-dim is measured, and is in the table, the CSV and the JSON") {
  const TemporaryFolder folder;
  const Finished finished =
      run(folder, small_run({"--value-dim", "16,64", "--csv", folder.file("out.csv"), "--json", folder.file("j")}));
  INFO(finished.error);
  REQUIRE(finished.exit_code == 0);
  CHECK(holds(finished.output, " 16/64 "));
  const std::vector<std::string> sizes = column(contents(folder.file("out.csv")), "value_dim");
  CHECK(std::count(sizes.begin(), sizes.end(), "64") > 0);
  CHECK(std::count(sizes.begin(), sizes.end(), "16") > 0);
  const nlohmann::json json = nlohmann::json::parse(contents(folder.file("j")));
  CHECK(json["rows"][0]["value_dim"] == 16);
  CHECK(json["rows"][1]["value_dim"] == 64);
  CHECK(holds(run(folder, {CSQ_CROSSOVER, "--help"}).output, "--value-dim"));
}

TEST_CASE("--dtype is of every row, and in the table, the CSV and the JSON") {
  for (const std::string dtype : {"float16", "bfloat16"}) {
    INFO(dtype);
    const TemporaryFolder folder;
    const std::string csv = folder.file("out.csv"), json = folder.file("j");
    const Finished finished = run(folder, small_run({"--dtype", dtype, "--backward", "--csv", csv, "--json", json}));
    INFO(finished.error);
    REQUIRE(finished.exit_code == 0);
    CHECK(holds(finished.output, "forward and backward, " + dtype));
    CHECK(all_are(column(contents(csv), "dtype"), dtype));
    CHECK(nlohmann::json::parse(contents(json))["dtype"] == dtype);
  }
}

TEST_CASE("an old CSV and JSON survive a run that fails or is killed") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n"), json = folder.file("old.json", "old too\n");
  // 16 TB of queries, once the first row is measured.
  const Finished failed = run(folder, small_run({"--sizes", "64,16777216", "--dims", "512", "--heads", "512", "--csv",
                                                 csv, "--json", json, "--max-n", "64"}));
  CHECK(failed.exit_code == 2);
  CHECK(holds(failed.error, "not enough memory"));
  CHECK(contents(csv) == "old\n");
  CHECK(contents(json) == "old too\n");

  Program killed(folder, small_run({"--csv", csv, "--json", json, "--max-n", "4096", "--budget", "60"}));
  REQUIRE(killed.wait_until([&] { return killed.error_so_far().find("1/") != std::string::npos; }));
  killed.signal(SIGKILL);
  CHECK(killed.finish().exit_code == 128 + SIGKILL);
  CHECK(contents(csv) == "old\n");
  CHECK(contents(json) == "old too\n");
}

TEST_CASE("an interrupted run keeps its finished rows") {
  for (const int number : {SIGINT, SIGTERM}) {
    const TemporaryFolder folder;
    const std::string csv = folder.file("new.csv"), json = folder.file("new.json");
    Program program(
        folder, {CSQ_CROSSOVER, "--threads", "1", "--dims", "16,64", "--budget", "60", "--csv", csv, "--json", json});
    REQUIRE(program.wait_until([&] { return program.error_so_far().find("3/") != std::string::npos; }));
    program.signal(number);
    const Finished finished = program.finish();
    INFO(finished.error);
    CHECK(finished.exit_code == 128 + number);
    CHECK(holds(finished.output, "interrupted"));
    CHECK(holds(finished.output, "full     8/8"));
    CHECK(all_are(column(contents(csv), "head_dim"), "16"));
    const nlohmann::json result = nlohmann::json::parse(contents(json));
    CHECK(result["interrupted"] == true);
    CHECK(result["rows"].size() == 2);
    CHECK(files_in(folder) == 4);  // no temporary is left
  }
}

TEST_CASE("interrupted before a row is finished, a run writes nothing") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n");
  Program program(folder, {CSQ_CROSSOVER, "--csv", csv});
  REQUIRE(program.wait_until([&] { return program.error_so_far().find("checking") != std::string::npos; }));
  program.signal(SIGINT);
  const Finished finished = program.finish();
  CHECK(finished.exit_code == 128 + SIGINT);
  CHECK(finished.output.empty());
  CHECK(holds(finished.error, "interrupted before a row was finished"));
  CHECK(contents(csv) == "old\n");
  CHECK(files_in(folder) == 3);
}

TEST_CASE("waiting threads sleep, whatever the caller's environment") {
  // The program starts itself again with the policy that the OpenMP run time reads before main.
  const TemporaryFolder folder;
  Program program(folder, {CSQ_CROSSOVER, "--dims", "16", "--csv", folder.file("csv")});
  REQUIRE(program.wait_until([&] { return program.error_so_far().find("checking") != std::string::npos; }));
  const std::string variables = contents("/proc/" + std::to_string(program.id()) + "/environ");
  CHECK(holds(variables, "OMP_WAIT_POLICY=passive"));
}
