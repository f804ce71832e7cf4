// bench/decode from outside: what it refuses, what its files hold, what a limit of memory and an interruption leave.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "program.hpp"
#include "table.hpp"

namespace {

// A second: small heads, short contexts.
Words small_run(const TemporaryFolder& folder, const Words& more = {}) {
  Words words{CSQ_DECODE,
              "--dims",
              "16",
              "--max-context",
              "2048",
              "--repeats",
              "2",
              "--csv",
              folder.file("out.csv"),
              "--json",
              folder.file("out.json")};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE("a wrong argument is refused in one line, and no file is touched") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n"), json = folder.file("old.json", "old too\n");
  struct Wrong {
    Words words;
    std::string message;
  };
  for (const auto& [words, message] :
       std::vector<Wrong>{{{"--dims", "0"}, "--dims: 0 is not between"},
                          {{"--dims", "32,513"}, "--dims: 513"},
                          {{"--heads", "0"}, "--heads: 0"},
                          {{"--kv-heads", "3"}, "--kv-heads: 3 does not divide --heads 8"},
                          {{"--kv-heads", "0"}, "--kv-heads: 0"},
                          {{"--max-context", "1023"}, "--max-context: 1023"},
                          {{"--max-context", "4000000000000000000"}, "--max-context: 4000000000000000000"},
                          {{"--repeats", "-1"}, "--repeats: -1"},
                          {{"--threads", "99999"}, "--threads: 99999 is more than"},
                          {{"--threads", "-1"}, "--threads: -1 is negative"},
                          {{"--memory", "0"}, "--memory: 0 is not a positive number of GB"},
                          {{"--memory", "nan"}, "--memory: nan"},
                          {{"--memory", "1e-5"}, "--memory: too little for a cache of 128 tokens"},
                          {{"--csv", ""}, "--csv"},
                          {{"--csv", folder.file("missing/new.csv")}, "--csv: "},
                          {{"--csv", json}, "--csv and --json name the same file"},
                          {{"--dtype", "double"}, "--dtype: 'double' is none of float|bfloat16|float16"},
                          {{"--nonsense"}, "--nonsense"}}) {
    INFO(message);
    Words all{CSQ_DECODE, "--csv", csv, "--json", json};
    all.insert(all.end(), words.begin(), words.end());
    const Finished finished = run(folder, all);
    CHECK(finished.exit_code == 2);
    CHECK(finished.output.empty());
    CHECK(holds(finished.error, message));
    CHECK(contents(csv) == "old\n");
    CHECK(contents(json) == "old too\n");
  }
}

TEST_CASE("every context is in the table, the CSV and the JSON") {
  const TemporaryFolder folder;
  const Finished finished = run(folder, small_run(folder));
  INFO(finished.error);
  REQUIRE(finished.exit_code == 0);
  CHECK(holds(finished.output, "d = 16, 8 query heads on 8 key heads"));
  CHECK(holds(finished.output, "d = 16, 8 query heads on 2 key heads"));

  const std::string csv = contents(folder.file("out.csv"));
  const std::vector<std::string> contexts = column(csv, "context"), kv_heads = column(csv, "kv_heads");
  CHECK(contexts == std::vector<std::string>{"128", "256", "512", "1024", "2048", "128", "256", "512", "1024", "2048"});
  CHECK(std::count(kv_heads.begin(), kv_heads.end(), "2") == 5);
  for (const char* series : {"softmax_stream", "softmax_call", "csq", "gated_csq"})
    for (const std::string& value : column(csv, std::string(series) + "_median_us")) CHECK(std::stod(value) > 0);
  const std::vector<std::string> window = column(csv, "softmax_window_median_us");
  CHECK(window[0].empty());  // not full
  CHECK_FALSE(window[3].empty());

  const nlohmann::json json = nlohmann::json::parse(contents(folder.file("out.json")));
  CHECK(json["interrupted"] == false);
  REQUIRE(json["rows"].size() == 2);
  const nlohmann::json& row = json["rows"][0];
  CHECK(row["head_dim"] == 16);
  CHECK(row["contexts"].size() == 5);
  CHECK(row["csq"]["state_bytes"] > row["csq"]["read_bytes"]);
  CHECK(row["csq"]["behind_a_long_context"]["context"] == 2048);
  CHECK(row["contexts"][4]["cache_bytes"] == 2048 * 8 * (16 + 16) * 4);
}

TEST_CASE("--dtype is of every row, and in the table, the CSV and the JSON") {
  for (const std::string dtype : {"float16", "bfloat16"}) {
    INFO(dtype);
    const TemporaryFolder folder;
    const Finished finished = run(folder, small_run(folder, {"--dtype", dtype, "--kv-heads", "8"}));
    INFO(finished.error);
    REQUIRE(finished.exit_code == 0);
    CHECK(holds(finished.output, "timed       " + dtype));
    CHECK(holds(finished.output, "faster than with a cache of " + dtype));
    const std::string csv = contents(folder.file("out.csv"));
    for (const std::string& cell : column(csv, "dtype")) CHECK(cell == dtype);
    const std::vector<std::string> contexts = column(csv, "context"), bytes = column(csv, "cache_bytes");
    for (std::size_t i = 0; i < contexts.size(); ++i)
      CHECK(std::stol(bytes[i]) == 2 * 8 * (16 + 16) * std::stol(contexts[i]));
    CHECK(nlohmann::json::parse(contents(folder.file("out.json")))["dtype"] == dtype);
  }
}

TEST_CASE("a cache beyond the limit of memory ends its series, which is said") {
  const TemporaryFolder folder;
  // 1 MB: 1,024 tokens of 8 key heads are 1.05 MB.
  const Finished finished = run(folder, small_run(folder, {"--kv-heads", "8", "--memory", "0.001"}));
  INFO(finished.error);
  REQUIRE(finished.exit_code == 0);
  CHECK(holds(finished.output, "1024           left out: its cache, 1.0 MB, is beyond the limit of 1.0 MB (--memory)"));
  CHECK(column(contents(folder.file("out.csv")), "context") == std::vector<std::string>{"128", "256", "512"});
  const nlohmann::json json = nlohmann::json::parse(contents(folder.file("out.json")));
  CHECK(json["rows"][0]["left_out_from_context"] == 1024);
}

TEST_CASE("an interrupted run keeps its finished rows, or writes nothing") {
  const TemporaryFolder folder;
  const std::string csv = folder.file("old.csv", "old\n");
  Program early(folder, {CSQ_DECODE, "--dims", "64", "--csv", csv});
  REQUIRE(early.wait_until([&] { return holds(early.error_so_far(), "1/"); }));
  early.signal(SIGINT);
  const Finished nothing = early.finish();
  CHECK(nothing.exit_code == 128 + SIGINT);
  CHECK(nothing.output.empty());
  CHECK(holds(nothing.error, "interrupted before a row was finished"));
  CHECK(contents(csv) == "old\n");

  Program late(folder, {CSQ_DECODE, "--dims", "16,64", "--max-context", "1024", "--repeats", "2", "--csv", csv});
  REQUIRE(late.wait_until([&] { return holds(late.error_so_far(), "3/"); }));
  late.signal(SIGTERM);
  const Finished finished = late.finish();
  CHECK(finished.exit_code == 128 + SIGTERM);
  CHECK(holds(finished.output, "interrupted"));
  const std::vector<std::string> dims = column(contents(csv), "head_dim");
  CHECK(dims == std::vector<std::string>(8, "16"));
}
