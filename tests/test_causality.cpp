// Who can see what: later tokens, padding, other heads and other batches reach no row that does not see them, whatever
// they hold, NaN and infinity included.
#include <bit>
#include <cstdint>
#include <limits>

#include "catch.hpp"
#include "problem.hpp"

namespace {

using csq::Centering;

// Float to the last bit, so that a 0·x hidden in a masked tile shows.
std::vector<Run> runs(bool factored) {
  std::vector<Run> result;
  for (const csq::Method method : methods(factored))
    for (const Index chunk : method == csq::Method::factored ? std::vector<Index>{0, 1, 7, 64} : std::vector<Index>{0})
      result.push_back({method, chunk});
  return result;
}

bool row_has_bits_of(const std::vector<float>& a, const std::vector<float>& b, Index row, Index dim) {
  return std::memcmp(a.data() + row * dim, b.data() + row * dim, std::size_t(dim) * sizeof(float)) == 0;
}

bool row_is_finite(const std::vector<float>& x, Index row, Index dim) {
  for (Index a = 0; a < dim; ++a)
    if (!std::isfinite(x[std::size_t(row * dim + a)])) return false;
  return true;
}

bool row_is_nan(const std::vector<float>& x, Index row, Index dim) {
  for (Index a = 0; a < dim; ++a)
    if (!std::isnan(x[std::size_t(row * dim + a)])) return false;
  return true;
}

// Batch, heads and sizes for which every path of the causal scan is taken (t = 9 for these widths).
const std::vector<Sizes> causal_sizes{
    {90, 90, 4, 5, 2, 4, 2}, {60, 150, 4, 5, 2, 4, 2}, {150, 60, 4, 5, 2, 4, 2}, {310, 310, 3, 4, 1, 1, 1}};

template <class M>
std::vector<Centering> causal_centrings(const NamedMechanism<M>& named) {
  if (named.centred) return {Centering::prefix, Centering::prefix_exclusive, Centering::none};
  return {Centering::none, Centering::prefix};
}

enum class Poison { value_nan, value_infinity, key_nan, key_nan_payload, key_infinity };
const std::vector<std::pair<Poison, const char*>> poisons{{Poison::value_nan, "NaN in v"},
                                                          {Poison::value_infinity, "infinity in v"},
                                                          {Poison::key_nan, "NaN in k"},
                                                          {Poison::key_nan_payload, "NaN with a payload in k"},
                                                          {Poison::key_infinity, "infinity in k"}};

// Poisons key `token` of the last batch and last key head: exactly the rows that see it may notice, and must. A row
// whose weights are all zero is zero whatever its values are.
template <class M>
void check_poison(const NamedMechanism<M>& named, const Problem& p, const Outputs<float>& clean, Poison poison,
                  Index token, const Run& run) {
  const Index batch = p.k.batch - 1, kv_head = p.k.heads - 1, group = p.q.heads / p.k.heads, dv = p.v.dim;
  Problem poisoned = p;
  const bool in_value = poison == Poison::value_nan || poison == Poison::value_infinity;
  const bool key_nan = poison == Poison::key_nan || poison == Poison::key_nan_payload;
  const bool nan = poison == Poison::value_nan || key_nan;
  const double payload = std::bit_cast<double>(std::uint64_t{0x7ff8000020000000});  // as a float 0x7fc00001
  const Index column = in_value ? dv / 2 : p.k.dim / 2;
  (in_value ? poisoned.v : poisoned.k)(batch, kv_head, token, column) = poison == Poison::key_nan_payload ? payload
                                                                        : nan ? std::numeric_limits<double>::quiet_NaN()
                                                                              : std::numeric_limits<double>::infinity();
  const Outputs<float> result = attend<float>(named.mechanism, poisoned, run);
  const Index offset = p.k.tokens - p.q.tokens;
  bool unseen_unchanged = true, seen_reached = true;
  for (Index b = 0; b < p.q.batch; ++b)
    for (Index h = 0; h < p.q.heads; ++h)
      for (Index i = 0; i < p.q.tokens; ++i) {
        const Index row = (b * p.q.heads + h) * p.q.tokens + i;
        const bool within_lengths = (p.key_length.empty() || token < p.key_length[std::size_t(b)]) &&
                                    (p.query_length.empty() || i < p.query_length[std::size_t(b)]);
        const bool sees = b == batch && h / group == kv_head && within_lengths && (!p.causal || token <= i + offset);
        if (!sees) {
          unseen_unchanged = unseen_unchanged && row_has_bits_of(result.output, clean.output, row, dv) &&
                             row_has_bits_of(result.statistic, clean.statistic, row, 1);
        } else if (key_nan) {
          seen_reached = seen_reached && row_is_nan(result.output, row, dv) && row_is_nan(result.statistic, row, 1);
        } else if (in_value && clean.statistic[std::size_t(row)] != 0) {
          const float reached = result.output[std::size_t(row * dv + column)];
          seen_reached = seen_reached && (nan ? std::isnan(reached) : !std::isfinite(reached));
        }
      }
  CHECK(unseen_unchanged);
  CHECK(seen_reached);
}

}  // namespace

TEST_CASE("causal rows do not depend on later tokens, to the bit") {
  Random random(11);
  for_each_mechanism([&](const auto& named) {
    for (const Sizes& s : causal_sizes)
      for (const Centering centering : causal_centrings(named)) {
        Problem p = Problem::random(random, s, true, centering);
        give_needed_history(random, p, named.centred);
        const Index last = s.n * 3 / 5;  // the last row that must not change
        Problem changed = p;
        const auto replace_after = [&](Tensor& x, Index token) {
          for (Index b = 0; b < x.batch; ++b)
            for (Index h = 0; h < x.heads; ++h)
              for (Index t = std::max<Index>(token + 1, 0); t < x.tokens; ++t)
                for (Index a = 0; a < x.dim; ++a) x(b, h, t, a) = 3 + random.normal();
        };
        replace_after(changed.q, last);
        replace_after(changed.k, last + s.m - s.n);
        replace_after(changed.v, last + s.m - s.n);
        for (const Run& run : runs(named.factored)) {
          INFO(named.name << ": " << p.describe() << ", " << name_of(run.method) << ", chunk " << run.chunk);
          const Outputs<float> before = attend<float>(named.mechanism, p, run);
          const Outputs<float> after = attend<float>(named.mechanism, changed, run);
          bool unchanged = true, later_changed = false;
          for (Index head = 0; head < s.batch * s.heads; ++head)
            for (Index i = 0; i < s.n; ++i) {
              const bool same = row_has_bits_of(before.output, after.output, head * s.n + i, s.dv) &&
                                row_has_bits_of(before.statistic, after.statistic, head * s.n + i, 1);
              if (i <= last)
                unchanged = unchanged && same;
              else
                later_changed = later_changed || !same;
            }
          CHECK(unchanged);
          CHECK(later_changed);
        }
      }
  });
}

TEST_CASE("NaN and infinity reach exactly the rows that can see them") {
  Random random(12);
  for_each_mechanism([&](const auto& named) {
    if (named.weight.kind == reference::Weight::Kind::of_score && named.weight.of_score(0) == named.weight.of_score(9))
      return;  // a constant weight reads no key
    for (const Sizes& s : causal_sizes)
      for (const Centering centering : causal_centrings(named)) {
        Problem p = Problem::random(random, s, true, centering);
        give_needed_history(random, p, named.centred);
        for (const Run& run : runs(named.factored)) {
          const Outputs<float> clean = attend<float>(named.mechanism, p, run);
          for (const auto& [poison, poison_name] : poisons)
            for (const Index token : {Index{0}, s.m / 2, s.m - 2}) {
              INFO(named.name << ": " << p.describe() << ", " << name_of(run.method) << ", chunk " << run.chunk << ", "
                              << poison_name << " at token " << token);
              check_poison(named, p, clean, poison, token, run);
            }
        }
      }
  });
}

TEST_CASE("without a mask a poisoned token reaches every row of its own key head only") {
  Random random(13);
  for_each_mechanism([&](const auto& named) {
    if (named.weight.kind == reference::Weight::Kind::of_score && named.weight.of_score(0) == named.weight.of_score(9))
      return;
    const Problem p = Problem::random(random, {40, 70, 6, 5, 2, 4, 2}, false, Centering::none);
    for (const Run& run : runs(named.factored)) {
      const Outputs<float> clean = attend<float>(named.mechanism, p, run);
      for (const auto& [poison, poison_name] : poisons) {
        INFO(named.name << ", " << name_of(run.method) << ", chunk " << run.chunk << ", " << poison_name);
        check_poison(named, p, clean, poison, 33, run);
      }
    }
  });
}

TEST_CASE("whatever lies beyond the lengths changes nothing, to the bit") {
  Random random(14);
  for_each_mechanism([&](const auto& named) {
    for (const bool causal : {false, true})
      for (const Centering centering :
           {Centering::none, Centering::sequence, Centering::prefix, Centering::prefix_exclusive}) {
        Problem p = Problem::random(random, {100, 130, 4, 5, 3, 2, 1}, causal, centering);
        give_needed_history(random, p, named.centred);
        p.key_length = {0, 77, 129};
        p.query_length = {100, 53, 0};
        Problem padded = p;
        const auto fill = [](Tensor& x, const std::vector<Index>& length) {
          for (Index b = 0; b < x.batch; ++b)
            for (Index h = 0; h < x.heads; ++h)
              for (Index t = length[std::size_t(b)]; t < x.tokens; ++t)
                for (Index a = 0; a < x.dim; ++a)
                  x(b, h, t, a) =
                      t % 2 == 0 ? std::numeric_limits<double>::quiet_NaN() : -std::numeric_limits<double>::infinity();
        };
        fill(padded.q, p.query_length);
        fill(padded.k, p.key_length);
        fill(padded.v, p.key_length);
        for (const Run& run : runs(named.factored)) {
          INFO(named.name << ": " << p.describe() << ", " << name_of(run.method) << ", chunk " << run.chunk);
          const Outputs<float> expected = attend<float>(named.mechanism, p, run);
          CHECK(row_is_finite(expected.output, 0, Index(expected.output.size())));
          CHECK(same_bits(attend<float>(named.mechanism, padded, run), expected));
        }
      }
  });
}
