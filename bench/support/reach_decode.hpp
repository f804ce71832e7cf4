// roofline's section `decode`: how near decoding is to reading its bytes, whether CSQ's constant state is faster where
// it has fewer bytes to read, and what packing sequences costs. Needs 3 GB.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bandwidth.hpp"
#include "decoding.hpp"
#include "reach.hpp"
#include "timed_call.hpp"

namespace bench {

// Long enough for memory that other calls have driven out of the caches to come back.
inline constexpr double shortest_decode_sample = 0.02;

// Reading so many bytes, as a call.
inline TimedCall read_call(double bytes) {
  auto memory = std::make_shared<csq::Workspace>();
  const auto count = static_cast<std::size_t>(bytes);
  const ReadRun run(std::memset(memory->reserve(count), 1, count), count);
  return {"read", 0, [memory, run] { run(); }, {}};
}

// A few whole blocks of a CSQ stream, and the steps that they are.
inline std::pair<TimedCall, double> csq_steps(const DecodeShape& shape, Index absorbed) {
  const Index steps = steps_of_whole_blocks(absorbed);
  auto decoding = std::make_shared<Decoding<float>>(csq::Csq{}, std::make_shared<const DecodeTokens<float>>(shape),
                                                    csq::StreamOptions{.threads = 1});
  decoding->prefill_to(4 * absorbed);
  const auto count = static_cast<double>(steps);
  return {{"csq", count * csq_step_flops(shape, absorbed), [=] { decoding->step(steps); }, {}}, count};
}

inline void reach_of_steps(int rounds, std::vector<Reach>& rows) {
  const std::string section = "decode: a step of CSQ, 8 query heads on 8 key heads, one thread";
  for (const Index dim : {64, 128}) {
    const DecodeShape shape{dim, dim, 8, 8};
    const Index absorbed = absorbed_tokens(dim);
    auto [step, steps] = csq_steps(shape, absorbed);
    TimedCall read = read_call(csq_read_bytes(shape, absorbed)), peak = peak_call(1);
    time_in_turn({&step, &read, &peak}, rounds, shortest_decode_sample);
    const double of_bandwidth = steps * time_ratio(read, step), of_peak = rate_ratio(step, peak);
    const std::string name = "d " + std::to_string(dim);
    const double none = std::nan("");
    rows.push_back({section, name + "  fraction of the read bandwidth", of_bandwidth, dim == 128 ? 0.80 : none});
    rows.push_back({section, name + "  fraction of the FMA peak", of_peak, none});
    // A state that the caches hold is read as fast as it can be multiplied.
    if (dim == 64)
      rows.push_back(
          {section, name + "  the better one, over .80 and .60", std::max(of_bandwidth / 0.80, of_peak / 0.60), 1});
  }
}

inline void reach_of_one_query(int rounds, std::vector<Reach>& rows) {
  constexpr Index tokens = 4096;
  const DecodeShape shape{128, 128, 32, 8};
  const double bytes = cache_read_bytes(shape, tokens);
  const TimedCall query = timed_call("softmax", csq::Softmax{}, csq::Method::direct, Pass::forward,
                                     {.queries = 1,
                                      .keys = tokens,
                                      .key_dim = shape.key_dim,
                                      .value_dim = shape.value_dim,
                                      .heads = shape.heads,
                                      .kv_heads = shape.kv_heads,
                                      .causal = true},
                                     1);
  TimedCall call = query, read = read_call(bytes);
  time_in_turn({&call, &read}, rounds, shortest_decode_sample);
  rows.push_back({"softmax decode, one call: 1 query, m 4096, 32 query heads on 8 key heads, d 128, one thread",
                  "fraction of the read bandwidth  (" + std::to_string(std::lround(call.seconds() * 1e6)) + " us)",
                  time_ratio(read, call), 0.80});
}

inline void reach_of_decode_crossovers(int rounds, std::vector<Reach>& rows) {
  for (const Index dim : {32, 64, 128})
    for (const Index kv_heads : {8, 2}) {
      const DecodeShape shape{dim, dim, 8, kv_heads};
      const Index absorbed = absorbed_tokens(dim);
      const auto tokens = static_cast<Index>(std::ceil(1.2 * predicted_decode_crossover(shape, absorbed)));
      auto [step, steps] = csq_steps(shape, absorbed);
      constexpr Index few = 16;
      auto cache = std::make_shared<Decoding<float>>(csq::Softmax{}, std::make_shared<const DecodeTokens<float>>(shape),
                                                     csq::StreamOptions{.threads = 1});
      cache->prefill_to(tokens - few);
      TimedCall softmax{"softmax", 0, [=] { cache->step_and_back(few); }, {}};
      time_in_turn({&step, &softmax}, rounds, shortest_decode_sample);
      rows.push_back(
          {"decode: a float cache of 1.2 times as many bytes as CSQ reads, time over CSQ's, one thread",
           "d " + std::to_string(dim) + ", heads " + shape.heads_name() + "  (" + std::to_string(tokens) + " tokens)",
           time_ratio(softmax, step) * steps / static_cast<double>(few), 1});
    }
}

// Sequences of one head, one after another.
class PackedCall {
 public:
  explicit PackedCall(const std::vector<Index>& lengths, Index dim)
      : dim_(dim), inputs_(std::make_shared<Inputs>(dim)) {
    offsets_.push_back(0);
    for (const Index length : lengths) {
      offsets_.push_back(offsets_.back() + length);
      pairs_ += static_cast<double>(length) * static_cast<double>(length + 1) / 2;
    }
    const Index tokens = offsets_.back();
    inputs_->reserve(1, 1, tokens);
    inputs_->reserve_output_gradient(1, tokens);
  }

  // That are visible.
  double pairs() const { return pairs_; }

  // Forward and backward; this object must outlive them.
  template <class Mechanism>
  std::pair<TimedCall, TimedCall> calls(const Mechanism& mechanism, int threads) const {
    csq::Options options{.causal = true, .method = csq::Method::direct, .threads = threads};
    options.query_offsets = options.key_offsets = offsets_;
    const Index tokens = offsets_.back();
    const Operands<float> operands{inputs_->q(1, tokens), inputs_->k(1, tokens), inputs_->v(1, tokens),
                                   inputs_->dout(1, tokens)};
    auto passes = std::make_shared<Passes<float>>();
    // The workspace grows in the calls before those that are timed.
    passes->out.resize(static_cast<std::size_t>(tokens * dim_));
    passes->dv = passes->dk = passes->dq = passes->out;
    passes->normalizer.resize(static_cast<std::size_t>(tokens));
    return {{"forward", 0, [=] { passes->forward(mechanism, operands, options); }, {}},
            {"backward", 0, [=] { passes->backward(mechanism, operands, options); }, {}}};
  }

 private:
  Index dim_;
  std::shared_ptr<Inputs> inputs_;
  std::vector<Index> offsets_;
  double pairs_ = 0;
};

inline void reach_of_packed(int rounds, std::vector<Reach>& rows) {
  constexpr Index dim = 64, sequences = 1000, longest = 2000;
  const int threads = std::min(2, most_threads());
  std::vector<Index> lengths;  // different ones, in no order
  for (Index i = 0; i < sequences; ++i) lengths.push_back(1 + i * 1234567 % longest);
  const PackedCall many(lengths, dim), one({4096}, dim);
  const std::string section =
      "packed: 1000 sequences of 1 to 2000 tokens, time of a visible pair over that in one of 4096, d 64, one head, " +
      std::to_string(threads) + " threads";
  const auto add = [&](const char* name, const auto& mechanism) {
    auto [forward, backward] = many.calls(mechanism, threads);
    auto [one_forward, one_backward] = one.calls(mechanism, threads);
    time_in_turn({&forward, &one_forward}, rounds);
    time_in_turn({&backward, &one_backward}, rounds);
    const double share = one.pairs() / many.pairs();
    rows.push_back(
        {section, std::string(name) + " forward", time_ratio(forward, one_forward) * share, 1.15, std::nan(""), true});
    rows.push_back({section, std::string(name) + " backward", time_ratio(backward, one_backward) * share, 1.15,
                    std::nan(""), true});
  };
  add("softmax", csq::Softmax{});
  add("CSQ direct", csq::Csq{});
}

}  // namespace bench
