// What bench/crossover is asked for: its options, and what is wrong with them.
#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dtype.hpp"
#include "threads.hpp"

namespace bench {

struct CrossoverSettings {
  std::vector<Index> dims, value_dims, sizes;
  std::optional<Index> heads, kv_heads;
  Index max_tokens = 32768;
  bool causal = false, backward = false, quick = false;
  int threads = 0, repeats = 0;
  std::optional<double> budget;
  std::string q, k, v, csv = "crossover.csv", json;
  Dtype dtype = Dtype::float32;
  std::string gate;  // empty: none; all: softmax and CSQ; csq: CSQ alone, against plain softmax

  bool has_own_tensors() const { return !q.empty(); }
};

// Beyond these no machine can go; below them no product of sizes overflows.
inline constexpr Index most_dim = 512, most_heads = 4096, most_tokens = Index{1} << 24;
inline constexpr int most_repeats = 1000000;

inline void check(const CrossoverSettings& settings) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto between = [&](const std::string& option, Index value, Index least, Index most) {
    if (value < least || value > most)
      fail(option + ": " + std::to_string(value) + " is not between " + std::to_string(least) + " and " +
           std::to_string(most));
  };
  for (const Index dim : settings.dims) between("--dims", dim, 1, most_dim);
  for (const Index dim : settings.value_dims) between("--value-dim", dim, 1, most_dim);
  for (const Index size : settings.sizes) between("--sizes", size, 1, most_tokens);
  if (settings.heads) between("--heads", *settings.heads, 1, most_heads);
  if (settings.kv_heads) between("--kv-heads", *settings.kv_heads, 1, most_heads);
  between("--max-n", settings.max_tokens, 64, most_tokens);
  between("--repeats", settings.repeats, 0, most_repeats);
  threads_for("--threads", settings.threads);
  if (settings.budget && !(*settings.budget > 0 && std::isfinite(*settings.budget))) {
    std::ostringstream value;
    value << *settings.budget;
    fail("--budget: " + value.str() + " is not a positive number of seconds");
  }
  const int own = !settings.q.empty() + !settings.k.empty() + !settings.v.empty();
  if (own != 0 && own != 3) fail("--q, --k and --v go together");
  if (own != 0 && !settings.value_dims.empty()) fail("--value-dim: your own values have their size");
  if (settings.json.empty()) return;
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::weakly_canonical(settings.csv, ignored) == fs::weakly_canonical(settings.json, ignored))
    fail("--csv and --json name the same file");
}

// Throws CLI::Success for --help.
inline CrossoverSettings parse_crossover(CLI::App& app, int count, char** words) {
  CrossoverSettings settings;
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const auto list = [&](const char* name, std::vector<Index>& value, const char* help) {
    return app.add_option(name, value, help)->delimiter(',')->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  list("--dims", settings.dims, "head sizes d of queries and keys; 16,32,64,128 unless given")->type_name("D,D,...");
  list("--value-dim", settings.value_dims, "sizes dv of the values, each with each head size; dv = d unless given")
      ->type_name("D,D,...");
  app.add_option("--heads", settings.heads, "query heads; 8 unless given, or those of --q; 1 is labelled")
      ->type_name("H");
  app.add_option("--kv-heads", settings.kv_heads,
                 "key heads of every row; unless given, as many as query heads, and a causal row with an eighth, or "
                 "those of --k")
      ->type_name("H");
  app.add_flag("--causal", settings.causal, "causal rows only");
  app.add_option("--gate", settings.gate,
                 "gates of the key heads: all (softmax too) or csq (against plain softmax); causal rows only")
      ->type_name("all|csq")
      ->check(CLI::IsMember({"all", "csq"}));
  std::string dtype = name_of(settings.dtype);
  app.add_option("--dtype", dtype, "of arrays, on both sides; float unless given")->type_name(dtype_choices);
  app.add_flag("--backward", settings.backward, "times forward and backward together");
  app.add_option("--max-n", settings.max_tokens, "longest sequence that is tried; 32768")->type_name("N");
  list("--sizes", settings.sizes, "sizes that every row measures besides its search; 8192 unless given")
      ->type_name("N,N,...");
  app.add_option("--threads", settings.threads, "0 = all; at most one a processor")->type_name("T");
  app.add_option("--q", settings.q, "your own queries, .npy, [heads, tokens, dim] or [tokens, dim]")->type_name("FILE");
  app.add_option("--k", settings.k, "your own keys; their heads divide those of the queries")->type_name("FILE");
  app.add_option("--v", settings.v, "your own values, as many heads and tokens as keys")->type_name("FILE");
  app.add_option("--csv", settings.csv, "every measured size; crossover.csv")->type_name("FILE");
  app.add_option("--json", settings.json, "the same with the machine and the crossovers")->type_name("FILE");
  app.add_option("--repeats", settings.repeats, "per size; unless given, as the time allows")->type_name("R");
  app.add_option("--budget", settings.budget, "seconds to search for; 180 unless given, 400 with --backward")
      ->type_name("S");
  app.add_flag("--quick", settings.quick, "a rough answer in seconds: 3 repeats, head sizes 16, 32, 64");
  app.footer(
      "A summary costs n*d^2*dv/2, so small keys with large values cross far earlier than d = dv:\n"
      "by the count d = 16, dv = 64 at 249 tokens, d = dv = 64 at 2179.");
  app.parse(count, words);
  settings.dtype = dtype_of("--dtype", dtype);
  check(settings);
  settings.threads = threads_for("--threads", settings.threads);
  settings.causal = settings.causal || !settings.gate.empty();
  if (settings.sizes.empty() && !settings.quick && settings.max_tokens >= 8192) settings.sizes = {8192};
  if (!settings.budget) settings.budget = settings.quick ? 30 : settings.backward ? 400 : 180;
  return settings;
}

}  // namespace bench
