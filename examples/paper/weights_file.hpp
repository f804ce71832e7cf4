// A trained language model as bytes, little-endian on every machine:
//
//   8 bytes        "csqmodel"
//   uint32         1, the version
//   uint32, bytes  the model's name
//   uint32 each    layers, heads, head_dim, context, d_model, ffn, vocabulary
//   parameters     in the order of the model's table; a vector as float32, a matrix as its rows, each a float32 scale
//                  and an int8 a number, which is scale·int8: within scale/2 of what was trained
//   uint32         FNV-1a of all before
//
// Bytes that are anything else are an error of one line, whatever they say.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "language_model.hpp"

namespace paper {

struct TrainedModel {
  LanguageModel sizes;
  Model<float> model;
};

namespace weights_file {

constexpr std::array<unsigned char, 8> magic{'c', 's', 'q', 'm', 'o', 'd', 'e', 'l'};
constexpr std::uint32_t version = 1;
constexpr float levels = 127;  // of an int8, on either side of 0

// The sizes in the order of the file, the vocabulary aside.
template <class Sizes, class Visit>
void for_each_size(Sizes& sizes, const Visit& visit) {
  for (auto* size : {&sizes.layers, &sizes.heads, &sizes.head_dim, &sizes.context, &sizes.d_model, &sizes.ffn})
    visit(*size);
}

inline void put(Bytes& to, std::uint32_t number) {
  for (int shift = 0; shift < 32; shift += 8) to.push_back(static_cast<unsigned char>(number >> shift & 0xff));
}
inline void put(Bytes& to, float number) { put(to, std::bit_cast<std::uint32_t>(number)); }

inline void put_row(Bytes& to, const float* row, Index count) {
  float largest = 0;
  for (Index i = 0; i < count; ++i) largest = std::max(largest, std::abs(row[i]));
  const float scale = largest / levels;
  put(to, scale);
  for (Index i = 0; i < count; ++i) {
    const int level = scale > 0 ? static_cast<int>(std::lround(row[i] / scale)) : 0;
    to.push_back(static_cast<unsigned char>(std::clamp(level, -127, 127) & 0xff));
  }
}

// Takes bytes from the front, and never more than there are.
class Reader {
 public:
  Reader(const Bytes& bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error(name_ + ": " + what); }

  const unsigned char* take(std::size_t count) {
    if (count > bytes_.size() - at_) fail("ends early");
    at_ += count;
    return bytes_.data() + at_ - count;
  }
  std::uint32_t whole() {
    const unsigned char* const from = take(4);
    std::uint32_t number = 0;
    for (std::size_t i = 0; i < 4; ++i) number |= static_cast<std::uint32_t>(from[i]) << (8 * i);
    return number;
  }
  float real() { return std::bit_cast<float>(whole()); }
  void row(float* to, Index count) {
    const float scale = real();
    const unsigned char* const from = take(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i) to[i] = scale * static_cast<float>(static_cast<signed char>(from[i]));
  }
  std::size_t left() const { return bytes_.size() - at_; }

 private:
  const Bytes& bytes_;
  std::string name_;
  std::size_t at_ = 0;
};

// Sizes as the command line of language.cpp allows them, so that nothing below overflows.
inline LanguageModel read_sizes(Reader& reader) {
  constexpr std::uint32_t longest_name = 64, largest_size = 8188;
  LanguageModel sizes;
  const std::uint32_t length = reader.whole();
  if (length > longest_name) reader.fail("its model has a name of " + std::to_string(length) + " bytes");
  const unsigned char* const name = reader.take(length);
  sizes.name.assign(name, name + length);
  if (std::find(language_models.begin(), language_models.end(), sizes.name) == language_models.end())
    reader.fail("it is of a model that this program does not know");
  for_each_size(sizes, [&](Index& size) {
    const std::uint32_t number = reader.whole();
    if (number < 1 || number > largest_size) reader.fail("one of its sizes is " + std::to_string(number));
    size = number;
  });
  if (sizes.head_dim % 2 != 0) reader.fail("its head_dim is odd");
  if (reader.whole() != LanguageTask::vocabulary) reader.fail("its vocabulary is not that of bytes");
  return sizes;
}

inline std::size_t parameter_bytes(const ParameterTable& table) {
  Index bytes = 0;
  for (const Parameter& p : table.all) bytes += p.rows == 1 ? 4 * p.columns : p.rows * (4 + p.columns);
  return static_cast<std::size_t>(bytes);
}

}  // namespace weights_file

inline Bytes bytes_of(const LanguageModel& sizes, const Model<float>& model) {
  using namespace weights_file;
  Bytes bytes(magic.begin(), magic.end());
  put(bytes, version);
  put(bytes, static_cast<std::uint32_t>(sizes.name.size()));
  bytes.insert(bytes.end(), sizes.name.begin(), sizes.name.end());
  for_each_size(sizes, [&](Index size) { put(bytes, static_cast<std::uint32_t>(size)); });
  put(bytes, static_cast<std::uint32_t>(LanguageTask::vocabulary));
  for (const Parameter& p : model.table.all) {
    const float* const numbers = model.parameters.data() + p.offset;
    if (p.rows == 1)
      std::for_each(numbers, numbers + p.columns, [&](float number) { put(bytes, number); });
    else
      for (Index r = 0; r < p.rows; ++r) put_row(bytes, numbers + r * p.columns, p.columns);
  }
  put(bytes, checksum(bytes));
  return bytes;
}

// `name` is what errors call the bytes.
inline TrainedModel trained_model(const Bytes& bytes, const std::string& name) {
  using namespace weights_file;
  Reader reader(bytes, name);
  if (bytes.size() < magic.size() || !std::equal(magic.begin(), magic.end(), reader.take(magic.size())))
    reader.fail("is no file of weights");
  const std::uint32_t found = reader.whole();
  if (found != version)
    reader.fail("is of version " + std::to_string(found) + ", and this program reads " + std::to_string(version));
  if (reader.left() < 4) reader.fail("ends early");
  const Bytes checked(bytes.begin(), bytes.end() - 4), sum(bytes.end() - 4, bytes.end());
  if (Reader(sum, name).whole() != checksum(checked)) reader.fail("is damaged or cut off: its checksum is wrong");

  const LanguageModel sizes = read_sizes(reader);
  const ModelConfig config = config_of(sizes);
  // Before the memory is taken.
  if (reader.left() != parameter_bytes(ParameterTable(config)) + 4) reader.fail("its length is not that of its sizes");
  TrainedModel trained{sizes, Model<float>(config, 0)};
  for (const Parameter& p : trained.model.table.all) {
    float* const numbers = trained.model.parameters.data() + p.offset;
    if (p.rows == 1)
      std::generate(numbers, numbers + p.columns, [&] { return reader.real(); });
    else
      for (Index r = 0; r < p.rows; ++r) reader.row(numbers + r * p.columns, p.columns);
  }
  return trained;
}

}  // namespace paper
