// attend: csq's kernels on anybody's tensors, without writing C++.
//
//   attend --mechanism csq --q Q.npy --k K.npy --v V.npy --out O.npy --causal
//
//   attend --mechanism softmax ... --causal --window 1024 --sink S.npy --log-gate G.npy
//
//   attend ... --dout dO.npy --dq dQ.npy --dk dK.npy --dv dV.npy --dshift dS.npy      the gradients that are asked for
//
//   attend ... --dtype bfloat16                         arrays of 16 bits; float16 and double likewise
//
// Arrays are NumPy .npy in C or Fortran order, [batch, heads, tokens, dim], [heads, tokens, dim] or [tokens, dim]; the
// output has as many axes as the queries, a gradient the shape of its input. Prints one line; a bad argument or file is
// one line on standard error and exit 2. All outputs of a call appear, or none and what was there stays
// (replace_files.hpp).
//
// --dtype is what q, k, v and dout are rounded to when they are read (once, to nearest even, whatever a file holds),
// and what the output and their gradients are written as. Of 16 bits all else is float: normaliser, gates, bias, sinks
// and the gradients of these and of the shift. NumPy has no bfloat16: such files are uint16, the bit patterns, and
// uint16 is refused with any other --dtype.
#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <chrono>
#include <concepts>
#include <csignal>
#include <csq/csq.hpp>
#include <cstdio>
#include <iostream>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "attend_arguments.hpp"
#include "npy.hpp"
#include "replace_files.hpp"

namespace attend {

// One line on standard error, whatever is said.
void report(std::string what) {
  for (char& c : what)
    if (c == '\n') c = ' ';
  std::fprintf(stderr, "attend: %s\n", what.c_str());
}

// What arrays of an element type are computed in.
template <class Element>
using Computed = std::conditional_t<std::same_as<Element, double>, double, float>;

// An array as the library sees it: axes that it lacks have size 1.
template <class T>
csq::Heads<const T> view_of(const npy::Array<T>& array, const char* option, const std::string& path) {
  const std::vector<Index>& shape = array.shape;
  const std::string what = std::string(option) + ": " + path + " has shape " + npy::shape_text(shape) + " but ";
  if (shape.size() < 2 || shape.size() > 4)
    fail(what + "must be [batch, heads, tokens, dim], [heads, tokens, dim] or [tokens, dim]");
  if (shape.back() == 0) fail(what + "its last axis must not be empty");
  typename csq::Heads<const T>::Shape all{1, 1, 1, 1};
  std::copy(shape.rbegin(), shape.rend(), all.rbegin());
  return {array.data.data(), all};
}

// With --dtype bfloat16 an array that is not rounded to it may lie in its file as bfloat16 all the same.
template <class T, class Element = T>
npy::Array<T> read_array(const char* option, const std::string& path) {
  constexpr bool bfloat16 = std::same_as<Element, Eigen::bfloat16>;
  try {
    return npy::read<T>(path, bfloat16 ? npy::Uint16::bfloat16 : npy::Uint16::refused);
  } catch (const std::runtime_error& error) {
    fail(std::string(option) + ": " + error.what());
  }
}

// Queries, keys, values and, for the backward pass, the gradient by the output. The views are of the arrays, whose
// memory stays where it is when the whole is moved.
template <class Element>
struct Inputs {
  npy::Array<Element> q_array, k_array, v_array, dout_array;
  npy::Array<Computed<Element>> log_gate_array, bias_array;
  csq::Heads<const Element> q, k, v, dout;
  csq::Heads<const Computed<Element>> log_gate, bias;  // data is null without
  std::vector<double> sink;                            // empty without
  std::vector<Index> key_length;                       // empty: all

  Inputs() = default;
  Inputs(Inputs&&) = default;

  // The output's, with the axes of the queries' file.
  std::vector<Index> output_shape() const {
    std::vector<Index> shape = q_array.shape;
    shape.back() = v.dim();
    return shape;
  }

  csq::Shape sizes() const {
    return {.queries = q.tokens(),
            .keys = k.tokens(),
            .key_dim = q.dim(),
            .value_dim = v.dim(),
            .batch = q.batch(),
            .heads = q.heads(),
            .kv_heads = k.heads()};
  }
};

// --key-length: one number for all, or a file with one for each of the batch.
std::vector<Index> key_lengths(const std::string& text, Index batch) {
  if (text.empty()) return {};
  std::vector<Index> lengths(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), lengths[0]);
  if (error != std::errc() || end != text.data() + text.size()) {
    if (!text.ends_with(".npy")) fail("--key-length: '" + text + "' is neither a whole number nor a .npy file");
    lengths = read_array<Index>("--key-length", text).data;
  }
  if (lengths.size() == 1) lengths.resize(static_cast<std::size_t>(batch), lengths[0]);
  return lengths;
}

// --log-gate: [gate heads, tokens], or [tokens] of one head, or with the batch first.
template <class T>
csq::Heads<const T> gate_view(const npy::Array<T>& array, const std::string& path) {
  const std::vector<Index>& shape = array.shape;
  if (shape.empty() || shape.size() > 3)
    fail("--log-gate: " + path + " has shape " + npy::shape_text(shape) +
         " but must be [batch, gate heads, tokens], [gate heads, tokens] or [tokens]");
  typename csq::Heads<const T>::Shape all{1, 1, 1, 1};
  std::copy(shape.rbegin(), shape.rend(), all.rbegin() + 1);
  return {array.data.data(), all};
}

// --bias: an axis of size 1 holds for all of the call's.
template <class T>
csq::Heads<const T> bias_view(const npy::Array<T>& array, const std::string& path,
                              const typename csq::Heads<const T>::Shape& all) {
  csq::Heads<const T> view = view_of(array, "--bias", path);
  for (std::size_t axis = 0; axis < 4; ++axis) {
    if (view.shape[axis] != all[axis] && (view.shape[axis] != 1 || axis == 3))
      fail("--bias: " + path + " has shape " + npy::shape_text(array.shape) + " but this call's is " +
           npy::shape_text({all.begin(), all.end()}) + ", or 1 for an axis but the last");
    if (view.shape[axis] != all[axis]) view.stride[axis] = 0;
  }
  view.shape = all;
  return view;
}

template <class Element>
Inputs<Element> read_inputs(const Arguments& arguments) {
  Inputs<Element> inputs;
  using T = Computed<Element>;
  inputs.q_array = read_array<Element>("--q", arguments.q);
  inputs.k_array = read_array<Element>("--k", arguments.k);
  inputs.v_array = read_array<Element>("--v", arguments.v);
  inputs.q = view_of(inputs.q_array, "--q", arguments.q);
  inputs.k = view_of(inputs.k_array, "--k", arguments.k);
  inputs.v = view_of(inputs.v_array, "--v", arguments.v);
  inputs.key_length = key_lengths(arguments.key_length, inputs.q.batch());
  if (!arguments.log_gate.empty()) {
    inputs.log_gate_array = read_array<T, Element>("--log-gate", arguments.log_gate);
    inputs.log_gate = gate_view(inputs.log_gate_array, arguments.log_gate);
  }
  if (!arguments.bias.empty()) {
    inputs.bias_array = read_array<T, Element>("--bias", arguments.bias);
    inputs.bias = bias_view(inputs.bias_array, arguments.bias,
                            {inputs.q.batch(), inputs.q.heads(), inputs.q.tokens(), inputs.k.tokens()});
  }
  if (!arguments.sink.empty()) {
    inputs.sink = read_array<double, Element>("--sink", arguments.sink).data;
    if (inputs.sink.empty()) fail("--sink: " + arguments.sink + " holds nothing");
  }
  if (arguments.dout.empty()) return inputs;
  inputs.dout_array = read_array<Element>("--dout", arguments.dout);
  inputs.dout = view_of(inputs.dout_array, "--dout", arguments.dout);
  const csq::Heads<const Element>&q = inputs.q, &v = inputs.v;
  if (inputs.dout.shape != typename csq::Heads<const Element>::Shape{q.batch(), q.heads(), q.tokens(), v.dim()})
    fail("--dout: " + arguments.dout + " has shape " + npy::shape_text(inputs.dout_array.shape) +
         " but the output of this call has " + npy::shape_text(inputs.output_shape()));
  return inputs;
}

template <class T>
std::vector<T> zeros(const char* option, std::span<const Index> shape) {
  const std::optional<Index> count = npy::element_count(shape);
  if (!count) fail(std::string(option) + ": the shape " + npy::shape_text(shape) + " overflows a 64-bit size");
  return std::vector<T>(static_cast<std::size_t>(*count));
}

template <class Element>
struct Results {
  std::vector<Element> out, dq, dk, dv;
  std::vector<Computed<Element>> normalizer, dlog_gate;
  std::vector<double> dsink;
  double dshift = 0;
  double forward_milliseconds = 0, backward_milliseconds = 0;
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

template <class Element>
Results<Element> compute(const Arguments& arguments, const Mechanism& mechanism, const Inputs<Element>& inputs,
                         const csq::Options& options) {
  const csq::Heads<const Element>&q = inputs.q, &k = inputs.k, &v = inputs.v;
  using T = Computed<Element>;
  const bool backward = !arguments.dout.empty();
  Results<Element> results;
  results.out = zeros<Element>("--out", inputs.output_shape());
  results.normalizer = zeros<T>("--normalizer", std::span(inputs.q_array.shape).first(inputs.q_array.shape.size() - 1));
  const csq::Heads<Element> out(results.out.data(), {q.batch(), q.heads(), q.tokens(), v.dim()});
  const csq::Heads<T> normalizer(results.normalizer.data(), {q.batch(), q.heads(), q.tokens(), 1});

  const auto forward_start = std::chrono::steady_clock::now();
  std::visit(
      [&](const auto& chosen) {
        if (arguments.normalizer.empty() && !backward)
          csq::attention(chosen, q, k, v, out, options);
        else
          csq::attention(chosen, q, k, v, out, normalizer, options);
      },
      mechanism);
  results.forward_milliseconds = milliseconds_since(forward_start);
  if (!backward) return results;

  results.dq.resize(inputs.q_array.data.size());
  results.dk.resize(inputs.k_array.data.size());
  results.dv.resize(inputs.v_array.data.size());
  results.dlog_gate.resize(inputs.log_gate_array.data.size());
  results.dsink.resize(inputs.sink.size());
  const csq::Gradients<Element> gradients{{results.dq.data(), q.shape},
                                          {results.dk.data(), k.shape},
                                          {results.dv.data(), v.shape},
                                          arguments.dshift.empty() ? nullptr : &results.dshift,
                                          {results.dlog_gate.data(), inputs.log_gate.shape},
                                          results.dsink};
  const auto backward_start = std::chrono::steady_clock::now();
  std::visit(
      [&](const auto& chosen) {
        csq::attention_backward(chosen, q, k, v, out, normalizer, inputs.dout, gradients, options);
      },
      mechanism);
  results.backward_milliseconds = milliseconds_since(backward_start);
  return results;
}

// The outputs that are asked for. Their places are prepared before anything is computed, so that a folder that cannot
// be written costs nobody an hour.
class Outputs {
 public:
  explicit Outputs(const Arguments& arguments) : paths_(output_paths(arguments)) {
    for (const NamedPath& path : paths_) {
      files_.push_back(&replacement_.add(*path.path, path.text()));
      for (const std::string& kept : files::kept_contents(*path.path))
        notes_.push_back(path.text() + ": a call that was stopped has left its old content in " + kept);
    }
  }

  template <class T>
  void write(const char* option, const std::vector<Index>& shape, const std::vector<T>& data) {
    for (std::size_t i = 0; i < paths_.size(); ++i)
      if (std::string_view(paths_[i].option) == option) npy::write<T>(*files_[i], shape, data);
  }

  void commit() { replacement_.commit(); }

  // About earlier calls that were killed while they replaced these files: somebody may miss what they held.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::vector<NamedPath> paths_;
  files::FileReplacement replacement_;
  std::vector<files::OutputFile*> files_;  // as paths_
  std::vector<std::string> notes_;
};

template <class Element>
void write(Outputs& outputs, const Inputs<Element>& inputs, const Results<Element>& results) {
  using T = Computed<Element>;
  std::vector<Index> shape = inputs.output_shape();
  outputs.write("--out", shape, results.out);
  shape.pop_back();
  outputs.write("--normalizer", shape, results.normalizer);
  outputs.write("--dq", inputs.q_array.shape, results.dq);
  outputs.write("--dk", inputs.k_array.shape, results.dk);
  outputs.write("--dv", inputs.v_array.shape, results.dv);
  outputs.write("--dshift", {1}, std::vector<T>{static_cast<T>(results.dshift)});
  outputs.write("--dlog-gate", inputs.log_gate_array.shape, results.dlog_gate);
  outputs.write("--dsink", {static_cast<Index>(results.dsink.size())},
                std::vector<T>(results.dsink.begin(), results.dsink.end()));
  outputs.commit();
}

std::string bracketed(std::span<const Index> shape) {
  std::string text;
  for (const Index size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
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

template <class Element>
std::string summary(const Arguments& arguments, const Mechanism& mechanism, const Inputs<Element>& inputs,
                    const Results<Element>& results, const csq::Options& options) {
  char milliseconds[32];
  std::snprintf(milliseconds, sizeof milliseconds, "%.3f ms", results.forward_milliseconds);
  std::string text = arguments.mechanism + ", " + forward_method(mechanism, inputs.sizes(), options) + ", " +
                     csq::simd_name() + ", " + arguments.dtype + ", q " + bracketed(inputs.q_array.shape) + ", k " +
                     bracketed(inputs.k_array.shape) + ", v " + bracketed(inputs.v_array.shape) +
                     (options.causal ? ", causal, " : ", ") + milliseconds;
  if (arguments.dout.empty()) return text;
  std::snprintf(milliseconds, sizeof milliseconds, "%.3f ms", results.backward_milliseconds);
  return text + "; backward " + backward_method(mechanism, inputs.sizes(), options) + ", " + milliseconds;
}

// What was asked for is done when this is printed; that nobody can be told so is an error all the same.
void print_line(const std::string& line) {
  if (std::printf("%s\n", line.c_str()) < 0 || std::fflush(stdout) != 0)
    files::fail("standard output, after the outputs were written", errno);
}

template <class Element>
void run(const Arguments& arguments, const Mechanism& mechanism) {
  check_arguments(arguments);
  Outputs outputs(arguments);
  const Inputs<Element> inputs = read_inputs<Element>(arguments);
  csq::Options options;
  options.scale = arguments.scale;
  options.causal = arguments.causal;
  options.key_length = inputs.key_length;
  options.window = arguments.window.value_or(0);
  options.sink = inputs.sink;
  options.soft_cap = arguments.soft_cap.value_or(0);
  if (!arguments.bias.empty()) options.bias = &inputs.bias;
  if (!arguments.log_gate.empty()) options.log_gate = &inputs.log_gate;
  options.centering = arguments.centering;
  options.method = arguments.method;
  options.chunk = arguments.chunk;
  options.threads = arguments.threads;
  const Results<Element> results = compute(arguments, mechanism, inputs, options);
  const std::string line = summary(arguments, mechanism, inputs, results, options);
  write(outputs, inputs, results);
  for (const std::string& note : outputs.notes()) report(note);
  print_line(line);
}

}  // namespace attend

int main(int count, char** words) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond a limit on file sizes is then an error with a reason
  CLI::App app{"Attention over NumPy arrays: softmax, CSQ and the other mechanisms of csq.", "attend"};
  attend::Arguments arguments;
  try {
    attend::declare(app, arguments);
    app.parse(count, words);
    const attend::Mechanism mechanism = attend::make_mechanism(arguments);
    if (arguments.dtype == "double")
      attend::run<double>(arguments, mechanism);
    else if (arguments.dtype == "bfloat16")
      attend::run<Eigen::bfloat16>(arguments, mechanism);
    else if (arguments.dtype == "float16")
      attend::run<Eigen::half>(arguments, mechanism);
    else
      attend::run<float>(arguments, mechanism);
    return 0;
  } catch (const CLI::Success& help) {
    app.exit(help);
    if (std::cout.flush()) return 0;
    attend::report("standard output cannot be written");
  } catch (const std::bad_alloc&) {
    attend::report("not enough memory");
  } catch (const std::length_error&) {
    attend::report("not enough memory");
  } catch (const std::exception& error) {
    attend::report(error.what());
  }
  return 2;
}
