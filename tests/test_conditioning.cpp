// Rows whose normaliser loses its meaning, by cancellation or by underflow, are right or NaN, never silently wrong; and
// ordinary rows are not taken for such.
#include "catch.hpp"
#include "problem.hpp"

namespace {

using csq::Centering;
using csq::Method;

NamedMechanism<csq::ShiftedQuadratic> shifted(double shift = 1) { return {"shifted", {shift}, shifted_square(shift)}; }
NamedMechanism<csq::Squared> squared() { return {"squared", {}, shifted_square(0)}; }

// As float holds them, so that both passes and the reference see the same numbers.
void round_to_float(Problem& p) {
  for (Tensor* x : {&p.q, &p.k, &p.v, &p.dout})
    for (double& value : x->values) value = double(float(value));
}

enum class Allow { right, right_or_nan };

// ‖x − expected‖/‖expected‖ over the rows of `dim` that are not NaN throughout.
double distance_of_rows(std::vector<double> x, std::vector<double> expected, Index dim, Allow allow) {
  for (std::size_t first = 0; first < x.size(); first += std::size_t(dim)) {
    bool all_nan = allow == Allow::right_or_nan;
    for (std::size_t i = first; i < first + std::size_t(dim); ++i) all_nan = all_nan && std::isnan(x[i]);
    for (std::size_t i = first; all_nan && i < first + std::size_t(dim); ++i) x[i] = expected[i] = 0;
  }
  return distance(x, expected);
}
template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

template <class T>
double tolerance() {
  return sizeof(T) == 4 ? 5e-3 : 1e-7;
}

std::vector<Run> every_run() {
  std::vector<Run> runs;
  for (const Method method : {Method::direct, Method::factored, Method::automatic})
    for (const Index chunk : {Index{0}, Index{16}})
      if (method == Method::factored || chunk == 0) runs.push_back({method, chunk});
  return runs;
}

template <class M>
void check_forward(const NamedMechanism<M>& named, const Problem& p, Allow allow = Allow::right) {
  const reference::Result expected = reference_result(named, p);
  for_float_and_double([&]<class T>() {
    Placed<T> placed(p);
    for (const Run& run : every_run()) {
      INFO(named.name << ", " << name_of(run.method) << ", chunk " << run.chunk << ", " << 8 * sizeof(T) << " bits, "
                      << p.describe());
      const Outputs<T> result = placed.attend(named.mechanism, run);
      CHECK(distance_of_rows(doubles(result.output), expected.output.values, p.v.dim, allow) <= tolerance<T>());
      CHECK(distance_of_rows(doubles(result.statistic), expected.statistic.values, 1, Allow::right_or_nan) <=
            tolerance<T>());
    }
  });
}

// Gradients beside those of the direct method in double, whose weights do not cancel. Where all keys of a row are equal
// the gradients of its query and of the shift are 0, and what is computed is the rounding of that.
template <class M>
void check_backward(const NamedMechanism<M>& named, const Problem& p, Allow allow = Allow::right,
                    bool keys_are_equal = false) {
  const GradientOutputs<double> expected = gradients<double>(named.mechanism, p, {Method::direct});
  for_float_and_double([&]<class T>() {
    PlacedBackward<T> placed(p);
    for (const Run& run : every_run()) {
      INFO(named.name << ", " << name_of(run.method) << ", chunk " << run.chunk << ", " << 8 * sizeof(T) << " bits, "
                      << p.describe());
      const GradientOutputs<T> result = placed.gradients(named.mechanism, run);
      if (!keys_are_equal)
        CHECK(distance_of_rows(doubles(result.query), expected.query, p.q.dim, allow) <= tolerance<T>());
      CHECK(distance_of_rows(doubles(result.key), expected.key, p.k.dim, allow) <= tolerance<T>());
      CHECK(distance_of_rows(doubles(result.value), expected.value, p.v.dim, allow) <= tolerance<T>());
      if (!keys_are_equal && (allow == Allow::right || !std::isnan(result.shift)))
        CHECK(std::abs(result.shift - expected.shift) <= 4 * tolerance<T>() * std::abs(expected.shift) + 1e-12);
    }
  });
}

void multiply(Tensor& x, double factor) {
  for (double& value : x.values) value *= factor;
}
// Adds `offset` to every element.
void move(Tensor& x, double offset) {
  for (double& value : x.values) value += offset;
}

Problem ordinary(std::uint64_t seed, const Sizes& sizes, bool causal, Centering centering = Centering::automatic) {
  Random random(seed);
  return Problem::random_backward(random, sizes, causal, centering);
}

}  // namespace

TEST_CASE("a scale-blind weight is right for scores of any size") {
  for (const bool causal : {false, true})
    for (const Index n : {Index{3}, Index{320}})
      for (const int exponent : {-70, -40, -36, -20, 40}) {
        Problem p = ordinary(1, {n, 320, 5, 4, 1, 4, 2}, causal);
        multiply(p.q, std::ldexp(1.0, exponent));
        multiply(p.k, std::ldexp(1.0, exponent));
        check_forward(squared(), p);
        // A normaliser that float does not hold is NaN, and so are gradients.
        check_backward(squared(), p, Allow::right_or_nan);
        check_forward(NamedMechanism<csq::Csq>{"csq 0", {0}, shifted_square(0), true, true, true},
                      ordinary(2, {n, n, 5, 4}, causal), Allow::right);
      }
}

TEST_CASE("rows and keys of a scale-blind weight may differ in size") {
  for (const bool causal : {false, true}) {
    Problem p = ordinary(3, {300, 300, 4, 4}, causal);
    for (Index i = 0; i < 300; ++i)
      for (Index a = 0; a < 4; ++a) {
        p.q(0, 0, i, a) *= i % 7 == 0 ? 0 : std::ldexp(1.0, -int(i % 5) * 12);
        p.k(0, 0, i, a) *= i < 150 ? 0x1p-45 : 1;
      }
    check_forward(squared(), p);
    // All of every score in coordinates that are small beside the others.
    for (Index i = 0; i < 300; ++i) {
      p.q(0, 0, i, 0) = 0;
      p.k(0, 0, i, 0) = 1;
      for (Index a = 1; a < 4; ++a) p.k(0, 0, i, a) *= 0x1p-60;
    }
    check_forward(squared(), p);
  }
}

TEST_CASE("weights that underflow and may not be scaled give NaN") {
  Problem p = ordinary(4, {300, 300, 4, 4}, true);
  multiply(p.q, 0x1p-50);
  multiply(p.k, 0x1p-50);
  check_forward(shifted(0x1p-80), p, Allow::right_or_nan);
  check_backward(shifted(0x1p-80), p, Allow::right_or_nan);
  multiply(p.q, 0);
  check_forward(shifted(0x1p-80), p, Allow::right_or_nan);
  check_forward(NamedMechanism<csq::Quadratic>{"tiny c0", {0x1p-160, 0, 1}, power_series({0x1p-160, 0, 1})}, p,
                Allow::right_or_nan);
}

TEST_CASE("equal keys whose scores cancel the shift") {
  for (const bool causal : {false, true})
    for (const double away : {0.0, 0x1p-23, 0x1p-16, 0x1p-10, 0x1p-6}) {
      Problem p = ordinary(5, {320, 320, 2, 3}, causal);
      p.scale = 1;
      for (double& value : p.v.values) value = std::abs(value) / 8;
      for (Index i = 0; i < 320; ++i) {
        p.q(0, 0, i, 0) = p.k(0, 0, i, 0) = 1;
        p.q(0, 0, i, 1) = -2 + away * double(1 + i % 3);
        p.k(0, 0, i, 1) = 1;
      }
      round_to_float(p);
      check_forward(shifted(), p);
      check_backward(shifted(), p, Allow::right, true);
    }
}

TEST_CASE("keys with an offset, not centred") {
  for (const bool causal : {false, true})
    for (const double offset : {10.0, 1000.0, 10000.0})
      for (const double value_offset : {0.0, 5.0}) {
        Problem p = ordinary(6, {400, 400, 6, 4, 1, 2, 1}, causal, Centering::none);
        for (Index a = 0; a < 6; ++a)
          for (Index j = 0; j < 400; ++j) p.k(0, 0, j, a) += offset * (a % 2 == 0 ? 1 : -0.5);
        move(p.v, value_offset);
        round_to_float(p);
        check_forward(shifted(), p);
        check_backward(shifted(), p);
        check_forward(squared(), p);
        check_backward(squared(), p);
        check_forward(NamedMechanism<csq::Taylor>{"taylor", {}, power_series({1, 1, 0.5})}, p);
      }
}

TEST_CASE("one long key that is orthogonal to all queries") {
  for (const bool causal : {false, true})
    for (const double length : {1e3, 3e4, 1e15}) {
      Problem p = ordinary(7, {400, 400, 6, 4, 1, 2, 1}, causal, Centering::none);
      // Beyond 1e5 the rounding of the scores themselves is all that is left, but for zeros.
      for (Index i = 0; i < 400; ++i)
        for (Index h = 0; h < 2; ++h) p.q(0, h, i, 1) = length > 1e5 ? p.q(0, h, i, 0) = 0 : -p.q(0, h, i, 0);
      for (Index a = 0; a < 6; ++a) p.k(0, 0, 20, a) = a < 2 ? length : 0;
      round_to_float(p);
      check_forward(shifted(), p);
      check_backward(shifted(), p);
    }
}

TEST_CASE("scores near the shift with a large offset") {
  for (const bool causal : {false, true})
    for (const double offset : {1000.0, 10000.0}) {
      Problem p = ordinary(8, {400, 400, 4, 4}, causal, Centering::none);
      p.scale = 1;
      // s = offset·(x − x) − 1 + noise
      for (Index i = 0; i < 400; ++i) {
        p.q(0, 0, i, 0) = 1;
        p.q(0, 0, i, 1) = -1;
        p.q(0, 0, i, 2) = -1;
        p.q(0, 0, i, 3) /= 64;
        p.k(0, 0, i, 0) = p.k(0, 0, i, 1) = offset;
        p.k(0, 0, i, 2) = 1;
      }
      round_to_float(p);
      check_forward(shifted(), p);
      check_backward(shifted(), p);
    }
}

TEST_CASE("a single bad row among good ones, with histories and lengths") {
  Random random(9);
  Problem p = Problem::random_backward(random, {400, 430, 8, 4, 2, 4, 2}, true, Centering::prefix);
  p.query_history = random_history(random, p.q, 35, 35);
  p.key_history = random_history(random, p.k, 5, 5);
  p.key_length = {400, 430};
  p.query_length = {400, 333};
  for (Index a = 0; a < 8; ++a) p.k(1, 0, 200, a) = a == 3 ? 3e5 : 0;
  round_to_float(p);
  check_forward(NamedMechanism<csq::Csq>{"csq", {}, shifted_square(1), true, true, true}, p);
  check_backward(NamedMechanism<csq::Csq>{"csq", {}, shifted_square(1), true, true, true}, p);
}

TEST_CASE("coefficients beyond what float holds") {
  for (const bool causal : {false, true})
    for (const double factor : {1e-100, 1e-46, 1e-30, 1e40, 1e100}) {
      const Problem p = ordinary(10, {300, 300, 4, 4}, causal);
      check_forward(
          NamedMechanism<csq::Quadratic>{
              "quadratic", {2 * factor, -factor, 0.5 * factor}, power_series({2 * factor, -factor, 0.5 * factor})},
          p);
      check_backward(NamedMechanism<csq::Quadratic>{"quadratic", {2 * factor, -factor, 0.5 * factor}, {}}, p,
                     Allow::right_or_nan);
    }
  const Problem p = ordinary(11, {4, 4, 2, 2}, false);
  CHECK(names(rejection([&] { attend<double>(csq::Quadratic{1e-200, 3e-200, 1e-200}, p); }), "c1"));
  CHECK(names(rejection([&] { attend<double>(csq::Quadratic{1e200, 3e200, 1e200}, p); }), "c1"));
  CHECK(names(rejection([&] { attend<float>(csq::Polynomial{{1e-46, 1e-46}}, p); }), "Polynomial"));
  CHECK(names(rejection([&] { attend<float>(csq::PositivePolynomial{{1e-25, 1e-26}, 4, 0}, p); }), "root"));
  CHECK(rejection([&] { attend<double>(csq::Polynomial{{1e-46, 1e-46}}, p); }).empty());
}

TEST_CASE("NaN in a key reaches the rows that see it, whatever the weight") {
  for (const bool causal : {false, true}) {
    Problem p = ordinary(12, {300, 300, 4, 4}, causal);
    p.k(0, 0, 100, 2) = std::numeric_limits<double>::quiet_NaN();
    for_float_and_double([&]<class T>() {
      for (const Run& run : every_run()) {
        INFO(name_of(run.method) << ", chunk " << run.chunk << (causal ? ", causal" : ""));
        const Outputs<T> result = attend<T>(csq::Quadratic{3, 0, 0}, p, run);
        for (Index i = 0; i < 300; ++i) CHECK(std::isnan(result.output[std::size_t(i) * 4]) == (!causal || i >= 100));
      }
    });
  }
}

// A block that is served directly has the bits of the direct method; one that is read from the summary has others.
TEST_CASE("ordinary rows are read from the summary") {
  constexpr Index block = 144;
  for_each_mechanism([&](const auto& named) {
    if (!named.factored || named.weight.kind != reference::Weight::Kind::of_score) return;
    if (std::string(named.name) == "constant") return;
    for (const Index d : {16, 64}) {
      const Problem p = ordinary(13, {8 * block, 8 * block, d, 16}, false);
      const Outputs<float> read = attend<float>(named.mechanism, p, {Method::factored});
      const Outputs<float> direct = attend<float>(named.mechanism, p, {Method::direct});
      for (Index first = 0; first < 8 * block; first += block) {
        INFO(named.name << ", d " << d << ", block at " << first);
        const auto from = [&](const std::vector<float>& x) { return x.begin() + first * 16; };
        CHECK(!std::equal(from(read.output), from(read.output) + block * 16, from(direct.output)));
      }
    }
  });
}
TEST_CASE("rows that may not be read have the bits of the direct method") {
  Problem p = ordinary(14, {288, 288, 16, 16}, false);
  for (Index i = 0; i < 288; ++i) p.q(0, 0, i, 0) = 0;
  for (Index a = 0; a < 16; ++a) p.k(0, 0, 7, a) = a == 0 ? 1e6 : 0;
  CHECK(same_bits(attend<float>(csq::ShiftedQuadratic{}, p, {Method::factored}),
                  attend<float>(csq::ShiftedQuadratic{}, p, {Method::direct})));
}

TEST_CASE("bits do not depend on threads where rows are served directly") {
  for (const bool causal : {false, true}) {
    Problem p = ordinary(15, {600, 600, 32, 16, 1, 4, 2}, causal, Centering::none);
    for (Index j = 0; j < 600; ++j)
      for (Index a = 0; a < 32; ++a) p.k(0, 0, j, a) += 1000;
    round_to_float(p);
    const Run one{Method::factored, 16, 1}, three{Method::factored, 16, 3};
    CHECK(same_bits(attend<float>(csq::ShiftedQuadratic{}, p, one), attend<float>(csq::ShiftedQuadratic{}, p, three)));
    CHECK(same_bits(gradients<float>(csq::ShiftedQuadratic{}, p, one),
                    gradients<float>(csq::ShiftedQuadratic{}, p, three)));
  }
}
