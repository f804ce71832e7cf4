// A call that cannot mean anything throws std::invalid_argument, names the argument and the sizes, and writes nothing.
#include <cctype>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "problem.hpp"

namespace {

constexpr Index huge = Index{1} << 62;
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// A call that is right, in memory larger than it needs; a case below makes one thing wrong.
struct Call {
  std::vector<float> q_memory = std::vector<float>(4096, 0.5f), k_memory = q_memory, v_memory = q_memory;
  std::vector<float> out_memory = std::vector<float>(4096, -77.25f), normalizer_memory = out_memory;
  csq::Heads<const float> q{q_memory.data(), {2, 4, 6, 3}};
  csq::Heads<const float> k{k_memory.data(), {2, 2, 6, 3}};
  csq::Heads<const float> v{v_memory.data(), {2, 2, 6, 5}};
  csq::Heads<float> out{out_memory.data(), {2, 4, 6, 5}};
  csq::Heads<float> normalizer{normalizer_memory.data(), {2, 4, 6, 1}};
  csq::Options options;
  std::vector<Index> lengths, counts{3, 4};
  std::vector<double> means = std::vector<double>(2 * 4 * 3, 0.25);
  csq::History history;

  Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void set_key_length(std::vector<Index> values) {
    lengths = std::move(values);
    options.key_length = lengths;
  }
  void set_query_length(std::vector<Index> values) {
    lengths = std::move(values);
    options.query_length = lengths;
  }
  void set_query_history(csq::Centering centering) {
    history = {counts, means};
    options.query_history = &history;
    options.centering = centering;
  }
  void set_key_history(csq::Centering centering) {
    means.resize(2 * 2 * 3);
    history = {counts, means};
    options.key_history = &history;
    options.centering = centering;
  }
};

template <class M>
std::function<void(Call&)> run_with(M mechanism) {
  return [mechanism](Call& c) { csq::attention(mechanism, c.q, c.k, c.v, c.out, c.normalizer, c.options); };
}

struct ErrorCase {
  const char* name;
  std::function<void(Call&)> edit;
  std::vector<const char*> words;  // the message has each of them, as a word of its own
  std::function<void(Call&)> run = run_with(csq::Csq{});
};

bool mentions(const std::string& message, const std::string& word) {
  const auto is_part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (std::size_t at = message.find(word); at != std::string::npos; at = message.find(word, at + 1)) {
    const bool starts = at == 0 || !is_part(message[at - 1]);
    const bool ends = at + word.size() == message.size() || !is_part(message[at + word.size()]);
    if (starts && ends) return true;
  }
  return false;
}

void check_rejected(const ErrorCase& error) {
  INFO(error.name);
  Call call;
  error.edit(call);
  std::string message;
  try {
    error.run(call);
  } catch (const std::invalid_argument& thrown) {
    message = thrown.what();
  }
  INFO("message: " << message);
  CHECK(message.starts_with("csq: "));
  for (const char* word : error.words) {
    INFO("word: " << word);
    CHECK(mentions(message, word));
  }
  const std::vector<float> untouched(4096, -77.25f);
  CHECK(same_bits(call.out_memory, untouched));
  CHECK(same_bits(call.normalizer_memory, untouched));
}

using csq::Centering;

}  // namespace

TEST_CASE("the call that the error cases start from is right, with every option that they break") {
  const auto check_accepted = [](const std::function<void(Call&)>& edit) {
    Call call;
    edit(call);
    CHECK_NOTHROW(run_with(csq::Csq{})(call));
    CHECK(std::abs(call.out_memory[0] - 0.5f) <= 1e-6f);
  };
  check_accepted([](Call&) {});
  check_accepted([](Call& c) { c.set_key_length({6, 1}); });
  check_accepted([](Call& c) { c.set_query_length({2, 6}); });
  check_accepted([](Call& c) { c.set_query_history(Centering::prefix); });
  check_accepted([](Call& c) { c.set_key_history(Centering::prefix_exclusive); });
  check_accepted([](Call& c) { c.options.method = csq::Method::factored; });
}

TEST_CASE("sizes that do not fit each other") {
  const std::vector<ErrorCase> cases{
      {"batch of k",
       [](Call& c) {
         c.k = {c.k.data, {3, 2, 6, 3}};
       },
       {"k", "batch", "3", "2"}},
      {"batch of v",
       [](Call& c) {
         c.v = {c.v.data, {1, 2, 6, 5}};
       },
       {"v", "batch", "1", "2"}},
      {"dim of k",
       [](Call& c) {
         c.k = {c.k.data, {2, 2, 6, 7}};
       },
       {"k", "dim", "7", "3"}},
      {"tokens of v",
       [](Call& c) {
         c.v = {c.v.data, {2, 2, 9, 5}};
       },
       {"v", "tokens", "9", "6"}},
      {"heads of v",
       [](Call& c) {
         c.v = {c.v.data, {2, 4, 6, 5}};
       },
       {"v", "heads", "4", "2"}},
      {"heads that do not divide",
       [](Call& c) {
         c.k = {c.k.data, {2, 3, 6, 3}};
         c.v = {c.v.data, {2, 3, 6, 5}};
       },
       {"heads", "4", "3"}},
      {"more key heads than query heads",
       [](Call& c) {
         c.k = {c.k.data, {2, 8, 6, 3}};
         c.v = {c.v.data, {2, 8, 6, 5}};
       },
       {"heads", "4", "8"}},
      {"no key heads",
       [](Call& c) {
         c.k = {c.k.data, {2, 0, 6, 3}};
         c.v = {c.v.data, {2, 0, 6, 5}};
       },
       {"heads", "0"}},
      {"no query heads",
       [](Call& c) {
         c.q = {c.q.data, {2, 0, 6, 3}};
         c.out = {c.out.data, {2, 0, 6, 5}};
         c.normalizer = {c.normalizer.data, {2, 0, 6, 1}};
       },
       {"heads", "0"}},
      {"no key dim",
       [](Call& c) {
         c.q = {c.q.data, {2, 4, 6, 0}};
         c.k = {c.k.data, {2, 2, 6, 0}};
       },
       {"q", "dim", "0"}},
      {"no value dim",
       [](Call& c) {
         c.v = {c.v.data, {2, 2, 6, 0}};
         c.out = {c.out.data, {2, 4, 6, 0}};
       },
       {"v", "dim", "0"}},
      {"batch of out",
       [](Call& c) {
         c.out = {c.out.data, {1, 4, 6, 5}};
       },
       {"out", "1", "2"}},
      {"heads of out",
       [](Call& c) {
         c.out = {c.out.data, {2, 2, 6, 5}};
       },
       {"out", "2", "4"}},
      {"tokens of out",
       [](Call& c) {
         c.out = {c.out.data, {2, 4, 5, 5}};
       },
       {"out", "5", "6"}},
      {"dim of out",
       [](Call& c) {
         c.out = {c.out.data, {2, 4, 6, 3}};
       },
       {"out", "3", "5"}},
      {"tokens of normalizer",
       [](Call& c) {
         c.normalizer = {c.normalizer.data, {2, 4, 7, 1}};
       },
       {"normalizer", "7", "6"}},
      {"dim of normalizer",
       [](Call& c) {
         c.normalizer = {c.normalizer.data, {2, 4, 6, 5}};
       },
       {"normalizer", "5", "1"}},
  };
  for (const ErrorCase& error : cases) check_rejected(error);
}

TEST_CASE("sizes and memory that cannot be") {
  const std::vector<ErrorCase> cases{
      {"negative tokens", [](Call& c) { c.q.shape[2] = -6; }, {"q", "-6"}},
      {"negative batch", [](Call& c) { c.k.shape[0] = -2; }, {"k", "-2"}},
      {"negative heads", [](Call& c) { c.v.shape[1] = -1; }, {"v", "-1"}},
      {"negative dim", [](Call& c) { c.out.shape[3] = -5; }, {"out", "-5"}},
      {"a size that overflows", [](Call& c) { c.q.shape[2] = huge; }, {"q", "overflows"}},
      {"a stride that overflows", [](Call& c) { c.k.stride[2] = huge; }, {"k", "overflows"}},
      {"a negative stride that overflows", [](Call& c) { c.v.stride[2] = -huge; }, {"v", "overflows"}},
      {"the most negative stride", [](Call& c) { c.k.stride[1] = INT64_MIN; }, {"k", "overflows"}},
      {"bytes that overflow",
       [](Call& c) {
         c.q.shape = {1, 1, huge / 3, 3};
         c.q.stride = {0, 0, 3, 1};
       },
       {"q", "overflows"}},
      {"an output that overflows", [](Call& c) { c.out.shape[2] = huge; }, {"out", "overflows"}},
      {"null q", [](Call& c) { c.q.data = nullptr; }, {"q", "null"}},
      {"null k", [](Call& c) { c.k.data = nullptr; }, {"k", "null"}},
      {"null v", [](Call& c) { c.v.data = nullptr; }, {"v", "null"}},
      {"null out", [](Call& c) { c.out.data = nullptr; }, {"out", "null"}},
      {"null normalizer", [](Call& c) { c.normalizer.data = nullptr; }, {"normalizer", "null"}},
  };
  for (const ErrorCase& error : cases) check_rejected(error);
  CHECK_THROWS_AS(csq::Heads<float>(nullptr, {2, huge, huge, 3}), std::invalid_argument);
}

TEST_CASE("outputs that overlap") {
  const std::vector<ErrorCase> cases{
      {"zero token stride", [](Call& c) { c.out.stride[2] = 0; }, {"out", "stride", "6"}},
      {"zero dim stride", [](Call& c) { c.out.stride[3] = 0; }, {"out", "stride", "5"}},
      {"zero head stride", [](Call& c) { c.normalizer.stride[1] = 0; }, {"normalizer", "stride", "4"}},
      {"zero batch stride", [](Call& c) { c.out.stride[0] = 0; }, {"out", "stride", "2"}},
      {"tokens on each other", [](Call& c) { c.out.stride[2] = 4; }, {"out"}},
      {"tokens on each other, backwards",
       [](Call& c) {
         c.out.data += 100;
         c.out.stride[2] = -1;
       },
       {"out"}},
      {"heads on each other", [](Call& c) { c.out.stride[1] = 29; }, {"out"}},
      {"tokens of normalizer on its heads", [](Call& c) { c.normalizer.stride[1] = 5; }, {"normalizer"}},
      {"out is q", [](Call& c) { c.out.data = c.q_memory.data(); }, {"out", "q"}},
      {"out is k", [](Call& c) { c.out.data = c.k_memory.data(); }, {"out", "k"}},
      {"out is v", [](Call& c) { c.out.data = c.v_memory.data(); }, {"out", "v"}},
      {"normalizer is q", [](Call& c) { c.normalizer.data = c.q_memory.data(); }, {"normalizer", "q"}},
      {"normalizer is k", [](Call& c) { c.normalizer.data = c.k_memory.data(); }, {"normalizer", "k"}},
      {"normalizer is v", [](Call& c) { c.normalizer.data = c.v_memory.data(); }, {"normalizer", "v"}},
      {"normalizer is out", [](Call& c) { c.normalizer.data = c.out.data; }, {"normalizer", "out"}},
  };
  for (const ErrorCase& error : cases) {
    check_rejected(error);
    // Without a normalizer the same check must hold for `out` alone.
    ErrorCase alone = error;
    alone.run = [](Call& c) { csq::attention(csq::Csq{}, c.q, c.k, c.v, c.out, c.options); };
    if (std::string(error.words.front()) == "out") check_rejected(alone);
  }
}

TEST_CASE("options that mean nothing") {
  const auto shorter_queries = [](Call& c) {
    c.q.shape[2] = c.out.shape[2] = c.normalizer.shape[2] = 4;
    c.options.causal = true;
  };
  const std::vector<ErrorCase> cases{
      {"NaN scale", [](Call& c) { c.options.scale = nan_value; }, {"scale", "nan"}},
      {"infinite scale", [](Call& c) { c.options.scale = -infinity; }, {"scale"}},
      {"key_length beyond the keys",
       [](Call& c) {
         c.set_key_length({6, 7});
       },
       {"key_length", "7", "6"}},
      {"negative key_length",
       [](Call& c) {
         c.set_key_length({-1, 6});
       },
       {"key_length", "-1", "6"}},
      {"key_length for another batch",
       [](Call& c) {
         c.set_key_length({6, 6, 6});
       },
       {"key_length", "3", "2"}},
      {"query_length beyond the queries",
       [](Call& c) {
         c.set_query_length({8, 6});
       },
       {"query_length", "8", "6"}},
      {"negative query_length",
       [](Call& c) {
         c.set_query_length({6, -3});
       },
       {"query_length", "-3", "6"}},
      {"query_length for another batch", [](Call& c) { c.set_query_length({6}); }, {"query_length", "1", "2"}},
      {"query history with sequence centring",
       [](Call& c) { c.set_query_history(Centering::sequence); },
       {"query_history"}},
      {"query history without centring", [](Call& c) { c.set_query_history(Centering::none); }, {"query_history"}},
      {"query history with what automatic means here",
       [](Call& c) { c.set_query_history(Centering::automatic); },
       {"query_history"}},
      {"key history with sequence centring", [](Call& c) { c.set_key_history(Centering::sequence); }, {"key_history"}},
      {"key history without centring", [](Call& c) { c.set_key_history(Centering::none); }, {"key_history"}},
      {"query history with counts for another batch",
       [](Call& c) {
         c.counts = {1, 2, 3};
         c.set_query_history(Centering::prefix);
       },
       {"query_history", "3", "2"}},
      {"query history with means for other sizes",
       [](Call& c) {
         c.means.resize(12);
         c.set_query_history(Centering::prefix);
       },
       {"query_history", "12", "24"}},
      {"key history with means of the query heads",
       [](Call& c) {
         c.set_key_history(Centering::prefix);
         c.means.resize(24);
         c.history.mean = c.means;
       },
       {"key_history", "24", "12"}},
      {"negative count",
       [](Call& c) {
         c.counts = {5, -5};
         c.set_query_history(Centering::prefix);
       },
       {"query_history", "-5"}},
      {"causal prefix centring with fewer queries than keys", shorter_queries, {"query_history", "4", "6"}},
      {"the same, exclusive",
       [shorter_queries](Call& c) {
         shorter_queries(c);
         c.options.centering = Centering::prefix_exclusive;
       },
       {"query_history", "4", "6"}},
      {"the same for softmax, asked to centre",
       [shorter_queries](Call& c) {
         shorter_queries(c);
         c.options.centering = Centering::prefix;
       },
       {"query_history", "4", "6"},
       run_with(csq::Softmax{})},
      {"negative chunk", [](Call& c) { c.options.chunk = -16; }, {"chunk", "-16"}},
      {"negative threads", [](Call& c) { c.options.threads = -2; }, {"threads", "-2"}},
  };
  for (const ErrorCase& error : cases) check_rejected(error);
}

TEST_CASE("a single query that centring would make zero") {
  const auto single = [](Call& c) { c.q.shape[2] = c.out.shape[2] = c.normalizer.shape[2] = 1; };
  const auto lengths = [](Call& c) { c.set_query_length({3, 1}); };
  const auto exclusive = [](csq::Centering centering) {
    return [centering](Call& c) { c.options.centering = centering; };
  };
  for (const ErrorCase& error :
       std::vector<ErrorCase>{{"one query", single, {"centering", "1", "6", "query_history", "sequence"}},
                              {"one query in an entry", lengths, {"centering", "1", "6", "sequence"}}}) {
    check_rejected(error);
    for (const csq::Centering centering : {Centering::none, Centering::sequence}) {  // by name
      Call call;
      error.edit(call);
      exclusive(centering)(call);
      CHECK_NOTHROW(error.run(call));
    }
    Call call;
    error.edit(call);
    CHECK_NOTHROW(run_with(csq::ShiftedQuadratic{})(call));
  }
  Call one_key;  // its value is the right answer
  single(one_key);
  one_key.set_key_length({1, 0});
  CHECK_NOTHROW(run_with(csq::Csq{})(one_key));
}

TEST_CASE("histories that contradict where the queries stand") {
  const auto causal = [](Index queries, std::vector<Index> query_counts, std::vector<Index> key_counts) {
    return [=](Call& c) {
      c.q.shape[2] = c.out.shape[2] = c.normalizer.shape[2] = queries;
      c.options.causal = true;
      static csq::History query, key;
      static std::vector<Index> counts[2];
      static const std::vector<double> means[2] = {std::vector<double>(24, 0.25), std::vector<double>(12, 0.25)};
      counts[0] = query_counts;
      counts[1] = key_counts;
      query = {counts[0], means[0]};
      key = {counts[1], means[1]};
      c.options.query_history = query_counts.empty() ? nullptr : &query;
      c.options.key_history = key_counts.empty() ? nullptr : &key;
    };
  };
  for (const ErrorCase& error : std::vector<ErrorCase>{
           {"a step that counts too few", causal(2, {4, 3}, {}), {"query_history", "3", "2", "6", "4"}},
           {"a step that counts too many", causal(2, {5, 5}, {}), {"query_history", "5", "4"}},
           {"a step without history", causal(2, {0, 0}, {}), {"query_history", "0", "4"}},
           {"both, one apart", causal(2, {9, 9}, {5, 4}), {"query_history", "9", "4"}},
           {"a piece whose queries restart", causal(6, {}, {3, 3}), {"key_history", "3", "0"}},
           {"a piece whose keys restart", causal(6, {3, 3}, {}), {"query_history", "3", "0"}}})
    check_rejected(error);
  for (const auto& edit : {causal(2, {4, 4}, {}), causal(2, {9, 4}, {5, 0}), causal(6, {3, 0}, {3, 0})}) {
    Call call;
    edit(call);
    CHECK_NOTHROW(run_with(csq::Csq{})(call));
  }
  Call open;  // without a mask nothing stands anywhere
  causal(2, {4, 3}, {5, 5})(open);
  open.options.causal = false;
  open.options.centering = Centering::prefix;
  CHECK_NOTHROW(run_with(csq::Csq{})(open));
}

TEST_CASE("outputs that start elsewhere and overlap all the same") {
  const auto writable = [](const std::vector<float>& memory) { return const_cast<float*>(memory.data()); };
  const std::vector<ErrorCase> cases{
      {"a row before q", [&](Call& c) { c.out.data = writable(c.q_memory) - 5; }, {"out", "q"}},
      {"a row into k", [&](Call& c) { c.out.data = writable(c.k_memory) + 3; }, {"out", "k"}},
      {"the last element of v", [&](Call& c) { c.out.data = writable(c.v_memory) + 119; }, {"out", "v"}},
      {"normalizer within q", [&](Call& c) { c.normalizer.data = writable(c.q_memory) + 7; }, {"normalizer", "q"}},
      {"normalizer within out", [&](Call& c) { c.normalizer.data = c.out.data + 239; }, {"normalizer", "out"}},
      {"from behind, with negative strides",
       [&](Call& c) {
         c.out.data = writable(c.q_memory) + 143 + 239;
         for (Index& stride : c.out.stride) stride = -stride;
       },
       {"out", "q"}},
      {"every second element of what q has whole",
       [&](Call& c) {
         c.out.data = writable(c.q_memory) + 1;
         for (Index& stride : c.out.stride) stride *= 2;
       },
       {"out", "q"}},
      {"interleaved rows that meet at one element",
       [&](Call& c) {
         c.q.stride = {100, 25, 4, 1};
         c.out.data = writable(c.q_memory) + 3 + 600;  // apart but for the gaps
         c.q.data = c.q_memory.data() + 603;
       },
       {"out", "q"}},
      {"key_length within out",
       [](Call& c) {
         Index* lengths = reinterpret_cast<Index*>(c.out.data + 8);
         std::memcpy(c.out.data + 8, std::vector<float>(4, -77.25f).data(), 16);
         c.options.key_length = {lengths, 2};
       },
       {"out", "key_length"}},
  };
  for (const ErrorCase& error : cases) check_rejected(error);
}

TEST_CASE("outputs interleaved with inputs and each other are legal") {
  // q, k, v, out and normalizer in one buffer: [tokens][q | k | v | out | normalizer], heads beside each other.
  constexpr Index n = 6, heads = 3, d = 4, row = heads * (4 * d + 1);
  std::vector<float> buffer(n * row), apart(n * heads * d);
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = float(i % 17) / 16;
  const auto part = [&](Index offset, Index dim) {
    return csq::Heads<float>(buffer.data() + offset, {1, heads, n, dim}, {n * row, dim, row, 1});
  };
  const Index block = heads * d;
  const csq::Heads<float> q = part(0, d), k = part(block, d), v = part(2 * block, d);
  csq::attention(csq::Csq{}, q, k, v, csq::Heads<float>(apart.data(), {1, heads, n, d}));
  CHECK_NOTHROW(csq::attention(csq::Csq{}, q, k, v, part(3 * block, d), part(4 * block, 1)));
  for (Index h = 0; h < heads; ++h)
    for (Index t = 0; t < n; ++t)
      for (Index a = 0; a < d; ++a)
        CHECK(part(3 * block, d).head(0, h)(t, a) == apart[std::size_t((h * n + t) * d + a)]);

  // Real and imaginary parts: every second element is out's, in between lie q's.
  std::vector<float> pairs(2 * n * d, 0.5f), other(n * d, 0.5f);
  const csq::Heads<float> even(pairs.data(), {1, 1, n, d}, {0, 0, 2 * d, 2});
  const csq::Heads<float> odd(pairs.data() + 1, {1, 1, n, d}, {0, 0, 2 * d, 2});
  const csq::Heads<float> keys(other.data(), {1, 1, n, d});
  CHECK_NOTHROW(csq::attention(csq::Csq{}, even, keys, keys, odd));
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, even, keys, keys, even), std::invalid_argument);
}

TEST_CASE("strides of axes of size 1 mean nothing, and empty views may have no memory") {
  std::vector<float> memory(64, 0.5f), out(64, -77.25f);
  for (const Index stride : {Index{INT64_MIN}, Index{INT64_MAX}, Index{-1}, Index{0}}) {
    INFO(stride);
    const csq::Heads<float> q(memory.data(), {1, 1, 1, 4}, {stride, stride, stride, 1});
    const csq::Heads<float> k(memory.data(), {1, 1, 5, 4}, {stride, stride, 4, 1});
    const csq::Heads<float> narrow(memory.data(), {1, 1, 5, 1}, {stride, stride, 1, stride});
    const csq::Heads<float> to(out.data(), {1, 1, 1, 4}, {stride, stride, stride, 1});
    const csq::Heads<float> one(out.data() + 16, {1, 1, 1, 1}, {stride, stride, stride, stride});
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
      csq::attention(csq::ShiftedQuadratic{}, q, k, k, to, one, {.method = method});
      CHECK(std::abs(out[3] - 0.5f) < 1e-5f);
      csq::attention(csq::ShiftedQuadratic{}, q, k, narrow, one, {.method = method});
      CHECK(std::abs(out[16] - 0.5f) < 1e-5f);
      csq::attention(csq::ShiftedQuadratic{}, q, k, k, to, one, {.method = method});
      std::vector<float> gradients(64, 1);
      const auto like = [&](const csq::Heads<float>& view, std::size_t offset) {
        csq::Heads<float> copy = view;
        copy.data = gradients.data() + offset;
        return copy;
      };
      CHECK_NOTHROW(csq::attention_backward(csq::ShiftedQuadratic{}, q, k, k, to, one, q,
                                            csq::Gradients<float>{like(q, 0), like(k, 4), like(k, 24)},
                                            {.method = method}));
    }
  }
  const csq::Heads<float> nothing(nullptr, {2, 2, 0, 4}, {INT64_MAX, INT64_MIN, 1000, 7});
  const csq::Heads<float> q(memory.data(), {2, 2, 3, 4}), to(out.data(), {2, 2, 3, 4});
  for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
    for (const bool causal : {false, true}) {
      CHECK_NOTHROW(csq::attention(csq::Csq{}, q, nothing, nothing, to, {.causal = causal, .method = method}));
      CHECK(out[47] == 0);
      CHECK_NOTHROW(csq::attention(csq::Squared{}, nothing, q, q, nothing, {.causal = causal, .method = method}));
    }
}

TEST_CASE("broadcast inputs of absurd sizes are an error, not a small buffer") {
  std::vector<float> memory(64, 0.5f), out(64, -77.25f);
  const csq::Heads<float> q(memory.data(), {1, 1, 2, 4}), to(out.data(), {1, 1, 2, 4});
  for (const Index keys : {Index{1} << 50, Index{1} << 58, (Index{1} << 59) - 1}) {
    const csq::Heads<float> k(memory.data(), {1, 1, keys, 4}, {0, 0, 0, 1});
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
      for (const bool causal : {false, true}) {
        const std::string message =
            rejection([&] { csq::attention(csq::Squared{}, q, k, k, to, {.causal = causal, .method = method}); });
        INFO(message);
        CHECK(names(message, "overflows"));
        CHECK(names(message, std::to_string(keys)));
      }
  }
  CHECK(out[0] == -77.25f);
}

TEST_CASE("mechanisms that cannot be, or cannot do what is asked") {
  const auto nothing = [](Call&) {};
  const auto factored = [](Call& c) { c.options.method = csq::Method::factored; };
  const std::vector<ErrorCase> cases{
      {"scale for Linear", [](Call& c) { c.options.scale = 0.5; }, {"scale", "Linear", "0.5"}, run_with(csq::Linear{})},
      {"Quadratic that is negative somewhere", nothing, {"Quadratic", "3"}, run_with(csq::Quadratic{1, 3, 1})},
      {"Quadratic that opens downwards", nothing, {"Quadratic", "-1"}, run_with(csq::Quadratic{4, 0, -1})},
      {"linear Quadratic", nothing, {"Quadratic"}, run_with(csq::Quadratic{4, 1, 0})},
      {"zero Quadratic", nothing, {"Quadratic"}, run_with(csq::Quadratic{0, 0, 0})},
      {"negative constant Quadratic", nothing, {"Quadratic", "-2"}, run_with(csq::Quadratic{-2, 0, 0})},
      {"Quadratic with NaN", nothing, {"Quadratic", "nan"}, run_with(csq::Quadratic{nan_value, 0, 1})},
      {"Quadratic with infinity", nothing, {"Quadratic", "inf"}, run_with(csq::Quadratic{1, 0, infinity})},
      {"NaN shift", nothing, {"shift"}, run_with(csq::Csq{nan_value})},
      {"infinite shift", nothing, {"shift"}, run_with(csq::ShiftedQuadratic{infinity})},
      {"Polynomial without coefficients", nothing, {"Polynomial"}, run_with(csq::Polynomial{})},
      {"Polynomial with NaN", nothing, {"Polynomial"}, run_with(csq::Polynomial{{1, nan_value}})},
      {"PositivePolynomial without root", nothing, {"PositivePolynomial"}, run_with(csq::PositivePolynomial{{}, 1, 0})},
      {"PositivePolynomial of no radius",
       nothing,
       {"PositivePolynomial", "radius", "0"},
       run_with(csq::PositivePolynomial{{1, 1}, 0, 0})},
      {"factored Softmax", factored, {"method", "factored"}, run_with(csq::Softmax{})},
      {"factored Polynomial", factored, {"method", "factored"}, run_with(csq::Polynomial{{1, 1, 1}})},
      {"factored PositivePolynomial",
       factored,
       {"method", "factored"},
       run_with(csq::PositivePolynomial{{1, 1}, 1, 0.5})},
  };
  for (const ErrorCase& error : cases) check_rejected(error);
}

TEST_CASE("the matrix forms reject the same and keep what the caller has") {
  using Matrix = csq::Matrix<double>;
  const Matrix q = Matrix::Ones(4, 3), k = Matrix::Ones(5, 3), v = Matrix::Ones(5, 2);
  const Matrix narrow = Matrix::Ones(5, 2), shorter = Matrix::Ones(4, 2);
  Matrix out = Matrix::Constant(7, 7, 3), normalizer = Matrix::Constant(6, 2, 4);
  const Matrix out_before = out, normalizer_before = normalizer;
  const auto check_unchanged = [&] {
    CHECK((out.rows() == 7 && out.cols() == 7 && out == out_before));
    CHECK((normalizer.rows() == 6 && normalizer.cols() == 2 && normalizer == normalizer_before));
  };
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, q, narrow, v, out, normalizer), std::invalid_argument);
  check_unchanged();
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, q, k, shorter, out), std::invalid_argument);
  check_unchanged();
  csq::Options options;
  options.scale = nan_value;
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, q, k, v, out, normalizer, options), std::invalid_argument);
  check_unchanged();
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, q, narrow, v), std::invalid_argument);

  Matrix square = Matrix::Ones(4, 4);
  const Matrix square_before = square;
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, square, square, square, square), std::invalid_argument);
  CHECK_THROWS_AS(csq::attention(csq::Csq{}, q, k, v, out, out), std::invalid_argument);
  CHECK(square == square_before);
  check_unchanged();
}

TEST_CASE("windows, sinks, caps, biases and gates that mean nothing") {
  static const std::vector<float> numbers(2 * 4 * 6 * 6, -0.5f);
  static const std::vector<double> doubles(2 * 4 * 6 * 6, -0.5);
  static const std::vector<double> sinks(4, 0.5), three(3, 0.5), nan_sinks(4, nan_value), endless(4, infinity);
  const auto gated = [](std::array<Index, 4> shape, bool causal = true) {
    return [=](Call& c) {
      c.options.causal = causal;
      c.options.log_gate = csq::Heads<const float>(numbers.data(), shape);
    };
  };
  const auto biased = [](std::array<Index, 4> shape) {
    return [=](Call& c) { c.options.bias = csq::Heads<const float>(numbers.data(), shape); };
  };
  const auto softmax = run_with(csq::Softmax{});
  for (const ErrorCase& error : std::vector<ErrorCase>{
           {"a negative window", [](Call& c) { c.options.window = -2; }, {"window", "-2"}},
           {"a window, factored",
            [](Call& c) {
              c.options.window = 3;
              c.options.method = csq::Method::factored;
            },
            {"method", "factored", "window"}},
           {"a sink that is not softmax's", [](Call& c) { c.options.sink = sinks; }, {"sink", "Softmax"}},
           {"three sinks of four heads", [](Call& c) { c.options.sink = three; }, {"sink", "3", "4"}, softmax},
           {"a sink that is NaN", [](Call& c) { c.options.sink = nan_sinks; }, {"sink", "0"}, softmax},
           {"a sink of infinity", [](Call& c) { c.options.sink = endless; }, {"sink", "0"}, softmax},
           {"a cap that is not softmax's", [](Call& c) { c.options.soft_cap = 3; }, {"soft_cap", "Softmax"}},
           {"a negative cap", [](Call& c) { c.options.soft_cap = -3; }, {"soft_cap", "-3"}, softmax},
           {"a cap that is NaN", [](Call& c) { c.options.soft_cap = nan_value; }, {"soft_cap"}, softmax},
           {"a bias that is not softmax's", biased({2, 4, 6, 6}), {"bias", "Softmax"}},
           {"a bias of other keys", biased({2, 4, 6, 5}), {"bias", "5", "6"}, softmax},
           {"a bias of doubles",
            [](Call& c) {
              c.options.bias = csq::Heads<const double>(doubles.data(), {2, 4, 6, 6});
            },
            {"bias", "8", "4"},
            softmax},
           {"gates without a mask", gated({2, 2, 6, 1}, false), {"log_gate", "causal"}},
           {"gates of three heads", gated({2, 3, 6, 1}), {"log_gate", "3", "2", "4"}},
           {"gates of other keys", gated({2, 2, 5, 1}), {"log_gate", "5", "6"}},
           {"gates with two columns", gated({2, 2, 6, 2}), {"log_gate", "2", "1"}},
           {"gates of query heads, factored",
            [&](Call& c) {
              gated({2, 4, 6, 1})(c);
              c.options.method = csq::Method::factored;
            },
            {"method", "factored", "log_gate"}},
           {"gates without memory",
            [](Call& c) {
              c.options.causal = true;
              c.options.log_gate = csq::Heads<const float>(nullptr, {2, 2, 6, 1});
            },
            {"log_gate", "null"}},
           {"gates in the output's memory",
            [](Call& c) {
              c.options.causal = true;
              c.options.log_gate = csq::Heads<const float>(c.out_memory.data() + 16, {2, 2, 6, 1});
            },
            {"out", "log_gate"}},
           {"a bias in the normaliser's memory",
            [](Call& c) {
              c.options.bias = csq::Heads<const float>(c.normalizer_memory.data(), {2, 4, 6, 6});
            },
            {"normalizer", "bias"},
            softmax}})
    check_rejected(error);
}
