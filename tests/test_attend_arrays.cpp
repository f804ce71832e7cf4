// attend's arrays: every mechanism, 2 to 4 axes, both orders in the file, every dtype, against plain loops; what a file
// looks like does not change a bit of what is computed.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../examples/npy.hpp"
#include "attend_process.hpp"
#include "catch.hpp"
#include "compare.hpp"
#include "npy_bytes.hpp"
#include "problem.hpp"
#include "temporary_folder.hpp"

#ifdef CSQ_ATTEND

namespace {

Words words_of(const csq::Softmax&) { return {"softmax"}; }
Words words_of(const csq::Squared&) { return {"squared"}; }
Words words_of(const csq::ShiftedQuadratic& m) { return {"shifted", "--shift", number(m.shift)}; }
Words words_of(const csq::Csq& m) { return {"csq", "--shift", number(m.shift)}; }
Words words_of(const csq::Taylor&) { return {"taylor"}; }
Words words_of(const csq::Quadratic& m) { return {"quadratic", "--coefficients", list({m.c0, m.c1, m.c2})}; }
Words words_of(const csq::Linear&) { return {"linear"}; }
Words words_of(const csq::Polynomial& m) { return {"polynomial", "--coefficients", list(m.coefficients)}; }
Words words_of(const csq::PositivePolynomial& m) {
  return {"positive_polynomial", "--coefficients", list(m.root),   "--radius",
          number(m.radius),      "--floor",        number(m.floor)};
}

// The last `axes` of [batch, heads, tokens, dim].
std::vector<Index> shape_of(const Tensor& tensor, std::size_t axes) {
  const std::vector<Index> all{tensor.batch, tensor.heads, tensor.tokens, tensor.dim};
  return {all.end() - Index(axes), all.end()};
}

// As NumPy saves numpy.asfortranarray(x): the first axis is the fastest.
std::vector<double> in_fortran_order(const std::vector<double>& values, const std::vector<Index>& shape) {
  std::vector<double> turned(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    Index rest = Index(i), to = 0;
    std::vector<Index> at(shape.size());
    for (std::size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) at[axis] = rest % shape[axis];
    for (std::size_t axis = shape.size(); axis-- > 0;) to = to * shape[axis] + at[axis];
    turned[std::size_t(to)] = values[i];
  }
  return turned;
}

template <class Stored>
std::string bytes_as(const std::vector<double>& values) {
  std::vector<Stored> stored;
  for (const double value : values) stored.push_back(static_cast<Stored>(value));
  return raw(stored);
}

std::string data_as(const std::string& dtype, const std::vector<double>& values) {
  if (dtype == "<f4") return bytes_as<float>(values);
  if (dtype == "<i4") return bytes_as<std::int32_t>(values);
  if (dtype == "<i8") return bytes_as<std::int64_t>(values);
  if (dtype == "<f8") return bytes_as<double>(values);
  return dtype == "<u2" ? bytes_as<Eigen::bfloat16>(values) : bytes_as<Eigen::half>(values);
}

struct FileKind {
  std::string dtype = "<f8";
  bool fortran_order = false;
};

void save(const std::string& path, const Tensor& tensor, std::size_t axes, const FileKind& kind) {
  const std::vector<Index> shape = shape_of(tensor, axes);
  std::ofstream(path, std::ios::binary) << npy_bytes(
      kind.dtype, kind.fortran_order ? "True" : "False", npy::shape_text(shape),
      data_as(kind.dtype, kind.fortran_order ? in_fortran_order(tensor.values, shape) : tensor.values));
}

void save_inputs(const TemporaryFolder& folder, const Problem& p, std::size_t axes, const FileKind& kind) {
  save(folder.file("q.npy"), p.q, axes, kind);
  save(folder.file("k.npy"), p.k, axes, kind);
  save(folder.file("v.npy"), p.v, axes, kind);
  save(folder.file("dout.npy"), p.dout, axes, kind);
}

const std::vector<std::string> output_names{"out", "normalizer", "dq", "dk", "dv"};

Words call_words(const TemporaryFolder& folder) {
  Words words = input_words(folder.file("")) + Words{"--dout", folder.file("dout.npy"), "--threads", "1"};
  for (const std::string& name : output_names) words = words + Words{"--" + name, folder.file(name + ".npy")};
  return words;
}

Sizes sizes_of(std::size_t axes) {
  Sizes sizes{6, 7, 5, 3};
  if (axes > 2) sizes.heads = 4, sizes.kv_heads = 2;
  if (axes > 3) sizes.batch = 3;
  return sizes;
}

std::vector<std::string> output_bytes(const TemporaryFolder& folder) {
  std::vector<std::string> bytes;
  for (const std::string& name : output_names) bytes.push_back(contents(folder.file(name + ".npy")));
  return bytes;
}

}  // namespace

TEST_CASE("attend: every mechanism, 2 to 4 axes, C and Fortran order") {
  const TemporaryFolder folder;
  Random random(1);
  for (const std::size_t axes : {2u, 3u, 4u}) {
    const Problem p = Problem::random_backward(random, sizes_of(axes));
    for_each_mechanism([&](const auto& named) {
      INFO(named.name << ", " << axes << " axes");
      const Words words =
          Words{"--mechanism"} + words_of(named.mechanism) + call_words(folder) + Words{"--dtype", "f64"};
      save_inputs(folder, p, axes, {"<f8", false});
      const Finished run = run_attend(words);
      INFO(run.error);
      REQUIRE(run.exit_code == 0);
      const reference::Result expected = reference_result(named, p);
      const auto check = [&](const char* name, const Tensor& tensor, std::vector<Index> shape) {
        INFO(name);
        const npy::Array<double> array = npy::read<double>(folder.file(name));
        CHECK(array.shape == shape);
        CHECK(distance(array.data, tensor.values) <= 1e-10);
      };
      check("out.npy", expected.output, shape_of(expected.output, axes));
      std::vector<Index> rows = shape_of(expected.statistic, axes);
      rows.pop_back();
      check("normalizer.npy", expected.statistic, rows);
      CHECK(npy::read<double>(folder.file("dq.npy")).shape == shape_of(p.q, axes));
      CHECK(npy::read<double>(folder.file("dk.npy")).shape == shape_of(p.k, axes));
      CHECK(npy::read<double>(folder.file("dv.npy")).shape == shape_of(p.v, axes));

      const std::vector<std::string> c_order = output_bytes(folder);
      save_inputs(folder, p, axes, {"<f8", true});
      REQUIRE(run_attend(words).exit_code == 0);
      CHECK(output_bytes(folder) == c_order);
    });
  }
}

TEST_CASE("attend: the dtype and order of a file do not matter") {
  const TemporaryFolder folder;
  Random random(2);
  Problem p = Problem::random_backward(random, sizes_of(4));
  for (Tensor* tensor : {&p.q, &p.k, &p.v, &p.dout})
    for (double& value : tensor->values) value = std::round(2 * value);
  for (const std::string precision : {"float", "double", "bfloat16", "float16", "f32", "f64", "bf16", "f16"}) {
    const Words words = Words{"--mechanism", "csq", "--dtype", precision} + call_words(folder);
    save_inputs(folder, p, 4, {});
    REQUIRE(run_attend(words).exit_code == 0);
    const std::vector<std::string> expected = output_bytes(folder);
    for (const char* dtype : {"<f2", "<f4", "<f8", "<i4", "<i8", "<u2"})
      for (const bool fortran_order : {false, true}) {
        if (std::string(dtype) == "<u2" && !precision.starts_with("bf")) continue;
        INFO(precision << ", " << dtype << (fortran_order ? ", Fortran order" : ", C order"));
        save_inputs(folder, p, 4, {dtype, fortran_order});
        const Finished run = run_attend(words);
        INFO(run.error);
        REQUIRE(run.exit_code == 0);
        CHECK(output_bytes(folder) == expected);
      }
  }
}

// What of 16 bits is computed is what double makes of the rounded inputs; the output, rounded once, is within half of
// its last bit of it where no matrix unit rounds weights too, and all that is not of 16 bits is float.
TEST_CASE("attend: bfloat16 and float16, from every kind of file, against double") {
  const TemporaryFolder folder;
  Random random(4);
  struct Kind {
    std::string dtype, file;
    double tolerance, gradient_tolerance;
  };
  for (const Kind& kind : {Kind{"bfloat16", "<u2", 2e-2, 3e-2}, Kind{"float16", "<f2", 2e-3, 8e-3}})
    for (const char* mechanism : {"softmax", "csq", "linear"})
      for (const char* method : {"direct", "factored"}) {
        if (std::string(mechanism) == "softmax" && std::string(method) == "factored") continue;
        INFO(kind.dtype << ", " << mechanism << ", " << method);
        Sizes sizes = sizes_of(4);
        sizes.n = sizes.m = 40;
        sizes.d = 8;
        const Problem p = Problem::random_backward(random, sizes);
        std::vector<float> gates(std::size_t(sizes.batch * sizes.kv_heads * sizes.m));
        for (float& gate : gates) gate = float(-0.1 * random.uniform());
        npy::write<float>(folder.file("gate.npy"), std::vector<Index>{sizes.batch, sizes.kv_heads, sizes.m}, gates);
        const Words words = Words{"--mechanism",
                                  mechanism,
                                  "--method",
                                  method,
                                  "--causal",
                                  "--log-gate",
                                  folder.file("gate.npy"),
                                  "--dlog-gate",
                                  folder.file("dlog_gate.npy")} +
                            call_words(folder);
        const std::vector<std::pair<std::string, std::string>> outputs{{"out", kind.file},    {"dq", kind.file},
                                                                       {"dk", kind.file},     {"dv", kind.file},
                                                                       {"normalizer", "<f4"}, {"dlog_gate", "<f4"}};
        const auto values_of = [&](const std::string& name) {
          return npy::read<double>(folder.file(name + ".npy"), npy::Uint16::bfloat16).data;
        };
        const auto run = [&](const std::string& dtype) {
          for (const auto& [name, file] : outputs) std::filesystem::remove(folder.file(name + ".npy"));
          const Finished finished = run_attend(words + Words{"--dtype", dtype});
          INFO(finished.error);
          REQUIRE(finished.exit_code == 0);
          CHECK(finished.output.find(", " + dtype + ", ") != std::string::npos);
        };

        save_inputs(folder, p, 4, {kind.file});  // rounded
        run(kind.dtype);
        std::vector<std::vector<double>> sixteen;
        std::vector<std::string> bytes;
        for (const auto& [name, file] : outputs) {
          bytes.push_back(contents(folder.file(name + ".npy")));
          CHECK(bytes.back().find("'descr': '" + file + "'") != std::string::npos);
          sixteen.push_back(values_of(name));
        }

        save_inputs(folder, p, 4, {"<f4", true});
        run(kind.dtype);
        for (std::size_t i = 0; i < outputs.size(); ++i)
          CHECK((contents(folder.file(outputs[i].first + ".npy")) == bytes[i]));

        Problem rounded = p;
        for (Tensor* tensor : {&rounded.q, &rounded.k, &rounded.v, &rounded.dout})
          for (double& value : tensor->values)
            value = kind.file == "<u2" ? double(Eigen::bfloat16(float(value))) : double(Eigen::half(float(value)));
        save_inputs(folder, rounded, 4, {});
        run("double");
        for (std::size_t i = 0; i < outputs.size(); ++i) {
          INFO(outputs[i].first);
          const std::vector<double> expected = values_of(outputs[i].first);
          CHECK(distance(sixteen[i], expected) <= (i == 0 || i == 4 ? kind.tolerance : kind.gradient_tolerance));
        }
      }
}

// Gates, biases and sinks are not rounded: a file of them that holds bfloat16 says what one of float says.
TEST_CASE("attend: with bfloat16 the other arrays may lie in their files as bfloat16 too") {
  const TemporaryFolder folder;
  Random random(5);
  const Problem p = Problem::random_backward(random, sizes_of(3));
  save_inputs(folder, p, 3, {"<u2"});
  const Words words =
      Words{"--mechanism",           "softmax", "--dtype", "bfloat16", "--sink", folder.file("sink.npy"), "--dsink",
            folder.file("dsink.npy")} +
      call_words(folder);
  const std::vector<double> sinks{0.5, -1.25, 2, 0};
  const auto bytes_with = [&](const std::string& dtype) {
    folder.file("sink.npy", npy_bytes(dtype, "False", "(4,)", data_as(dtype, sinks)));
    const Finished run = run_attend(words);
    INFO(run.error);
    REQUIRE(run.exit_code == 0);
    CHECK(contents(folder.file("dsink.npy")).find("<f4") != std::string::npos);
    return output_bytes(folder);
  };
  CHECK((bytes_with("<u2") == bytes_with("<f8")));
}

TEST_CASE("attend: one key length for all, or one for each of the batch from a file of 32 or 64 bits") {
  const TemporaryFolder folder;
  Random random(3);
  Problem p = Problem::random_backward(random, sizes_of(4));
  save_inputs(folder, p, 4, {});
  const auto check_lengths = [&](const std::string& word, const std::vector<Index>& lengths) {
    INFO(word);
    const Finished run = run_attend(Words{"--mechanism", "softmax", "--dtype", "f64", "--key-length", word} +
                                    input_words(folder.file("")) + Words{"--out", folder.file("out.npy")});
    INFO(run.error);
    REQUIRE(run.exit_code == 0);
    p.key_length = lengths;
    const NamedMechanism<csq::Softmax> softmax{"softmax", {}, softmax_weight(), false};
    CHECK(distance(npy::read<double>(folder.file("out.npy")).data, reference_result(softmax, p).output.values) <=
          1e-10);
  };
  check_lengths("4", {4, 4, 4});
  check_lengths(folder.file("int32.npy", npy_bytes("<i4", "False", "(3,)", raw<std::int32_t>({7, 0, 3}))), {7, 0, 3});
  check_lengths(folder.file("int64.npy", npy_bytes("<i8", "False", "(3,)", raw<std::int64_t>({1, 5, 2}))), {1, 5, 2});
  check_lengths(folder.file("scalar.npy", npy_bytes("<i8", "False", "()", raw<std::int64_t>({5}))), {5, 5, 5});
}

#endif
