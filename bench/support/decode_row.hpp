// What one shape costs a token when it decodes, against the context: measures one table of decode.
//
// A CSQ stream's state, and a window's, is the same whatever came before: each is measured once, and once more behind a
// long context, as a check. A softmax stream's cache has to be filled: by prefill, which costs O(n²·d), up to 16,384
// tokens. Beyond that, and up to there too so that both can be compared, one query calls attention over n keys that
// stand in memory already: what a step of such a stream does, without its bookkeeping.
//
// State and cache are of one layer, and stay in whichever cache of the processor holds them.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bandwidth.hpp"
#include "contest.hpp"
#include "decoding.hpp"
#include "progress.hpp"
#include "search.hpp"
#include "turns.hpp"

namespace bench {

inline constexpr Index decode_window = 1024;
inline constexpr Index shortest_context = 128;  // small heads cross below 1,024 tokens
inline constexpr Index most_prefilled = 16384;
inline constexpr Index back_and_forth = 16;  // steps that are taken back: as many as a stream allows unless asked

// Streams whose cost a token does not depend on the context; the window's from as many tokens on.
enum FlatSeries { csq_stream, gated_csq_stream, window_stream };
inline constexpr std::array<FlatSeries, 3> flat_series = {csq_stream, gated_csq_stream, window_stream};
inline constexpr std::array<const char*, 3> flat_names = {"CSQ", "gated CSQ", "softmax, window 1024"};

struct FlatResult {
  double state_bytes = 0;  // in memory, two summaries among them where a stream can go back
  double read_bytes = 0;   // a token, at least
  Timing step, step_after_long, read;

  double of_bandwidth() const { return read.seconds.median / step.seconds.median; }
  double bandwidth() const { return read_bytes / read.seconds.median; }
};

struct ContextResult {
  Index tokens = 0;
  double read_bytes = 0;  // a token: the cache
  Timing stream;          // up to most_prefilled
  Timing call, read;

  // A step of the stream where there is one, else the call.
  const Timing& softmax() const { return stream.measured() ? stream : call; }
  double of_bandwidth(const Timing& timing) const { return read.seconds.median / timing.seconds.median; }
  double bandwidth() const { return read_bytes / read.seconds.median; }
};

struct DecodeRow {
  DecodeShape shape;
  Index absorbed = 0;      // W
  Index long_context = 0;  // of step_after_long
  std::array<FlatResult, 3> flat{};
  std::vector<ContextResult> contexts;  // rising
  Index left_out = 0;                   // the first context whose cache is beyond the limit; 0: none
  double largest_error = 0;             // of a step against one call of attention

  double predicted() const { return predicted_decode_crossover(shape, absorbed); }
};

// The contexts as points of search.hpp: softmax's cache against a stream of CSQ.
inline std::vector<Point> crossover_points(const DecodeRow& row, FlatSeries series) {
  std::vector<Point> points;
  const Timing& csq = row.flat[series].step;
  for (const ContextResult& context : row.contexts) {
    const Timing& cache = context.softmax();
    Point point{.tokens = context.tokens, .repeats = cache.repeats};
    point.seconds = {cache.seconds, cache.seconds, csq.seconds};
    point.peak = std::min(cache.peak, csq.peak);
    points.push_back(point);
  }
  return points;
}
inline Crossover decode_crossover(const DecodeRow& row, FlatSeries series) {
  return find_crossover(crossover_points(row, series), softmax);
}
inline Disturbance decode_disturbance(const DecodeRow& row, FlatSeries series, const Machine& machine) {
  return disturbance_of(decode_crossover(row, series), crossover_points(row, series), softmax, machine);
}
// The sign that a number shows of itself.
inline Disturbance disturbance_of(const Timing& timing, const Machine& machine) {
  Point point;
  point.seconds = {timing.seconds, timing.seconds, timing.seconds};
  point.peak = timing.peak;
  return disturbance_of(point, softmax, machine);
}

// Memory that keys and values are read from, beginning with a cache line as a stream's does: normal random numbers,
// repeated. It is filled once.
template <class Element>
class DecodeMemory {
 public:
  const Element* at_least(double bytes) {
    const auto count = static_cast<std::size_t>(bytes / sizeof(Element)) + 64 / sizeof(Element);
    if (count <= count_) return numbers_;
    numbers_ = reinterpret_cast<Element*>(memory_.reserve(count * sizeof(Element)));
    count_ = count;
    // No divisor of any row's size, so that rows differ.
    const std::size_t some = std::min<std::size_t>(count, 1000003);
    NormalNumbers source(7);
    for (std::size_t i = 0; i < some; ++i) numbers_[i] = static_cast<Element>(source.next()[0]);
    for (std::size_t at = some; at < count; at += some) {
      stop_if_asked();
      std::copy_n(numbers_, std::min(some, count - at), numbers_ + at);
    }
    return numbers_;
  }

 private:
  csq::Workspace memory_;
  Element* numbers_ = nullptr;
  std::size_t count_ = 0;
};

template <class Element>
class DecodeMeasurement {
 public:
  DecodeMeasurement(const DecodeShape& shape, Index max_context, double cache_limit, int threads, std::string heading,
                    PeakWatch& watch, Progress& progress, DecodeMemory<Element>& memory)
      : tokens_(std::make_shared<const DecodeTokens<Element>>(shape)),
        threads_(threads),
        heading_(std::move(heading)),
        watch_(watch),
        progress_(progress) {
    row_.shape = shape;
    row_.absorbed = absorbed_tokens(shape.key_dim);
    row_.long_context = std::min(max_context, most_prefilled);
    double most_bytes = csq_read_bytes(shape, row_.absorbed);
    for (Index tokens = shortest_context; tokens <= max_context; tokens *= 2) {
      ContextResult context;
      context.tokens = tokens;
      context.read_bytes = cache_read_bytes(shape, tokens);
      if (context.read_bytes > cache_limit) {
        row_.left_out = tokens;
        break;
      }
      row_.contexts.push_back(context);
      most_bytes = std::max(most_bytes, context.read_bytes);
    }
    if (row_.contexts.empty())
      throw std::invalid_argument("--memory: too little for a cache of " + std::to_string(shortest_context) +
                                  " tokens at " + shape.name());
    progress.show(heading_, "filling memory");
    memory_ = memory.at_least(std::max(most_bytes, cache_read_bytes(shape, decode_window)));
  }

  DecodeRow measure(int repeats) {
    check_steps();
    add_flat_series();
    add_softmax_streams();
    add_calls();
    std::vector<Turn*> turns;
    for (Planned& planned : planned_) turns.push_back(&planned.turn);
    Turns(watch_, [&](const std::string& name) { progress_.show(heading_, name); }).measure(turns, repeats);
    for (const Planned& planned : planned_) *planned.result = planned.turn.timing;
    return row_;
  }

 private:
  struct Planned {
    Turn turn;
    Timing* result;
  };

  void plan(Timing& result, const std::string& name, double tokens, std::function<void()> run) {
    planned_.push_back({{name, std::move(run), tokens, {}}, &result});
  }
  void plan_read(Timing& result, const std::string& name, double bytes) {
    plan(result, name + ": bandwidth", 1, ReadRun(memory_, static_cast<std::size_t>(bytes), threads_));
  }

  Decoding<Element> stream(FlatSeries series) const {
    if (series == window_stream)
      return {csq::Softmax{}, tokens_, csq::StreamOptions{.window = decode_window, .threads = threads_}};
    return {csq::Csq{}, tokens_, csq::StreamOptions{.gated = series == gated_csq_stream, .threads = threads_}};
  }

  void add_flat_series() {
    const DecodeShape& shape = row_.shape;
    const Index steps = steps_of_whole_blocks(row_.absorbed);
    for (const FlatSeries series : flat_series) {
      const std::string name = flat_names[series];
      progress_.show(heading_, name + ", filling");
      FlatResult& result = row_.flat[series];
      auto decoding = std::make_shared<Decoding<Element>>(stream(series));
      decoding->prefill_to(series == window_stream ? 2 * decode_window : 4 * row_.absorbed);
      auto after_long = std::make_shared<Decoding<Element>>(*decoding);
      after_long->prefill_to(row_.long_context);
      result.state_bytes = static_cast<double>(decoding->state_bytes());
      result.read_bytes =
          series == window_stream ? cache_read_bytes(shape, decode_window) : csq_read_bytes(shape, row_.absorbed);
      plan(result.step, name, static_cast<double>(steps), [=] { decoding->step(steps); });
      plan(result.step_after_long, name + " behind a long context", static_cast<double>(steps),
           [=] { after_long->step(steps); });
      plan_read(result.read, name, result.read_bytes);
    }
  }

  void add_softmax_streams() {
    Decoding<Element> growing(csq::Softmax{}, tokens_, {.threads = threads_});
    for (ContextResult& context : row_.contexts) {
      if (context.tokens > most_prefilled) return;
      const std::string name = "softmax stream, " + std::to_string(context.tokens) + " tokens";
      progress_.show(heading_, name + ", filling");
      growing.prefill_to(context.tokens - back_and_forth);
      auto decoding = std::make_shared<Decoding<Element>>(growing);
      plan(context.stream, name, back_and_forth, [=] { decoding->step_and_back(back_and_forth); });
    }
  }

  void add_calls() {
    for (ContextResult& context : row_.contexts) {
      const std::string name = "softmax call, " + std::to_string(context.tokens) + " tokens";
      auto query = std::make_shared<OneQuery<Element>>(row_.shape, context.tokens, memory_, *tokens_, threads_);
      plan(context.call, name, 1, [=] { (*query)(); });
      plan_read(context.read, name, context.read_bytes);
    }
  }

  // The last of a few hundred steps against one causal call over all tokens.
  void check_steps() {
    progress_.show(heading_, "checking steps against one call");
    const Index tokens = std::min(3 * row_.absorbed + 5, DecodeTokens<Element>::count);
    const auto against_call = [&](const char* name, const auto& mechanism, bool gated) {
      Decoding<Element> decoding(mechanism, tokens_, {.gated = gated, .threads = threads_});
      decoding.prefill_to(tokens - 2);
      decoding.step(2);
      const DecodeShape& shape = row_.shape;
      std::vector<Element> out(static_cast<std::size_t>(tokens * shape.heads * shape.value_dim));
      csq::Options options{.causal = true, .method = csq::Method::direct, .threads = threads_};
      const csq::Heads<const float> gates = tokens_->gates(0, tokens);
      if (gated) options.log_gate = gates;
      csq::attention(mechanism, tokens_->q(0, tokens), tokens_->k(0, tokens), tokens_->v(0, tokens),
                     DecodeTokens<Element>::rows(out.data(), shape.heads, shape.value_dim, 0, tokens), options);
      const std::vector<Element> last(out.end() - shape.heads * shape.value_dim, out.end());
      const double error = relative_error(decoding.last_output(), last);
      if (!(error <= tolerance_of(shape.dtype)))
        throw Disagreement(std::string(name) + ": a step and one call disagree at " + shape.name() +
                           ": relative error " + std::to_string(error));
      row_.largest_error = std::max(row_.largest_error, error);
    };
    against_call("CSQ", csq::Csq{}, false);
    against_call("gated CSQ", csq::Csq{}, true);
    against_call("softmax", csq::Softmax{}, false);
  }

  std::shared_ptr<const DecodeTokens<Element>> tokens_;
  int threads_;
  std::string heading_;
  PeakWatch& watch_;
  Progress& progress_;
  const Element* memory_ = nullptr;
  DecodeRow row_;
  std::vector<Planned> planned_;
};

}  // namespace bench
