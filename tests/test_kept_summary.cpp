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

TEST_CASE("backward takes only what was made from what it has") {
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
  Placed<double>(other).attend(csq::Csq{}, run);  // another v
  CHECK(same_bits(placed.backward(csq::Csq{}, run), expected));
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

TEST_CASE("a summary of anything else is ignored, however alike its sizes are") {
  Random random(175);
  const Problem base = Problem::random_backward(random, {40, 30, 4, 4, 2, 2, 2}, false, csq::Centering::none);
  const Run plain{csq::Method::factored};
  // Forward with one call, backward with another, on the same memory where the sizes allow.
  const auto check = [&](const char* name, const Problem& first, const auto& first_mechanism, const Problem& second,
                         const auto& second_mechanism) {
    INFO(name);
    csq::KeptSummary summary;
    Run run = plain;
    PlacedBackward<double> placed(second);
    const GradientOutputs<double> expected = placed.gradients(second_mechanism, plain);
    PlacedBackward<double> before(first);
    before.q.view.data = placed.q.view.data;
    before.k.view.data = placed.k.view.data;
    before.v.view.data = placed.v.view.data;
    run.summary = &summary;
    before.attend(first_mechanism, run);
    REQUIRE_FALSE(summary.empty());
    CHECK(same_bits(placed.backward(second_mechanism, run), expected));
  };
  Problem centred = base, scaled = base, shorter = base, wide = base, fewer = base;
  centred.centering = csq::Centering::sequence;
  scaled.scale = 0.3;
  shorter.key_length = {30, 7};
  fewer.k.tokens = fewer.v.tokens = 20;
  const csq::ShiftedQuadratic shifted;
  check("another centring", centred, shifted, base, shifted);
  check("another scale", scaled, shifted, base, shifted);
  check("other lengths", shorter, shifted, base, shifted);
  check("fewer keys", fewer, shifted, base, shifted);
  check("another mechanism with as many features", base, csq::Taylor{}, base, csq::Quadratic{2, -1, 0.5});
  check("another shift", base, csq::ShiftedQuadratic{2}, base, shifted);
  Problem swapped = Problem::random_backward(random, {40, 30, 4, 4, 1, 4, 4}, false, csq::Centering::none);
  check("heads and batch swapped", swapped, shifted, base, shifted);
  Problem history = base, other_history = base;
  history.centering = other_history.centering = csq::Centering::prefix;
  history.key_history = random_history(random, base.k, 3, 3);
  other_history.key_history = random_history(random, base.k, 3, 3);
  check("another history", history, shifted, other_history, shifted);
}

TEST_CASE("a summary that is what backward needs is read") {
  Random random(176);
  const Problem p = Problem::random_backward(random, {40, 30, 4, 4});
  csq::KeptSummary summary;
  Run run{csq::Method::factored};
  run.summary = &summary;
  PlacedBackward<double> placed(p);
  const GradientOutputs<double> expected = placed.gradients(csq::Csq{}, {csq::Method::factored});
  placed.attend(csq::Csq{}, run);
  for (std::size_t i = 0; i < summary.bytes() / sizeof(double); ++i) summary.head<double>(0)[i] = 0;
  CHECK_FALSE(close(placed.backward(csq::Csq{}, run), expected));
}

TEST_CASE("a summary that was moved from is empty") {
  Random random(174);
  const Problem p = Problem::random_backward(random, {40, 40, 4, 4}),
                tiny = Problem::random_backward(random, {3, 2, 1, 1});
  const Run run{csq::Method::factored};
  const GradientOutputs<double> expected = gradients<double>(csq::Csq{}, p, run);
  csq::KeptSummary summary, small;
  gradients_with<double>(csq::Csq{}, p, run, summary);
  csq::KeptSummary other = std::move(summary);
  CHECK_FALSE(other.empty());
  CHECK(summary.empty());
  CHECK(same_bits(gradients_with<double>(csq::Csq{}, p, run, summary), expected));

  // Assigned: what it had is gone as well, and it is as good as new.
  Run keeping = run;
  keeping.summary = &other;
  PlacedBackward<double> placed(p);
  placed.attend(csq::Csq{}, keeping);
  gradients_with<double>(csq::Csq{}, tiny, run, small);
  small = std::move(other);
  CHECK(other.empty());
  CHECK_FALSE(small.empty());
  CHECK(same_bits(placed.backward(csq::Csq{}, keeping), expected));  // reads nothing from what it no longer has
  keeping.summary = &small;
  CHECK(close(placed.backward(csq::Csq{}, keeping), expected));
  placed.attend(csq::Csq{}, {csq::Method::factored, 0, 1, nullptr, &other});
  CHECK_FALSE(other.empty());

  csq::Workspace first, second;
  first.reserve(100);
  second.reserve(5000);
  first = std::move(second);
  CHECK(second.bytes() == 0);
  CHECK(first.bytes() >= 5000);
}
