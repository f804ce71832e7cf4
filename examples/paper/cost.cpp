// What softmax and factored CSQ cost: one head of d = dᵥ against the length, and the budget of a whole layer. In float,
// measured on one thread:
//
//   head    milliseconds of a call, forward alone and forward with backward, full and causal, n = 256 … 16384,
//           d = 16, 32, 64, 128: CSQ should be linear in n, O(n·d³), softmax quadratic
//   layer   d_model = 4096, 32 causal heads of 128, n = 2k … 128k, forward:
//             projections    4·n·d_model² multiply-adds (Q, K, V, O)       at the measured rate of Eigen's product
//             feed_forward   8·n·d_model² multiply-adds (4096 → 16384 → 4096)        the same rate
//             softmax, csq   32 times one head, measured up to 16384 tokens; beyond, the last measured time times the
//                            ratio of exact multiply-adds (the CSV's column `measured` says which)
//
// With --dtype bfloat16, the experiment `dtypes` instead of both: one head in bfloat16 beside float, d = 32, 64, 128
// and n = 256 … 8192 (16384 for the forward pass of d = 128), as far as a crossover needs. Softmax, factored CSQ and
// CSQ's direct form in bfloat16, softmax and factored CSQ in float take turns at each size, so that whatever disturbs
// the machine disturbs them alike. The column `matrix_unit` says whether one multiplied. It takes a minute or two, and
// begins with what the claim reads: forward, full.
//
// A causal factored forward call so short that no read of the summary would pay is served directly; the column `method`
// says so. Times are medians; run it alone on the machine.
//
//   cost [--only head|layer] [--dims 16,32,64,128] [--threads 1] [--max-tokens 16384] [--quick]
//   cost --dtype bfloat16 [--dims 32,64,128] [--threads 1] [--max-tokens 8192] [--quick]
//   either: [--csv FILE [--partial]]
#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <concepts>
#include <csq/csq.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../../bench/support/dtype.hpp"
#include "../../bench/support/inputs.hpp"
#include "../../bench/support/passes.hpp"
#include "csv.hpp"

namespace {

using csq::Index;

struct Settings {
  bench::Dtype dtype = bench::Dtype::float32;
  std::string only;         // empty: both experiments
  std::vector<Index> dims;  // empty: those of the experiment
  Index max_tokens = 0;     // 0: that of the experiment
  int threads = 1;          // of one head; a layer's times are of one thread
  std::string csv;
  bool partial = false;
  bool quick = false;
};

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double>& times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// Median milliseconds of at least 3 calls and 0.2 s; one call when it takes more than 3 s.
template <class Call>
double milliseconds(const Call& call, bool quick) {
  const double least = quick ? 5 : 200;
  std::vector<double> times;
  for (double sum = 0; times.empty() || (sum < 3000 && (sum < least || times.size() < 3)); sum += times.back()) {
    const auto start = Clock::now();
    call();
    times.push_back(milliseconds_since(start));
  }
  return median(times);
}

// One head, or a call of it.
struct Size {
  Index tokens = 0, dim = 0;
  bool causal = false, backward = false;

  const char* mask() const { return causal ? "causal" : "full"; }
  const char* pass() const { return backward ? "forward+backward" : "forward"; }
  csq::Shape shape() const {
    return {.queries = tokens, .keys = tokens, .key_dim = dim, .value_dim = dim, .causal = causal};
  }
};

// One head of random numbers; with `backward` a call is forward and backward together.
template <class Element>
class Head {
 public:
  Head(const Size& size, int threads) : size_(size), threads_(threads), inputs_(size.dim, size.dim, dtype) {
    inputs_.reserve(1, 1, size.tokens);
    inputs_.reserve_output_gradient(1, size.tokens);
    operands_ = {inputs_.q<Element>(1, size.tokens), inputs_.k<Element>(1, size.tokens),
                 inputs_.v<Element>(1, size.tokens), inputs_.dout<Element>(1, size.tokens)};
  }
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  // Holds as long as the head does.
  template <class Mechanism>
  std::function<void()> call(const Mechanism& mechanism, csq::Method method) {
    const csq::Options options = options_of(method);
    passes_.reserve(mechanism, size_.shape(), size_.backward, options);
    return [this, mechanism, options] {
      passes_.forward(mechanism, operands_, options);
      if (size_.backward) passes_.backward(mechanism, operands_, options);
    };
  }

  // What serves a call; a backward by the summary always reads it.
  template <class Mechanism>
  const char* served(const Mechanism& mechanism, csq::Method method) const {
    const bool factored =
        method == csq::Method::factored &&
        (size_.backward || csq::used_method(mechanism, size_.shape(), options_of(method)) == csq::Method::factored);
    return factored ? "factored" : "direct";
  }

 private:
  static constexpr bench::Dtype dtype =
      std::same_as<Element, Eigen::bfloat16> ? bench::Dtype::bfloat16 : bench::Dtype::float32;

  csq::Options options_of(csq::Method method) const {
    return {.causal = size_.causal, .method = method, .threads = threads_};
  }

  Size size_;
  int threads_;
  bench::Inputs inputs_;
  bench::Operands<Element> operands_;
  bench::Passes<Element> passes_;
};

struct Timed {
  double milliseconds = 0;
  const char* method = "direct";
};

template <class Mechanism>
Timed time_head(const Mechanism& mechanism, csq::Method method, const Size& size, int threads, bool quick) {
  Head<float> head(size, threads);
  const std::function<void()> call = head.call(mechanism, method);
  call();  // outside the timing: pages, caches
  return {milliseconds(call, quick), head.served(mechanism, method)};
}

// Whether products of arrays of these elements run on a matrix unit here.
template <class Element>
bool on_matrix_unit() {
  if constexpr (std::same_as<Element, float>)
    return false;
  else
    return csq::detail::simd::storage_of<Element>()->matrix != nullptr;
}

constexpr const char* csv_header =
    "program,experiment,part,pass,causal,key_dim,tokens,method,measured,milliseconds,dtype,matrix_unit,threads,library";

// ---------------------------------------------------------------------------------------------------------------------
// One head
// ---------------------------------------------------------------------------------------------------------------------

void measure_heads(const Settings& settings, paper::CsvFile& csv) {
  std::printf("One head, %d thread%s, float: milliseconds (microseconds a token)\n", settings.threads,
              settings.threads == 1 ? "" : "s");
  std::printf("%4s %-6s %-16s %6s  %20s %20s\n", "d", "mask", "pass", "n", "softmax", "CSQ factored");
  for (const Index d : settings.dims)
    for (const bool causal : {false, true})
      for (const bool backward : {false, true}) {
        std::fprintf(stderr, "cost: one head, d = %ld, %s, %s\n", static_cast<long>(d), causal ? "causal" : "full",
                     backward ? "forward and backward" : "forward");
        for (Index n = 256; n <= settings.max_tokens; n *= 2) {
          const Size size{n, d, causal, backward};
          const int threads = settings.threads;
          const Timed softmax = time_head(csq::Softmax{}, csq::Method::direct, size, threads, settings.quick);
          const Timed factored = time_head(csq::Csq{}, csq::Method::factored, size, threads, settings.quick);
          const auto a_token = [&](const Timed& timed) { return 1000 * timed.milliseconds / static_cast<double>(n); };
          std::printf("%4ld %-6s %-16s %6ld  %10.3f (%7.3f) %10.3f (%7.3f)%s\n", static_cast<long>(d), size.mask(),
                      size.pass(), static_cast<long>(n), softmax.milliseconds, a_token(softmax), factored.milliseconds,
                      a_token(factored), factored.method == std::string("direct") ? "  served directly" : "");
          std::fflush(stdout);
          const auto row = [&](const char* part, const Timed& timed) {
            csv.row("cost", "head", part, size.pass(), causal ? 1 : 0, d, n, timed.method, 1, timed.milliseconds,
                    "float", 0, threads, "csq");
          };
          row("softmax", softmax);
          row("csq", factored);
        }
      }
}

// ---------------------------------------------------------------------------------------------------------------------
// One head in bfloat16 beside float
// ---------------------------------------------------------------------------------------------------------------------

struct Contender {
  const char* part;
  const char* dtype;
  bool matrix_unit;
  const char* method;
  std::function<void()> call;
  double milliseconds = 0;
};

// The order of the table's columns.
std::vector<Contender> contenders(Head<Eigen::bfloat16>& half, Head<float>& whole) {
  const auto contender = []<class Element>(const char* part, Head<Element>& head, const auto& mechanism,
                                           csq::Method method) {
    return Contender{part, std::same_as<Element, float> ? "float" : "bfloat16", on_matrix_unit<Element>(),
                     head.served(mechanism, method), head.call(mechanism, method)};
  };
  return {contender("softmax", half, csq::Softmax{}, csq::Method::direct),
          contender("csq", half, csq::Csq{}, csq::Method::factored),
          contender("csq_direct", half, csq::Csq{}, csq::Method::direct),
          contender("softmax", whole, csq::Softmax{}, csq::Method::direct),
          contender("csq", whole, csq::Csq{}, csq::Method::factored)};
}

// Milliseconds of a call, the mean of as many as fit in 3 ms.
double time_turn(const std::function<void()>& call) {
  const auto start = Clock::now();
  int calls = 0;
  do {
    call();
    ++calls;
  } while (milliseconds_since(start) < 3);
  return milliseconds_since(start) / calls;
}

// Medians of up to 5 rounds of turns, as many as begin within 2 s. A first round shorter than 0.1 s is a warm-up: in
// longer calls pages and caches do not show.
void time_in_turns(std::vector<Contender>& all, bool quick) {
  const double most = quick ? 50 : 2000;
  std::vector<std::vector<double>> times(all.size());
  const auto start = Clock::now();
  const auto round = [&] {
    for (std::size_t i = 0; i < all.size(); ++i) times[i].push_back(time_turn(all[i].call));
  };
  round();
  if (milliseconds_since(start) < 100)
    for (auto& of_one : times) of_one.clear();
  while (times[0].empty() || (times[0].size() < 5 && milliseconds_since(start) < most)) round();
  for (std::size_t i = 0; i < all.size(); ++i) all[i].milliseconds = median(times[i]);
}

// Whether factored CSQ is, in both types, twice as fast as csq's softmax. No length is measured beyond the second of
// two where it is: the crossover lies before them, even against a softmax that is faster than csq's.
bool is_crossed(const std::vector<Contender>& all) {
  const double margin = 2;
  return all[0].milliseconds > margin * all[1].milliseconds && all[3].milliseconds > margin * all[4].milliseconds;
}

void measure_dtypes(const Settings& settings, paper::CsvFile& csv) {
  std::printf("One head, %d thread%s, milliseconds; kernels %s, bfloat16 %s a matrix unit\n", settings.threads,
              settings.threads == 1 ? "" : "s", csq::simd_name(), on_matrix_unit<Eigen::bfloat16>() ? "on" : "WITHOUT");
  std::printf("%4s %-6s %-16s %6s  %12s %12s %12s %12s %12s\n", "d", "mask", "pass", "n", "softmax bf16",
              "factored bf16", "direct bf16", "softmax", "factored");
  for (const bool backward : {false, true})
    for (const bool causal : {false, true})
      for (const Index d : settings.dims) {
        // Heads of 128 cross over late; their forward pass alone is short enough for one length more.
        const Index longest = settings.max_tokens > 0 ? settings.max_tokens : d >= 128 && !backward ? 16384 : 8192;
        int crossed = 0;
        for (Index n = 256; n <= longest && crossed < 2; n *= 2) {
          const Size size{n, d, causal, backward};
          Head<Eigen::bfloat16> half(size, settings.threads);
          Head<float> whole(size, settings.threads);
          std::vector<Contender> all = contenders(half, whole);
          time_in_turns(all, settings.quick);
          std::printf("%4ld %-6s %-16s %6ld ", static_cast<long>(d), size.mask(), size.pass(), static_cast<long>(n));
          for (const Contender& one : all) {
            std::printf(" %12.3f", one.milliseconds);
            csv.row("cost", "dtypes", one.part, size.pass(), causal ? 1 : 0, d, n, one.method, 1, one.milliseconds,
                    one.dtype, one.matrix_unit ? 1 : 0, settings.threads, "csq");
          }
          std::printf("\n");
          std::fflush(stdout);
          crossed = is_crossed(all) ? crossed + 1 : 0;
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
      const Size size{n, head_dim, true, false};
      last_ = softmax_ ? time_head(csq::Softmax{}, csq::Method::direct, size, 1, quick_)
                       : time_head(csq::Csq{}, csq::Method::factored, size, 1, quick_);
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
      csv.row("cost", "layer", part, "forward", 1, head_dim, n, method, is_measured, time, "float", 0, 1,
              std::string_view(method) == "dense" ? "eigen" : "csq");
    };
    row("projections", "dense", 0, projections);
    row("feed_forward", "dense", 0, feed_forward);
    row("softmax", exponential.method, measured, with_softmax);
    row("csq", factored.method, measured, with_csq);
  }
}

void run(Settings settings) {
  const bool dtypes = settings.dtype == bench::Dtype::bfloat16;
  if (dtypes && settings.only == "layer") throw std::invalid_argument("--only layer is measured in float alone");
  if (settings.dims.empty()) {
    settings.dims = dtypes ? std::vector<Index>{32, 64, 128} : std::vector<Index>{16, 32, 64, 128};
    if (settings.quick) settings.dims = {16, 32};
  }
  if (settings.max_tokens == 0) settings.max_tokens = settings.quick ? 2048 : dtypes ? 0 : 16384;
  paper::CsvFile csv(settings.csv, csv_header,
                     settings.partial ? paper::CsvFile::Keep::rows : paper::CsvFile::Keep::whole);
  if (dtypes) measure_dtypes(settings, csv);
  if (!dtypes && settings.only != "layer") measure_heads(settings, csv);
  if (!dtypes && settings.only != "head") measure_layer(settings, csv);
  csv.finish();
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"The cost of softmax and factored CSQ against the length, and a whole layer's budget.", "cost"};
  Settings settings;
  std::string dtype = "float";
  app.add_option("--dtype", dtype, "bfloat16: one head beside float; float")
      ->check(CLI::IsMember({"float", "bfloat16"}))
      ->type_name("float|bfloat16");
  app.add_option("--only", settings.only, "one experiment; in float both")
      ->check(CLI::IsMember({"head", "layer"}))
      ->type_name("head|layer");
  app.add_option("--dims", settings.dims, "d of one head; 16,32,64,128, in bfloat16 32,64,128")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->type_name("D,…");
  app.add_option("--threads", settings.threads, "of one head; 1")->check(CLI::Range(1, 1024))->type_name("N");
  app.add_option("--max-tokens", settings.max_tokens,
                 "longest call that is timed; 16384, in bfloat16 8192 or, d = 128, forward, 16384")
      ->check(CLI::Range(2048, 131072))
      ->type_name("N");
  CLI::Option* const csv = app.add_option("--csv", settings.csv, "every time")->type_name("FILE");
  app.add_flag("--partial", settings.partial, "leaves the CSV's rows where they are when the run is cut")->needs(csv);
  app.add_flag("--quick", settings.quick, "short sequences, few repeats");
  try {
    app.parse(count, words);
    settings.dtype = bench::dtype_of("--dtype", dtype);
    run(settings);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cost: %s\n", error.what());
    return 2;
  }
  return 0;
}
