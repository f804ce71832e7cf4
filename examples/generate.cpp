// A language model writes text from a state of constant size: bytes one by one, each from a csq::Stream in every layer.
//
//   build/release/examples/generate --prompt 'And the king said' --bytes 500
//
// Prints the text, then how fast it was written and what the state takes, beside the same model with softmax in every
// layer, which reads the first 8192 of the same bytes into a cache that grows, to twice its size when it is full (the
// model was not trained so: only time and memory count). First the prompt is checked: token by token it must give what
// the model's own forward pass gives, or exit 1.
//
//   model     examples/paper/language.cpp: 4 layers, 8 heads of 16, gated CSQ, learned from the King James Bible
//   weights   examples/data/gated_csq.weights, 8 bits a number: 1.377 bits a byte of text held out
//
// Others are trained in 3 minutes on one core (12 with --steps 6000, as these), on any text; this one is Debian's
// bible-kjv:
//
//     cmake -S . -B build/paper -DCSQ_NATIVE=ON -DCSQ_BUILD_PAPER=ON
//     cmake --build build/paper --target paper_language
//     bible -f -l9999 Ge1:1-Rev22:21 | sed 's/^[^ ]* //' >build/king_james_bible.txt
//     build/paper/examples/paper/language --text build/king_james_bible.txt --save my.weights
//
// It was trained on windows of 512 bytes. Beyond those the state goes on, at the same size, but rotary angles and means
// are then such as no training has seen, and nothing promises how good the text still is. Measured for these weights,
// on 25 stretches of 8191 bytes held out: 1.34 bits a byte of the first 512 bytes, 1.32 to 1.40 of every 512 behind
// them.
//
// --check compares small untrained models of every kind, 300 tokens each; exit 1 when one differs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "decoder.hpp"
#include "weights_file.hpp"

namespace generate {

using namespace paper;
using Tokens = std::vector<Index>;

constexpr double tolerance = 1e-3;
constexpr Index compared = 8192;  // bytes that softmax reads: beyond them it would take longer and longer

struct Command {
  std::string weights = "examples/data/gated_csq.weights", prompt = "And it came to pass";
  Index bytes = 500;
  double temperature = 0.6;
  std::uint64_t seed = 1;
  bool check = false;
};

// The largest ‖here − there‖/‖there‖ of a row of logits, token by token and from the forward pass.
double largest_difference(const Model<float>& model, const Tokens& tokens) {
  Activations<float> at_once;
  std::vector<Index> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), Index{0});
  forward(model, tokens.data(), 1, static_cast<Index>(tokens.size()), at_once);
  read_out(model, rows, at_once);
  Matrix<float> logits(at_once.logits.rows(), at_once.logits.cols());
  Decoder decoder(model);
  for (const Index row : rows) logits.row(row) = decoder.step(tokens[static_cast<std::size_t>(row)]);
  return ((logits - at_once.logits).rowwise().norm().array() / at_once.logits.rowwise().norm().array())
      .maxCoeff<Eigen::PropagateNaN>();
}

bool check_small_models() {
  bool good = true;
  for (const std::string& name : language_models) {
    const LanguageModel sizes{.name = name, .layers = 3, .heads = 2, .head_dim = 6, .d_model = 16, .ffn = 20};
    const Model<float> model(config_of(sizes), 1);
    Tokens tokens;
    for (std::uint64_t i = 0; i < 300; ++i) tokens.push_back(random_index(2, i, LanguageTask::vocabulary));
    const double difference = largest_difference(model, tokens);
    std::printf("%-14s token by token, largest difference %.1e\n", name.c_str(), difference);
    good = good && difference <= tolerance;
  }
  return good;
}

// Softmax of logits/temperature, or the largest at 0.
Index drawn(const Matrix<float>& logits, double temperature, double uniform) {
  Index best = 0;
  const float largest = logits.row(0).maxCoeff(&best);
  if (temperature == 0) return best;
  Eigen::ArrayXd weight = ((logits.row(0).array() - largest).cast<double>() / temperature).exp();
  double left = uniform * weight.sum();
  for (Index token = 0; token < weight.size(); ++token) {
    left -= weight(token);
    if (left < 0) return token;
  }
  return best;
}

// A decoder and the time that its steps take: of all, and of the last tenth of `total`.
class TimedDecoder {
 public:
  TimedDecoder(const Model<float>& model, Index total) : decoder_(model), total_(total) {}

  const Matrix<float>& step(Index token) {
    const auto start = std::chrono::steady_clock::now();
    const Matrix<float>& logits = decoder_.step(token);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    seconds_ += seconds;
    if (decoder_.tokens() * 10 > total_ * 9) late_seconds_ += seconds;
    return logits;
  }
  void report(const std::string& name) const {
    const Index late = total_ - total_ * 9 / 10;
    std::printf("%-14s %10lld %10.0f %14.0f %16zu\n", name.c_str(), static_cast<long long>(total_),
                static_cast<double>(total_) / seconds_, static_cast<double>(late) / late_seconds_,
                decoder_.state_bytes());
  }

 private:
  Decoder decoder_;
  Index total_;
  double seconds_ = 0, late_seconds_ = 0;
};

TrainedModel read_weights(const std::string& path) {
  if (!std::filesystem::exists(path))
    throw std::runtime_error(
        "--weights: " + path +
        ": no such file. The shipped ones are found from the root of the checkout; "
        "'build/paper/examples/paper/language --text FILE --save FILE' trains others in minutes (how it "
        "is built stands at the top of examples/generate.cpp)");
  return trained_model(read_bytes(path), "--weights: " + path);
}

bool write_text(const Command& command) {
  if (command.prompt.empty()) throw std::invalid_argument("--prompt: needs a byte to begin with");
  const auto [sizes, model] = read_weights(command.weights);
  Tokens tokens;
  for (const char letter : command.prompt) tokens.push_back(static_cast<unsigned char>(letter));
  const double difference = largest_difference(model, tokens);
  if (!(difference <= tolerance)) {
    std::fprintf(stderr, "generate: token by token the prompt's logits differ by %.1e from the forward pass\n",
                 difference);
    return false;
  }

  const auto prompted = static_cast<Index>(tokens.size()), total = prompted + command.bytes;
  TimedDecoder decoder(model, total);
  const std::uint64_t stream = random_stream(command.seed, 0);
  std::printf("%s", command.prompt.c_str());
  for (Index i = 0; i < total; ++i) {
    const Matrix<float>& logits = decoder.step(tokens[static_cast<std::size_t>(i)]);
    if (i + 1 < prompted || i + 1 == total) continue;
    tokens.push_back(drawn(logits, command.temperature, random_uniform(stream, static_cast<std::uint64_t>(i))));
    std::putchar(static_cast<int>(tokens.back()));
    std::fflush(stdout);
  }

  Model<float> with_softmax = model;
  for (AttentionSettings& settings : with_softmax.config.attention) settings.mechanism = csq::Softmax{};
  const Index read = std::min(total, compared);
  TimedDecoder cache(with_softmax, read);
  for (Index i = 0; i < read; ++i) cache.step(tokens[static_cast<std::size_t>(i)]);
  std::printf("\n\n%-14s %10s %10s %14s %16s\n", "", "bytes", "a second", "the last tenth", "bytes of state");
  decoder.report(sizes.name);
  cache.report("softmax");
  std::printf("the prompt, token by token: logits within %.1e of the forward pass\n", difference);
  return true;
}

void define_options(CLI::App& app, Command& command) {
  app.add_option("--weights", command.weights, "trained weights, from language --save")->capture_default_str();
  app.add_option("--prompt", command.prompt, "what the text begins with")->capture_default_str();
  app.add_option("--bytes", command.bytes, "bytes to write behind it")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  app.add_option("--temperature", command.temperature, "below 1 likely bytes become likelier; 0: always the likeliest")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--seed", command.seed, "another text for another seed")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_flag("--check", command.check, "checks small models alone, a second; exit 1 when one fails");
}

}  // namespace generate

int main(int count, char** words) try {
  CLI::App app("Text from a byte-level language model, at constant memory", "generate");
  generate::Command command;
  generate::define_options(app, command);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "generate: %s\n", error.what());
    return 2;
  }
  return (command.check ? generate::check_small_models() : generate::write_text(command)) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "generate: %s\n", error.what());
  return 2;
}
