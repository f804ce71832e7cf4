// factored = direct = the plain loops, for every mechanism and option, on random problems with fixed seeds.
#include "agreement.hpp"

namespace {

using csq::Centering;

std::vector<Index> random_lengths(Random& random, Index batch, Index high) {
  std::vector<Index> lengths;
  for (Index b = 0; b < batch; ++b) lengths.push_back(random.coin() ? high : random.integer(0, high));
  return lengths;
}

// Everything that is not given is drawn: sizes, groups, lengths, histories, scale, layouts.
template <class M>
Problem random_problem(Random& random, const NamedMechanism<M>& named, bool causal, Centering centering) {
  Sizes s{random.integer(3, 40), random.integer(3, 40), random.integer(1, 20), random.integer(1, 20)};
  s.batch = random.integer(1, 3);
  s.kv_heads = random.integer(1, 3);
  s.heads = s.kv_heads * random.integer(1, 4);
  Problem p;
  p.q_layout = random.pick(input_layouts);
  p.k_layout = random.pick(input_layouts);
  p.v_layout = random.pick(input_layouts);
  p.output_layout = random.pick(output_layouts);
  p.q = random_tensor(random, s.batch, s.heads, s.n, s.d, p.q_layout);
  p.k = random_tensor(random, s.batch, s.kv_heads, s.m, s.d, p.k_layout);
  p.v = random_tensor(random, s.batch, s.kv_heads, s.m, s.dv, p.v_layout);
  p.causal = causal;
  p.centering = centering;
  if (random.coin()) p.key_length = random_lengths(random, s.batch, s.m);
  if (random.coin()) p.query_length = random_lengths(random, s.batch, s.n);
  if (named.takes_scale && random.coin()) p.scale = random.pick<double>({-0.4, 0.2, 0.7});
  if (has_prefix_means(effective_centering(p, named.centred))) {
    if (random.coin()) p.query_history = random_history(random, p.q, 0, 50);
    if (random.coin()) p.key_history = random_history(random, p.k, 0, 50);
  }
  give_needed_history(random, p, named.centred);
  return p;
}

}  // namespace

TEST_CASE("random problems: every mechanism, mask and centring") {
  Random random(1);
  for_each_mechanism([&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Centering centering :
           {Centering::automatic, Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive})
        for (int draw = 0; draw < 4; ++draw)
          check_agreement(named, random_problem(random, named, causal, centering),
                          {0, random.pick<Index>({1, 2, 7, 16, 50})});
  });
}

TEST_CASE("every layout of inputs and outputs") {
  Random random(2);
  for (const bool causal : {false, true})
    for (const Layout input : input_layouts)
      for (const Layout output : output_layouts) {
        const auto check = [&](const auto& named) {
          Problem p;
          p.q_layout = p.k_layout = p.v_layout = input;
          p.output_layout = output;
          p.q = random_tensor(random, 2, 4, 19, 7, input);
          p.k = random_tensor(random, 2, 2, 21, 7, input);
          p.v = random_tensor(random, 2, 2, 21, 5, input);
          p.causal = causal;
          p.centering = Centering::sequence;
          check_agreement(named, p, {0, 8});
        };
        for_typical_mechanisms(check);
      }
}

// Up to eight queries over a cache: keys and values are shared by the query heads of a group, and prefix means are
// taken from scores. Keys with an offset and a large first one are what that could lose.
TEST_CASE("a few queries over many keys") {
  Random random(4);
  for (int draw = 0; draw < 60; ++draw) {
    const Index n = random.integer(1, 8), m = n + random.integer(0, 400), kv_heads = random.integer(1, 3);
    const Sizes sizes{
        n,       m, random.integer(1, 40), random.integer(1, 40), random.integer(1, 2), kv_heads * random.integer(1, 6),
        kv_heads};
    const auto check = [&](const auto& named) {
      for (const Centering centering : {Centering::none, Centering::prefix, Centering::prefix_exclusive}) {
        Problem p = Problem::random(random, sizes, true);
        p.centering = centering;
        const double offset = centering == Centering::none ? 0 : random.pick<double>({0, 0, 100});
        for (Index b = 0; b < p.k.batch; ++b)
          for (Index h = 0; h < p.k.heads; ++h)
            for (Index t = 0; t < p.k.tokens; ++t)
              for (Index a = 0; a < p.k.dim; ++a) p.k(b, h, t, a) += offset + (t == 0 && offset == 0 ? 3 : 0);
        if (random.coin()) p.key_length = random_lengths(random, p.k.batch, m);
        if (random.coin()) p.query_length = random_lengths(random, p.q.batch, n);
        if (has_prefix_means(centering) && random.coin()) p.key_history = random_history(random, p.k, 0, 50);
        if (p.key_history)
          for (double& mean : p.key_history->mean) mean += offset;
        give_needed_history(random, p, named.centred);
        check_agreement(named, p);
      }
    };
    for_typical_mechanisms(check);
  }
}

// Sizes at and across the blocks of tokens (144 in float, 72 in double), and, with a tuned chunk, long enough for the
// three zones of a causal scan: rows served directly (n ≤ t = D(dᵥ+1)/(d+dᵥ)), rows that read, keys never absorbed.
TEST_CASE("sizes across blocks and through every zone of the causal scan") {
  Random random(3);
  const std::vector<Sizes> sizes{
      {71, 71, 5, 4},
      {72, 72, 5, 4},
      {73, 73, 5, 4},
      {143, 143, 5, 4},
      {144, 144, 5, 4},
      {145, 145, 5, 4},
      {287, 288, 5, 4},
      {289, 287, 5, 4},
      {145, 300, 5, 4},
      {300, 145, 5, 4},
      {1, 433, 5, 4},
      {433, 1, 5, 4},
      {500, 500, 3, 2},
      {440, 440, 16, 16},
      {300, 460, 16, 12},
      {460, 300, 12, 16},
      {330, 330, 8, 8, 1, 2, 1},
      {300, 300, 8, 8, 1, 8, 1},
      {210, 290, 8, 8, 2, 4, 2},
  };
  const auto check = [&](const auto& named) {
    for (const Sizes& s : sizes)
      for (const bool causal : {false, true}) {
        Problem p = Problem::random(random, s, causal);
        give_needed_history(random, p, named.centred);
        check_agreement(named, p, s.n == s.m && s.n < 200 ? std::vector<Index>{0, 16, 100} : std::vector<Index>{0});
        if (s.m > 200) {
          p.key_length = std::vector<Index>(std::size_t(s.batch), s.m * 2 / 3);
          p.query_length = std::vector<Index>(std::size_t(s.batch), s.n - s.n / 10);
          check_agreement(named, p);
        }
      }
  };
  for_typical_mechanisms(check);
}

// Panels of features and tiles of columns end in the middle for most widths.
TEST_CASE("widths of keys and values around every vector and tile") {
  Random random(4);
  const std::vector<Index> widths{1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 96, 129};
  const auto check = [&](const auto& named) {
    for (const Index width : widths)
      for (const bool causal : {false, true}) {
        check_agreement(named, Problem::random(random, {37, 37, 6, width}, causal), {0, 16});
        check_agreement(named, Problem::random(random, {29, 29, width, 6}, causal), {0, 16});
      }
    check_agreement(named, Problem::random(random, {50, 80, 64, 64, 1, 2, 1}), {0, 32});
    check_agreement(named, Problem::random(random, {40, 50, 128, 128}));
  };
  for_typical_mechanisms(check);
}

// Q, K, V and O as slices of one [B, N, 4, H, D] buffer, as a fused projection leaves them.
TEST_CASE("queries, keys, values and outputs interleaved in one buffer") {
  const Index batch = 2, n = 33, heads = 3, d = 6;
  Random random(5);
  const Problem p = Problem::random(random, {n, n, d, d, batch, heads, heads}, true);
  const NamedMechanism<csq::Csq> named{"csq", {}, shifted_square(1), true, true, true};
  const reference::Result expected = reference_result(named, p);
  for (const csq::Method method : methods(named.factored)) {
    INFO(name_of(method));
    std::vector<double> buffer(std::size_t(batch * n * 4 * heads * d), 0);
    const auto slice = [&](Index index) {
      return csq::Heads<double>(buffer.data() + index * heads * d, {batch, heads, n, d},
                                {n * 4 * heads * d, d, 4 * heads * d, 1});
    };
    const auto write = [&](Index index, const Tensor& x) {
      for (Index b = 0; b < batch; ++b)
        for (Index h = 0; h < heads; ++h)
          for (Index t = 0; t < n; ++t)
            for (Index a = 0; a < d; ++a) slice(index).head(b, h)(t, a) = x(b, h, t, a);
    };
    write(0, p.q);
    write(1, p.k);
    write(2, p.v);
    csq::Options options;
    options.causal = true;
    options.method = method;
    options.chunk = 8;
    csq::attention(csq::Csq{}, slice(0), slice(1), slice(2), slice(3), options);
    std::vector<double> output;
    for (Index b = 0; b < batch; ++b)
      for (Index h = 0; h < heads; ++h)
        for (Index t = 0; t < n; ++t)
          for (Index a = 0; a < d; ++a) output.push_back(slice(3).head(b, h)(t, a));
    CHECK(distance(output, expected.output) <= 1e-10);
  }
}

TEST_CASE("the matrix forms are the view forms of one head") {
  Random random(6);
  const Problem p = Problem::random(random, {21, 34, 5, 3});
  const auto matrix = [](const Tensor& x) {
    return csq::Matrix<double>(Eigen::Map<const csq::Matrix<double>>(x.values.data(), x.tokens, x.dim));
  };
  const csq::Matrix<double> q = matrix(p.q), k = matrix(p.k), v = matrix(p.v);
  const Outputs<double> expected = attend<double>(csq::Csq{}, p);
  const auto same = [](const csq::Matrix<double>& x, const std::vector<double>& y) {
    return same_bits(std::vector<double>(x.data(), x.data() + x.size()), y);
  };

  const csq::Matrix<double> returned = csq::attention(csq::Csq{}, q, k, v);
  CHECK(returned.rows() == 21);
  CHECK(returned.cols() == 3);
  CHECK(same(returned, expected.output));

  csq::Matrix<double> out(2, 2), normalizer;
  csq::attention(csq::Csq{}, q, k, v, out);
  CHECK(same(out, expected.output));
  csq::attention(csq::Csq{}, q, k, v, out, normalizer);
  CHECK(same(out, expected.output));
  CHECK(normalizer.rows() == 21);
  CHECK(normalizer.cols() == 1);
  CHECK(same(normalizer, expected.statistic));
}

TEST_CASE("lengths far below the buffer: the scan follows the lengths and agrees") {
  Random random(64);
  struct Case {
    Sizes sizes;
    std::vector<Index> key_length, query_length;
  };
  const std::vector<Case> cases{
      {{900, 900, 4, 4, 2, 2, 2}, {400, 37}, {400, 37}},    // as padded batches are
      {{900, 900, 4, 4, 2, 2, 1}, {120, 130}, {900, 800}},  // rows far behind the last key
      {{900, 900, 4, 4, 2, 1, 1}, {900, 900}, {300, 1}},    // keys that no row sees
      {{600, 900, 4, 4, 1, 2, 1}, {350}, {500}},            // fewer queries than keys
      {{900, 500, 4, 4, 1, 2, 2}, {140}, {850}},            // more queries than keys
      {{900, 900, 4, 4, 2, 2, 2}, {0, 0}, {900, 900}},      // no keys at all
  };
  for (const Case& c : cases)
    for (const bool causal : {false, true})
      for_typical_mechanisms([&](const auto& named) {
        Problem p = Problem::random(random, c.sizes, causal, csq::Centering::none);
        p.key_length = c.key_length;
        p.query_length = c.query_length;
        check_agreement(named, p);
      });
}
