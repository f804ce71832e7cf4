// What bench/decode is asked for: its options, and what is wrong with them.
#pragma once

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode_bytes.hpp"
#include "dtype.hpp"
#include "threads.hpp"

namespace bench {

struct DecodeSettings {
  std::vector<Index> dims, kv_heads;
  Index heads = 8;
  Index max_context = Index{1} << 20;
  Dtype dtype = Dtype::float32;
  int threads = 1, repeats = 0;
  std::optional<double> memory;  // GB that a softmax cache may take
  bool quick = false;
  std::string csv = "decode.csv", json;

  double cache_limit() const { return *memory * 1e9; }
};

// Bytes that this process may use, of the machine or of its control group.
inline double machine_memory() {
  double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    if (double limit = 0; file >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

inline void check(const DecodeSettings& settings) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto between = [&](const std::string& option, Index value, Index least, Index most) {
    if (value < least || value > most)
      fail(option + ": " + std::to_string(value) + " is not between " + std::to_string(least) + " and " +
           std::to_string(most));
  };
  for (const Index dim : settings.dims) between("--dims", dim, 1, 512);
  between("--heads", settings.heads, 1, 4096);
  for (const Index kv_heads : settings.kv_heads) {
    between("--kv-heads", kv_heads, 1, 4096);
    if (settings.heads % kv_heads != 0)
      fail("--kv-heads: " + std::to_string(kv_heads) + " does not divide --heads " + std::to_string(settings.heads));
  }
  between("--max-context", settings.max_context, 1024, Index{1} << 24);
  between("--repeats", settings.repeats, 0, 1000000);
  threads_for("--threads", settings.threads);
  if (settings.memory && !(*settings.memory > 0 && std::isfinite(*settings.memory))) {
    std::ostringstream value;
    value << *settings.memory;
    fail("--memory: " + value.str() + " is not a positive number of GB");
  }
  if (settings.json.empty()) return;
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::weakly_canonical(settings.csv, ignored) == fs::weakly_canonical(settings.json, ignored))
    fail("--csv and --json name the same file");
}

// Throws CLI::Success for --help.
inline DecodeSettings parse_decode(CLI::App& app, int count, char** words) {
  DecodeSettings settings;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const auto list = [&](const char* name, std::vector<Index>& value, const char* help) {
    return app.add_option(name, value, help)->delimiter(',')->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  list("--dims", settings.dims, "head sizes d of queries, keys and values; 32,64,128 unless given")
      ->type_name("D,D,...");
  app.add_option("--heads", settings.heads, "query heads; 8")->type_name("H");
  list("--kv-heads", settings.kv_heads, "key heads, each a table; as many as query heads and a quarter unless given")
      ->type_name("H,H,...");
  app.add_option("--max-context", settings.max_context, "longest context in tokens; 1048576")->type_name("N");
  app.add_option("--memory", settings.memory,
                 "GB that a softmax cache may take, longer contexts are left out; a quarter of the machine's memory "
                 "unless given")
      ->type_name("GB");
  std::string dtype = name_of(settings.dtype);
  app.add_option("--dtype", dtype, "of tokens and caches; float unless given")->type_name(dtype_choices);
  app.add_option("--threads", settings.threads, "0 = all; 1 unless given")->type_name("T");
  app.add_option("--csv", settings.csv, "every measured context; decode.csv")->type_name("FILE");
  app.add_option("--json", settings.json, "the same with the machine and the crossovers")->type_name("FILE");
  app.add_option("--repeats", settings.repeats, "samples of each number; 5 unless given")->type_name("R");
  app.add_flag("--quick", settings.quick, "a rough answer: head sizes 32 and 64, contexts to 16384, 3 repeats");
  app.parse(count, words);
  settings.dtype = dtype_of("--dtype", dtype);
  check(settings);
  settings.threads = threads_for("--threads", settings.threads);
  if (settings.dims.empty())
    settings.dims = settings.quick ? std::vector<Index>{32, 64} : std::vector<Index>{32, 64, 128};
  if (settings.quick && app.get_option("--max-context")->empty()) settings.max_context = 16384;
  if (settings.repeats == 0) settings.repeats = settings.quick ? 3 : 5;
  if (settings.kv_heads.empty()) {
    settings.kv_heads = {settings.heads};
    if (settings.heads % 4 == 0) settings.kv_heads.push_back(settings.heads / 4);
  }
  if (!settings.memory) settings.memory = machine_memory() / 4 / 1e9;
  return settings;
}

}  // namespace bench
