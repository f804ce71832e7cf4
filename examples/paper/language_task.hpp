// A text as bytes, to be predicted one from those before it.
//
// It is cut into blocks of 8192 bytes, and of every 20 the tenth is held out: 5% of the text, from all over it, in
// whole blocks, so that no window of training shares a byte with one of validation.
//
//   training    windows of `context` bytes at random places of the rest (blocks joined where one was taken out), the
//               target of each byte the next
//   validation  windows side by side in the held-out blocks, spread evenly over them; always the same ones
#pragma once

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "training.hpp"

namespace paper {

using Bytes = std::vector<unsigned char>;

inline Bytes read_bytes(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error(path + ": cannot be read");
  Bytes bytes;
  Bytes piece(1 << 16);
  while (const std::size_t count = std::fread(piece.data(), 1, piece.size(), file))
    bytes.insert(bytes.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(count));
  const bool whole = std::ferror(file) == 0;
  std::fclose(file);
  if (!whole) throw std::runtime_error(path + ": cannot be read to its end");
  return bytes;
}

// Which text a result is of (FNV-1a, 32 bits).
inline std::uint32_t checksum(const Bytes& bytes) {
  std::uint32_t hash = 2166136261u;
  for (const unsigned char byte : bytes) hash = (hash ^ byte) * 16777619u;
  return hash;
}

class LanguageTask {
 public:
  static constexpr Index vocabulary = 256;
  static constexpr std::size_t block = 8192, period = 20, held_out = 9;

  LanguageTask(const Bytes& text, Index context) : context_(context) {
    for (std::size_t first = 0, number = 0; first < text.size(); first += block, ++number) {
      const auto begin = text.begin() + static_cast<std::ptrdiff_t>(first);
      const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(first + block, text.size()));
      Bytes& part = number % period == held_out ? validation_ : training_;
      part.insert(part.end(), begin, end);
    }
    if (context < 4 || context % 4 != 0 || context >= static_cast<Index>(block))
      throw std::invalid_argument("--context: a multiple of 4 below 8192, not " + std::to_string(context));
    if (windows() < 1 || static_cast<Index>(training_.size()) <= context)
      throw std::invalid_argument("--text: too short, " + std::to_string(text.size()) + " bytes");
  }

  // Batch `number` of a stream of batches: the same whatever was drawn before.
  Batch training_batch(Index sequences, std::uint64_t stream, std::uint64_t number) const {
    const std::uint64_t places = random_stream(stream, number);
    Batch batch{sequences, context_, {}, {}};
    for (Index s = 0; s < sequences; ++s)
      append(batch, training_,
             random_index(places, static_cast<std::uint64_t>(s), static_cast<Index>(training_.size()) - context_));
    return batch;
  }

  // Windows that the held-out blocks have room for; a target lies in the block of its window.
  Index windows() const { return static_cast<Index>(validation_.size() / block) * windows_of_block(); }

  // Windows first … first + sequences of `count` that are spread over all.
  Batch validation_batch(Index first, Index sequences, Index count) const {
    Batch batch{sequences, context_, {}, {}};
    for (Index s = first; s < first + sequences; ++s) {
      const Index window = s * windows() / count;
      append(batch, validation_,
             window / windows_of_block() * static_cast<Index>(block) + window % windows_of_block() * context_);
    }
    return batch;
  }

 private:
  Index windows_of_block() const { return (static_cast<Index>(block) - 1) / context_; }

  void append(Batch& batch, const Bytes& from, Index place) const {
    for (Index i = place; i < place + context_; ++i) {
      batch.tokens.push_back(from[static_cast<std::size_t>(i)]);
      batch.targets.push_back(from[static_cast<std::size_t>(i) + 1]);
    }
  }

  Index context_;
  Bytes training_, validation_;
};

}  // namespace paper
