// attend: csq's kernels on anybody's tensors, without writing C++.
//
//   attend --mechanism csq --q Q.npy --k K.npy --v V.npy --out O.npy --causal
//
//   attend ... --dout dO.npy --dq dQ.npy --dk dK.npy --dv dV.npy --dshift dS.npy      the gradients that are asked for
//
// Arrays are NumPy .npy, [heads, tokens, dim] or [tokens, dim]; a gradient has the shape of its input. Prints one line;
// a bad argument or file is one line on standard error and exit 2, and no output file is written.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <chrono>
#include <csq/csq.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "npy.hpp"

namespace {

using csq::Index;

using Mechanism = std::variant<csq::Softmax, csq::Squared, csq::ShiftedQuadratic, csq::Csq, csq::Taylor, csq::Quadratic,
                               csq::Linear, csq::Polynomial>;

struct Arguments {
  std::string mechanism, q, k, v, out, normalizer, coefficients, dtype = "f32";
  std::string dout, dq, dk, dv, dshift;
  std::optional<double> shift, scale;
  std::optional<Index> key_length;
  bool causal = false;
  csq::Centering centering = csq::Centering::automatic;
  csq::Method method = csq::Method::automatic;
  Index chunk = 0;
  int threads = 0;
};

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

std::vector<double> parse_coefficients(const std::string& text) {
  std::vector<double> coefficients;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    if (at != end && *at == '+') ++at;
    double value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || (next != end && *next != ','))
      fail("--coefficients: '" + text + "' is not a comma separated list of numbers");
    coefficients.push_back(value);
    if (next == end) return coefficients;
    at = next + 1;
  }
}

Mechanism make_mechanism(const Arguments& arguments) {
  const std::string& name = arguments.mechanism;
  const bool takes_shift = name == "shifted" || name == "csq";
  const bool takes_coefficients = name == "quadratic" || name == "polynomial";
  if (arguments.shift && !takes_shift) fail("--shift: only shifted and csq have one, not " + name);
  if (!arguments.dshift.empty() && !takes_shift) fail("--dshift: only shifted and csq have a shift, not " + name);
  if (!arguments.coefficients.empty() && !takes_coefficients)
    fail("--coefficients: only quadratic and polynomial have them, not " + name);
  if (arguments.coefficients.empty() && takes_coefficients) fail("--coefficients: " + name + " needs them: c0,c1,...");
  const double shift = arguments.shift.value_or(1);
  const std::vector<double> c = takes_coefficients ? parse_coefficients(arguments.coefficients) : std::vector<double>{};
  if (name == "softmax") return csq::Softmax{};
  if (name == "squared") return csq::Squared{};
  if (name == "shifted") return csq::ShiftedQuadratic{shift};
  if (name == "csq") return csq::Csq{shift};
  if (name == "taylor") return csq::Taylor{};
  if (name == "linear") return csq::Linear{};
  if (name == "polynomial") return csq::Polynomial{c};
  if (c.size() != 3) fail("--coefficients: quadratic needs 3, c0,c1,c2, but got " + std::to_string(c.size()));
  return csq::Quadratic{c[0], c[1], c[2]};
}

// [heads, tokens, dim] of an array of two or three axes.
template <class T>
csq::Heads<const T> view_of(const npy::Array<T>& array, const char* option, const std::string& path) {
  const auto& s = array.shape;
  if (s.size() != 2 && s.size() != 3)
    fail(std::string(option) + ": " + path + " has shape " + npy::shape_text(s) +
         " but must be [heads, tokens, dim] or [tokens, dim]");
  if (s.size() == 2) return {array.data.data(), {1, 1, s[0], s[1]}};
  return {array.data.data(), {1, s[0], s[1], s[2]}};
}

template <class T>
npy::Array<T> read_array(const char* option, const std::string& path) {
  try {
    return npy::read<T>(path);
  } catch (const std::exception& error) {
    fail(std::string(option) + ": " + error.what());
  }
}

// The output files appear together or not at all: each is written beside its place, then all are renamed.
class OutputFiles {
 public:
  OutputFiles() = default;
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  ~OutputFiles() {
    std::error_code ignored;
    for (const auto& [partial, path] : files_) std::filesystem::remove(partial, ignored);
  }

  template <class T>
  void write(const char* option, const std::string& path, const std::vector<Index>& shape, const std::vector<T>& data) {
    std::error_code error;
    std::string target = std::filesystem::weakly_canonical(path, error).string();
    if (error) target = path;
    if (std::filesystem::exists(target, error) && !std::filesystem::is_regular_file(target, error))
      fail(std::string(option) + ": " + path + ": is not a regular file");
    const std::string partial = target + ".partial-" + std::to_string(getpid());
    files_.emplace_back(partial, target);
    try {
      npy::write<T>(partial, shape, data);
    } catch (const std::exception&) {
      fail(std::string(option) + ": " + path + ": cannot be written");
    }
  }

  void commit() {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      std::error_code error;
      std::filesystem::rename(files_[i].first, files_[i].second, error);
      if (!error) continue;
      const std::string what = files_[i].second + ": " + error.message();
      for (std::size_t j = 0; j < i; ++j) std::filesystem::remove(files_[j].second, error);
      fail(what);
    }
    files_.clear();
  }

 private:
  std::vector<std::pair<std::string, std::string>> files_;  // partial, target
};

struct NamedPath {
  const char* option;
  const std::string* path;
};

std::array<NamedPath, 4> input_paths(const Arguments& arguments) {
  return {{{"--q", &arguments.q}, {"--k", &arguments.k}, {"--v", &arguments.v}, {"--dout", &arguments.dout}}};
}

std::array<NamedPath, 4> gradient_paths(const Arguments& arguments) {
  return {{{"--dq", &arguments.dq}, {"--dk", &arguments.dk}, {"--dv", &arguments.dv}, {"--dshift", &arguments.dshift}}};
}

void check_arguments(const Arguments& arguments) {
  if (arguments.chunk < 0) fail("--chunk: " + std::to_string(arguments.chunk) + " is negative");
  if (arguments.threads < 0) fail("--threads: " + std::to_string(arguments.threads) + " is negative");
  for (const auto& [option, path] : gradient_paths(arguments))
    if (!path->empty() && arguments.dout.empty()) fail(std::string(option) + ": needs --dout");
}

// No output is an input or another output.
void check_distinct_paths(const Arguments& arguments) {
  const auto same = [](const std::string& a, const std::string& b) {
    std::error_code error;
    return std::filesystem::weakly_canonical(a, error) == std::filesystem::weakly_canonical(b, error);
  };
  const std::array<NamedPath, 4> inputs = input_paths(arguments), gradients = gradient_paths(arguments);
  std::vector<NamedPath> taken(inputs.begin(), inputs.end());
  std::vector<NamedPath> outputs{{"--out", &arguments.out}, {"--normalizer", &arguments.normalizer}};
  outputs.insert(outputs.end(), gradients.begin(), gradients.end());
  for (const NamedPath& output : outputs) {
    if (output.path->empty()) continue;
    for (const auto& [option, path] : taken)
      if (!path->empty() && same(*path, *output.path))
        fail(std::string(output.option) + ": " + *output.path + " is also " + option);
    taken.push_back(output);
  }
}

template <class T>
std::string shape_text(const csq::Heads<T>& view, std::size_t axes) {
  std::string text = axes == 3 ? "[" + std::to_string(view.heads()) + ", " : "[";
  return text + std::to_string(view.tokens()) + ", " + std::to_string(view.dim()) + "]";
}

// ∂L/∂out as it is in its file; its shape is that of the output.
template <class T>
npy::Array<T> read_output_gradient(const std::string& path, const csq::Heads<const T>& q,
                                   const csq::Heads<const T>& v) {
  npy::Array<T> array = read_array<T>("--dout", path);
  const csq::Heads<const T> view = view_of(array, "--dout", path);
  if (view.shape != typename csq::Heads<const T>::Shape{1, q.heads(), q.tokens(), v.dim()})
    fail("--dout: " + path + " has shape " + npy::shape_text(array.shape) + " but the output of this call has " +
         npy::shape_text(std::array<Index, 3>{q.heads(), q.tokens(), v.dim()}));
  return array;
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// What was run forward and backward, in words.
std::string forward_method(const Mechanism& mechanism, const csq::Shape& sizes, const csq::Options& options) {
  const csq::Method used =
      std::visit([&](const auto& chosen) { return csq::used_method(chosen, sizes, options); }, mechanism);
  if (used == csq::Method::factored) return "factored";
  // A causal factored call too short for any read to pay is the direct path.
  return options.method == csq::Method::factored ? "factored (served directly)" : "direct";
}
std::string backward_method(const Mechanism& mechanism, const csq::Shape& sizes, const csq::Options& options) {
  const csq::Method used =
      std::visit([&](const auto& chosen) { return csq::used_backward_method(chosen, sizes, options); }, mechanism);
  return used == csq::Method::factored ? "factored" : "direct";
}

template <class T>
void run(const Arguments& arguments, const Mechanism& mechanism) {
  check_arguments(arguments);
  check_distinct_paths(arguments);
  const npy::Array<T> q_array = read_array<T>("--q", arguments.q);
  const npy::Array<T> k_array = read_array<T>("--k", arguments.k);
  const npy::Array<T> v_array = read_array<T>("--v", arguments.v);
  const auto q = view_of(q_array, "--q", arguments.q);
  const auto k = view_of(k_array, "--k", arguments.k);
  const auto v = view_of(v_array, "--v", arguments.v);
  const bool backward = !arguments.dout.empty();
  const npy::Array<T> dout_array = backward ? read_output_gradient(arguments.dout, q, v) : npy::Array<T>{};

  const std::array<Index, 1> key_length{arguments.key_length.value_or(0)};
  csq::Options options;
  options.scale = arguments.scale;
  options.causal = arguments.causal;
  if (arguments.key_length) options.key_length = key_length;
  options.centering = arguments.centering;
  options.method = arguments.method;
  options.chunk = arguments.chunk;
  options.threads = arguments.threads;

  const Index rows = csq::detail::checked_product(q.heads(), q.tokens(), "q");
  std::vector<T> out(static_cast<std::size_t>(csq::detail::checked_product(rows, v.dim(), "out")));
  std::vector<T> normalizer(static_cast<std::size_t>(rows));
  const csq::Heads<T> out_view(out.data(), {1, q.heads(), q.tokens(), v.dim()});
  const csq::Heads<T> normalizer_view(normalizer.data(), {1, q.heads(), q.tokens(), 1});

  const auto forward_start = std::chrono::steady_clock::now();
  std::visit(
      [&](const auto& chosen) {
        if (arguments.normalizer.empty() && !backward)
          csq::attention(chosen, q, k, v, out_view, options);
        else
          csq::attention(chosen, q, k, v, out_view, normalizer_view, options);
      },
      mechanism);
  const double forward_milliseconds = milliseconds_since(forward_start);

  std::vector<T> dq, dk, dv;
  double dshift = 0, backward_milliseconds = 0;
  if (backward) {
    dq.resize(q_array.data.size());
    dk.resize(k_array.data.size());
    dv.resize(v_array.data.size());
    const csq::Heads<const T> dout_view(dout_array.data.data(), out_view.shape);
    const csq::Gradients<T> gradients{
        {dq.data(), q.shape}, {dk.data(), k.shape}, {dv.data(), v.shape}, arguments.dshift.empty() ? nullptr : &dshift};
    const auto backward_start = std::chrono::steady_clock::now();
    std::visit(
        [&](const auto& chosen) {
          csq::attention_backward(chosen, q, k, v, out_view, normalizer_view, dout_view, gradients, options);
        },
        mechanism);
    backward_milliseconds = milliseconds_since(backward_start);
  }

  const std::size_t axes = q_array.shape.size();
  std::vector<Index> shape = {q.heads(), q.tokens(), v.dim()};
  if (axes == 2) shape.erase(shape.begin());
  OutputFiles files;
  files.write("--out", arguments.out, shape, out);
  shape.pop_back();
  if (!arguments.normalizer.empty()) files.write("--normalizer", arguments.normalizer, shape, normalizer);
  if (!arguments.dq.empty()) files.write("--dq", arguments.dq, q_array.shape, dq);
  if (!arguments.dk.empty()) files.write("--dk", arguments.dk, k_array.shape, dk);
  if (!arguments.dv.empty()) files.write("--dv", arguments.dv, v_array.shape, dv);
  if (!arguments.dshift.empty()) files.write("--dshift", arguments.dshift, {1}, std::vector<T>{static_cast<T>(dshift)});
  files.commit();

  const csq::Shape sizes{.queries = q.tokens(),
                         .keys = k.tokens(),
                         .key_dim = q.dim(),
                         .value_dim = v.dim(),
                         .heads = q.heads(),
                         .kv_heads = k.heads(),
                         .causal = options.causal};
  std::printf("%s, %s, %s, %s, q %s, k %s, v %s%s, %.3f ms", arguments.mechanism.c_str(),
              forward_method(mechanism, sizes, options).c_str(), csq::simd_name(), arguments.dtype.c_str(),
              shape_text(q, axes).c_str(), shape_text(k, k_array.shape.size()).c_str(),
              shape_text(v, v_array.shape.size()).c_str(), options.causal ? ", causal" : "", forward_milliseconds);
  if (backward)
    std::printf("; backward %s, %.3f ms", backward_method(mechanism, sizes, options).c_str(), backward_milliseconds);
  std::printf("\n");
}

template <class Value>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Value& value,
                        const std::map<std::string, Value>& choices, const std::string& help) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + choice.first;
  return app
      .add_option_function<std::string>(
          name,
          [&value, choices, names, name](const std::string& text) {
            const auto found = choices.find(text);
            if (found == choices.end()) throw CLI::ValidationError(name, "'" + text + "' must be one of " + names);
            value = found->second;
          },
          help)
      ->type_name(names);
}

CLI::Option* add_file(CLI::App& app, const std::string& name, std::string& path, const std::string& help) {
  const auto add = [&path, name](const std::string& text) {
    if (text.empty()) throw CLI::ValidationError(name, "the file name is empty");
    path = text;
  };
  return app.add_option_function<std::string>(name, add, help)->type_name("FILE");
}

std::map<std::string, std::string> same_names(const std::vector<std::string>& names) {
  std::map<std::string, std::string> choices;
  for (const std::string& name : names) choices[name] = name;
  return choices;
}

void declare(CLI::App& app, Arguments& arguments) {
  add_choice(app, "--mechanism", arguments.mechanism,
             same_names({"softmax", "squared", "shifted", "csq", "taylor", "quadratic", "linear", "polynomial"}),
             "what a weight is")
      ->required();
  add_file(app, "--q", arguments.q, "queries, [heads, tokens, dim] or [tokens, dim]")->required();
  add_file(app, "--k", arguments.k, "keys; their heads divide the queries'")->required();
  add_file(app, "--v", arguments.v, "values")->required();
  add_file(app, "--out", arguments.out, "output, as many axes as the queries")->required();
  add_file(app, "--normalizer", arguments.normalizer, "sum of the weights, [heads, tokens]; softmax: log-sum-exp");
  app.add_flag("--causal", arguments.causal, "query i sees keys up to i + (keys - queries)");
  app.add_option("--shift", arguments.shift, "of shifted and csq; 1 unless given")->type_name("X");
  add_choice<csq::Centering>(app, "--centering", arguments.centering,
                             {{"automatic", csq::Centering::automatic},
                              {"none", csq::Centering::none},
                              {"sequence", csq::Centering::sequence},
                              {"prefix", csq::Centering::prefix},
                              {"prefix_exclusive", csq::Centering::prefix_exclusive}},
                             "what is subtracted from queries and keys");
  app.add_option("--scale", arguments.scale, "of the scores; 1/sqrt(dim) unless given")->type_name("X");
  app.add_option("--key-length", arguments.key_length, "keys from here on are invisible")->type_name("L");
  app.add_option("--coefficients", arguments.coefficients, "c0,c1,... of quadratic (three) and polynomial")
      ->type_name("C0,C1,...");
  add_choice<csq::Method>(
      app, "--method", arguments.method,
      {{"auto", csq::Method::automatic}, {"direct", csq::Method::direct}, {"factored", csq::Method::factored}},
      "auto unless given: the faster by the cost model");
  app.add_option("--chunk", arguments.chunk, "tokens per block of the factored form; 0 = tuned")->type_name("C");
  add_choice(app, "--dtype", arguments.dtype, same_names({"f32", "f64"}), "of the computation and the outputs; f32");
  app.add_option("--threads", arguments.threads, "0 = all")->type_name("T");
  add_file(app, "--dout", arguments.dout, "gradient of a loss by the output, same shape: asks for the backward pass");
  add_file(app, "--dq", arguments.dq, "gradient of the queries, their shape; needs --dout, as the next three do");
  add_file(app, "--dk", arguments.dk, "gradient of the keys");
  add_file(app, "--dv", arguments.dv, "gradient of the values");
  add_file(app, "--dshift", arguments.dshift, "gradient of the shift of shifted and csq, [1], summed over heads");
}

int report(std::string what) {
  for (char& c : what)
    if (c == '\n') c = ' ';
  std::fprintf(stderr, "attend: %s\n", what.c_str());
  return 2;
}

}  // namespace

int main(int count, char** words) {
  CLI::App app{"Attention over NumPy arrays: softmax, CSQ and the other mechanisms of csq.", "attend"};
  Arguments arguments;
  declare(app, arguments);
  try {
    app.parse(count, words);
    const Mechanism mechanism = make_mechanism(arguments);
    if (arguments.dtype == "f64")
      run<double>(arguments, mechanism);
    else
      run<float>(arguments, mechanism);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::bad_alloc&) {
    return report("not enough memory");
  } catch (const std::exception& error) {
    return report(error.what());
  }
  return 0;
}
