// What every program in this folder prints: one CSV row a case, on the same shapes.
//
//   peer,pass,dtype,threads,heads,n,d,causal,median_ms,gflops
//
// GF/s count 4·n²·d·heads forward and 10·n²·d·heads backward, half of it under a causal mask.
// With --serve the cases come from standard input, one a line, pass,dtype,threads,heads,n,d,causal,seconds, and each is
// answered by its row: so compare.py lets the programs take turns. A case is prepared and warmed up once. A line that
// starts with save,FOLDER, and goes on as a case is answered by `saved`: what the call reads and gives lies in the
// folder then, as it is in memory, for others to check. dtype is float or bf16.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../support/dtype.hpp"
#include "../support/inputs.hpp"
#include "../support/passes.hpp"
#include "../support/statistics.hpp"
#include "../support/threads.hpp"

namespace peers {

using bench::Dtype;
using bench::Pass;
using csq::Index;

struct Size {
  Index heads = 0, tokens = 0, dim = 0;
};

struct Case {
  Pass pass = Pass::forward;
  Dtype dtype = Dtype::float32;
  int threads = 1;
  Size size;
  bool causal = false;

  csq::Shape shape() const {
    return {.queries = size.tokens,
            .keys = size.tokens,
            .key_dim = size.dim,
            .value_dim = size.dim,
            .heads = size.heads,
            .kv_heads = size.heads,
            .causal = causal};
  }
  double flops() const {
    const auto heads = static_cast<double>(size.heads), n = static_cast<double>(size.tokens);
    return (pass == Pass::forward ? 4 : 10) * n * n * static_cast<double>(size.dim) * heads / (causal ? 2 : 1);
  }
  auto key() const { return std::tuple(pass, dtype, threads, size.heads, size.tokens, size.dim, causal); }
};

// What a program does with a case. `prepare` allocates, checks and returns the call that is timed, which it has called
// once; `save` may be missing.
struct Peer {
  std::string name;  // and version, without a comma
  std::vector<Dtype> dtypes;
  std::function<std::function<void()>(const Case&)> prepare;
  std::function<void(const Case&, const std::string& folder)> save{};
};

struct Settings {
  std::vector<int> threads{1};
  std::vector<Size> sizes;  // empty: one head with one thread, 16 heads with more
  std::vector<Pass> passes{Pass::forward, Pass::backward};
  std::vector<Dtype> dtypes;
  std::vector<bool> masks{false, true};
  double seconds = 1;
  bool serve = false;
};

inline constexpr const char* usage =
    "  --threads 1,2                 for each number of threads\n"
    "  --shapes 1x1024x64,16x4096x64 heads x tokens x head size; else one head with one thread, 16 heads with more\n"
    "  --passes forward,backward     one or both\n"
    "  --dtypes float,bf16           those that the program has\n"
    "  --masks full,causal           one or both\n"
    "  --seconds 1                   how long each row is timed\n"
    "  --version                     csq's, its instruction set and threads\n"
    "  --serve                       cases from standard input: pass,dtype,threads,heads,n,d,causal,seconds\n";

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

inline double number(const std::string& text, double least) {
  std::size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::logic_error&) {
  }
  if (used == 0 || used != text.size() || !(value >= least) || value > 1e9)
    throw std::invalid_argument("'" + text + "' is no number in the range that is allowed");
  return value;
}

inline Index whole(const std::string& text) { return static_cast<Index>(number(text, 1)); }

inline int read_threads(const std::string& text) {
  return bench::threads_for("--threads", static_cast<int>(whole(text)));
}

inline Size read_size(const std::string& text) {
  const std::vector<std::string> parts = split(text, 'x');
  if (parts.size() != 3) throw std::invalid_argument("'" + text + "' is not HEADSxTOKENSxDIM");
  return {whole(parts[0]), whole(parts[1]), whole(parts[2])};
}

// True for `yes`, false for `no`.
inline bool one_of(const std::string& text, const std::string& no, const std::string& yes) {
  if (text != no && text != yes) throw std::invalid_argument("'" + text + "' is neither " + no + " nor " + yes);
  return text == yes;
}

inline Pass read_pass(const std::string& text) {
  return one_of(text, "forward", "backward") ? Pass::backward : Pass::forward;
}

inline const char* dtype_name(Dtype dtype) { return dtype == Dtype::bfloat16 ? "bf16" : "float"; }
inline Dtype read_dtype(const std::string& text, const std::vector<Dtype>& known) {
  for (const Dtype dtype : known)
    if (text == dtype_name(dtype)) return dtype;
  throw std::invalid_argument("'" + text + "' is no dtype of this program");
}

inline Settings read_settings(const std::vector<std::string>& words, const std::vector<Dtype>& dtypes) {
  Settings settings;
  settings.dtypes = dtypes;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& name = words[i];
    if (name == "--serve") {
      settings.serve = true;
      continue;
    }
    if (i + 1 == words.size()) throw std::invalid_argument(name + " needs a value, or is no option");
    const std::string& value = words[++i];
    const auto fill = [&](auto& list, const auto& read) {
      list.clear();
      for (const std::string& part : split(value, ',')) list.push_back(read(part));
    };
    if (name == "--threads")
      fill(settings.threads, read_threads);
    else if (name == "--shapes")
      fill(settings.sizes, read_size);
    else if (name == "--passes")
      fill(settings.passes, read_pass);
    else if (name == "--dtypes")
      fill(settings.dtypes, [&](const std::string& text) { return read_dtype(text, dtypes); });
    else if (name == "--masks")
      fill(settings.masks, [](const std::string& text) { return one_of(text, "full", "causal"); });
    else if (name == "--seconds")
      settings.seconds = number(value, 0);
    else
      throw std::invalid_argument(name + " is no option");
  }
  return settings;
}

inline std::vector<Size> default_sizes(int threads) {
  if (threads > 1) return {{16, 4096, 64}, {16, 4096, 128}};
  return {{1, 1024, 64}, {1, 4096, 64}, {1, 1024, 128}, {1, 4096, 128}};
}

inline std::vector<Case> cases_of(const Settings& settings) {
  std::vector<Case> cases;
  for (const int threads : settings.threads)
    for (const Pass pass : settings.passes)
      for (const Dtype dtype : settings.dtypes)
        for (const bool causal : settings.masks)
          for (const Size& size : settings.sizes.empty() ? default_sizes(threads) : settings.sizes)
            cases.push_back({pass, dtype, threads, size, causal});
  return cases;
}

// The cases that were prepared, and their timing.
class Rows {
 public:
  explicit Rows(Peer peer) : peer_(std::move(peer)) {}

  const Peer& peer() const { return peer_; }

  void print(const Case& the_case, double budget) {
    auto found = calls_.find(the_case.key());
    if (found == calls_.end()) found = calls_.emplace(the_case.key(), peer_.prepare(the_case)).first;
    const double seconds = median_seconds(found->second, budget);
    std::printf("%s,%s,%s,%d,%td,%td,%td,%d,%.4f,%.2f\n", peer_.name.c_str(),
                the_case.pass == Pass::forward ? "forward" : "backward", dtype_name(the_case.dtype), the_case.threads,
                the_case.size.heads, the_case.size.tokens, the_case.size.dim, the_case.causal ? 1 : 0, seconds * 1e3,
                the_case.flops() / seconds * 1e-9);
    std::fflush(stdout);
  }

  // Memory is returned: outside of turns no case comes back.
  void forget() { calls_.clear(); }

 private:
  // Calls until `budget` seconds are spent, at least one.
  static double median_seconds(const std::function<void()>& call, double budget) {
    std::vector<double> samples;
    double total = 0;
    do {
      const auto start = std::chrono::steady_clock::now();
      call();
      samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      total += samples.back();
    } while (total < budget);
    return bench::quartiles(samples).median;
  }

  Peer peer_;
  std::map<decltype(Case().key()), std::function<void()>> calls_;
};

inline void serve(Rows& rows) {
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::string> f = split(line, ',');
    std::string folder;
    if (f.size() == 10 && f[0] == "save" && rows.peer().save) {
      folder = f[1];
      f.erase(f.begin(), f.begin() + 2);
    }
    if (f.size() != 8) throw std::invalid_argument("'" + line + "' is no case of this program");
    const Case the_case{read_pass(f[0]),
                        read_dtype(f[1], rows.peer().dtypes),
                        read_threads(f[2]),
                        {whole(f[3]), whole(f[4]), whole(f[5])},
                        one_of(f[6], "0", "1")};
    if (folder.empty()) {
      rows.print(the_case, number(f[7], 0));
      continue;
    }
    rows.peer().save(the_case, folder);
    std::printf("saved\n");
    std::fflush(stdout);
  }
}

inline int print_rows(int count, char** words, const Peer& peer) {
  try {
    const std::vector<std::string> arguments(words + 1, words + count);
    if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
      std::printf("usage: %s [options]\n%s", words[0], usage);
      return 0;
    }
    if (std::find(arguments.begin(), arguments.end(), "--version") != arguments.end()) {
      std::printf("%s\n", csq::build_info().c_str());
      return 0;
    }
    const Settings settings = read_settings(arguments, peer.dtypes);
    std::printf("peer,pass,dtype,threads,heads,n,d,causal,median_ms,gflops\n");
    std::fflush(stdout);
    Rows rows(peer);
    if (settings.serve) {
      serve(rows);
    } else {
      for (const Case& the_case : cases_of(settings)) {
        rows.print(the_case, settings.seconds);
        rows.forget();
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", words[0], error.what());
    return 2;
  }
  return 0;
}

// Normal random numbers, the same for every program built on this header, and csq's outputs for them.
template <class Element>
struct Arrays {
  bench::Inputs inputs;
  bench::Operands<Element> operands;
  bench::Passes<Element> passes;
  csq::Options options;

  explicit Arrays(const Case& the_case) : inputs(the_case.size.dim, the_case.size.dim, the_case.dtype) {
    const auto& [heads, tokens, dim] = the_case.size;
    const bool backward = the_case.pass == Pass::backward;
    options.causal = the_case.causal;
    options.method = csq::Method::direct;
    options.threads = the_case.threads;
    inputs.reserve(heads, heads, tokens);
    if (backward) inputs.reserve_output_gradient(heads, tokens);
    operands = {inputs.q<Element>(heads, tokens), inputs.k<Element>(heads, tokens), inputs.v<Element>(heads, tokens),
                inputs.dout<Element>(heads, tokens)};
    passes.reserve(csq::Softmax{}, the_case.shape(), backward, options);
    passes.forward(csq::Softmax{}, operands, options);
  }
  // Not copied: the operands point into the inputs.
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  void forward() { passes.forward(csq::Softmax{}, operands, options); }
  void backward() { passes.backward(csq::Softmax{}, operands, options); }

  // q, k, v, dout, out, dq, dk, dv [heads, tokens, dim]; those of backward where it has run.
  void save(const std::string& folder) const {
    const auto write = [&](const char* name, const Element* data, std::size_t count) {
      std::ofstream file(folder + "/" + name, std::ios::binary);
      file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(count * sizeof(Element)));
      if (!file.flush()) throw std::runtime_error(folder + ": cannot be written");
    };
    const auto write_input = [&](const char* name, const csq::Heads<const Element>& heads) {
      write(name, heads.data, heads.data == nullptr ? 0 : passes.out.size());
    };
    write_input("q", operands.q);
    write_input("k", operands.k);
    write_input("v", operands.v);
    write_input("dout", operands.dout);
    for (const auto& [name, values] : {std::pair("out", &passes.out), std::pair("dq", &passes.dq),
                                       std::pair("dk", &passes.dk), std::pair("dv", &passes.dv)})
      write(name, values->data(), values->size());
  }
};

}  // namespace peers
