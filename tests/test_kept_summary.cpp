// The summary that forward hands over to backward: used where it fits, ignored where it does not, and the gradients the
// same.
#include "catch.hpp"
#include "problem.hpp"

namespace {

template <class T, class M>
GradientOutputs<T> gradients_with(const M& mechanism, const Problem& p, Run run, csq::KeptSummary& summary) {
  run.summary = &summary;
  return gradients<T>(mechanism, p, run);
}

template <class T>
bool close(const GradientOutputs<T>& x, const GradientOutputs<T>& y) {
  const double tolerance = sizeof(T) == sizeof(double) ? 1e-13 : 1e-6;
  const auto near = [&](const std::vector<T>& a, const std::vector<T>& b) {
    return distance(std::vector<double>(a.begin(), a.end()), std::vector<double>(b.begin(), b.end())) <= tolerance;
  };
  return near(x.query, y.query) && near(x.key, y.key) && near(x.value, y.value) &&
         std::abs(x.shift - y.shift) <= 100 * tolerance * (1 + std::abs(y.shift));
}

}  // namespace

TEST_CASE("gradients with a summary that forward kept are those without") {
  Random random(171);
  for (const Sizes& s : {Sizes{300, 200, 5, 3}, Sizes{20, 500, 17, 9, 2, 6, 2}, Sizes{7, 1, 1, 1}}) {
    Problem p = Problem::random_backward(random, s);
    p.key_length.assign(static_cast<std::size_t>(s.batch), s.m - s.m / 3);
    for (const Index chunk : {0, 7})
      for (const int threads : {1, 3})
        for_float_and_double([&]<class T>() {
          INFO(p.describe() << ", chunk " << chunk << ", " << threads << " threads, " << 8 * sizeof(T) << " bits");
          const Run run{csq::Method::factored, chunk, threads};
          csq::KeptSummary summary;
          CHECK(close(gradients_with<T>(csq::Csq{}, p, run, summary), gradients<T>(csq::Csq{}, p, run)));
          CHECK_FALSE(summary.empty());
          CHECK(close(gradients_with<T>(csq::Linear{}, p, run, summary), gradients<T>(csq::Linear{}, p, run)));
          CHECK(close(gradients_with<T>(csq::Taylor{}, p, run, summary), gradients<T>(csq::Taylor{}, p, run)));
        });
  }
}

TEST_CASE("backward takes what is kept, and only what has its sizes") {
  Random random(172);
  const Problem p = Problem::random_backward(random, {40, 30, 4, 4});
  Problem other = p, longer = Problem::random_backward(random, {40, 30, 5, 4});
  for (double& value : other.v.values) value += 1;
  Run run{csq::Method::factored};
  const GradientOutputs<double> expected = gradients<double>(csq::Csq{}, p, run);

  csq::KeptSummary summary;
  PlacedBackward<double> placed(p);
  placed.attend(csq::Csq{}, run);
  run.summary = &summary;
  Placed<double>(other).attend(csq::Csq{}, run);  // another v: wrong, and believed
  CHECK_FALSE(close(placed.backward(csq::Csq{}, run), expected));
  Placed<double>(longer).attend(csq::Csq{}, run);
  CHECK(same_bits(placed.backward(csq::Csq{}, run), expected));
  Placed<float>(p).attend(csq::Csq{}, run);
  CHECK(same_bits(placed.backward(csq::Csq{}, run), expected));
  // The gradient of a shift that is zero needs features that its forward does not have.
  const GradientOutputs<double> unshifted = gradients<double>(csq::Csq{0}, p, {csq::Method::factored});
  CHECK(same_bits(gradients_with<double>(csq::Csq{0}, p, {csq::Method::factored}, summary), unshifted));
}

TEST_CASE("direct and causal calls keep nothing and take nothing") {
  Random random(173);
  for (const bool causal : {false, true}) {
    const Problem p = Problem::random_backward(random, {40, 40, 4, 4}, causal);
    const Run run{causal ? csq::Method::factored : csq::Method::direct, causal ? 7 : 0};
    csq::KeptSummary summary;
    const Problem full = Problem::random_backward(random, {40, 40, 4, 4});
    gradients_with<double>(csq::Csq{}, full, {csq::Method::factored}, summary);
    REQUIRE_FALSE(summary.empty());
    CHECK(same_bits(gradients_with<double>(csq::Csq{}, p, run, summary), gradients<double>(csq::Csq{}, p, run)));
    CHECK(summary.empty());
  }
}

TEST_CASE("a summary that was moved from is empty") {
  Random random(174);
  const Problem p = Problem::random_backward(random, {40, 40, 4, 4});
  const Run run{csq::Method::factored};
  csq::KeptSummary summary;
  gradients_with<double>(csq::Csq{}, p, run, summary);
  const csq::KeptSummary other = std::move(summary);
  CHECK_FALSE(other.empty());
  CHECK(summary.empty());
  CHECK(same_bits(gradients_with<double>(csq::Csq{}, p, run, summary), gradients<double>(csq::Csq{}, p, run)));
}
