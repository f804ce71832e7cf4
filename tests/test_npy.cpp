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
    CHECK(read(npy_bytes("<i4", "False", "(3,)", raw<std::int32_t>({1, -2, 3}), version)).data == expected);
    CHECK(read(npy_bytes("<i8", "False", "(3,)", raw<std::int64_t>({1, -2, 3}), version)).data == expected);
    CHECK(read(npy_bytes("<f2", "False", "(3,)", raw<std::uint16_t>({0x3c00, 0xc000, 0x4200}), version)).data ==
          expected);
  }
  CHECK(read(npy_bytes("<f4", "False", "(1,3)", raw<float>({1, -2, 3}))).shape == std::vector<npy::Index>{1, 3});
}

TEST_CASE("npy: 16 bits, subnormals and what is not finite included") {
  const TemporaryFolder folder;
  const auto half = [&](std::uint16_t bits) {
    return npy::read<float>(folder.file("a", npy_bytes("<f2", "False", "()", raw<std::uint16_t>({bits})))).data.at(0);
  };
  CHECK(half(0x0001) == 0x1p-24f);
  CHECK(half(0x83ff) == -1023 * 0x1p-24f);
  CHECK(half(0x0400) == 0x1p-14f);
  CHECK(half(0x7bff) == 65504);
  CHECK(half(0x3555) == 0x1.554p-2f);
  CHECK(half(0xfc00) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(half(0x7e01)));
  CHECK(std::signbit(half(0x8000)));
  const auto bfloat16 = [&](std::uint16_t bits) {
    const std::string path = folder.file("a", npy_bytes("<u2", "False", "()", raw<std::uint16_t>({bits})));
    return npy::read<float>(path, npy::Uint16::bfloat16).data.at(0);
  };
  CHECK(bfloat16(0x0001) == 0x1p-133f);
  CHECK(bfloat16(0xc049) == -3.140625f);
  CHECK(bfloat16(0x7f7f) == 0x1.fep127f);
  CHECK(bfloat16(0xff80) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(bfloat16(0x7fc1)));
}

TEST_CASE("npy: what is written in 16 bits is read, to the bit, and named as NumPy can") {
  const TemporaryFolder folder;
  const std::vector<npy::Index> shape{2, 2};
  const auto check = [&](auto zero, const char* dtype, const std::vector<std::uint16_t>& bits) {
    using T = decltype(zero);
    std::vector<T> values;
    for (const std::uint16_t pattern : bits) values.push_back(Eigen::numext::bit_cast<T>(pattern));
    const std::string path = folder.file("array.npy");
    npy::write<T>(path, shape, values);
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    CHECK(bytes.find(dtype) != std::string::npos);
    CHECK(bytes.substr(bytes.size() - 8) == raw(bits));
    CHECK(raw(npy::read<T>(path).data) == raw(bits));
    CHECK(npy::read<T>(path).shape == shape);
  };
  check(Eigen::half(), "'<f2'", {0x3c00, 0x8001, 0x7e01, 0xfc00});
  check(Eigen::bfloat16(), "'<u2'", {0x3f80, 0x8001, 0x7fc1, 0xff80});
}

// Numbers just beside the middle of two neighbours: rounded to float first, they would be in the middle.
TEST_CASE("npy: a number of any type is rounded once to 16 bits, to nearest even") {
  const TemporaryFolder folder;
  const auto check = [&](const std::string& dtype, const std::string& data, std::uint16_t bfloat16,
                         std::uint16_t half) {
    INFO(dtype << " " << bfloat16 << " " << half);
    const std::string path = folder.file("a", npy_bytes(dtype, "False", "(1,)", data));
    CHECK(raw(npy::read<Eigen::bfloat16>(path).data) == raw<std::uint16_t>({bfloat16}));
    CHECK(raw(npy::read<Eigen::half>(path).data) == raw<std::uint16_t>({half}));
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  check("<f8", raw<double>({1 + 0x1p-8}), 0x3f80, 0x3c04);            // the middle: to even
  check("<f8", raw<double>({1 + 0x1p-8 + 0x1p-40}), 0x3f81, 0x3c04);  // a little more
  check("<f8", raw<double>({1 + 0x3p-8 - 0x1p-40}), 0x3f81, 0x3c0c);  // a little less
  check("<f8", raw<double>({-1 - 0x1p-8 - 0x1p-40}), 0xbf81, 0xbc04);
  check("<f8", raw<double>({1 + 0x1p-11 + 0x1p-45}), 0x3f80, 0x3c01);
  check("<f8", raw<double>({0x1p-25 + 0x1p-70}), 0x3300, 0x0001);  // half the smallest half
  check("<f8", raw<double>({0x1p-25}), 0x3300, 0x0000);
  check("<f8", raw<double>({-1e-300}), 0x8000, 0x8000);
  check("<f8", raw<double>({1e300}), 0x7f80, 0x7c00);
  check("<f8", raw<double>({-infinity}), 0xff80, 0xfc00);
  check("<f4", raw<float>({1 + 0x1p-8f}), 0x3f80, 0x3c04);
  check("<f4", raw<float>({65520}), 0x4780, 0x7c00);
  check("<f2", raw<std::uint16_t>({0x3c0c}), 0x3f82, 0x3c0c);
  check("<i4", raw<std::int32_t>({257}), 0x4380, 0x5c04);
  check("<i4", raw<std::int32_t>({(1 << 30) + (1 << 22) + 1}), 0x4e81, 0x7c00);
  const std::int64_t middle = (std::int64_t{1} << 62) + (std::int64_t{1} << 54);
  check("<i8", raw<std::int64_t>({middle}), 0x5e80, 0x7c00);
  check("<i8", raw<std::int64_t>({middle + 1}), 0x5e81, 0x7c00);
  check("<i8", raw<std::int64_t>({-middle - 1}), 0xde81, 0xfc00);
  check("<i8", raw<std::int64_t>({-middle + 1}), 0xde80, 0xfc00);
  CHECK(std::isnan(
      float(npy::read<Eigen::bfloat16>(folder.file("a", npy_bytes("<f8", "False", "(1,)", raw<double>({std::nan("")}))))
                .data[0])));
}

TEST_CASE("npy: uint16 is bfloat16 where that is expected, and nothing anywhere else") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a", npy_bytes("<u2", "False", "(1,)", raw<std::uint16_t>({0x3f80})));
  CHECK(float(npy::read<Eigen::bfloat16>(path).data[0]) == 1);
  CHECK(npy::read<double>(path, npy::Uint16::bfloat16).data[0] == 1);
  CHECK_THROWS_WITH(npy::read<float>(path),
                    path + ": holds uint16: that is bit patterns of bfloat16, and read with --dtype bfloat16 only");
  CHECK_THROWS_AS(npy::read<double>(path), std::runtime_error);
  CHECK_THROWS_AS(npy::read<Eigen::half>(path), std::runtime_error);
  CHECK_THROWS_AS(npy::read<std::int64_t>(path), std::runtime_error);
}

TEST_CASE("npy: whole numbers are read from whole numbers alone") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& bytes) { return npy::read<std::int64_t>(folder.file("array.npy", bytes)); };
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  CHECK(read(npy_bytes("<i4", "False", "(2,)", raw<std::int32_t>({1, -2}))).data == std::vector<std::int64_t>{1, -2});
  CHECK(read(npy_bytes("<i8", "False", "(1,)", raw<std::int64_t>({large}))).data == std::vector<std::int64_t>{large});
  CHECK_THROWS_AS(read(npy_bytes("<f8", "False", "(1,)", raw<double>({1}))), std::runtime_error);
}

// Element [i, j, …] of shape (a, b, …) lies at i + a·(j + b·…) in Fortran order; big enough for several tiles, in rows,
// in columns and in both.
TEST_CASE("npy: Fortran order is read into C order, whatever the sizes") {
  const TemporaryFolder folder;
  for (const std::vector<npy::Index>& shape : std::vector<std::vector<npy::Index>>{{},
                                                                                   {7},
                                                                                   {2, 3},
                                                                                   {3, 1},
                                                                                   {1, 3},
                                                                                   {0, 3},
                                                                                   {3, 0},
                                                                                   {2, 3, 4},
                                                                                   {2, 1, 5, 3},
                                                                                   {3, 1, 1},
                                                                                   {40000, 37},
                                                                                   {5, 37},
                                                                                   {3, 300000},
                                                                                   {3, 17, 1000, 19}}) {
    INFO(npy::shape_text(shape));
    npy::Index count = 1;
    for (const npy::Index size : shape) count *= size;
    std::vector<float> stored(static_cast<std::size_t>(count)), expected(stored.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      npy::Index rest = npy::Index(i), at = 0, stride = count;
      for (std::size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) {
        stride /= shape[axis];
        at += rest % shape[axis] * stride;
      }
      expected[i] = float(i % 16777213);
      stored[std::size_t(at)] = expected[i];
    }
    const std::string path = folder.file("array.npy", npy_bytes("<f4", "True", npy::shape_text(shape), raw(stored)));
    const auto array = npy::read<float>(path);
    CHECK(array.shape == shape);
    CHECK((array.data == expected));
    const auto converted = npy::read<double>(path);
    CHECK((converted.data == std::vector<double>(expected.begin(), expected.end())));
  }
}

TEST_CASE("npy: a file that cannot be written whole is what it was") {
  const TemporaryFolder folder;
  const std::string path = folder.file("array.npy", "precious");
  CHECK_THROWS_AS(npy::write<float>(path, std::vector<npy::Index>{2}, std::vector<float>{1}), std::runtime_error);
  CHECK(std::filesystem::file_size(path) == 8);
  CHECK_THROWS_WITH(npy::write<float>("/dev/full", std::vector<npy::Index>{1}, std::vector<float>{1}),
                    "/dev/full: No space left on device");
  CHECK(std::filesystem::is_character_file("/dev/full"));
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
      {"no order", npy_bytes("<f4", "Maybe", "(3,)", data), "fortran_order"},
      {"big-endian", npy_bytes(">f4", "False", "(3,)", data), "unsupported dtype '>f4'"},
      {"big-endian bfloat16", npy_bytes(">u2", "False", "(3,)", data), "unsupported dtype '>u2'"},
      {"uint16", npy_bytes("<u2", "False", "(6,)", data), "--dtype bfloat16"},
      {"bytes", npy_bytes("|u1", "False", "(3,)", data), "unsupported dtype '|u1'"},
      {"complex", npy_bytes("<c8", "False", "(3,)", data), "unsupported dtype '<c8'"},
      {"no shape", npy_bytes("<f4", "False", "3", data), "no readable shape"},
      {"negative size", npy_bytes("<f4", "False", "(-3,)", data), "no readable shape"},
      {"size that overflows", npy_bytes("<f4", "False", "(99999999999999999999,)", data), "overflows"},
      {"product that overflows", npy_bytes("<f4", "False", "(4294967296, 4294967296)", data), "overflows"},
      {"product that overflows beside a zero", npy_bytes("<f4", "False", "(0, 4294967296, 4294967296)", data),
       "overflows"},
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
