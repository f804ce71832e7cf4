// The queries, keys and values that are timed: heads from .npy files, repeated cyclically, or normal random numbers.
// The gradient of the output, for backward, is normal random.
//
// Buffers are [heads, capacity, dim]; a shorter sequence is a view of the first rows of each head. The first n rows of
// a head are the same whatever the capacity. Elements are of float or rounded to 16 bits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numbers>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "../../examples/npy.hpp"
#include "csq/csq.hpp"
#include "dtype.hpp"

namespace bench {

using csq::Index;

// Heads of real tensors, [heads, tokens, dim].
struct FileHeads {
  std::string path;
  Index heads = 0, tokens = 0, dim = 0;
  std::vector<float> values;
};

inline FileHeads read_heads(const std::string& path) {
  npy::Array<float> array = npy::read<float>(path);
  const auto& s = array.shape;
  if ((s.size() != 2 && s.size() != 3) || array.data.empty())
    throw std::runtime_error(path + ": shape " + npy::shape_text(s) +
                             " must be [heads, tokens, dim] or [tokens, dim], and not empty");
  const bool one = s.size() == 2;
  FileHeads heads{path, one ? 1 : s[0], one ? s[0] : s[1], s.back(), std::move(array.data)};
  for (const float value : heads.values)
    if (!std::isfinite(value)) throw std::runtime_error(path + ": holds a number that is not finite");
  return heads;
}

struct FileTriple {
  FileHeads q, k, v;
};

inline FileTriple read_triple(const std::string& q, const std::string& k, const std::string& v) {
  FileTriple triple{read_heads(q), read_heads(k), read_heads(v)};
  if (triple.k.dim != triple.q.dim)
    throw std::runtime_error("--k: dim is " + std::to_string(triple.k.dim) + " but --q has dim " +
                             std::to_string(triple.q.dim));
  if (triple.v.heads != triple.k.heads || triple.v.tokens != triple.k.tokens)
    throw std::runtime_error("--v: [heads, tokens] is [" + std::to_string(triple.v.heads) + ", " +
                             std::to_string(triple.v.tokens) + "] but --k has [" + std::to_string(triple.k.heads) +
                             ", " + std::to_string(triple.k.tokens) + "]");
  return triple;
}

// bench/data, wherever the program is started.
inline std::string data_folder() {
  const std::filesystem::path here = std::filesystem::path(__FILE__).parent_path().parent_path() / "data";
  for (const auto& folder : {here, std::filesystem::path("bench/data"), std::filesystem::path("data")})
    if (std::filesystem::exists(folder / "byte_lm_softmax_q.npy")) return folder.string();
  throw std::runtime_error(
      "bench/data/byte_lm_softmax_q.npy: not found; run in the project's folder, or pass --q --k --v");
}

// Standard normal numbers by Box and Muller's method on SplitMix64, the same with every standard library.
class NormalNumbers {
 public:
  explicit NormalNumbers(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u) {}

  // Two at a time.
  std::array<float, 2> next() {
    const std::uint64_t bits = next_bits();
    const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
    const float angle = 2 * std::numbers::pi_v<float> * static_cast<float>(bits & 0xffffffu) * 0x1p-24f;
    const float radius = std::sqrt(-2 * std::log(u));
    return {radius * std::cos(angle), radius * std::sin(angle)};
  }

 private:
  std::uint64_t next_bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

// Log gates [heads, tokens] that forget half in some 1 to 700 tokens: −|x|³/10 of normal x, as a model would have some
// tokens that keep and some that forget.
inline std::vector<float> mild_gates(Index heads, Index tokens) {
  std::vector<float> gates(static_cast<std::size_t>(heads * tokens));
  NormalNumbers numbers(5000);
  for (float& gate : gates) {
    const float x = std::abs(numbers.next()[0]);
    gate = -x * x * x / 10;
  }
  return gates;
}

class Inputs {
 public:
  // Normal random.
  Inputs(Index key_dim, Index value_dim, Dtype dtype = Dtype::float32)
      : key_dim_(key_dim), value_dim_(value_dim), dtype_(dtype) {}
  explicit Inputs(Index dim) : Inputs(dim, dim) {}
  Inputs(FileTriple files, std::string name, Dtype dtype = Dtype::float32)
      : key_dim_(files.q.dim),
        value_dim_(files.v.dim),
        dtype_(dtype),
        files_(std::move(files)),
        name_(std::move(name)) {}

  Dtype dtype() const { return dtype_; }
  Index key_dim() const { return key_dim_; }
  Index value_dim() const { return value_dim_; }

  // One or two lines: what they are, and where they had to be repeated for what was reserved so far.
  std::vector<std::string> description() const {
    if (!files_) return {"normal random numbers, fixed seed"};
    const auto shape = [](const FileHeads& file) {
      return "[" + std::to_string(file.heads) + ", " + std::to_string(file.tokens) + ", " + std::to_string(file.dim) +
             "]";
    };
    std::string line = "q " + shape(files_->q) + ", k " + shape(files_->k) + ", v " + shape(files_->v);
    const Index tokens = std::min(files_->q.tokens, files_->k.tokens);
    if (most_heads_ > files_->q.heads || most_kv_heads_ > files_->k.heads) line += "; heads repeat cyclically";
    if (most_tokens_ > tokens) line += "; rows repeat past " + std::to_string(tokens);
    return {name_, line};
  }

  // Makes sure that `heads` heads of `tokens` tokens are there.
  void reserve(Index heads, Index kv_heads, Index tokens) {
    most_heads_ = std::max(most_heads_, heads);
    most_kv_heads_ = std::max(most_kv_heads_, kv_heads);
    most_tokens_ = std::max(most_tokens_, tokens);
    fill(q_, files_ ? &files_->q : nullptr, heads, tokens, key_dim_, 1);
    fill(k_, files_ ? &files_->k : nullptr, kv_heads, tokens, key_dim_, 2);
    fill(v_, files_ ? &files_->v : nullptr, kv_heads, tokens, value_dim_, 3);
  }
  // Backward needs this one besides.
  void reserve_output_gradient(Index heads, Index tokens) { fill(dout_, nullptr, heads, tokens, value_dim_, 4); }

  // Views of the elements' type; empty where nothing was reserved.
  template <class Element = float>
  csq::Heads<const Element> q(Index heads, Index tokens) const {
    return view<Element>(q_, heads, tokens, key_dim_);
  }
  template <class Element = float>
  csq::Heads<const Element> k(Index heads, Index tokens) const {
    return view<Element>(k_, heads, tokens, key_dim_);
  }
  template <class Element = float>
  csq::Heads<const Element> v(Index heads, Index tokens) const {
    return view<Element>(v_, heads, tokens, value_dim_);
  }
  template <class Element = float>
  csq::Heads<const Element> dout(Index heads, Index tokens) const {
    return view<Element>(dout_, heads, tokens, value_dim_);
  }

  void release() { q_ = k_ = v_ = dout_ = {}; }

 private:
  struct Buffer {
    Index heads = 0, capacity = 0;
    std::variant<std::vector<float>, std::vector<Eigen::bfloat16>, std::vector<Eigen::half>> values;
  };

  template <class Element>
  static csq::Heads<const Element> view(const Buffer& buffer, Index heads, Index tokens, Index dim) {
    if (buffer.capacity == 0) return {};
    const Index head = buffer.capacity * dim;
    return {
        std::get<std::vector<Element>>(buffer.values).data(), {1, heads, tokens, dim}, {heads * head, head, dim, 1}};
  }

  // At least `heads` heads of `tokens` tokens; `which` seeds random numbers.
  void fill(Buffer& buffer, const FileHeads* file, Index heads, Index tokens, Index dim, std::uint64_t which) const {
    if (heads <= buffer.heads && tokens <= buffer.capacity) return;
    heads = buffer.heads = std::max(heads, buffer.heads);
    buffer.capacity = std::max(tokens, buffer.capacity);
    const Index head_size = buffer.capacity * dim;
    with_element(dtype_, [&]<class Element>(std::type_identity<Element>) {
      std::vector<Element> values(static_cast<std::size_t>(heads * head_size));
      for (Index h = 0; h < heads; ++h)
        fill_head(values.data() + h * head_size, head_size, file, h, dim, which * 1000 + static_cast<std::uint64_t>(h));
      buffer.values = std::move(values);
    });
  }

  template <class Element>
  static void fill_head(Element* out, Index size, const FileHeads* file, Index head, Index dim, std::uint64_t seed) {
    const auto element = [](float value) { return static_cast<Element>(value); };
    if (file != nullptr) {
      const Index file_size = file->tokens * dim;
      const float* const in = file->values.data() + (head % file->heads) * file_size;
      for (Index at = 0; at < size; at += file_size)
        std::transform(in, in + std::min(file_size, size - at), out + at, element);
      return;
    }
    NormalNumbers numbers(seed);
    for (Index at = 0; at < size; at += 2) {
      const std::array<float, 2> pair = numbers.next();
      out[at] = element(pair[0]);
      if (at + 1 < size) out[at + 1] = element(pair[1]);
    }
  }

  Index key_dim_ = 0, value_dim_ = 0;
  Dtype dtype_ = Dtype::float32;
  std::optional<FileTriple> files_;
  std::string name_;
  Index most_heads_ = 0, most_kv_heads_ = 0, most_tokens_ = 0;  // reserved so far
  Buffer q_, k_, v_, dout_;
};

}  // namespace bench
