// Streams: whatever the pieces, the rows of one causal call, and the same state to the bit; taken back, forked, saved.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "catch.hpp"
#include "mechanisms.hpp"
#include "problem.hpp"
#include "stream_tokens.hpp"

namespace {

using csq::Heads;

template <class T>
void feed(csq::Stream<T>& stream, const Tokens<T>& tokens, Index first, Index count, bool gated, TokenRows<T>& out) {
  stream.prefill(tokens.q.rows(first, count), tokens.k.rows(first, count), tokens.v.rows(first, count),
                 out.rows(first, count), gated ? tokens.gate.rows(first, count) : Heads<const T>{});
}

// Pieces of n tokens: all at once, one by one, around W and random ones.
std::vector<std::vector<Index>> splits_of(Index n, Random& random) {
  std::vector<std::vector<Index>> splits{{n}, std::vector<Index>(static_cast<std::size_t>(n), 1)};
  for (const Index first : {0, 1, 71, 72, 73})
    if (first <= n) splits.push_back({first, n - first});
  std::vector<Index> pieces;
  for (Index left = n; left > 0; left -= pieces.back()) pieces.push_back(std::min(left, random.integer(0, 90)));
  splits.push_back(pieces);
  return splits;
}

struct Case {
  csq::Centering centering = csq::Centering::automatic;
  bool gated = false;
  Index window = 0, tokens = 300;
  bool sinks = false;
  double soft_cap = 0;
  TokenSizes sizes{};
};

template <class T, class Mechanism>
void check_pieces(const Mechanism& mechanism, const Case& c, Random& random) {
  const Index n = c.tokens;
  const Tokens<T> tokens(c.sizes, n, random);
  const std::vector<double> sink{0.5, -1, 2, 0};
  csq::Options one_shot{.causal = true, .window = c.window, .soft_cap = c.soft_cap, .centering = c.centering};
  if (c.sinks) one_shot.sink = sink;
  const Heads<const T> gates = tokens.gate.rows(0, n);
  if (c.gated) one_shot.log_gate = gates;
  TokenRows<T> expected = output_of<T>(c.sizes, n);
  csq::attention(mechanism, tokens.q.rows(0, n), tokens.k.rows(0, n), tokens.v.rows(0, n), expected.rows(0, n),
                 one_shot);

  const csq::StreamShape shape{c.sizes.batch, c.sizes.heads, c.sizes.kv_heads, c.sizes.key_dim, c.sizes.value_dim};
  csq::StreamOptions options{.window = c.window, .soft_cap = c.soft_cap, .gated = c.gated, .centering = c.centering};
  if (c.sinks) options.sink = sink;
  std::vector<std::byte> state;
  for (const std::vector<Index>& pieces : splits_of(n, random)) {
    CAPTURE(pieces.size(), pieces.front());
    csq::Stream<T> stream(mechanism, shape, options);
    TokenRows<T> out = output_of<T>(c.sizes, n);
    Index at = 0;
    for (const Index piece : pieces) {
      feed(stream, tokens, at, piece, c.gated, out);
      at += piece;
    }
    CHECK(stream.tokens() == n);
    CHECK(difference(out.values, expected.values) <= (sizeof(T) == sizeof(double) ? 1e-12 : 2e-4));
    if (state.empty()) state = stream.save();
    CHECK(stream.save() == state);
  }
}

}  // namespace

TEST_CASE("a stream's rows are those of one causal call, and its state the same to the bit, whatever the pieces") {
  Random random(41);
  for_typical_mechanisms([&](const auto& named) {
    for (const csq::Centering centering :
         {csq::Centering::automatic, csq::Centering::none, csq::Centering::prefix, csq::Centering::prefix_exclusive})
      for (const bool gated : {false, true}) {
        INFO(named.name << ", centring " << static_cast<int>(centering) << (gated ? ", gated" : ""));
        for_float_and_double([&]<class T>() { check_pieces<T>(named.mechanism, {centering, gated}, random); });
      }
  });
}

TEST_CASE("streams with a window, sinks and a cap; several sequences; more tokens than a ring holds") {
  Random random(42);
  for_float_and_double([&]<class T>() {
    Case c{csq::Centering::automatic, true, 40, 700};
    check_pieces<T>(csq::Csq{}, c, random);
    c.sinks = true;
    c.soft_cap = 4;
    check_pieces<T>(csq::Softmax{}, c, random);
    c = {csq::Centering::automatic, false, 0, 250};
    c.sizes.batch = 3;
    check_pieces<T>(csq::Csq{}, c, random);
    check_pieces<T>(csq::Softmax{}, c, random);
    check_pieces<T>(csq::Squared{}, c, random);
    check_pieces<T>(csq::Polynomial{{1, 0.5, 0.25, 0, 0.125}}, c, random);
    c.sizes = {1, 1, 1, 1, 1};
    check_pieces<T>(csq::Taylor{}, c, random);
    check_pieces<T>(csq::Csq{1e20}, c, random);  // coefficients that float does not hold
    c.gated = true;
    c.sizes = {1, 2, 2, 40, 7};
    check_pieces<T>(csq::Csq{}, c, random);
  });
}

// Zero rows, and gates that forget all, are NaN or count as −10⁴: as one causal call has them.
TEST_CASE("gates and rows at their limits") {
  Random random(49);
  const double infinity = std::numeric_limits<double>::infinity();
  const TokenSizes sizes;
  for (const double special : {-infinity, -1e5, -1e4, 0.0})
    for (const Index place : {0, 1, 71, 72, 100, 199}) {
      CAPTURE(special, place);
      Tokens<double> tokens(sizes, 200, random);
      for (Index h = 0; h < 2; ++h) tokens.gate.rows(0, 200).head(0, h)(place, 0) = special;
      // A query and a key of zeros, as padding has them.
      for (Index a = 0; a < 6; ++a)
        tokens.q.rows(0, 200).head(0, 1)(150, a) = tokens.k.rows(0, 200).head(0, 0)(90, a) = 0;
      const auto compare = [&](const auto& mechanism) {
        TokenRows<double> expected = output_of<double>(sizes, 200), out = expected;
        const Heads<const double> gates = std::as_const(tokens.gate).rows(0, 200);
        csq::attention(mechanism, tokens.q.rows(0, 200), tokens.k.rows(0, 200), tokens.v.rows(0, 200),
                       expected.rows(0, 200), {.causal = true, .log_gate = gates});
        csq::Stream<double> stream(mechanism, {1, 4, 2, 6, 5}, {.gated = true});
        for (Index at = 0; at < 200; at += 40) feed(stream, tokens, at, 40, true, out);
        CHECK(difference(out.values, expected.values) <= 1e-12);
      };
      compare(csq::Csq{});
      compare(csq::Squared{});
      compare(csq::Softmax{});
    }
  // A first gate that is not one decays nothing; a later one reaches the rows behind it.
  Tokens<float> tokens(sizes, 200, random);
  tokens.gate.rows(0, 200).head(0, 0)(0, 0) = 5;
  tokens.gate.rows(0, 200).head(0, 1)(120, 0) = std::nanf("");
  csq::Stream<float> stream(csq::Csq{}, {1, 4, 2, 6, 5}, {.gated = true});
  TokenRows<float> out = output_of<float>(sizes, 200);
  feed(stream, tokens, 0, 200, true, out);
  CHECK(std::isfinite(out.rows(0, 200).head(0, 0)(199, 0)));
  CHECK(std::isfinite(out.rows(0, 200).head(0, 3)(119, 0)));
  CHECK(std::isnan(out.rows(0, 200).head(0, 3)(120, 0)));
}

// Keys so small that nothing of them is left in a summary: a row is right or NaN, never that of the tail alone.
TEST_CASE("keys whose squares underflow") {
  Random random(53);
  const TokenSizes sizes;
  for (const float size : {1e-18f, 1e-20f, 1e-22f, 1e-24f, 1e-30f}) {
    CAPTURE(size);
    Tokens<float> tokens(sizes, 100, random);
    for (float& x : tokens.k.values) x *= size;
    TokenRows<float> expected = output_of<float>(sizes, 100), out = expected;
    csq::attention(csq::Squared{}, tokens.q.rows(0, 100), tokens.k.rows(0, 100), tokens.v.rows(0, 100),
                   expected.rows(0, 100), {.causal = true});
    csq::Stream<float> stream(csq::Squared{}, {1, 4, 2, 6, 5});
    feed(stream, tokens, 0, 100, false, out);
    double worst = 0;
    for (std::size_t i = 0; i < out.values.size(); ++i)
      if (!std::isnan(out.values[i]))
        worst = std::max(worst, std::abs(static_cast<double>(out.values[i]) - static_cast<double>(expected.values[i])));
    CHECK(worst <= 1e-3);
  }
}

TEST_CASE("assigned and moved streams, and batches of none") {
  Random random(50);
  const TokenSizes sizes{1, 8, 8, 20, 20};
  const Tokens<float> tokens(sizes, 100, random);
  TokenRows<float> out = output_of<float>(sizes, 100), expected = out;
  csq::Stream<float> large(csq::Csq{}, {1, 8, 8, 20, 20}, {.threads = 8}),
      stream(csq::Softmax{}, {1, 1, 1, 1, 1}, {.threads = 1});
  feed(large, tokens, 0, 50, false, expected);
  stream = large;  // of a smaller one's scratch nothing may be left
  feed(stream, tokens, 50, 50, false, out);
  feed(large, tokens, 50, 50, false, expected);
  CHECK(stream.save() == large.save());
  csq::Stream<float> moved = std::move(stream);
  moved.truncate(90);
  feed(moved, tokens, 90, 10, false, out);
  CHECK(moved.save().size() == large.save().size());
  for (Index h = 0; h < 8; ++h)
    for (Index row = 50; row < 100; ++row)
      CHECK(std::abs(out.rows(0, 100).head(0, h)(row, 3) - expected.rows(0, 100).head(0, h)(row, 3)) < 1e-5f);
  static_assert(std::is_nothrow_move_constructible_v<csq::Stream<float>>);
  csq::Stream<float> none(csq::Csq{}, {0, 2, 2, 4, 4});
  csq::Stream<float> copy = none;
  copy.prefill(Heads<const float>{nullptr, {0, 2, 5, 4}}, Heads<const float>{nullptr, {0, 2, 5, 4}},
               Heads<const float>{nullptr, {0, 2, 5, 4}}, Heads<float>{nullptr, {0, 2, 5, 4}});
  copy.truncate(0);
  CHECK(copy.save() == none.save());
}

// Bytes whose checksum is right say whatever they like.
TEST_CASE("states that claim what cannot be") {
  csq::Stream<float> stream(csq::Softmax{}, {1, 4, 2, 6, 5});
  Random random(51);
  const Tokens<float> tokens({}, 30, random);
  TokenRows<float> out = output_of<float>({}, 30);
  feed(stream, tokens, 0, 30, false, out);
  const std::vector<std::byte> saved = stream.save();
  const auto position = [&] {  // of the entry's tokens: behind a header as long as that of an empty stream
    return csq::Stream<float>(csq::Softmax{}, {1, 4, 2, 6, 5}).save().size() - 24;
  }();
  const auto forged = [&](std::int64_t seen, std::int64_t floor) {
    std::vector<std::byte> bytes = saved;
    for (std::size_t byte = 0; byte < 8; ++byte) {
      bytes[position + byte] = static_cast<std::byte>((static_cast<std::uint64_t>(seen) >> (8 * byte)) & 0xff);
      bytes[position + 8 + byte] = static_cast<std::byte>((static_cast<std::uint64_t>(floor) >> (8 * byte)) & 0xff);
    }
    repair_checksum(bytes);
    return bytes;
  };
  stream.load(forged(30, 14));
  CHECK(stream.save() == saved);
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const auto& [seen, floor] :
       {std::pair<std::int64_t, std::int64_t>{std::int64_t{1} << 40, (std::int64_t{1} << 40) - 16},
        {most, most},
        {most, most - 16},
        {std::int64_t{1} << 52, std::int64_t{1} << 52},
        {-1, -1},
        {30, 31},
        {30, 13},
        {31, 15},
        {29, 13}})
    CHECK_THROWS_AS(stream.load(forged(seen, floor)), std::invalid_argument);
  CHECK(stream.save() == saved);
}

TEST_CASE("what was taken back has never been, to the bit; forks are independent") {
  Random random(43);
  const auto check = [&](const auto& mechanism, bool gated, Index window) {
    const TokenSizes sizes;
    const Tokens<float> tokens(sizes, 400, random), others(sizes, 400, random);
    csq::Stream<float> plain(mechanism, {1, 4, 2, 6, 5}, {.window = window, .gated = gated, .rollback = 20});
    csq::Stream<float> taken_back = plain;
    TokenRows<float> out = output_of<float>(sizes, 400), again = out;
    Index at = 0;
    while (at < 300) {
      const Index piece = random.integer(1, 9), proposed = random.integer(0, 20);
      feed(plain, tokens, at, piece, gated, out);
      feed(taken_back, tokens, at, piece, gated, again);
      at += piece;
      csq::Stream<float> fork = taken_back.fork();
      feed(taken_back, others, at, proposed, gated, again);
      CHECK(taken_back.can_take_back() >= proposed);
      taken_back.truncate(at);
      feed(fork, others, 0, 30, gated, again);
      CHECK(fork.tokens() == at + 30);
    }
    feed(plain, tokens, at, 50, gated, out);
    feed(taken_back, tokens, at, 50, gated, again);
    for (Index h = 0; h < 4; ++h)
      CHECK(std::memcmp(out.rows(at, 50).head(0, h).data, again.rows(at, 50).head(0, h).data, 50 * 5 * sizeof(float)) ==
            0);
    CHECK(plain.save() == taken_back.save());
    CHECK_THROWS_AS(plain.truncate(plain.tokens() - 21), std::invalid_argument);
    CHECK_THROWS_AS(plain.truncate(plain.tokens() + 1), std::invalid_argument);
  };
  check(csq::Csq{}, false, 0);
  check(csq::Csq{}, true, 0);
  check(csq::Linear{}, true, 0);
  check(csq::Softmax{}, false, 0);
  check(csq::Softmax{}, true, 33);
}

// Taken back over the place where a block was absorbed, also in a loaded stream; the furthest, and not at all.
TEST_CASE("taken back over a boundary") {
  Random random(52);
  const TokenSizes sizes;
  const Tokens<double> tokens(sizes, 300, random), others(sizes, 300, random);
  for (const Index rollback : {0, 1, 72}) {
    const csq::StreamOptions options{.gated = true, .rollback = rollback};
    csq::Stream<double> plain(csq::Csq{}, {1, 4, 2, 6, 5}, options), other = plain;
    TokenRows<double> out = output_of<double>(sizes, 300), again = out;
    const Index before = 144 - std::min<Index>(rollback, 40), after = before + rollback;
    feed(plain, tokens, 0, before, true, out);
    feed(other, tokens, 0, before, true, again);
    feed(other, others, before, rollback, true, again);
    csq::Stream<double> loaded(csq::Csq{}, {1, 4, 2, 6, 5}, options);
    loaded.load(other.save());
    loaded.truncate(before);
    CHECK(loaded.can_take_back() == 0);
    feed(plain, tokens, before, 300 - before, true, out);
    feed(loaded, tokens, before, 300 - before, true, again);
    for (Index h = 0; h < 4; ++h)
      for (Index row = before; row < 300; ++row)
        CHECK(again.rows(0, 300).head(0, h)(row, 2) == out.rows(0, 300).head(0, h)(row, 2));
    CHECK(plain.save() == loaded.save());
    CHECK(after <= 300);
  }
}

TEST_CASE("entries of a batch at different lengths") {
  Random random(44);
  const TokenSizes sizes{2, 2, 1, 4, 3};
  const Tokens<double> tokens(sizes, 200, random);
  csq::Stream<double> both(csq::Csq{}, {2, 2, 1, 4, 3}, {.threads = 2});
  TokenRows<double> out = output_of<double>(sizes, 200);
  const std::vector<Index> lengths{150, 83};
  both.prefill(tokens.q.rows(0, 200), tokens.k.rows(0, 200), tokens.v.rows(0, 200), out.rows(0, 200), {}, lengths);
  CHECK(both.tokens(0) == 150);
  CHECK(both.tokens(1) == 83);
  for (Index e = 0; e < 2; ++e) {
    csq::Stream<double> alone(csq::Csq{}, {1, 2, 1, 4, 3});
    TokenRows<double> expected(1, 2, 200, 3);
    const auto entry = [&](const TokenRows<double>& array) {
      Heads<const double> rows = array.rows(0, lengths[static_cast<std::size_t>(e)]);
      rows.data += e * rows.stride[0];
      rows.shape[0] = 1;
      return rows;
    };
    alone.prefill(entry(tokens.q), entry(tokens.k), entry(tokens.v),
                  expected.rows(0, lengths[static_cast<std::size_t>(e)]));
    for (Index h = 0; h < 2; ++h)
      for (Index row = 0; row < 200; ++row)
        CHECK(out.rows(0, 200).head(e, h)(row, 1) ==
              (row < lengths[static_cast<std::size_t>(e)] ? expected.rows(0, 200).head(0, h)(row, 1) : 0));
  }
  both.truncate_entry(1, 80);
  CHECK(both.tokens(0) == 150);
  CHECK(both.tokens(1) == 80);
  both.reset_entry(0);
  CHECK(both.tokens(0) == 0);
  CHECK_THROWS_AS(both.tokens(2), std::invalid_argument);
}

TEST_CASE("saved and loaded; a foreign or other state is an error") {
  Random random(45);
  const TokenSizes sizes;
  const Tokens<float> tokens(sizes, 300, random);
  const auto check = [&](const auto& mechanism, Index window) {
    const csq::StreamShape shape{1, 4, 2, 6, 5};
    const csq::StreamOptions options{.window = window, .gated = true};
    csq::Stream<float> stream(mechanism, shape, options);
    TokenRows<float> out = output_of<float>(sizes, 300), again = out;
    feed(stream, tokens, 0, 150, true, out);
    const std::vector<std::byte> saved = stream.save();
    csq::Stream<float> loaded(mechanism, shape, options);
    loaded.load(saved);
    CHECK(loaded.save() == saved);
    feed(stream, tokens, 150, 100, true, out);
    feed(loaded, tokens, 150, 100, true, again);
    CHECK(loaded.save() == stream.save());
    for (Index h = 0; h < 4; ++h)
      CHECK(std::memcmp(out.rows(150, 100).head(0, h).data, again.rows(150, 100).head(0, h).data,
                        100 * 5 * sizeof(float)) == 0);

    csq::Stream<double> other_type(mechanism, shape, options);
    CHECK_THROWS_AS(other_type.load(saved), std::invalid_argument);
    csq::Stream<float> other_shape(mechanism, {1, 4, 4, 6, 5}, options);
    CHECK_THROWS_AS(other_shape.load(saved), std::invalid_argument);
    csq::Stream<float> other_mechanism(csq::Taylor{}, shape, options);
    CHECK_THROWS_AS(other_mechanism.load(saved), std::invalid_argument);
    CHECK_THROWS_AS(loaded.load({}), std::invalid_argument);
  };
  check(csq::Csq{}, 0);
  check(csq::Softmax{}, 0);
  check(csq::Softmax{}, 50);
}

TEST_CASE("ten thousand damaged states are errors, and nothing has changed; or what their bytes say") {
  Random random(54);
  const TokenSizes sizes{2, 2, 1, 3, 2};
  const Tokens<float> tokens(sizes, 200, random);
  const auto check = [&](const auto& mechanism, Index window, bool gated, Index tail) {
    CAPTURE(window, gated);
    const csq::StreamOptions options{.window = window, .gated = gated, .rollback = 4};
    csq::Stream<float> stream(mechanism, {2, 2, 1, 3, 2}, options), target = stream, later = stream;
    const std::size_t header = stream.save().size();
    TokenRows<float> out = output_of<float>(sizes, 200);
    feed(stream, tokens, 0, 72 + tail, gated, out);
    feed(later, tokens, 0, 110, gated, out);
    feed(target, tokens, 0, 20, gated, out);
    const auto use = [&](csq::Stream<float>& used) {
      try {
        feed(used, tokens, 0, 100, gated, out);
        used.truncate_entry(0, used.tokens(0) - 1);
        used.truncate_entry(1, used.tokens(1) - 1);
        feed(used, tokens, 100, 10, gated, out);
      } catch (const std::invalid_argument&) {  // more tokens than can be
      }
    };
    CHECK(load_damaged(target, stream.save(), later.save(), std::min<std::size_t>(header, 400), 2500, random, use) > 0);
  };
  check(csq::Csq{}, 0, true, 2);
  check(csq::Csq{}, 0, false, 0);
  check(csq::Softmax{}, 0, false, 0);
  check(csq::Softmax{}, 30, true, 0);
}

TEST_CASE("a summary's bytes are constant, and so are a ring's once it is full") {
  Random random(46);
  const TokenSizes sizes;
  const Tokens<float> tokens(sizes, 300, random);
  csq::Stream<float> stream(csq::Csq{}, {1, 4, 2, 6, 5});
  const std::size_t bytes = stream.bytes();
  TokenRows<float> out = output_of<float>(sizes, 300);
  for (int round = 0; round < 40; ++round) feed(stream, tokens, 0, 300, false, out);
  CHECK(stream.tokens() == 12000);
  CHECK(stream.bytes() == bytes);
  csq::Stream<float> windowed(csq::Softmax{}, {1, 4, 2, 6, 5}, {.window = 64});
  for (int round = 0; round < 4; ++round) feed(windowed, tokens, 0, 300, false, out);
  const std::size_t ring = windowed.bytes();
  for (int round = 0; round < 40; ++round) feed(windowed, tokens, 0, 300, false, out);
  CHECK(windowed.bytes() == ring);
}

TEST_CASE("the same bits for any number of threads") {
  Random random(47);
  for (const Index batch : {1, 3}) {
    const TokenSizes sizes{batch, 4, 4, 6, 5};
    const Tokens<float> tokens(sizes, 200, random);
    std::vector<float> expected;
    for (const int threads : {1, 2, 3, 7}) {
      csq::Stream<float> stream(csq::Csq{}, {batch, 4, 4, 6, 5}, {.threads = threads});
      TokenRows<float> out = output_of<float>(sizes, 200);
      feed(stream, tokens, 0, 200, false, out);
      if (expected.empty()) expected = out.values;
      CHECK(out.values == expected);
    }
  }
}

TEST_CASE("streams that cannot be, and tokens that do not fit") {
  const csq::StreamShape shape{1, 4, 2, 6, 5};
  const auto fails = [&](const auto& mechanism, const csq::StreamShape& sizes, const csq::StreamOptions& options) {
    CHECK_THROWS_AS(csq::Stream<float>(mechanism, sizes, options), std::invalid_argument);
  };
  const std::vector<double> sink(4);
  fails(csq::Csq{}, shape, {.centering = csq::Centering::sequence});
  fails(csq::Csq{}, shape, {.sink = sink});
  fails(csq::Csq{}, shape, {.soft_cap = 2});
  fails(csq::Csq{}, shape, {.window = -1});
  fails(csq::Csq{}, shape, {.rollback = 73});
  fails(csq::Csq{}, shape, {.rollback = -1});
  fails(csq::Csq{}, shape, {.scale = std::nan("")});
  fails(csq::Linear{}, shape, {.scale = 1});
  fails(csq::Csq{}, {1, 3, 2, 6, 5}, {});
  fails(csq::Csq{}, {1, 4, 2, 0, 5}, {});
  csq::Stream<float> stream(csq::Csq{}, shape);
  Random random(48);
  const Tokens<float> tokens({}, 10, random);
  TokenRows<float> out = output_of<float>({}, 10);
  const auto refused = [&](Index q, Index k, Index rows, bool gated) {
    CHECK_THROWS_AS(stream.prefill(tokens.q.rows(0, q), tokens.k.rows(0, k), tokens.v.rows(0, k), out.rows(0, rows),
                                   gated ? tokens.gate.rows(0, k) : Heads<const float>{}),
                    std::invalid_argument);
    CHECK(stream.tokens() == 0);
  };
  refused(3, 4, 3, false);
  refused(3, 3, 4, false);
  refused(3, 3, 3, true);
}
