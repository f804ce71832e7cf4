// Causal key-value retrieval, the toy task of the paper's §10:
//
//   k₁ v₁ … k_P v_P  q₁ a₁ … q_P a_P        4·P tokens; P = 16 pairs make 64
//
// Keys are distinct ids 1 … 48, values ids 49 … 96, each drawn afresh for every sequence (values may repeat); the
// queries are the keys in a random order, aᵢ the value of qᵢ. The loss is taken where a query predicts its answer:
// targets hold aᵢ at the position of qᵢ and −1 elsewhere.
#pragma once

#include <numeric>

#include "training.hpp"

namespace paper {

struct RetrievalTask {
  Index pairs = 16, keys = 48, values = 48;

  Index vocabulary() const { return 1 + keys + values; }  // id 0 is not used
  Index length() const { return 4 * pairs; }
};

// The first `count` entries become a uniformly random choice of all (Fisher and Yates, cut after `count`).
inline void shuffle_front(std::vector<Index>& ids, Index count, std::uint64_t stream, std::uint64_t first_counter) {
  for (Index i = 0; i < count; ++i) {
    const Index left = static_cast<Index>(ids.size()) - i;
    const Index chosen = i + random_index(stream, first_counter + static_cast<std::uint64_t>(i), left);
    std::swap(ids[static_cast<std::size_t>(i)], ids[static_cast<std::size_t>(chosen)]);
  }
}

// Batch `number` of a stream of batches: the same whatever was drawn before.
inline Batch draw_retrieval_batch(const RetrievalTask& task, Index sequences, std::uint64_t stream,
                                  std::uint64_t number) {
  const std::uint64_t batch_stream = random_stream(stream, number);
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  Batch batch{sequences, task.length(), {}, {}};
  batch.tokens.resize(at(sequences * task.length()));
  batch.targets.assign(batch.tokens.size(), -1);
  std::vector<Index> keys(at(task.keys)), order(at(task.pairs)), values(at(task.pairs));
  for (Index s = 0; s < sequences; ++s) {
    const std::uint64_t counter = static_cast<std::uint64_t>(3 * s * task.pairs);
    const auto pairs = static_cast<std::uint64_t>(task.pairs);
    std::iota(keys.begin(), keys.end(), Index{1});
    std::iota(order.begin(), order.end(), Index{0});
    shuffle_front(keys, task.pairs, batch_stream, counter);
    shuffle_front(order, task.pairs, batch_stream, counter + pairs);
    Index* const tokens = batch.tokens.data() + s * task.length();
    Index* const targets = batch.targets.data() + s * task.length();
    for (Index i = 0; i < task.pairs; ++i) {
      values[at(i)] =
          1 + task.keys + random_index(batch_stream, counter + 2 * pairs + static_cast<std::uint64_t>(i), task.values);
      tokens[2 * i] = keys[at(i)];
      tokens[2 * i + 1] = values[at(i)];
    }
    for (Index i = 0; i < task.pairs; ++i) {
      const Index query = 2 * (task.pairs + i);
      tokens[query] = keys[at(order[at(i)])];
      tokens[query + 1] = targets[query] = values[at(order[at(i)])];
    }
  }
  return batch;
}

}  // namespace paper
