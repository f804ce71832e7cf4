// The mechanisms on queries, keys and values of trained language models.
//
//   data     bench/data/byte_lm_softmax_{q,k,v}.npy [2, 2048, 64] and examples/paper/data/byte_lm_csq_{q,k,v}.npy
//            [2, 512, 64]: first and last layer of two byte-level models, trained with softmax and with CSQ
//            (float16; the CSQ heads are cut to their first 512 tokens), beside normal random heads of d = 16; for the
//            ranks also the real heads' first 16 dimensions (softmax_16, csq_16), as D of d = 64 is beyond n
//   rank     singular values of the n×n matrices, in double, above 1e-10 and above 1e-3 of the largest:
//            S = q·kᵀ/√d, exp(S), exp(S) with rows that sum to 1, (S + 1)², and that with rows that sum to 1; for a
//            causal mask what it hides is 0
//            It answers: rank(S) ≤ d and rank((S + 1)²) ≤ D; is it exp or the normalisation that exceeds them?
//   likeness each mechanism against softmax on the same q, k, v: rows whose strongest key is softmax's, mean cosine of
//            the outputs, mean entropy of the rows (nats), range of the normaliser
//   error    ‖float − double‖/‖double‖ of the output, direct and factored, on all tokens
//
//   real_heads [--tokens 1024] [--csv FILE] [--quick]
#include <CLI/CLI.hpp>
#include <Eigen/SVD>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "csv.hpp"
#include "layers.hpp"
#include "npy.hpp"

namespace {

using csq::Index;
using Matrix = csq::Matrix<double>;

struct Settings {
  Index tokens = 1024;
  std::uint64_t seed = 1;
  std::string csv;
  bool quick = false;
};

// One head; `name` says which model's.
struct Head {
  std::string name, layer;
  Matrix q, k, v;
};

Matrix head_of(const npy::Array<double>& array, Index head) {
  const Index tokens = array.shape[1], dim = array.shape[2];
  return Eigen::Map<const Matrix>(array.data.data() + head * tokens * dim, tokens, dim);
}

std::vector<Head> read_heads(const std::string& name, const std::string& stem) {
  std::vector<npy::Array<double>> arrays;
  for (const char* letter : {"q", "k", "v"}) {
    const std::string path = stem + letter + ".npy";
    arrays.push_back(npy::read<double>(path));
    if (arrays.back().shape.size() != 3 || arrays.back().shape != arrays.front().shape)
      npy::fail(path, "its shape is " + npy::shape_text(arrays.back().shape));
  }
  std::vector<Head> heads;
  for (Index h = 0; h < arrays[0].shape[0]; ++h)
    heads.push_back(
        {name, h == 0 ? "first" : "last", head_of(arrays[0], h), head_of(arrays[1], h), head_of(arrays[2], h)});
  return heads;
}

Head random_head(Index tokens, Index dim, std::uint64_t seed) {
  Head head{"random", "none", Matrix(tokens, dim), Matrix(tokens, dim), Matrix(tokens, dim)};
  std::uint64_t counter = 0;
  for (Matrix* matrix : {&head.q, &head.k, &head.v})
    for (Index i = 0; i < matrix->size(); ++i)
      matrix->data()[i] = paper::random_normal(paper::random_stream(seed, 0), counter++);
  return head;
}

Head first_tokens(const Head& head, Index tokens) {
  return {head.name, head.layer, head.q.topRows(tokens), head.k.topRows(tokens), head.v.topRows(tokens)};
}

Head first_dimensions(const Head& head, Index dim) {
  return {head.name + "_" + std::to_string(dim), head.layer, head.q.leftCols(dim), head.k.leftCols(dim),
          head.v.leftCols(dim)};
}

// ---------------------------------------------------------------------------------------------------------------------
// What is measured, as rows of the CSV
// ---------------------------------------------------------------------------------------------------------------------

class Report {
 public:
  explicit Report(const std::string& path)
      : csv_(path, "program,experiment,data,layer,causal,tokens,key_dim,features,subject,quantity,value") {}

  void of(const Head& head, bool causal) {
    head_ = &head;
    causal_ = causal;
  }
  void add(const char* experiment, const std::string& subject, const std::string& quantity, double value) {
    csv_.row("real_heads", experiment, head_->name, head_->layer, causal_ ? 1 : 0, head_->q.rows(), head_->q.cols(),
             csq::feature_count(head_->q.cols()), subject, quantity, value);
  }
  void finish() { csv_.finish(); }

 private:
  paper::CsvFile csv_;
  const Head* head_ = nullptr;
  bool causal_ = false;
};

// Softmax, then what is compared with it.
template <class Use>
void for_mechanisms(const Use& use) {
  use("softmax", csq::Softmax{});
  use("squared", csq::Squared{});
  use("shifted", csq::ShiftedQuadratic{1});
  use("csq", csq::Csq{1});
  use("taylor", csq::Taylor{});
  use("linear", csq::Linear{});
}

// ---------------------------------------------------------------------------------------------------------------------
// Rank
// ---------------------------------------------------------------------------------------------------------------------

struct Ranks {
  Index numerical = 0, effective = 0;  // singular values above 1e-10 and 1e-3 of the largest
};

Ranks ranks_of(const Matrix& matrix) {
  const Eigen::VectorXd values = Eigen::BDCSVD<Eigen::MatrixXd>(matrix).singularValues();
  const auto above = [&](double threshold) { return Index((values.array() > threshold * values(0)).count()); };
  return {above(1e-10), above(1e-3)};
}

void hide_future(Matrix& matrix) { matrix.triangularView<Eigen::StrictlyUpper>().setZero(); }

Matrix rows_sum_to_one(const Matrix& weights) { return weights.array().colwise() / weights.array().rowwise().sum(); }

void measure_ranks(const Head& head, bool causal, Report& report) {
  Matrix scores = head.q * head.k.transpose() / std::sqrt(static_cast<double>(head.q.cols()));
  Matrix exponential = (scores.array() - scores.maxCoeff()).exp(), square = (scores.array() + 1).square();
  if (causal)
    for (Matrix* matrix : {&scores, &exponential, &square}) hide_future(*matrix);
  const Ranks of_scores = ranks_of(scores), of_exponential = ranks_of(exponential),
              of_softmax = ranks_of(rows_sum_to_one(exponential)), of_square = ranks_of(square),
              of_quadratic = ranks_of(rows_sum_to_one(square));
  const auto add = [&](const char* subject, const Ranks& ranks) {
    report.add("rank", subject, "rank_1e-10", static_cast<double>(ranks.numerical));
    report.add("rank", subject, "rank_1e-3", static_cast<double>(ranks.effective));
  };
  add("scores", of_scores);
  add("exp", of_exponential);
  add("exp_normalised", of_softmax);
  add("square", of_square);
  add("square_normalised", of_quadratic);
  std::printf("%-10s %-5s %-6s %5ld %3ld %5ld", head.name.c_str(), head.layer.c_str(), causal ? "causal" : "full",
              static_cast<long>(head.q.rows()), static_cast<long>(head.q.cols()),
              static_cast<long>(csq::feature_count(head.q.cols())));
  for (const Ranks& ranks : {of_scores, of_exponential, of_softmax, of_square, of_quadratic})
    std::printf("   %4ld %4ld", static_cast<long>(ranks.numerical), static_cast<long>(ranks.effective));
  std::printf("\n");
  std::fflush(stdout);
}

// ---------------------------------------------------------------------------------------------------------------------
// Likeness to softmax
// ---------------------------------------------------------------------------------------------------------------------

struct Attended {
  Matrix rows, out, normalizer;  // P [n, n], P·V, δ
};

template <class Mechanism>
Attended attend(const Mechanism& mechanism, const Head& head, bool causal) {
  const csq::Options options{.causal = causal};
  const Matrix identity = Matrix::Identity(head.k.rows(), head.k.rows());
  Attended attended;
  csq::attention(mechanism, head.q, head.k, identity, attended.rows, attended.normalizer, options);
  attended.out = attended.rows * head.v;
  if constexpr (std::same_as<Mechanism, csq::Softmax>) attended.normalizer = attended.normalizer.array().exp();
  return attended;
}

double mean_entropy(const Matrix& rows) {
  const auto nats = [](double p) { return p > 0 ? -p * std::log(p) : 0; };
  return rows.unaryExpr(nats).sum() / static_cast<double>(rows.rows());
}

double strongest_key_agreement(const Matrix& rows, const Matrix& reference) {
  Index agreed = 0;
  for (Index i = 0; i < rows.rows(); ++i) {
    Index mine = 0, expected = 0;
    rows.row(i).maxCoeff(&mine);
    reference.row(i).maxCoeff(&expected);
    if (mine == expected) ++agreed;
  }
  return static_cast<double>(agreed) / static_cast<double>(rows.rows());
}

double mean_cosine(const Matrix& out, const Matrix& reference) {
  double sum = 0;
  for (Index i = 0; i < out.rows(); ++i)
    sum += out.row(i).dot(reference.row(i)) / (out.row(i).norm() * reference.row(i).norm());
  return sum / static_cast<double>(out.rows());
}

void measure_likeness(const Head& head, bool causal, Report& report) {
  const Attended reference = attend(csq::Softmax{}, head, causal);
  for_mechanisms([&](const char* name, const auto& mechanism) {
    const Attended attended = attend(mechanism, head, causal);
    const double agreement = strongest_key_agreement(attended.rows, reference.rows),
                 cosine = mean_cosine(attended.out, reference.out), entropy = mean_entropy(attended.rows),
                 least = attended.normalizer.minCoeff(), most = attended.normalizer.maxCoeff();
    report.add("likeness", name, "strongest_key_agreement", agreement);
    report.add("likeness", name, "output_cosine", cosine);
    report.add("likeness", name, "entropy", entropy);
    report.add("likeness", name, "normalizer_min", least);
    report.add("likeness", name, "normalizer_max", most);
    std::printf("%-8s %-5s %-6s %5ld  %-8s  %8.3f %8.3f %8.3f   %9.3g … %-9.3g\n", head.name.c_str(),
                head.layer.c_str(), causal ? "causal" : "full", static_cast<long>(head.q.rows()), name, agreement,
                cosine, entropy, least, most);
  });
  std::fflush(stdout);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rounding
// ---------------------------------------------------------------------------------------------------------------------

// An explicit chunk, so that a short causal call reads its summary too instead of being served directly.
csq::Options options_of(bool causal, csq::Method method) { return {.causal = causal, .method = method, .chunk = 96}; }

void measure_error(const Head& head, bool causal, Report& report) {
  const csq::Matrix<float> q = head.q.cast<float>(), k = head.k.cast<float>(), v = head.v.cast<float>();
  for_mechanisms([&](const char* name, const auto& mechanism) {
    const Matrix reference = csq::attention(mechanism, head.q, head.k, head.v, options_of(causal, csq::Method::direct));
    const auto error = [&](csq::Method method) {
      const Matrix out = csq::attention(mechanism, q, k, v, options_of(causal, method)).template cast<double>();
      return (out - reference).norm() / reference.norm();
    };
    const double direct = error(csq::Method::direct);
    report.add("error", name, "direct", direct);
    std::printf("%-8s %-5s %-6s %5ld  %-8s  %9.2e", head.name.c_str(), head.layer.c_str(), causal ? "causal" : "full",
                static_cast<long>(head.q.rows()), name, direct);
    if (csq::has_factored_form(mechanism)) {
      const double factored = error(csq::Method::factored);
      report.add("error", name, "factored", factored);
      std::printf("  %9.2e", factored);
    }
    std::printf("\n");
  });
  std::fflush(stdout);
}

// ---------------------------------------------------------------------------------------------------------------------

void run(const Settings& settings) {
  const auto here = std::filesystem::path(__FILE__).parent_path();
  const auto stem = [&](const char* folder, const char* name) {
    return (here / folder / (std::string("byte_lm_") + name + "_")).lexically_normal().string();
  };
  std::vector<Head> heads = read_heads("softmax", stem("../../bench/data", "softmax"));
  for (Head& head : read_heads("csq", stem("data", "csq"))) heads.push_back(std::move(head));
  heads.push_back(random_head(512, 16, settings.seed));
  std::vector<Head> rank_heads = heads;
  for (const Head& head : heads)
    if (head.q.cols() > 16) rank_heads.push_back(first_dimensions(head, 16));
  const Index tokens = settings.quick ? std::min<Index>(settings.tokens, 192) : settings.tokens;

  Report report(settings.csv);
  const auto measure = [&](const char* what, const std::vector<Head>& of, Index limit, const auto& each) {
    for (const Head& whole : of) {
      std::fprintf(stderr, "real_heads: %s, %s, layer %s\n", what, whole.name.c_str(), whole.layer.c_str());
      const Head head = first_tokens(whole, std::min(limit, whole.q.rows()));
      for (const bool causal : {false, true}) {
        report.of(head, causal);
        each(head, causal, report);
      }
    }
  };
  std::printf("Singular values above 1e-10 and 1e-3 of the largest\n");
  std::printf("%-10s %-5s %-6s %5s %3s %5s   %9s   %9s   %9s   %9s   %9s\n", "model", "layer", "mask", "n", "d", "D",
              "S", "exp(S)", "rows of 1", "(S+1)^2", "rows of 1");
  measure("rank", rank_heads, tokens, measure_ranks);
  std::printf("\nAgainst softmax on the same q, k, v\n");
  std::printf("%-8s %-5s %-6s %5s  %-8s  %8s %8s %8s   %s\n", "model", "layer", "mask", "n", "", "same key", "cosine",
              "entropy", "normaliser");
  measure("likeness to softmax", heads, tokens, measure_likeness);
  std::printf("\nRelative error of float against double\n");
  std::printf("%-8s %-5s %-6s %5s  %-8s  %9s  %9s\n", "model", "layer", "mask", "n", "", "direct", "factored");
  measure("rounding", heads, settings.quick ? tokens : 2048, measure_error);
  report.finish();
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"Rank, likeness to softmax and rounding of the mechanisms on the shipped real heads.", "real_heads"};
  Settings settings;
  app.add_option("--tokens", settings.tokens, "first tokens of each head, for rank and likeness; 1024")
      ->check(CLI::Range(2, 2048))
      ->type_name("N");
  app.add_option("--seed", settings.seed, "of the random head; 1")->type_name("S");
  app.add_option("--csv", settings.csv, "every number")->type_name("FILE");
  app.add_flag("--quick", settings.quick, "192 tokens");
  try {
    app.parse(count, words);
    run(settings);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "real_heads: %s\n", error.what());
    return 2;
  }
  return 0;
}
