// csq::Summary: pieces of any length, of any machine, are the one causal call over all tokens; read, merged, saved.
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "catch.hpp"
#include "mechanisms.hpp"
#include "problem.hpp"
#include "stream_tokens.hpp"

namespace {

using csq::Centering;
using csq::Heads;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct Case {
  Centering centering = Centering::none;
  bool gated = false;
  TokenSizes sizes{2, 4, 2, 6, 5};
  Index tokens = 200;

  bool centred() const { return centering == Centering::prefix || centering == Centering::prefix_exclusive; }
};

template <class T>
constexpr double tolerance = sizeof(T) == sizeof(double) ? 1e-12 : 2e-4;

template <class Visit>
void for_each_case(const Visit& visit) {
  for (const Centering centering : {Centering::none, Centering::prefix, Centering::prefix_exclusive})
    for (const bool gated : {false, true})
      for (const auto& [heads, kv_heads] : {std::pair<Index, Index>{4, 2}, {4, 1}, {3, 3}}) {
        const Case c{centering, gated, {2, heads, kv_heads, 6, 5}};
        INFO("centring " << static_cast<int>(centering) << (gated ? ", gated" : "") << ", heads " << heads << "/"
                         << kv_heads);
        visit(c);
      }
}

// Every mechanism that has a summary.
template <class Visit>
void for_each_summary(const Visit& visit) {
  for_each_mechanism([&](const auto& named) {
    if (!named.factored) return;
    INFO(named.name);
    for_float_and_double([&]<class T>() { visit.template operator()<T>(named.mechanism); });
  });
}

// Tokens of a case: some gates forget all, but not of the last 60 keys, so that what is read at the end is well
// conditioned; queries and a key of zeros, as padding has them.
template <class T>
Tokens<T> tokens_of(const Case& c, Random& random) {
  Tokens<T> tokens(c.sizes, c.tokens, random);
  if (c.tokens < 200) return tokens;
  const Index last = c.sizes.batch - 1;
  for (Index h = 0; h < c.sizes.batch * c.sizes.kv_heads; ++h)
    for (Index t = c.tokens - 60; t < c.tokens; ++t) {
      T& gate = tokens.gate.values[static_cast<std::size_t>(h * c.tokens + t)];
      gate = std::max(gate, T(-0.1));
    }
  for (const Index place : {0, 72, 130}) tokens.gate.rows(0, c.tokens).head(last, 0)(place, 0) = T(-HUGE_VAL);
  for (Index a = 0; a < c.sizes.key_dim; ++a) {
    for (const Index place : {3, 80, 150}) tokens.q.rows(0, c.tokens).head(last, 1)(place, a) = 0;
    tokens.k.rows(0, c.tokens).head(last, 0)(90, a) = 0;
  }
  return tokens;
}

template <class T, class Mechanism>
csq::Summary<T> summary_of(const Mechanism& mechanism, const Case& c, int threads = 0) {
  return {mechanism,
          {c.sizes.batch, c.sizes.kv_heads, c.sizes.key_dim, c.sizes.value_dim},
          {.gated = c.gated, .centering = c.centering, .threads = threads}};
}
// That of the keys behind those of another.
template <class T, class Mechanism>
csq::Summary<T> behind(const csq::Summary<T>& left, const Mechanism& mechanism, const Case& c) {
  const std::vector<double> mean = left.key_mean();
  csq::SummaryOptions options{.gated = c.gated, .centering = c.centering};
  if (c.centred()) {
    options.start_count = left.tokens_before_end();
    options.start_mean = mean;
  }
  return {mechanism, {c.sizes.batch, c.sizes.kv_heads, c.sizes.key_dim, c.sizes.value_dim}, options};
}

// The queries before, [batch] and [batch, heads, dim]; where the case has a centring.
struct Before {
  std::vector<Index> count;
  std::vector<double> mean;
  csq::History history{};
  bool given = false;

  Before(const Case& c, Index queries, std::vector<double> of) : count(std::size_t(c.sizes.batch), queries), mean(of) {
    history = {count, mean};
    given = c.centred();
  }
  Before(const Before&) = delete;
  Before& operator=(const Before&) = delete;
  const csq::History* operator()() const { return given ? &history : nullptr; }
};

template <class T>
Heads<const T> gates_of(const Tokens<T>& tokens, const Case& c, Index first, Index count) {
  return c.gated ? tokens.gate.rows(first, count) : Heads<const T>{};
}

template <class T>
void absorb(csq::Summary<T>& summary, const Tokens<T>& tokens, const Case& c, Index first, Index count) {
  summary.absorb(tokens.k.rows(first, count), tokens.v.rows(first, count), gates_of(tokens, c, first, count));
}
template <class T>
void attend(csq::Summary<T>& summary, const Tokens<T>& tokens, const Case& c, Index first, Index count,
            TokenRows<T>& out) {
  const Before before(c, first, tokens.q.means(first));
  summary.attend(tokens.q.rows(first, count), tokens.k.rows(first, count), tokens.v.rows(first, count),
                 out.rows(first, count), gates_of(tokens, c, first, count), before());
}

// All tokens in one causal call.
template <class T, class Mechanism>
TokenRows<T> one_call(const Mechanism& mechanism, const Case& c, const Tokens<T>& tokens) {
  TokenRows<T> out = output_of<T>(c.sizes, c.tokens);
  const Heads<const T> gates = tokens.gate.rows(0, c.tokens);
  csq::Options options{.causal = true, .centering = c.centering, .method = csq::Method::direct};
  if (c.gated) options.log_gate = gates;
  csq::attention(mechanism, tokens.q.rows(0, c.tokens), tokens.k.rows(0, c.tokens), tokens.v.rows(0, c.tokens),
                 out.rows(0, c.tokens), options);
  return out;
}

// Rows and normalisers of `queries` that see all tokens. The history counts as many queries as a causal call of one,
// which stands at the last token, has before it.
template <class T>
struct Readings {
  TokenRows<T> rows, normalizers;

  Readings(const Case& c, Index queries)
      : rows(c.sizes.batch, c.sizes.heads, queries, c.sizes.value_dim),
        normalizers(c.sizes.batch, c.sizes.heads, queries, 1) {}
};
template <class T>
Readings<T> read(const csq::Summary<T>& summary, const Case& c, const TokenRows<T>& q, bool one_by_one = false) {
  Readings<T> result(c, q.tokens);
  const Before before(c, c.tokens - 1, q.means(0));
  for (Index i = 0; i < q.tokens; i += one_by_one ? 1 : q.tokens) {
    const Index some = one_by_one ? 1 : q.tokens;
    summary.read(q.rows(i, some), result.rows.rows(i, some), result.normalizers.rows(i, some), before());
  }
  return result;
}
// The same without the summary: gated, each query is a causal call of its own.
template <class T, class Mechanism>
Readings<T> seen_at_once(const Mechanism& mechanism, const Case& c, const Tokens<T>& tokens, const TokenRows<T>& q,
                         bool one_by_one = false) {
  Readings<T> result(c, q.tokens);
  const Before before(c, c.tokens - 1, q.means(0));
  const Heads<const T> gates = tokens.gate.rows(0, c.tokens);
  csq::Options options{.centering = c.centering, .query_history = before(), .method = csq::Method::direct};
  if (c.gated) {
    options.causal = true;
    options.log_gate = gates;
  }
  const Index some = c.gated || one_by_one ? 1 : q.tokens;
  for (Index i = 0; i < q.tokens; i += some)
    csq::attention(mechanism, q.rows(i, some), tokens.k.rows(0, c.tokens), tokens.v.rows(0, c.tokens),
                   result.rows.rows(i, some), result.normalizers.rows(i, some), options);
  return result;
}

template <class T>
TokenRows<T> random_queries(const Case& c, Index count, Random& random) {
  TokenRows<T> q(c.sizes.batch, c.sizes.heads, count, c.sizes.key_dim);
  for (T& x : q.values) x = static_cast<T>(random.normal());
  return q;
}

// Rows of NaN, all of whose features may have cancelled, where the other has none: few in float, where a gate has left
// the row one key or two, and none in double. They count as equal.
template <class T>
void forgive_lost_rows(std::vector<T>& rows, std::vector<T>& expected, Index dim) {
  Index lost = 0;
  for (std::size_t row = 0; row < rows.size(); row += static_cast<std::size_t>(dim)) {
    bool all = true;
    for (std::size_t i = row; i < row + static_cast<std::size_t>(dim); ++i) all = all && std::isnan(rows[i]);
    if (!all || std::isnan(expected[row])) continue;
    ++lost;
    for (std::size_t i = row; i < row + static_cast<std::size_t>(dim); ++i) rows[i] = expected[i] = 0;
  }
  CHECK(lost * 50 <= (sizeof(T) == sizeof(double) ? 0 : 50 + static_cast<Index>(rows.size()) / dim));
}
template <class T>
void check_rows(TokenRows<T> rows, TokenRows<T> expected, double most = tolerance<T>) {
  forgive_lost_rows(rows.values, expected.values, rows.dim);
  CHECK(difference(rows.values, expected.values) <= most);
}
template <class T>
void check_readings(const Readings<T>& readings, const Readings<T>& expected, double most = tolerance<T>) {
  check_rows(readings.rows, expected.rows, most);
  check_rows(readings.normalizers, expected.normalizers, most);
}

std::vector<std::vector<Index>> splits_of(Index n, Random& random) {
  std::vector<std::vector<Index>> splits{{n}, {n, 0}};
  for (const Index first : {0, 1, 71, 72, 73, 145}) splits.push_back({first, n - first});
  std::vector<Index> pieces;
  for (Index left = n; left > 0; left -= pieces.back()) pieces.push_back(std::min(left, random.integer(0, 60)));
  splits.push_back(pieces);
  return splits;
}

}  // namespace

TEST_CASE("pieces that are attended to are one causal call, wherever they are cut") {
  Random random(61);
  for_each_summary([&]<class T>(const auto& mechanism) {
    for_each_case([&](const Case& c) {
      const Tokens<T> tokens = tokens_of<T>(c, random);
      const TokenRows<T> expected = one_call(mechanism, c, tokens), q = random_queries<T>(c, 3, random);
      std::optional<Readings<T>> first;
      for (const std::vector<Index>& pieces : splits_of(c.tokens, random)) {
        CAPTURE(pieces.size(), pieces.front());
        csq::Summary<T> summary = summary_of<T>(mechanism, c);
        TokenRows<T> out = output_of<T>(c.sizes, c.tokens);
        Index at = 0;
        for (const Index piece : pieces) {
          attend(summary, tokens, c, at, piece, out);
          at += piece;
          CHECK(summary.tokens() == at);
        }
        check_rows(out, expected);
        const Readings<T> readings = read(summary, c, q);
        if (!first) first = readings;
        check_readings(readings, *first);
      }
    });
  });
}

TEST_CASE("keys absorbed in pieces are read as a call sees them that sees all") {
  Random random(62);
  for_each_summary([&]<class T>(const auto& mechanism) {
    for_each_case([&](const Case& c) {
      const Tokens<T> tokens = tokens_of<T>(c, random);
      csq::Summary<T> summary = summary_of<T>(mechanism, c);
      for (Index at = 0; at < c.tokens;) {
        const Index piece = std::min(c.tokens - at, random.integer(0, 90));
        absorb(summary, tokens, c, at, piece);
        at += piece;
      }
      CHECK(summary.tokens() == c.tokens);
      CHECK(summary.tokens_before_end() == c.tokens);
      if (c.centred()) CHECK(difference(summary.key_mean(), tokens.k.means(c.tokens)) <= 1e-14);
      for (const Index count : {1, 9, 150}) {
        CAPTURE(count);
        const TokenRows<T> q = random_queries<T>(c, count, random);
        check_readings(read(summary, c, q, true), seen_at_once(mechanism, c, tokens, q, true));
        // Together their means run on, which one causal call cannot show.
        if (!c.centred() || !c.gated) check_readings(read(summary, c, q), seen_at_once(mechanism, c, tokens, q));
        TokenRows<T> out(c.sizes.batch, c.sizes.heads, count, c.sizes.value_dim);
        const Before before(c, c.tokens - 1, q.means(0));
        summary.read(q.rows(0, count), out.rows(0, count), before());
        CHECK(same_bits(out.values, read(summary, c, q).rows.values));
      }
    });
  });
}

TEST_CASE("merged pieces are the whole, in any order of merging, and go on as it") {
  Random random(63);
  for_each_summary([&]<class T>(const auto& mechanism) {
    for_each_case([&](const Case& c) {
      const Tokens<T> tokens = tokens_of<T>(c, random);
      const TokenRows<T> q = random_queries<T>(c, 5, random);
      const Readings<T> expected = seen_at_once(mechanism, c, tokens, q, true);
      const std::vector<Index> ends{0, random.integer(1, 60), random.integer(61, 100), random.integer(101, 199), 200};
      std::vector<csq::Summary<T>> parts{summary_of<T>(mechanism, c)};
      for (std::size_t i = 0; i + 1 < ends.size(); ++i) {
        if (i > 0) parts.push_back(behind(parts.back(), mechanism, c));
        absorb(parts.back(), tokens, c, ends[i], ends[i + 1] - ends[i]);
      }
      csq::Summary<T> from_left = parts[0];
      for (std::size_t i = 1; i < parts.size(); ++i) from_left.merge(parts[i]);
      csq::Summary<T> from_right = parts[3];
      for (std::size_t i = 3; i-- > 0;) {
        csq::Summary<T> left = parts[i];
        left.merge(from_right);
        from_right = left;
      }
      csq::Summary<T> halves = parts[0], second = parts[2];
      halves.merge(parts[1]);
      second.merge(parts[3]);
      halves.merge(second);
      for (const csq::Summary<T>* merged : {&from_left, &from_right, &halves}) {
        CHECK(merged->tokens() == c.tokens);
        CHECK(merged->tokens_before_end() == c.tokens);
        check_readings(read(*merged, c, q, true), expected);
      }
      check_readings(read(from_right, c, q), read(from_left, c, q), sizeof(T) == sizeof(double) ? 1e-12 : 2e-5);
      if (c.centred()) CHECK(difference(from_right.key_mean(), tokens.k.means(c.tokens)) <= 1e-14);
      // Nothing on either side changes no bit of what is held.
      csq::Summary<T> with_nothing = halves;
      with_nothing.merge(behind(halves, mechanism, c));
      CHECK(same_bits(read(with_nothing, c, q).rows.values, read(halves, c, q).rows.values));
      csq::Summary<T> onto_nothing = summary_of<T>(mechanism, c);
      onto_nothing.merge(parts[0]);
      onto_nothing.merge(parts[1]);
      // The rest of a sequence is the same behind merged pieces.
      const TokenRows<T> rows = one_call(mechanism, c, tokens);
      TokenRows<T> out = rows;
      attend(onto_nothing, tokens, c, ends[2], c.tokens - ends[2], out);
      check_rows(out, rows);
    });
  });
}

TEST_CASE("a summary of the old keys and a direct call over the recent ones are one result") {
  Random random(64);
  for_each_summary([&]<class T>(const auto& mechanism) {
    const Case c;
    const Index old = 150, recent = c.tokens - old;
    const Tokens<T> tokens = tokens_of<T>(c, random);
    csq::Summary<T> summary = summary_of<T>(mechanism, c);
    absorb(summary, tokens, c, 0, old);
    // Queries that see all, and those of the window under their mask.
    for (const bool causal : {false, true}) {
      CAPTURE(causal);
      const TokenRows<T> q = random_queries<T>(c, recent, random);
      Readings<T> far(c, recent), near(c, recent), merged(c, recent), expected(c, recent);
      const csq::Options options{.causal = causal, .centering = Centering::none, .method = csq::Method::direct};
      summary.read(q.rows(0, recent), far.rows.rows(0, recent), far.normalizers.rows(0, recent));
      csq::attention(mechanism, q.rows(0, recent), tokens.k.rows(old, recent), tokens.v.rows(old, recent),
                     near.rows.rows(0, recent), near.normalizers.rows(0, recent), options);
      csq::merge_partials(mechanism, far.rows.rows(0, recent), far.normalizers.rows(0, recent),
                          near.rows.rows(0, recent), near.normalizers.rows(0, recent), merged.rows.rows(0, recent),
                          merged.normalizers.rows(0, recent));
      csq::attention(mechanism, q.rows(0, recent), tokens.k.rows(0, c.tokens), tokens.v.rows(0, c.tokens),
                     expected.rows.rows(0, recent), expected.normalizers.rows(0, recent), options);
      check_readings(merged, expected);
    }
  });
}

TEST_CASE("what does not belong together is not merged, and nothing has changed") {
  Random random(65);
  const Case c{Centering::prefix, true};
  const Tokens<float> tokens = tokens_of<float>(c, random);
  csq::Summary<float> left = summary_of<float>(csq::Csq{}, c);
  absorb(left, tokens, c, 0, 80);
  const std::vector<std::byte> before = left.save();
  const auto refused = [&](const csq::Summary<float>& right, const char* word) {
    const std::string message = rejection([&] { left.merge(right); });
    CHECK(names(message, "merge"));
    CHECK(names(message, word));
    CHECK(left.save() == before);
  };
  const std::vector<double> mean = left.key_mean();
  std::vector<double> other_mean = mean;
  other_mean[7] += 1e-6;
  const csq::SummaryShape shape{2, 2, 6, 5};
  const csq::SummaryOptions good{
      .gated = true, .centering = Centering::prefix, .start_count = 80, .start_mean = mean, .threads = 3};
  const auto with = [&](auto change) {
    csq::SummaryOptions options = good;
    change(options);
    return csq::Summary<float>(csq::Csq{}, shape, options);
  };
  refused(with([](auto& o) { o.start_count = 79; }), "starts");
  refused(summary_of<float>(csq::Csq{}, c), "starts");
  refused(with([&](auto& o) { o.start_mean = other_mean; }), "mean");
  refused(with([](auto& o) { o.scale = 0.3; }), "mechanism");
  refused(with([](auto& o) { o.gated = false; }), "options");
  refused(with([](auto& o) { o.centering = Centering::prefix_exclusive; }), "options");
  refused({csq::Csq{2}, shape, good}, "mechanism");
  refused({csq::Taylor{}, shape, good}, "mechanism");
  refused({csq::Linear{}, shape, good}, "mechanism");
  refused({csq::Csq{}, {2, 2, 6, 4}, good}, "sizes");
  std::vector<double> longer(2 * 4 * 6), wider(2 * 2 * 7);
  csq::SummaryOptions other = good;
  other.start_mean = longer;
  refused({csq::Csq{}, {2, 4, 6, 5}, other}, "sizes");
  refused({csq::Csq{}, {4, 2, 6, 5}, other}, "sizes");
  other.start_mean = wider;
  refused({csq::Csq{}, {2, 2, 7, 5}, other}, "sizes");
  left.merge(with([](auto&) {}));  // of other threads alone
  CHECK(left.tokens() == 80);
  // Without a centring nothing has to fit, and a summary may be merged with itself.
  const Case plain;
  csq::Summary<double> twice = summary_of<double>(csq::Csq{}, plain);
  const Tokens<double> some = tokens_of<double>(plain, random);
  absorb(twice, some, plain, 0, 100);
  const TokenRows<double> q = random_queries<double>(plain, 4, random);
  const Readings<double> once = read(twice, plain, q);
  twice.merge(twice);
  CHECK(twice.tokens() == 200);
  CHECK(difference(read(twice, plain, q).rows.values, once.rows.values) <= 1e-14);
}

TEST_CASE("copies are independent; what was loaded is what was saved") {
  Random random(66);
  for_each_summary([&]<class T>(const auto& mechanism) {
    for (const Case& c : {Case{}, Case{Centering::prefix, true}}) {
      const Tokens<T> tokens = tokens_of<T>(c, random);
      csq::Summary<T> summary = summary_of<T>(mechanism, c);
      TokenRows<T> out = output_of<T>(c.sizes, c.tokens), again = out;
      const std::size_t bytes = summary.bytes();
      const std::vector<std::byte> empty = summary.save();
      attend(summary, tokens, c, 0, 100, out);
      const std::vector<std::byte> saved = summary.save();
      csq::Summary<T> copy = summary;
      attend(copy, tokens, c, 100, 50, again);
      CHECK(summary.save() == saved);
      CHECK(summary.tokens() == 100);
      csq::Summary<T> loaded = summary_of<T>(mechanism, c);
      loaded.load(saved);
      CHECK(loaded.save() == saved);
      CHECK(loaded.tokens_before_end() == 100);
      attend(loaded, tokens, c, 100, 50, out);
      CHECK(loaded.save() == copy.save());
      for (Index h = 0; h < c.sizes.heads; ++h)
        CHECK(std::memcmp(out.rows(100, 50).head(1, h).data, again.rows(100, 50).head(1, h).data,
                          static_cast<std::size_t>(50 * c.sizes.value_dim) * sizeof(T)) == 0);
      CHECK(summary.bytes() == bytes);
      copy = summary;
      CHECK(copy.save() == saved);
      csq::Summary<T> moved = std::move(copy);
      CHECK(moved.save() == saved);
      moved.reset();
      CHECK(moved.save() == empty);
    }
  });
  // A start that is not the beginning is saved too.
  const std::vector<double> mean(2 * 2 * 6, 0.25);
  const csq::SummaryOptions options{.centering = Centering::prefix, .start_count = 7, .start_mean = mean};
  csq::Summary<float> first(csq::Csq{}, {2, 2, 6, 5}, options), second(csq::Csq{}, {2, 2, 6, 5});
  second.load(first.save());
  CHECK(second.tokens_before_end() == 7);
  CHECK(difference(second.key_mean(), mean) <= 1e-15);
  second.reset();
  CHECK(second.save() == first.save());
}

TEST_CASE("foreign states are errors, and nothing has changed") {
  Random random(67);
  const Case c;
  const Tokens<float> tokens = tokens_of<float>(c, random);
  csq::Summary<float> summary = summary_of<float>(csq::Csq{}, c);
  absorb(summary, tokens, c, 0, 40);
  const std::vector<std::byte> before = summary.save();
  const auto refused = [&](const std::vector<std::byte>& bytes) {
    CHECK(names(rejection([&] { summary.load(bytes); }), "load"));
    CHECK(summary.save() == before);
  };
  refused({});
  refused(csq::Summary<double>(csq::Csq{}, {2, 2, 6, 5}, {.centering = Centering::none}).save());
  refused(csq::Summary<float>(csq::Csq{}, {2, 2, 6, 5}).save());
  refused(csq::Summary<float>(csq::Csq{}, {2, 1, 6, 5}, {.centering = Centering::none}).save());
  refused(csq::Summary<float>(csq::Csq{3}, {2, 2, 6, 5}, {.centering = Centering::none}).save());
  refused(csq::Summary<float>(csq::Csq{}, {2, 2, 6, 5}, {.gated = true, .centering = Centering::none}).save());
  refused(csq::Stream<float>(csq::Csq{}, {2, 2, 2, 6, 5}, {.centering = Centering::none}).save());
}

TEST_CASE("ten thousand damaged summaries are errors, and nothing has changed; or what their bytes say") {
  Random random(68);
  for (const Case& c :
       {Case{Centering::none, false, {2, 2, 1, 3, 2}}, Case{Centering::prefix, true, {1, 2, 2, 4, 3}}}) {
    const Tokens<float> tokens = tokens_of<float>(c, random);
    csq::Summary<float> summary = summary_of<float>(csq::Csq{}, c), target = summary, later = summary;
    absorb(summary, tokens, c, 0, 50);
    absorb(later, tokens, c, 0, 90);
    absorb(target, tokens, c, 0, 20);
    TokenRows<float> out = output_of<float>(c.sizes, c.tokens);
    const auto use = [&](csq::Summary<float>& used) {
      try {
        attend(used, tokens, c, 0, 5, out);
        used.merge(used);
      } catch (const std::invalid_argument&) {  // more tokens than can be, another start
      }
    };
    CHECK(load_damaged(target, summary.save(), later.save(), 200, 5000, random, use) > 0);
  }
}

TEST_CASE("summaries that cannot be") {
  const std::vector<double> mean(2 * 2 * 6), bad(2 * 2 * 6, not_a_number), shorter(11);
  const auto refused = [&](const char* word, const auto& mechanism, const csq::SummaryShape& shape,
                           const csq::SummaryOptions& options) {
    const std::string message = rejection([&] { csq::Summary<float>(mechanism, shape, options); });
    INFO(word << ": " << message);
    CHECK(names(message, word));
  };
  const csq::SummaryShape shape{2, 2, 6, 5};
  refused("mechanism", csq::Softmax{}, shape, {});
  refused("mechanism", csq::Polynomial{{1, 0, 0, 0, 1}}, shape, {});
  refused("centering", csq::Csq{}, shape, {.centering = Centering::sequence});
  refused("scale", csq::Csq{}, shape, {.scale = not_a_number});
  refused("scale", csq::Linear{}, shape, {.scale = 1});
  refused("threads", csq::Csq{}, shape, {.threads = -1});
  refused("start_count", csq::Csq{}, shape, {.start_count = -1, .start_mean = mean});
  refused("start_mean", csq::Csq{}, shape, {.start_count = 1, .start_mean = bad});
  refused("start_mean", csq::Csq{}, shape, {.start_count = 1, .start_mean = shorter});
  refused("start_mean", csq::Csq{}, shape, {.start_count = 1});
  refused("start_count", csq::Csq{}, shape, {.centering = Centering::none, .start_count = 1});
  refused("start_mean", csq::Csq{}, shape, {.centering = Centering::none, .start_mean = mean});
  refused("batch", csq::Csq{}, {-1, 2, 6, 5}, {});
  refused("heads", csq::Csq{}, {2, 0, 6, 5}, {});
  refused("key_dim", csq::Csq{}, {2, 2, 0, 5}, {});
  refused("value_dim", csq::Csq{}, {2, 2, 6, 0}, {});
}

TEST_CASE("arguments that do not fit are named, and the summary stays what it was") {
  Random random(69);
  for (const bool gated : {false, true}) {
    const Case c{Centering::prefix, gated, {2, 4, 2, 6, 5}};
    const Tokens<float> tokens = tokens_of<float>(c, random);
    const Tokens<float> wide({2, 4, 2, 7, 6}, 10, random), single({1, 4, 2, 6, 5}, 10, random);
    const Tokens<float> many({2, 4, 4, 6, 5}, 10, random), odd({2, 3, 2, 6, 5}, 10, random);
    csq::Summary<float> summary = summary_of<float>(csq::Csq{}, c);
    absorb(summary, tokens, c, 0, 30);
    const std::vector<std::byte> before = summary.save();
    TokenRows<float> out = output_of<float>(c.sizes, 10), narrow(2, 4, 10, 4), normalizers(2, 4, 10, 1);
    const Before good(c, 30, tokens.q.means(30)), infinite(c, 30, std::vector<double>(2 * 4 * 6, HUGE_VAL));
    const Before not_numbers(c, 30, std::vector<double>(2 * 4 * 6, not_a_number)), few(c, 30, std::vector<double>(5));
    const Before negative(c, -1, tokens.q.means(30));
    const Heads<const float> gates = gated ? tokens.gate.rows(30, 10) : Heads<const float>{};
    const auto refused = [&](const char* word, const auto& call) {
      const std::string message = rejection(call);
      INFO(word << ": " << message);
      CHECK(names(message, word));
      CHECK(summary.save() == before);
    };
    const Heads<const float> q = std::as_const(tokens.q).rows(30, 10), k = std::as_const(tokens.k).rows(30, 10);
    const Heads<const float> v = std::as_const(tokens.v).rows(30, 10);
    const auto attend_with = [&](Heads<const float> Q, Heads<const float> K, Heads<const float> V, Heads<float> O,
                                 Heads<const float> G, const csq::History* history) {
      return [=, &summary] { summary.attend(Q, K, V, O, G, history); };
    };
    refused("q", attend_with(wide.q.rows(0, 10), k, v, out.rows(0, 10), gates, good()));
    refused("q", attend_with(single.q.rows(0, 10), k, v, out.rows(0, 10), gates, good()));
    refused("q", attend_with(std::as_const(tokens.q).rows(30, 9), k, v, out.rows(0, 9), gates, good()));
    refused("heads",
            attend_with(odd.q.rows(0, 10), k, v, Heads<float>(out.values.data(), {2, 3, 10, 5}), gates, good()));
    refused("k", attend_with(q, wide.k.rows(0, 10), v, out.rows(0, 10), gates, good()));
    refused("k", attend_with(q, many.k.rows(0, 10), many.v.rows(0, 10), out.rows(0, 10), gates, good()));
    refused("v", attend_with(q, k, wide.v.rows(0, 10), out.rows(0, 10), gates, good()));
    refused("v", attend_with(q, k, std::as_const(tokens.v).rows(30, 9), out.rows(0, 10), gates, good()));
    refused("k", attend_with(q, {nullptr, {2, 2, 10, 6}}, v, out.rows(0, 10), gates, good()));
    refused("out", attend_with(q, k, v, narrow.rows(0, 10), gates, good()));
    refused("out", attend_with(q, k, v, out.rows(0, 9), gates, good()));
    refused("out", attend_with(q, k, v, {out.values.data(), {2, 4, 10, 5}, {0, 50, 5, 1}}, gates, good()));
    refused("query_history", attend_with(q, k, v, out.rows(0, 10), gates, nullptr));
    refused("query_history", attend_with(q, k, v, out.rows(0, 10), gates, not_numbers()));
    refused("query_history", attend_with(q, k, v, out.rows(0, 10), gates, infinite()));
    refused("query_history", attend_with(q, k, v, out.rows(0, 10), gates, few()));
    refused("query_history", attend_with(q, k, v, out.rows(0, 10), gates, negative()));
    refused("log_gate", attend_with(q, k, v, out.rows(0, 10),
                                    gated ? Heads<const float>{} : std::as_const(tokens.gate).rows(30, 10), good()));
    if (gated) {
      refused("log_gate", attend_with(q, k, v, out.rows(0, 10), std::as_const(tokens.gate).rows(30, 9), good()));
      refused("log_gate", attend_with(q, k, v, out.rows(0, 10), many.gate.rows(0, 10), good()));
      refused("log_gate", [&] { summary.absorb(k, v); });
    } else {
      refused("log_gate", [&] { summary.absorb(k, v, std::as_const(tokens.gate).rows(30, 10)); });
    }
    // Outputs that lie over inputs or each other.
    Tokens<float> own = tokens;
    refused("out", attend_with(q, k, std::as_const(own.v).rows(30, 10),
                               {own.v.values.data(), {2, 4, 10, 5}, {200, 50, 5, 1}}, gates, good()));
    refused("k", [&] { summary.absorb(wide.k.rows(0, 10), v, gates); });
    refused("v", [&] { summary.absorb(k, std::as_const(tokens.v).rows(30, 9), gates); });
    refused("q", [&] { summary.read(wide.q.rows(0, 10), out.rows(0, 10), good()); });
    refused("out", [&] { summary.read(q, narrow.rows(0, 10), good()); });
    refused("query_history", [&] { summary.read(q, out.rows(0, 10)); });
    refused("query_history", [&] { summary.read(q, out.rows(0, 10), not_numbers()); });
    refused("normalizer", [&] { summary.read(q, out.rows(0, 10), normalizers.rows(0, 9), good()); });
    refused("normalizer", [&] {
      summary.read(q, out.rows(0, 10), Heads<float>(out.values.data(), {2, 4, 10, 1}), good());
    });
    // A history where there is no centring to go on with.
    const Case plain{Centering::none, gated, {2, 4, 2, 6, 5}};
    csq::Summary<float> other = summary_of<float>(csq::Csq{}, plain);
    const std::vector<std::byte> empty = other.save();
    CHECK(names(rejection([&] { other.attend(q, k, v, out.rows(0, 10), gates, good()); }), "query_history"));
    CHECK(other.save() == empty);
  }
}

TEST_CASE("a summary without tokens reads as zero rows") {
  Random random(70);
  for_each_summary([&]<class T>(const auto& mechanism) {
    for_each_case([&](const Case& c) {
      const TokenRows<T> q = random_queries<T>(c, 20, random);
      const Readings<T> readings = read(summary_of<T>(mechanism, c), c, q);
      CHECK(readings.rows.values == Readings<T>(c, 20).rows.values);
      CHECK(readings.normalizers.values == Readings<T>(c, 20).normalizers.values);
    });
  });
  // No tokens in a call, and no entries.
  csq::Summary<float> summary(csq::Csq{}, {1, 2, 4, 3});
  const std::vector<std::byte> before = summary.save();
  summary.absorb(Heads<const float>{nullptr, {1, 2, 0, 4}}, Heads<const float>{nullptr, {1, 2, 0, 3}});
  summary.attend(Heads<const float>{nullptr, {1, 2, 0, 4}}, Heads<const float>{nullptr, {1, 2, 0, 4}},
                 Heads<const float>{nullptr, {1, 2, 0, 3}}, Heads<float>{nullptr, {1, 2, 0, 3}});
  summary.read(Heads<const float>{nullptr, {1, 2, 0, 4}}, Heads<float>{nullptr, {1, 2, 0, 3}});
  CHECK(summary.save() == before);
  csq::Summary<float> none(csq::Csq{}, {0, 2, 4, 3}, {.centering = Centering::none});
  none.absorb(Heads<const float>{nullptr, {0, 2, 5, 4}}, Heads<const float>{nullptr, {0, 2, 5, 3}});
  none.read(Heads<const float>{nullptr, {0, 2, 5, 4}}, Heads<float>{nullptr, {0, 2, 5, 3}});
  CHECK(none.tokens() == 5);
}

// Keys k whose score nearly cancels the shift: w = t² with t from 1 to 1e-8, where features are about 1.
TEST_CASE("rows whose features cancel are NaN, and no row is wrong without a word") {
  Random random(71);
  for_float_and_double([&]<class T>() {
    const Case c{Centering::none, false, {1, 1, 1, 4, 3}, 3};
    int lost = 0, held = 0;
    for (int repeat = 0; repeat < 400; ++repeat) {
      Tokens<T> tokens(c.sizes, 3, random);
      TokenRows<T> q(1, 1, 1, 4);
      for (Index a = 0; a < 4; ++a) {
        q.values[std::size_t(a)] = static_cast<T>(random.normal());
        for (Index t = 0; t < 3; ++t) tokens.k.values[std::size_t(t * 4 + a)] = a == 0 ? T(1) : T(0);
      }
      const double t = std::pow(10, -8 * random.uniform());
      q.values[0] = static_cast<T>(t - 1);
      csq::Summary<T> summary(csq::ShiftedQuadratic{1}, {1, 1, 4, 3}, {.scale = 1});
      absorb(summary, tokens, c, 0, 3);
      const Readings<T> readings = read(summary, c, q);
      // What the query is, not what it was to be.
      const double weight = 3 * std::pow(1 + static_cast<double>(q.values[0]), 2);
      const T* const row = readings.rows.values.data();
      if (std::isnan(row[0])) {
        ++lost;
        for (Index a = 0; a < 3; ++a) CHECK(std::isnan(row[a]));
        CHECK(weight < 3e-2);
        continue;
      }
      ++held;
      const double most = sizeof(T) == sizeof(double) ? 2e-7 : 5e-3;
      CHECK(std::abs(static_cast<double>(readings.normalizers.values[0]) - weight) <= most * weight);
      for (Index a = 0; a < 3; ++a) {
        double mean = 0, size = 0;
        for (Index j = 0; j < 3; ++j) {
          mean += static_cast<double>(tokens.v.values[std::size_t(j * 3 + a)]) / 3;
          size += std::abs(static_cast<double>(tokens.v.values[std::size_t(j * 3 + a)]));
        }
        CHECK(std::abs(static_cast<double>(row[a]) - mean) <= most * size);
      }
    }
    CHECK(lost > 20);
    CHECK(held > 20);
  });
}

// How many keys a gated summary has taken up says nothing about how many are left.
TEST_CASE("what gates have left of many keys is read") {
  Random random(73);
  const Case c{Centering::none, true, {1, 2, 1, 3, 2}, 500};
  for_each_summary([&]<class T>(const auto& mechanism) {
    Tokens<T> tokens(c.sizes, c.tokens, random);
    for (T& gate : tokens.gate.values) gate = T(-0.5);
    csq::Summary<T> summary = summary_of<T>(mechanism, c);
    TokenRows<T> out = output_of<T>(c.sizes, c.tokens);
    for (int round = 0; round < 60; ++round) absorb(summary, tokens, c, 0, c.tokens);
    CHECK(summary.tokens() == 30000);
    const TokenRows<T> q = random_queries<T>(c, 40, random);
    check_readings(read(summary, c, q), seen_at_once(mechanism, c, tokens, q));
    attend(summary, tokens, c, 0, c.tokens, out);
    Tokens<T> twice(c.sizes, 2 * c.tokens, random);
    const auto repeat = [&](TokenRows<T>& to, const TokenRows<T>& from) {
      for (Index h = 0; h < from.heads; ++h)
        for (Index t = 0; t < to.tokens; ++t)
          for (Index a = 0; a < from.dim; ++a)
            to.rows(0, to.tokens).head(0, h)(t, a) = from.rows(0, c.tokens).head(0, h)(t % c.tokens, a);
    };
    repeat(twice.q, tokens.q);
    repeat(twice.k, tokens.k);
    repeat(twice.v, tokens.v);
    repeat(twice.gate, tokens.gate);
    Case longer = c;
    longer.tokens = 2 * c.tokens;
    const TokenRows<T> all = one_call(mechanism, longer, twice);
    TokenRows<T> expected = out;
    for (Index h = 0; h < c.sizes.heads; ++h)
      for (Index t = 0; t < c.tokens; ++t)
        for (Index a = 0; a < c.sizes.value_dim; ++a)
          expected.rows(0, c.tokens).head(0, h)(t, a) = all.rows(0, longer.tokens).head(0, h)(c.tokens + t, a);
    check_rows(out, expected);
  });
}

// A key that is not a number reaches the rows that see it, in whatever piece; what a gate of −∞ has forgotten is gone,
// as in one causal call.
TEST_CASE("NaN in a key reaches those who see it") {
  Random random(72);
  for (const bool gated : {false, true}) {
    Case c{Centering::none, gated};
    c.sizes.batch = 1;
    Tokens<double> tokens = tokens_of<double>(c, random);
    for (Index h = 0; h < 2; ++h) tokens.k.rows(0, c.tokens).head(0, h)(50, 2) = not_a_number;
    const TokenRows<double> expected = one_call(csq::Csq{}, c, tokens);
    for (const Index cut : {30, 51, 120}) {
      CAPTURE(gated, cut);
      csq::Summary<double> summary = summary_of<double>(csq::Csq{}, c);
      TokenRows<double> out = output_of<double>(c.sizes, c.tokens);
      attend(summary, tokens, c, 0, cut, out);
      attend(summary, tokens, c, cut, c.tokens - cut, out);
      bool same = true;
      for (std::size_t i = 0; i < out.values.size(); ++i)
        same = same && std::isnan(out.values[i]) == std::isnan(expected.values[i]);
      CHECK(same);
    }
  }
}

TEST_CASE("attend refuses a history of another place, and to write nowhere") {
  const std::vector<float> x(2 * 5 * 3, 1.0f);
  std::vector<float> out(2 * 5 * 3);
  const Heads<const float> rows(x.data(), {1, 2, 5, 3});
  csq::Summary<float> summary(csq::Csq{}, {1, 2, 3, 3});
  summary.attend(rows, rows, rows, Heads<float>(out.data(), {1, 2, 5, 3}));
  const std::vector<std::byte> before = summary.save();
  const std::vector<double> mean(2 * 3);
  for (const Index count : {0, 4, 6}) {
    const std::vector<Index> counts{count};
    const csq::History history{counts, mean};
    CHECK(names(rejection([&] {
                  summary.attend(rows, rows, rows, Heads<float>(out.data(), {1, 2, 5, 3}), {}, &history);
                }),
                "query_history"));
  }
  CHECK(names(rejection([&] {
                summary.attend(rows, rows, rows, Heads<float>(out.data(), {1, 2, 5, 3}));
              }),
              "query_history"));
  const std::vector<Index> counts{5};
  const csq::History history{counts, mean};
  CHECK(names(rejection([&] { summary.attend(rows, rows, rows, Heads<float>{}, {}, &history); }), "out"));
  CHECK(summary.save() == before);
}
