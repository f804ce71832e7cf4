// The program `attend` from outside: golden cases in and out of files, and what it does with wrong arguments.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "attend_process.hpp"
#include "catch.hpp"
#include "compare.hpp"
#include "golden.hpp"
#include "npy_bytes.hpp"
#include "temporary_folder.hpp"

#ifdef CSQ_ATTEND

namespace {

using reference::Index;
using reference::Tensor;

// Every way to say the mechanism of a case, without a method.
std::vector<Words> mechanism_words(const golden::Case& c) {
  std::vector<Words> ways;
  if (c.kind == "softmax") ways = {{"--mechanism", "softmax"}};
  if (c.kind == "linear") ways = {{"--mechanism", "linear"}};
  if (c.kind == "csq") {
    ways = {{"--mechanism", "csq", "--shift", number(*c.shift), "--centering", c.centering},
            {"--mechanism", "shifted", "--shift", number(*c.shift), "--centering", c.centering}};
  }
  if (c.kind != "softmax" && c.kind != "linear" && c.kind != "csq")
    ways = {{"--mechanism", "polynomial", "--coefficients", list(c.coefficients)}};
  if (c.coefficients.size() == 3) ways.push_back({"--mechanism", "quadratic", "--coefficients", list(c.coefficients)});
  if (c.coefficients == std::vector<double>{0, 0, 1}) ways.push_back({"--mechanism", "squared"});
  if (c.coefficients == std::vector<double>{1, 1, 0.5}) ways.push_back({"--mechanism", "taylor"});
  for (Words& words : ways) {
    if (c.causal) words.push_back("--causal");
    if (c.scale) words.insert(words.end(), {"--scale", number(*c.scale)});
    if (c.key_length) words.insert(words.end(), {"--key-length", std::to_string(*c.key_length)});
    if (c.window) words.insert(words.end(), {"--window", std::to_string(*c.window)});
    if (c.soft_cap) words.insert(words.end(), {"--soft-cap", number(*c.soft_cap)});
    if (!c.sink.empty()) words.insert(words.end(), {"--sink", c.folder + "/sink.npy"});
    if (c.bias.batch > 0) words.insert(words.end(), {"--bias", c.folder + "/bias.npy"});
    if (c.log_gate.batch > 0) words.insert(words.end(), {"--log-gate", c.folder + "/log_gate.npy"});
  }
  return ways;
}

bool has_factored(const golden::Case& c, const Words& words) {
  return words[1] != "softmax" && words[1] != "polynomial" && !c.window;
}

void check_file(const std::string& path, const Tensor& expected, const std::vector<Index>& shape, double tolerance,
                const char* dtype, double zero_tolerance = 1e-6) {
  const npy::Array<double> array = npy::read<double>(path);
  CHECK(array.shape == shape);
  CHECK(contents(path).find(dtype) != std::string::npos);
  CHECK(distance(array.data, expected.values) <= (all_zero(expected.values) ? zero_tolerance : tolerance));
}

std::vector<golden::Case> cases_for_attend() {
  std::vector<golden::Case> cases = golden::forward_cases();
  REQUIRE(cases.size() == golden::expected_count());
  std::erase_if(cases, [](const golden::Case& c) { return c.query_history_count.has_value(); });  // it has no option
  return cases;
}

}  // namespace

TEST_CASE("attend: golden cases, both dtypes, every method") {
  const TemporaryFolder folder;
  const std::string out = folder.file("o.npy"), normalizer = folder.file("z.npy");
  for (const golden::Case& c : cases_for_attend()) {
    for (const Words& mechanism : mechanism_words(c))
      for (const char* dtype : {"f32", "f64"})
        for (const char* method : {"auto", "direct", "factored"}) {
          if (std::string(method) == "factored" && !has_factored(c, mechanism)) continue;
          INFO(c.name << ", " << mechanism[1] << ", " << dtype << ", " << method);
          std::filesystem::remove(out);
          std::filesystem::remove(normalizer);
          const Finished run = run_attend(
              mechanism + input_words(c.folder) +
              Words{"--out", out, "--normalizer", normalizer, "--dtype", dtype, "--method", method, "--threads", "1"});
          INFO(run.error);
          REQUIRE(run.exit_code == 0);
          CHECK(run.error.empty());
          const bool is_double = std::string(dtype) == "f64";
          const double tolerance = is_double ? golden::tolerance<double>(c.name) : golden::tolerance<float>(c.name);
          const Tensor& o = c.output;
          check_file(out, o, {o.heads, o.tokens, o.dim}, tolerance, is_double ? "<f8" : "<f4");
          check_file(normalizer, c.statistic, {o.heads, o.tokens}, tolerance, is_double ? "<f8" : "<f4");
        }
  }
}

// dq, dk, dv and, where the mechanism has a shift, dshift. Gradients that are zero in exact arithmetic are compared
// absolutely: their reference is at most its own rounding.
TEST_CASE("attend: golden gradients, both dtypes, every method") {
  const TemporaryFolder folder;
  double zero_tolerance = 1e-6;
  const auto check_gradient = [&](const char* name, const Tensor& expected, double tolerance, const char* dtype) {
    INFO(name);
    const Tensor zero(expected.batch, expected.heads, expected.tokens, expected.dim);
    const bool is_zero = distance(expected.values, zero.values) <= 1e-12;
    check_file(folder.file(name), is_zero ? zero : expected, {expected.heads, expected.tokens, expected.dim}, tolerance,
               dtype, zero_tolerance);
  };
  for (const golden::Case& c : cases_for_attend()) {
    const golden::Gradients expected = golden::load_gradients(c);
    // Rows of one key each: as many roundings of what cancels.
    zero_tolerance = c.name.starts_with("window_") && c.name.ends_with("_one") ? 5e-6 : 1e-6;
    for (const Words& mechanism : mechanism_words(c)) {
      const bool has_shift = mechanism[1] == "csq" || mechanism[1] == "shifted";
      for (const char* dtype : {"f32", "f64"})
        for (const char* method : {"direct", "factored"}) {
          if (std::string(method) == "factored" && !has_factored(c, mechanism)) continue;
          INFO(c.name << ", " << mechanism[1] << ", " << dtype << ", " << method);
          for (const char* name : {"dq", "dk", "dv", "dshift", "dlog_gate", "dsink"})
            std::filesystem::remove(folder.file(name));
          Words more = has_shift ? Words{"--dshift", folder.file("dshift")} : Words{};
          if (!expected.log_gate.empty()) more = more + Words{"--dlog-gate", folder.file("dlog_gate")};
          if (!expected.sink.empty()) more = more + Words{"--dsink", folder.file("dsink")};
          const Finished run = run_attend(mechanism + input_words(c.folder) + more +
                                          Words{"--out", folder.file("o"), "--dout", c.folder + "/do.npy", "--dq",
                                                folder.file("dq"), "--dk", folder.file("dk"), "--dv", folder.file("dv"),
                                                "--dtype", dtype, "--method", method, "--threads", "1"});
          INFO(run.error);
          REQUIRE(run.exit_code == 0);
          const bool is_double = std::string(dtype) == "f64";
          const double tolerance = is_double ? golden::tolerance<double>(c.name) : golden::tolerance<float>(c.name);
          const char* written = is_double ? "<f8" : "<f4";
          check_gradient("dq", expected.query, tolerance, written);
          check_gradient("dk", expected.key, tolerance, written);
          check_gradient("dv", expected.value, tolerance, written);
          if (!expected.log_gate.empty()) {
            const npy::Array<double> gradient = npy::read<double>(folder.file("dlog_gate"));
            CHECK(gradient.shape == std::vector<Index>{c.log_gate.heads, c.log_gate.tokens});
            CHECK(distance(gradient.data, expected.log_gate) <= (is_double ? tolerance : 2e-4));
          }
          if (!expected.sink.empty())
            CHECK(distance(npy::read<double>(folder.file("dsink")).data, expected.sink) <= tolerance);
          if (!has_shift) continue;
          const double wanted = expected.shift.value(), limit = is_double ? 1e-7 : 10 * tolerance;
          const double zero_limit = is_double ? 1e-6 : 1e-5;
          const npy::Array<double> dshift = npy::read<double>(folder.file("dshift"));
          CHECK(dshift.shape == std::vector<Index>{1});
          CHECK(std::abs(dshift.data.at(0) - wanted) <=
                (std::abs(wanted) <= 1e-12 ? zero_limit : limit * std::abs(wanted)));
        }
    }
  }
}

TEST_CASE("attend: chunks") {
  const TemporaryFolder folder;
  for (const golden::Case& c : cases_for_attend()) {
    if (c.name != "csq_gqa_causal" && c.name != "taylor_square" && c.name != "linear_causal") continue;
    for (const char* chunk : {"1", "7", "16"}) {
      INFO(c.name << ", chunk " << chunk);
      const Finished run =
          run_attend(mechanism_words(c).back() + input_words(c.folder) +
                     Words{"--out", folder.file("o.npy"), "--method", "factored", "--chunk", chunk, "--dtype", "f64"});
      REQUIRE(run.exit_code == 0);
      CHECK(distance(npy::read<double>(folder.file("o.npy")).data, c.output.values) <= 1e-10);
    }
  }
}

TEST_CASE("attend: one line about what was done; defaults; two axes; half precision") {
  const TemporaryFolder folder;
  const std::vector<double> q{1, 0, 0, 2, -1, 1}, k{0, 1, 1, 1}, v{1, 2, 3, 4, 5, 6};
  npy::write<double>(folder.file("q.npy"), std::vector<Index>{3, 2}, q);
  npy::write<double>(folder.file("k.npy"), std::vector<Index>{2, 2}, k);
  npy::write<double>(folder.file("v.npy"), std::vector<Index>{2, 3}, v);
  const Words inputs = input_words(folder.file(""));
  const Words outputs{"--out", folder.file("o.npy"), "--normalizer", folder.file("z.npy")};
  const Finished run = run_attend(Words{"--mechanism", "csq"} + inputs + outputs);
  INFO(run.error);
  REQUIRE(run.exit_code == 0);
  CHECK(std::count(run.output.begin(), run.output.end(), '\n') == 1);
  for (const char* word : {"csq", "direct", "ms"}) CHECK(run.output.find(word) != std::string::npos);

  reference::Call call;
  call.q = Tensor(1, 1, 3, 2);
  call.k = Tensor(1, 1, 2, 2);
  call.v = Tensor(1, 1, 2, 3);
  call.q.values = q;
  call.k.values = k;
  call.v.values = v;
  call.centre = reference::Centre::sequence;
  call.weight.of_score = [](reference::Real s) { return (s + 1) * (s + 1); };
  const reference::Result expected = reference::attention(call);
  check_file(folder.file("o.npy"), expected.output, {3, 3}, 1e-6, "<f4");
  check_file(folder.file("z.npy"), expected.statistic, {3}, 1e-6, "<f4");

  folder.file("k.npy", npy_bytes("<f2", "False", "(2, 2)", raw<std::uint16_t>({0, 0x3c00, 0x3c00, 0x3c00})));
  REQUIRE(run_attend(Words{"--mechanism", "csq", "--dtype", "f64"} + inputs + outputs).exit_code == 0);
  check_file(folder.file("o.npy"), expected.output, {3, 3}, 1e-14, "<f8");
}

TEST_CASE("attend: an empty row has log-sum-exp minus infinity") {
  const TemporaryFolder folder;
  npy::write<double>(folder.file("q.npy"), std::vector<Index>{2, 1}, std::vector<double>{1, 2});
  npy::write<double>(folder.file("k.npy"), std::vector<Index>{1, 1}, std::vector<double>{3});
  npy::write<double>(folder.file("v.npy"), std::vector<Index>{1, 1}, std::vector<double>{4});
  const Finished run =
      run_attend(Words{"--mechanism", "softmax", "--causal", "--scale", "-0.5"} + input_words(folder.file("")) +
                 Words{"--out", folder.file("o.npy"), "--normalizer", folder.file("z.npy")});
  INFO(run.error);
  REQUIRE(run.exit_code == 0);
  CHECK(npy::read<double>(folder.file("o.npy")).data == std::vector<double>{0, 4});
  CHECK(distance(npy::read<double>(folder.file("z.npy")).data, {-std::numeric_limits<double>::infinity(), -3}) <= 1e-6);
}

TEST_CASE("attend: wrong arguments and files give one line, exit 2 and no output file") {
  const TemporaryFolder folder;
  const auto write = [&](const char* name, const std::vector<Index>& shape) {
    Index count = 1;
    for (const Index size : shape) count *= size;
    npy::write<float>(folder.file(name), shape, std::vector<float>(std::size_t(count), 0.5f));
  };
  write("q.npy", {4, 5, 3});
  write("k.npy", {2, 6, 3});
  write("v.npy", {2, 6, 2});
  write("wide.npy", {2, 6, 4});
  write("three_heads.npy", {3, 6, 3});
  write("three_values.npy", {3, 6, 2});
  write("five_axes.npy", {1, 1, 2, 6, 3});
  write("one_axis.npy", {6});
  write("two_batches.npy", {2, 2, 6, 3});
  write("empty_rows.npy", {4, 5, 0});
  folder.file("text.npy", "this is not an array");
  folder.file("short.npy", npy_bytes("<f4", "False", "(2, 6, 3)", "abc"));
  folder.file("lengths.npy", npy_bytes("<i8", "False", "(2,)", raw<std::int64_t>({6, 6})));
  folder.file("real_lengths.npy", npy_bytes("<f8", "False", "(1,)", raw<double>({6})));
  folder.file("complex.npy", npy_bytes("<c8", "False", "(1, 1, 1)", raw<double>({1})));
  folder.file("bfloat16.npy", npy_bytes("<u2", "False", "(4, 5, 3)", std::string(120, 0)));
  folder.file("cut_off.npy", npy_bytes("<u2", "False", "(4, 5, 3)", "abc"));
  folder.file("bfloat16_lengths.npy", npy_bytes("<u2", "False", "(1,)", raw<std::uint16_t>({5})));
  const std::string out = folder.file("o.npy"), normalizer = folder.file("z.npy");

  struct WrongCall {
    const char* what;
    Words words;
    const char* message;  // part of the line
    std::string q = "q.npy", k = "k.npy", v = "v.npy";
    Words outputs{"--out", "o.npy", "--normalizer", "z.npy"};
  };
  const Words csq{"--mechanism", "csq"};
  const std::vector<WrongCall> wrong{
      {"no mechanism", {}, "mechanism"},
      {"unknown mechanism", {"--mechanism", "cubic"}, "cubic"},
      {"unknown option", csq + Words{"--windows", "3"}, "windows"},
      {"unknown method", csq + Words{"--method", "fast"}, "fast"},
      {"unknown dtype", csq + Words{"--dtype", "f8"}, "f8"},
      {"bit patterns of bfloat16 for float", csq, "--q: ", "bfloat16.npy"},
      {"bit patterns of bfloat16 for float16", csq + Words{"--dtype", "float16"}, "--dtype bfloat16 only", "q.npy",
       "bfloat16.npy"},
      {"bit patterns of bfloat16 that are cut off", csq + Words{"--dtype", "bfloat16"}, "truncated", "cut_off.npy"},
      {"bit patterns of bfloat16 as key lengths",
       csq + Words{"--dtype", "bfloat16", "--key-length", folder.file("bfloat16_lengths.npy")}, "int32 or int64"},
      {"unknown centring", csq + Words{"--centering", "rows"}, "rows"},
      {"shift that is no number", csq + Words{"--shift", "one"}, "shift"},
      {"shift for softmax", {"--mechanism", "softmax", "--shift", "1"}, "shift"},
      {"NaN scale", csq + Words{"--scale", "nan"}, "scale"},
      {"scale for linear", {"--mechanism", "linear", "--scale", "1"}, "scale"},
      {"factored softmax", {"--mechanism", "softmax", "--method", "factored"}, "factored"},
      {"quadratic without coefficients", {"--mechanism", "quadratic"}, "coefficients"},
      {"two coefficients", {"--mechanism", "quadratic", "--coefficients", "1,2"}, "coefficients"},
      {"positive polynomial without coefficients", {"--mechanism", "positive_polynomial"}, "coefficients"},
      {"radius for polynomial", {"--mechanism", "polynomial", "--coefficients", "1", "--radius", "2"}, "--radius"},
      {"floor for csq", csq + Words{"--floor", "2"}, "--floor"},
      {"radius of zero", {"--mechanism", "positive_polynomial", "--coefficients", "1", "--radius", "0"}, "radius is 0"},
      {"negative floor", {"--mechanism", "positive_polynomial", "--coefficients", "1", "--floor", "-1"}, "floor is -1"},
      {"coefficients that are no numbers", {"--mechanism", "polynomial", "--coefficients", "1,x"}, "coefficients"},
      {"a quadratic below zero", {"--mechanism", "quadratic", "--coefficients", "0,1,1"}, "negative"},
      {"key length beyond the keys", csq + Words{"--key-length", "7"}, "key_length"},
      {"negative key length", csq + Words{"--key-length", "-1"}, "key_length"},
      {"key length that is no number", csq + Words{"--key-length", "5.5"}, "--key-length: '5.5'"},
      {"key lengths of a batch there is not", csq + Words{"--key-length", folder.file("lengths.npy")}, "key_length"},
      {"key lengths that are no whole numbers", csq + Words{"--key-length", folder.file("real_lengths.npy")},
       "must be little-endian int32 or int64"},
      {"key lengths from no file", csq + Words{"--key-length", folder.file("none.npy")}, "No such file or directory"},
      {"negative chunk", csq + Words{"--chunk", "-1"}, "chunk"},
      {"negative threads", csq + Words{"--threads", "-1"}, "threads"},
      {"causal prefix means with fewer queries than keys", csq + Words{"--causal"}, "query_history"},
      {"missing file", csq, "missing.npy: No such file or directory", "missing.npy"},
      {"folder", csq, "Is a directory", ""},
      {"not an array", csq, "text.npy", "text.npy"},
      {"truncated array", csq, "truncated", "q.npy", "short.npy"},
      {"complex array", csq, "<c8", "complex.npy"},
      {"five axes", csq, "five_axes.npy", "five_axes.npy"},
      {"one axis", csq, "one_axis.npy", "one_axis.npy"},
      {"batches that differ", csq, "batch", "two_batches.npy"},
      {"rows of nothing", csq, "empty_rows.npy", "empty_rows.npy"},
      {"dims that differ", csq, "dim", "q.npy", "wide.npy"},
      {"keys and values of different heads", csq, "heads", "q.npy", "three_heads.npy"},
      {"heads that do not divide", csq, "heads", "q.npy", "three_heads.npy", "three_values.npy"},
      {"output into no folder", csq, "nowhere", "q.npy", "k.npy", "v.npy", {"--out", "nowhere/o.npy"}},
      {"normalizer into no folder",
       csq,
       "nowhere",
       "q.npy",
       "k.npy",
       "v.npy",
       {"--out", "o.npy", "--normalizer", "nowhere/z.npy"}},
      {"no output", csq, "out", "q.npy", "k.npy", "v.npy", {}},
  };
  const auto check_rejected = [&](const WrongCall& call) {
    Words words = call.words;
    const auto add_path = [&](const char* option, const std::string& name) {
      words.insert(words.end(), {option, folder.file(name)});
    };
    add_path("--q", call.q);
    add_path("--k", call.k);
    add_path("--v", call.v);
    for (std::size_t i = 0; i + 1 < call.outputs.size(); i += 2) add_path(call.outputs[i].c_str(), call.outputs[i + 1]);
    const Finished run = run_attend(words);
    INFO(call.what << ": " << run.error);
    CHECK(run.exit_code == 2);
    CHECK(run.one_line_of_error());
    CHECK(run.error.find(call.message) != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(out));
    CHECK_FALSE(std::filesystem::exists(normalizer));
  };
  for (const WrongCall& call : wrong) check_rejected(call);

  // What was there before is kept, and the call without the mistake works.
  folder.file("o.npy", "precious");
  CHECK(run_attend(csq + input_words(folder.file("")) + Words{"--out", out, "--scale", "nan"}).exit_code == 2);
  CHECK(contents(out) == "precious");
  CHECK(run_attend(csq + input_words(folder.file("")) + Words{"--out", out}).exit_code == 0);
  CHECK(npy::read<float>(out).shape == std::vector<npy::Index>{4, 5, 2});
}

TEST_CASE("attend: its version, and where it cannot be told") {
  const TemporaryFolder folder;
  const Finished run = run_attend({"--version"});
  CHECK(run.exit_code == 0);
  CHECK(run.output == csq::build_info() + "\n");
  CHECK(run.error.empty());
  const Finished full = run_attend({"--version"}, "exec >/dev/full;");
  CHECK(full.exit_code == 2);
  CHECK(full.one_line_of_error());
}

TEST_CASE("attend: an instruction set that is none gives one line and exit 2, with threads too") {
  const TemporaryFolder folder;
  for (const char* name : {"q.npy", "k.npy", "v.npy"})
    npy::write<float>(folder.file(name), std::vector<Index>{600, 8}, std::vector<float>(4800, 0.5f));
  const Words words = Words{"--mechanism", "softmax", "--threads", "2"} + input_words(folder.file("")) +
                      Words{"--out", folder.file("o.npy")};
  const Finished run = run_attend(words, "CSQ_SIMD=sse9");
  INFO(run.error);
  CHECK(run.exit_code == 2);
  CHECK(std::count(run.error.begin(), run.error.end(), '\n') == 1);
  CHECK(run.error.find("CSQ_SIMD is 'sse9'") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder.file("o.npy")));
}

#endif
