// Which rows a run of crossover measures, and on which inputs: your own tensors, the shipped real heads where they fit,
// else random numbers.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "contest.hpp"
#include "crossover_settings.hpp"

namespace bench {

struct Task {
  Row row;
  std::shared_ptr<Inputs> inputs;
  std::vector<Index> sizes;  // measured whatever the search does
  bool search = true;

  // Rough flops of one repeat of everything this row measures.
  double weight() const {
    const auto flops = [&](Index tokens) {
      double sum = 0;
      for (const Contestant contestant : contestants) sum += row.flops(contestant, tokens);
      return sum;
    };
    double sum = search ? 4 * flops(static_cast<Index>(row.model())) : 0;
    for (const Index size : sizes) sum += flops(size);
    return sum;
  }
};

inline constexpr Index default_heads = 8;

// Query heads and key heads of own tensors: those that the files have, unless others were asked for.
inline std::pair<Index, Index> own_heads(const CrossoverSettings& settings, Index query_heads, Index key_heads) {
  const Index heads = settings.heads.value_or(query_heads), kv_heads = settings.kv_heads.value_or(key_heads);
  if (heads % kv_heads != 0)
    throw std::invalid_argument((settings.kv_heads ? "--kv-heads: " : "--k: ") + std::to_string(kv_heads) +
                                " heads do not divide the " + std::to_string(heads) + " heads of " +
                                (settings.heads ? "--heads" : "--q"));
  return {heads, kv_heads};
}

// The inputs of one run, made once for each pair of sizes.
class InputsBySize {
 public:
  explicit InputsBySize(Dtype dtype) : dtype_(dtype) {}

  std::shared_ptr<Inputs> operator()(Index key_dim, Index value_dim) {
    std::shared_ptr<Inputs>& found = inputs_[{key_dim, value_dim}];
    if (found == nullptr && key_dim == 64 && value_dim == 64) {
      const std::string stem = data_folder() + "/byte_lm_softmax_";
      found = std::make_shared<Inputs>(read_triple(stem + "q.npy", stem + "k.npy", stem + "v.npy"),
                                       "real heads of a byte-level language model trained with softmax (bench/data)",
                                       dtype_);
    } else if (found == nullptr) {
      found = std::make_shared<Inputs>(key_dim, value_dim, dtype_);
    }
    return found;
  }

 private:
  Dtype dtype_;
  std::map<std::pair<Index, Index>, std::shared_ptr<Inputs>> inputs_;
};

// Rows of own tensors: as they are, full and causal.
inline std::vector<Task> own_tasks(const CrossoverSettings& settings) {
  const auto name = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  FileTriple files = read_triple(settings.q, settings.k, settings.v);
  const Index key_dim = files.q.dim, value_dim = files.v.dim;
  for (const auto& [option, dim] : {std::pair{"--q", key_dim}, std::pair{"--v", value_dim}})
    if (dim > most_dim)
      throw std::invalid_argument(std::string(option) + ": " + std::to_string(dim) + " is not between 1 and " +
                                  std::to_string(most_dim));
  const auto [heads, kv_heads] = own_heads(settings, files.q.heads, files.k.heads);
  const auto inputs = std::make_shared<Inputs>(
      std::move(files), "your own " + name(settings.q) + ", " + name(settings.k) + ", " + name(settings.v),
      settings.dtype);
  std::vector<Task> tasks;
  for (const bool causal : {false, true})
    if (causal || !settings.causal)
      tasks.push_back({{key_dim, value_dim, heads, kv_heads, causal, settings.backward}, inputs, settings.sizes});
  return tasks;
}

// Each once.
inline std::vector<Index> sorted(std::vector<Index> sizes) {
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

// By rising head size, which is rising cost.
inline std::vector<Task> make_tasks(const CrossoverSettings& settings) {
  std::vector<Task> tasks;
  std::vector<Index> dims = sorted(settings.dims);
  if (settings.has_own_tensors()) {
    tasks = own_tasks(settings);
    const Index own = tasks.front().row.key_dim;
    if (!dims.empty() && std::find(dims.begin(), dims.end(), own) == dims.end())
      throw std::invalid_argument("--dims: " + std::to_string(own) + ", the head size of --q, is not among them");
    dims.erase(std::remove(dims.begin(), dims.end(), own), dims.end());
  } else if (dims.empty()) {
    dims = {16, 32, 64};
    if (!settings.quick) dims.push_back(critic_dim);
  }

  InputsBySize inputs(settings.dtype);
  const Index heads = settings.heads.value_or(default_heads), kv_heads = settings.kv_heads.value_or(heads);
  if (!dims.empty() && heads % kv_heads != 0)
    throw std::invalid_argument("--kv-heads: " + std::to_string(kv_heads) + " does not divide --heads " +
                                std::to_string(heads));
  for (const Index dim : dims) {
    std::vector<Index> value_dims = sorted(settings.value_dims);
    if (value_dims.empty()) value_dims = {dim};
    for (const Index value_dim : value_dims) {
      const auto add = [&](bool causal, Index key_heads) {
        tasks.push_back({{dim, value_dim, heads, key_heads, causal, settings.backward, false, false},
                         inputs(dim, value_dim),
                         settings.sizes});
      };
      if (!settings.causal) add(false, kv_heads);
      add(true, kv_heads);
      if (!settings.kv_heads && heads % 8 == 0) add(true, heads / 8);
    }
  }
  for (Task& task : tasks) {
    task.row.csq_gated = task.row.causal && !settings.gate.empty();
    task.row.softmax_gated = task.row.causal && settings.gate == "all";
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return std::pair(a.row.key_dim, a.row.value_dim) < std::pair(b.row.key_dim, b.row.value_dim);
  });

  // The critic's case is printed whatever was asked for.
  bool there = false;
  for (Task& task : tasks) {
    if (task.row.key_dim == critic_dim) task.sizes.push_back(critic_tokens);
    there = there || task.row.is_critics();
  }
  if (!there) {
    const Row row{critic_dim, critic_dim, heads, heads, false, settings.backward, false, false};
    tasks.push_back({row, inputs(critic_dim, critic_dim), {critic_tokens}, false});
  }
  return tasks;
}

}  // namespace bench
