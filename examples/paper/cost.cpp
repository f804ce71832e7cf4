// What softmax and factored CSQ cost, measured on one thread in float: one head of d = dᵥ against the length, and the
// budget of a whole layer.
//
//   head    milliseconds of a call, forward alone and forward with backward, full and causal, n = 256 … 16384,
//           d = 16, 32, 64, 128: CSQ should be linear in n, O(n·d³), softmax quadratic
//   layer   d_model = 4096, 32 causal heads of 128, n = 2k … 128k, forward:
//             projections    4·n·d_model² multiply-adds (Q, K, V, O)       at the measured rate of Eigen's product
//             feed_forward   8·n·d_model² multiply-adds (4096 → 16384 → 4096)        the same rate
//             softmax, csq   32 times one head, measured up to 16384 tokens; beyond, the last measured time times the
//                            ratio of exact multiply-adds (the CSV's column `measured` says which)
//
// A causal factored forward call so short that no read of the summary would pay is served directly; the column `method`
// says so. Times are medians; run it alone on the machine.
//
//   cost [--max-tokens 16384] [--csv FILE] [--quick]
#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <csq/csq.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "../../bench/support/inputs.hpp"
#include "../../bench/support/passes.hpp"
#include "csv.hpp"

namespace {

using bench::Pass;
using csq::Index;

struct Settings {
  Index max_tokens = 16384;
  std::string csv;
  bool quick = false;
};

// Median milliseconds of at least 3 calls and 0.2 s; one call when it takes more than 3 s.
template <class Call>
double milliseconds(const Call& call, bool quick) {
  using Clock = std::chrono::steady_clock;
  const double least = quick ? 5 : 200;
  std::vector<double> times;
  for (double sum = 0; times.empty() || (sum < 3000 && (sum < least || times.size() < 3)); sum += times.back()) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

struct Timed {
  double milliseconds = 0;
  const char* method = "direct";
};

// One head of random numbers; `backward` times forward and backward together.
template <class Mechanism>
Timed time_head(const Mechanism& mechanism, csq::Method method, Index n, Index d, bool causal, bool backward,
                bool quick) {
  const csq::Shape shape{.queries = n, .keys = n, .key_dim = d, .value_dim = d, .causal = causal};
  const csq::Options options{.causal = causal, .method = method, .threads = 1};
  bench::Inputs inputs(d);
  inputs.reserve(1, 1, n);
  inputs.reserve_output_gradient(1, n);
  const bench::Operands<float> operands{inputs.q(1, n), inputs.k(1, n), inputs.v(1, n), inputs.dout(1, n)};
  bench::Passes<float> passes;
  passes.reserve(mechanism, shape, backward, options);
  const auto call = [&] {
    passes.forward(mechanism, operands, options);
    if (backward) passes.backward(mechanism, operands, options);
  };
  call();                                                   // outside the timing: pages, caches
  const bool factored = method == csq::Method::factored &&  // backward always reads the summary
                        (backward || csq::used_method(mechanism, shape, options) == csq::Method::factored);
  return {milliseconds(call, quick), factored ? "factored" : "direct"};
}

// ---------------------------------------------------------------------------------------------------------------------
// One head
// ---------------------------------------------------------------------------------------------------------------------

constexpr const char* csv_header = "program,experiment,part,pass,causal,key_dim,tokens,method,measured,milliseconds";

void measure_heads(const Settings& settings, paper::CsvFile& csv) {
  std::printf("One head, one thread, float: milliseconds (microseconds a token)\n");
  std::printf("%4s %-6s %-16s %6s  %20s %20s\n", "d", "mask", "pass", "n", "softmax", "CSQ factored");
  const std::vector<Index> dims = settings.quick ? std::vector<Index>{16, 32} : std::vector<Index>{16, 32, 64, 128};
  for (const Index d : dims)
    for (const bool causal : {false, true})
      for (const bool backward : {false, true}) {
        std::fprintf(stderr, "cost: one head, d = %ld, %s, %s\n", static_cast<long>(d), causal ? "causal" : "full",
                     backward ? "forward and backward" : "forward");
        for (Index n = 256; n <= settings.max_tokens; n *= 2) {
          const Timed softmax = time_head(csq::Softmax{}, csq::Method::direct, n, d, causal, backward, settings.quick);
          const Timed factored = time_head(csq::Csq{}, csq::Method::factored, n, d, causal, backward, settings.quick);
          const char* pass = backward ? "forward+backward" : "forward";
          const auto a_token = [&](const Timed& timed) { return 1000 * timed.milliseconds / static_cast<double>(n); };
          std::printf("%4ld %-6s %-16s %6ld  %10.3f (%7.3f) %10.3f (%7.3f)%s\n", static_cast<long>(d),
                      causal ? "causal" : "full", pass, static_cast<long>(n), softmax.milliseconds, a_token(softmax),
                      factored.milliseconds, a_token(factored),
                      factored.method == std::string("direct") ? "  served directly" : "");
          std::fflush(stdout);
          csv.row("cost", "head", "softmax", pass, causal ? 1 : 0, d, n, softmax.method, 1, softmax.milliseconds);
          csv.row("cost", "head", "csq", pass, causal ? 1 : 0, d, n, factored.method, 1, factored.milliseconds);
        }
      }
}

// ---------------------------------------------------------------------------------------------------------------------
// The layer of d_model = 4096
// ---------------------------------------------------------------------------------------------------------------------

constexpr Index model_dim = 4096, heads = 32, head_dim = 128;

// Multiply-adds a second of Eigen's float product [rows, d_model]·[d_model, d_model], one thread.
double dense_rate(bool quick) {
  const Index rows = quick ? 64 : 512, columns = quick ? 512 : model_dim;
  const csq::Matrix<float> x = csq::Matrix<float>::Constant(rows, model_dim, 0.5f),
                           weight = csq::Matrix<float>::Constant(model_dim, columns, 0.25f);
  csq::Matrix<float> y(rows, columns);
  const auto product = [&] { y.noalias() = x * weight; };
  product();
  return static_cast<double>(rows * model_dim * columns) / (1e-3 * milliseconds(product, quick));
}

// One causal head's forward at n tokens: measured while n ≤ limit, scaled beyond.
class HeadTimes {
 public:
  HeadTimes(bool softmax, Index limit, bool quick) : softmax_(softmax), limit_(limit), quick_(quick) {}

  // Called with rising n.
  Timed at(Index n) {
    if (n <= limit_) {
      last_ = softmax_ ? time_head(csq::Softmax{}, csq::Method::direct, n, head_dim, true, false, quick_)
                       : time_head(csq::Csq{}, csq::Method::factored, n, head_dim, true, false, quick_);
      last_tokens_ = n;
      return last_;
    }
    return {last_.milliseconds * multiply_adds(n) / multiply_adds(last_tokens_), softmax_ ? "direct" : "factored"};
  }

 private:
  double multiply_adds(Index n) const {
    const csq::Shape shape{.queries = n, .keys = n, .key_dim = head_dim, .value_dim = head_dim, .causal = true};
    return used(shape) == csq::Method::direct ? csq::direct_multiply_adds(shape) : csq::factored_multiply_adds(shape);
  }

  csq::Method used(const csq::Shape& shape) const {
    return softmax_ ? csq::Method::direct : csq::used_method(csq::Csq{}, shape, {.method = csq::Method::factored});
  }

  bool softmax_;
  Index limit_;
  bool quick_;
  Index last_tokens_ = 0;
  Timed last_;
};

void measure_layer(const Settings& settings, paper::CsvFile& csv) {
  std::fprintf(stderr, "cost: the layer of d_model = %ld\n", static_cast<long>(model_dim));
  const double rate = dense_rate(settings.quick);
  std::printf(
      "\nForward of a layer, d_model 4096, 32 causal heads of 128, one thread: seconds; dense products at %.0f GF/s\n",
      2e-9 * rate);
  std::printf("%7s %12s %13s %12s %12s   %14s\n", "n", "projections", "feed forward", "softmax", "CSQ",
              "layer, softmax/CSQ");
  HeadTimes softmax(true, settings.max_tokens, settings.quick), quadratic(false, settings.max_tokens, settings.quick);
  const Index longest = settings.quick ? 8192 : 131072;
  for (Index n = 2048; n <= longest; n *= 2) {
    const double square = static_cast<double>(model_dim) * static_cast<double>(model_dim);
    const double projections = 1000 * 4 * static_cast<double>(n) * square / rate, feed_forward = 2 * projections;
    const Timed exponential = softmax.at(n), factored = quadratic.at(n);
    const double all = static_cast<double>(heads), with_softmax = all * exponential.milliseconds,
                 with_csq = all * factored.milliseconds, rest = projections + feed_forward;
    const int measured = n <= settings.max_tokens ? 1 : 0;
    std::printf("%7ld %12.2f %13.2f %12.2f %12.2f   %14.2f%s\n", static_cast<long>(n), projections / 1000,
                feed_forward / 1000, with_softmax / 1000, with_csq / 1000, (rest + with_softmax) / (rest + with_csq),
                measured == 1 ? "" : "  attention scaled");
    std::fflush(stdout);
    const auto row = [&](const char* part, const char* method, int is_measured, double time) {
      csv.row("cost", "layer", part, "forward", 1, head_dim, n, method, is_measured, time);
    };
    row("projections", "dense", 0, projections);
    row("feed_forward", "dense", 0, feed_forward);
    row("softmax", exponential.method, measured, with_softmax);
    row("csq", factored.method, measured, with_csq);
  }
}

void run(const Settings& settings) {
  paper::CsvFile csv(settings.csv, csv_header);
  measure_heads(settings, csv);
  measure_layer(settings, csv);
  csv.finish();
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"The cost of softmax and factored CSQ against the length, and a whole layer's budget.", "cost"};
  Settings settings;
  CLI::Option* const max_tokens =
      app.add_option("--max-tokens", settings.max_tokens, "longest call that is timed; 16384")
          ->check(CLI::Range(2048, 131072))
          ->type_name("N");
  app.add_option("--csv", settings.csv, "every time")->type_name("FILE");
  app.add_flag("--quick", settings.quick, "short sequences, few repeats");
  try {
    app.parse(count, words);
    if (settings.quick && max_tokens->count() == 0) settings.max_tokens = 2048;
    run(settings);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cost: %s\n", error.what());
    return 2;
  }
  return 0;
}
