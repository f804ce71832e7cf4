// The conversions of every set that this processor has, by themselves: every number of both 16-bit types to float, and
// float to the nearest of them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernel_memory.hpp"
#include "sixteen.hpp"

namespace {

using csq::detail::Storage;
using sixteen::Format;
using sixteen::from_bits;
using sixteen::infinity_bits;
using sixteen::rounded;

// check.template operator()<Element>(storage) for every set and type.
template <class Check>
void for_each_conversion(const Check& check) {
  using csq::detail::simd::Targets;
  for (std::size_t target = 0; target < Targets::count; ++target) {
    if (!csq::detail::simd::processor_has(target)) continue;
    sixteen::for_both_types([&]<class Element>() {
      INFO(Targets::names[target] << ", " << Format<Element>::name);
      const Storage<float>& storage = *Targets::storage<Element>[target]();
      CHECK(storage.bytes == 2);
      check.template operator()<Element>(storage);
    });
  }
}

std::uint32_t bits_of_float(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, 4);
  return bits;
}
float float_of_bits(std::uint32_t bits) {
  float x = 0;
  std::memcpy(&x, &bits, 4);
  return x;
}

// How many of them are not stored as they must be; NaN as a quiet one of the same sign.
template <class Element>
std::size_t wrongly_stored(const Storage<float>& storage, const std::vector<float>& numbers) {
  std::vector<Element> stored(numbers.size());
  storage.store(numbers.data(), Index(numbers.size()), stored.data(), 1);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint32_t bits = sixteen::bits_of(stored[i]);
    const std::uint32_t quiet = std::uint32_t{1} << (Format<Element>::mantissa - 1);
    const bool right = std::isnan(numbers[i]) ? sixteen::is_nan(stored[i]) && (bits & quiet) != 0 &&
                                                    (bits & 0x8000) == (bits_of_float(numbers[i]) >> 16 & 0x8000)
                                              : bits == sixteen::bits_of(rounded<Element>(double(numbers[i])));
    if (right) continue;
    if (++wrong == 1) UNSCOPED_INFO("the first: " << numbers[i] << " as " << bits);
  }
  return wrong;
}

}  // namespace

// What the others are compared with.
TEST_CASE("sixteen: the plain rounding is Eigen's, and values are its values") {
  sixteen::for_both_types([]<class Element>() {
    std::size_t wrong = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const Element element = from_bits<Element>(bits);
      const double value = sixteen::value_of(element);
      if (std::isnan(value) != std::isnan(float(element))) ++wrong;
      if (std::isnan(value)) continue;
      if (value != double(float(element)) || sixteen::bits_of(rounded<Element>(value)) != bits) ++wrong;
    }
    CHECK(wrong == 0);
    Random random(1621);
    for (int i = 0; i < 200000; ++i) {
      const float x = float_of_bits(std::uint32_t(random.bits()));
      if (!std::isnan(x) && sixteen::bits_of(Element(x)) != sixteen::bits_of(rounded<Element>(double(x)))) ++wrong;
    }
    CHECK(wrong == 0);
  });
  CHECK(sixteen::bits_of(rounded<Eigen::half>(65520)) == infinity_bits<Eigen::half>);
  CHECK(sixteen::value_of(rounded<Eigen::half>(65519.99)) == 65504);
  CHECK(sixteen::bits_of(rounded<Eigen::half>(0x1p-25)) == 0);
  CHECK(sixteen::value_of(rounded<Eigen::half>(0x1.8p-25)) == 0x1p-24);
  CHECK(sixteen::value_of(rounded<Eigen::bfloat16>(1 + 0x1p-8)) == 1);
  CHECK(sixteen::value_of(rounded<Eigen::bfloat16>(1 + 0x1.8p-7)) == 1 + 0x1p-6);
}

TEST_CASE("sixteen: every number of 16 bits to float and back") {
  for_each_conversion([]<class Element>(const Storage<float>& storage) {
    std::vector<Element> all(65536), again(65536);
    for (std::uint32_t bits = 0; bits < 65536; ++bits) all[bits] = from_bits<Element>(bits);
    std::vector<float> numbers(65536);
    storage.load(all.data(), 1, 65536, numbers.data());
    storage.store(numbers.data(), 65536, again.data(), 1);
    std::size_t wrong = 0, wrong_again = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      const double value = sixteen::value_of(all[bits]);
      const bool same_sign = bits_of_float(numbers[bits]) >> 31 == bits >> 15;
      if (!same_sign || !(std::isnan(value) ? std::isnan(numbers[bits]) : double(numbers[bits]) == value)) ++wrong;
      if (!sixteen::is_rounding_of(again[bits], value) || (sixteen::bits_of(again[bits]) ^ bits) >> 15 != 0)
        ++wrong_again;
    }
    CHECK(wrong == 0);
    CHECK(wrong_again == 0);
  });
}

TEST_CASE("sixteen: float to 16 bits is to nearest, ties to even") {
  // Around every number and every middle between two: the float before, it, and the one behind, of both signs.
  for_each_conversion([]<class Element>(const Storage<float>& storage) {
    std::vector<float> numbers;
    for (std::uint32_t bits = 0; bits < infinity_bits<Element>; ++bits) {
      const double value = sixteen::value_of(from_bits<Element>(bits));
      const double next = bits + 1 == infinity_bits<Element> ? std::ldexp(1, Format<Element>::highest + 1)
                                                             : sixteen::value_of(from_bits<Element>(bits + 1));
      for (const double exact : {value, value / 2 + next / 2}) {
        const float x = float(exact);
        for (const float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, std::numeric_limits<float>::infinity())})
          for (const float z : {y, -y}) numbers.push_back(z);
      }
    }
    CHECK(wrongly_stored<Element>(storage, numbers) == 0);
  });
}

TEST_CASE("sixteen: any float to 16 bits") {
  Random random(1622);
  std::vector<float> any, near_one, small, special;
  for (int i = 0; i < 1 << 20; ++i) any.push_back(float_of_bits(std::uint32_t(random.bits())));
  for (int i = 0; i < 1 << 18; ++i) near_one.push_back(float(random.normal() * random.uniform()));
  // What half has as subnormal numbers or none, and what bfloat16 and float have.
  for (int i = 0; i < 1 << 18; ++i)
    small.push_back(float(std::ldexp(random.uniform() - 0.5, int(random.integer(-30, -12)))));
  for (int i = 0; i < 1 << 16; ++i) small.push_back(float_of_bits(std::uint32_t(random.bits()) & 0x80ffffff));
  for (const std::uint32_t bits :
       {0x00000000u, 0x80000000u, 0x00000001u, 0x807fffffu, 0x7f7fffffu, 0xff7fffffu, 0x7f800000u,
        0xff800000u, 0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu,
        0x7f808000u, 0x7fbfffffu, 0x7f7f8000u, 0x7f7f7fffu, 0x477fe000u, 0x477fefffu, 0x477ff000u,
        0x477ff001u, 0x33000000u, 0x33000001u, 0x387fffffu, 0x38800000u, 0x387fe000u, 0x387ff000u})
    special.push_back(float_of_bits(bits));
  for_each_conversion([&]<class Element>(const Storage<float>& storage) {
    CHECK(wrongly_stored<Element>(storage, any) == 0);
    CHECK(wrongly_stored<Element>(storage, near_one) == 0);
    CHECK(wrongly_stored<Element>(storage, small) == 0);
    CHECK(wrongly_stored<Element>(storage, special) == 0);
  });
}

// At any address that an element may have.
TEST_CASE("sixteen: counts, strides and misaligned memory; nothing else is read or written") {
  constexpr unsigned char outside = 0xa5;
  constexpr Index guard = 64;
  Random random(1623);
  for_each_conversion([&]<class Element>(const Storage<float>& storage) {
    for (Index count = 0; count <= 40; ++count)
      for (const Index stride : {1, 2, -3, -1, 7})
        for (const Index shift : {0, 2, 6, 30, 62}) {
          INFO("count " << count << ", stride " << stride << ", shift " << shift);
          const Index span = count == 0 ? 0 : (count - 1) * std::abs(stride) + 1;
          std::vector<unsigned char> bytes(std::size_t(2 * guard + 2 * span + shift), outside);
          unsigned char* const low = bytes.data() + guard + shift;
          unsigned char* const first = stride < 0 && count > 0 ? low + 2 * (count - 1) * -stride : low;
          KernelMemory<float> numbers(count, std::numeric_limits<float>::quiet_NaN(), shift % 16);
          numbers.fill(random);
          storage.store(numbers.data(), count, first, stride);
          std::vector<unsigned char> expected(bytes.size(), outside);
          for (Index i = 0; i < count; ++i) {
            const Element element = rounded<Element>(double(numbers[i]));
            std::memcpy(expected.data() + (first - bytes.data()) + 2 * i * stride, &element, 2);
          }
          CHECK(bytes == expected);

          KernelMemory<float> loaded(count, std::numeric_limits<float>::quiet_NaN(), shift % 16);
          storage.load(first, stride, count, loaded.data());
          bool right = true;
          for (Index i = 0; i < count; ++i)
            right = right && double(loaded[i]) == sixteen::value_of(rounded<Element>(double(numbers[i])));
          CHECK(right);
          CHECK(loaded.frame_is_whole());
        }
  });
}

// Ends of pages cannot be asked for here; memory of exactly so many elements, of which a sanitizer sees the ends, can.
TEST_CASE("sixteen: memory that ends behind the last element") {
  for_each_conversion([&]<class Element>(const Storage<float>& storage) {
    for (const Index count : {1, 3, 7, 8, 9, 15, 16, 17, 33}) {
      std::vector<Element> elements(std::size_t(count), rounded<Element>(1.5));
      std::vector<float> numbers(static_cast<std::size_t>(count));
      storage.load(elements.data(), 1, count, numbers.data());
      storage.store(numbers.data(), count, elements.data(), 1);
      CHECK(std::all_of(numbers.begin(), numbers.end(), [](float x) { return x == 1.5f; }));
    }
  });
}
