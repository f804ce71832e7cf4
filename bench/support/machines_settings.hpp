// What bench/machines is asked for: its options, and what is wrong with them.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "machines_traffic.hpp"

namespace bench {

struct MachinesSettings {
  std::vector<Index> tokens, dims;
  Index heads = 2, kv_heads = 0;
  std::vector<int> ranks;
  int repeats = 0;
  bool backward = false, quick = false;
  std::string csv = "machines.csv", json;
};

// `started`: ranks that there are.
inline void check(const MachinesSettings& settings, int started) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto between = [&](const std::string& option, Index value, Index least, Index most) {
    if (value < least || value > most)
      fail(option + ": " + std::to_string(value) + " is not between " + std::to_string(least) + " and " +
           std::to_string(most));
  };
  for (const int ranks : settings.ranks) {
    between("--ranks", ranks, 1, 1 << 20);
    if (ranks > started)
      fail("--ranks: " + std::to_string(ranks) + " is more than the " + std::to_string(started) +
           " that were started (mpirun -n " + std::to_string(ranks) + ")");
  }
  const Index most_ranks = *std::max_element(settings.ranks.begin(), settings.ranks.end());
  for (const Index tokens : settings.tokens)
    between("--tokens", tokens, std::max<Index>(64, 8 * most_ranks), Index{1} << 26);
  for (const Index dim : settings.dims) between("--dims", dim, 1, 512);
  between("--heads", settings.heads, 1, 4096);
  between("--kv-heads", settings.kv_heads, 1, 4096);
  if (settings.heads % settings.kv_heads != 0)
    fail("--kv-heads: " + std::to_string(settings.kv_heads) + " does not divide --heads " +
         std::to_string(settings.heads));
  between("--repeats", settings.repeats, 1, 1000000);
  if (settings.json.empty()) return;
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::weakly_canonical(settings.csv, ignored) == fs::weakly_canonical(settings.json, ignored))
    fail("--csv and --json name the same file");
}

// 1, 2, 4, …, and all.
inline std::vector<int> doubled_ranks(int started) {
  std::vector<int> ranks;
  for (int count = 1; count < started; count *= 2) ranks.push_back(count);
  ranks.push_back(started);
  return ranks;
}

template <class Number>
void sort_once(std::vector<Number>& numbers) {
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
}

// Throws CLI::Success for --help.
inline MachinesSettings parse_machines(CLI::App& app, int count, char** words, int started) {
  MachinesSettings settings;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const auto list = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->delimiter(',')->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  list("--tokens", settings.tokens, "of the whole sequence; 4096,16384,32768 unless given")->type_name("N,N,...");
  list("--ranks", settings.ranks, "that share it; 1, 2, 4, ... and all that are there unless given; 1 always is")
      ->type_name("R,R,...");
  list("--dims", settings.dims, "head sizes d of queries, keys and values; 32,64 unless given")->type_name("D,D,...");
  app.add_option("--heads", settings.heads, "query heads; 2")->type_name("H");
  app.add_option("--kv-heads", settings.kv_heads, "key heads; as many as query heads unless given")->type_name("H");
  app.add_flag("--backward", settings.backward, "forward and backward together");
  app.add_option("--csv", settings.csv, "every measured and every modelled time; machines.csv")->type_name("FILE");
  app.add_option("--json", settings.json, "the same with the machine and the model's numbers")->type_name("FILE");
  app.add_option("--repeats", settings.repeats, "of each call; 5 unless given")->type_name("R");
  app.add_flag("--quick", settings.quick, "a rough answer: head size 32, 2048 to 8192 tokens, 3 repeats");
  app.parse(count, words);
  if (settings.tokens.empty())
    settings.tokens = settings.quick ? std::vector<Index>{2048, 4096, 8192} : std::vector<Index>{4096, 16384, 32768};
  if (settings.dims.empty()) settings.dims = settings.quick ? std::vector<Index>{32} : std::vector<Index>{32, 64};
  if (settings.ranks.empty()) settings.ranks = doubled_ranks(started);
  if (app.get_option("--kv-heads")->empty()) settings.kv_heads = settings.heads;
  if (app.get_option("--repeats")->empty()) settings.repeats = settings.quick ? 3 : 5;
  settings.ranks.push_back(1);
  sort_once(settings.tokens);
  sort_once(settings.dims);
  sort_once(settings.ranks);
  check(settings, started);
  return settings;
}

}  // namespace bench
