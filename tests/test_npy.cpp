// examples/npy.hpp: what it writes it reads, every dtype and version, and one clear line for every wrong file.
#include <cmath>
#include <limits>

#include "../examples/npy.hpp"
#include "catch.hpp"
#include "npy_bytes.hpp"
#include "temporary_folder.hpp"

namespace {

template <class T>
void check_round_trip(const TemporaryFolder& folder, const std::vector<npy::Index>& shape) {
  INFO(npy::shape_text(shape));
  std::size_t count = 1;
  for (const npy::Index size : shape) count *= std::size_t(size);
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = T(i) - T(1.25);
  const std::string path = folder.file("array.npy");
  npy::write<T>(path, shape, values);
  const npy::Array<T> array = npy::read<T>(path);
  CHECK(array.shape == shape);
  CHECK(array.data == values);
}

struct WrongFile {
  const char* what;
  std::string bytes;
  const char* message;
};

}  // namespace

TEST_CASE("npy: what is written is read, for any number of axes") {
  const TemporaryFolder folder;
  for (const std::vector<npy::Index>& shape :
       std::vector<std::vector<npy::Index>>{{}, {1}, {7}, {0}, {2, 3}, {3, 0, 2}, {2, 3, 4}, {1, 2, 3, 4, 5}}) {
    check_round_trip<float>(folder, shape);
    check_round_trip<double>(folder, shape);
  }
}

TEST_CASE("npy: a written file is what NumPy would write") {
  const TemporaryFolder folder;
  const std::string path = folder.file("array.npy");
  npy::write<double>(path, std::vector<npy::Index>{2, 1}, std::vector<double>{1, 2});
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  CHECK(bytes.size() == 128 + 16);
  CHECK(bytes.substr(0, 10) == std::string("\x93NUMPY\x01\0\x76\0", 10));
  CHECK(bytes.substr(10, 59) == "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1), }");
  CHECK(bytes[127] == '\n');
  CHECK(bytes.substr(128) == raw<double>({1, 2}));
}

TEST_CASE("npy: every dtype and version is read and converted") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& bytes) { return npy::read<double>(folder.file("array.npy", bytes)); };
  const std::vector<double> expected{1, -2, 3};
  for (const char version : {'\1', '\2', '\3'}) {
    INFO("version " << int(version));
    CHECK(read(npy_bytes("<f4", "False", "(3,)", raw<float>({1, -2, 3}), version)).data == expected);
    CHECK(read(npy_bytes("<f8", "False", "(3,)", raw<double>({1, -2, 3}), version)).data == expected);
    CHECK(read(npy_bytes("<i8", "False", "(3,)", raw<std::int64_t>({1, -2, 3}), version)).data == expected);
    CHECK(read(npy_bytes("<f2", "False", "(3,)", raw<std::uint16_t>({0x3c00, 0xc000, 0x4200}), version)).data ==
          expected);
  }
  CHECK(read(npy_bytes("<f4", "False", "(1,3)", raw<float>({1, -2, 3}))).shape == std::vector<npy::Index>{1, 3});
}

TEST_CASE("npy: half precision, subnormals and what is not finite included") {
  CHECK(npy::float_from_half(0x0001) == 0x1p-24f);
  CHECK(npy::float_from_half(0x83ff) == -1023 * 0x1p-24f);
  CHECK(npy::float_from_half(0x0400) == 0x1p-14f);
  CHECK(npy::float_from_half(0x7bff) == 65504);
  CHECK(npy::float_from_half(0x3555) == 0x1.554p-2f);
  CHECK(npy::float_from_half(0xfc00) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(npy::float_from_half(0x7e01)));
  CHECK(std::signbit(npy::float_from_half(0x8000)));
}

TEST_CASE("npy: every wrong file is named, with what is wrong") {
  const TemporaryFolder folder;
  const std::string data = raw<float>({1, 2, 3});
  const std::string right = npy_bytes("<f4", "False", "(3,)", data);
  const std::vector<WrongFile> wrong{
      {"empty", "", "not a .npy file"},
      {"text", "one two three four", "not a .npy file"},
      {"future version", npy_bytes("<f4", "False", "(3,)", data, '\4'), "version 4"},
      {"header cut off", right.substr(0, 30), "truncated in its header"},
      {"length cut off", right.substr(0, 9), "truncated in its header"},
      {"data cut off", right.substr(0, right.size() - 1), "needs 12 bytes but 11 are there"},
      {"Fortran order", npy_bytes("<f4", "True", "(3,)", data), "Fortran order"},
      {"no order", npy_bytes("<f4", "Maybe", "(3,)", data), "fortran_order"},
      {"big-endian", npy_bytes(">f4", "False", "(3,)", data), "unsupported dtype '>f4'"},
      {"32-bit integers", npy_bytes("<i4", "False", "(3,)", data), "unsupported dtype '<i4'"},
      {"complex", npy_bytes("<c8", "False", "(3,)", data), "unsupported dtype '<c8'"},
      {"no shape", npy_bytes("<f4", "False", "3", data), "no readable shape"},
      {"negative size", npy_bytes("<f4", "False", "(-3,)", data), "no readable shape"},
      {"size that overflows", npy_bytes("<f4", "False", "(99999999999999999999,)", data), "overflows"},
      {"product that overflows", npy_bytes("<f4", "False", "(4294967296, 4294967296)", data), "overflows"},
      {"bytes that overflow", npy_bytes("<f8", "False", "(2305843009213693952,)", data), "overflows"},
      {"huge but possible", npy_bytes("<f8", "False", "(100000000000000000,)", data), "truncated"},
      {"structured",
       "\x93NUMPY\x01" + std::string("\0\x3a\0", 3) + "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape':}",
       "unsupported dtype"},
  };
  for (const WrongFile& file : wrong) {
    INFO(file.what);
    const std::string path = folder.file("wrong.npy", file.bytes);
    std::string message;
    try {
      npy::read<float>(path);
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    INFO(message);
    CHECK(message.starts_with(path + ": "));
    CHECK(message.find(file.message) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
  CHECK_THROWS_AS(npy::read<float>(folder.file("missing.npy")), std::runtime_error);
  CHECK_THROWS_AS(
      npy::write<float>(folder.file("no/such/folder.npy"), std::vector<npy::Index>{1}, std::vector<float>{1}),
      std::runtime_error);
}
