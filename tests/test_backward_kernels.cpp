// Every backward kernel of every set that this processor has, by itself, against plain loops: over lengths, widths,
// strides and misalignment. What a kernel may not touch is NaN before the call and untouched after it.
#include <array>

#include "kernel_memory.hpp"
#include "kernel_weights.hpp"

namespace {

using csq::detail::WeightKind;
using csq::detail::simd::BackwardKernelSet;
using csq::detail::simd::block_tokens;
using csq::detail::simd::FeatureMap;
using csq::detail::simd::KernelWeight;
using csq::detail::simd::padded_columns;

constexpr double rounding = 8;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// The memory of an output with strides.
template <class T>
T* writable(PlacedRows<T>& rows) {
  return rows.memory.data() + (rows.source.data - rows.memory.data());
}

TEST_CASE("scale_gradient") {
  Random random(701);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    for (const Index dim : widths)
      for (const Index tokens : lengths<T>()) {
        const Index gradient_stride = random.pick<Index>({1, 2, -1}), output_stride = random.pick<Index>({1, 3, -1});
        const Index shift = random.integer(0, 3), stride = padded_columns<T>(dim);
        INFO("dim " << dim << ", tokens " << tokens << ", strides " << gradient_stride << " and " << output_stride
                    << ", shift " << shift);
        Rows g = Rows::random(random, tokens, dim);
        const Rows o = Rows::random(random, tokens, dim);
        KernelMemory<T> factor(tokens, T(0), shift);
        factor.fill(random);
        const Index none = random.integer(0, tokens - 1);  // a row that saw nothing: its gradient is no number
        factor[none] = 0;
        g(none, 0) = nan;
        const PlacedRows<T> gradient(g, gradient_stride, shift), output(o, output_stride, shift);
        KernelMemory<T> rows(tokens * stride, T(nan), shift), dot(tokens, T(nan), shift);
        kernels.scale_gradient({gradient.source, output.source, factor.data(), stride, rows.data(), dot.data()});
        Worst worst;
        for (Index t = 0; t < tokens; ++t) {
          Real sum = 0, magnitude = 0;
          for (Index a = 0; a < stride; ++a) {
            const Real r = a < dim && t != none ? Real(factor[t]) * g(t, a) : 0;
            worst.compare(rows[t * stride + a], r, std::abs(r));
            if (a >= dim) continue;
            sum += r * o(t, a);
            magnitude += std::abs(r * o(t, a));
          }
          worst.compare(dot[t], sum, magnitude);
        }
        CHECK(worst.units() <= rounding);
        CHECK(rows.frame_is_whole());
        CHECK(dot.frame_is_whole());
      }
  });
}

Real product(const Rows& x, Index i, const Rows& y, Index j) {
  Real sum = 0;
  for (Index a = 0; a < x.dim; ++a) sum += Real(x(i, a)) * y(j, a);
  return sum;
}

// Sums with the sums of absolute values beside them.
struct Sums {
  Rows value, magnitude;

  Sums(Index tokens, Index dim) : value(tokens, dim), magnitude(tokens, dim) {}
  void add(Index t, const Rows& row, Index j, Real factor, Real weight) {
    for (Index a = 0; a < row.dim; ++a) {
      value(t, a) += double(factor * row(j, a));
      magnitude(t, a) += double(weight * std::abs(row(j, a)));
    }
  }
  template <class T>
  double worst(const KernelMemory<T>& result, const KernelMemory<T>& before) const {
    const Index stride = padded_columns<T>(value.dim);
    Worst worst;
    for (Index t = 0; t < value.tokens; ++t)
      for (Index a = 0; a < value.dim; ++a) {
        const Real old = before[t * stride + a];
        worst.compare(result[t * stride + a], old + value(t, a), std::abs(old) + magnitude(t, a));
      }
    return worst.units();
  }
};

TEST_CASE("direct_backward") {
  Random random(702);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const PlainWeight& weight : plain_weights(true))
      for (int repeat = 0; repeat < 30; ++repeat) {
        const Index key_dim = random.pick(widths), value_dim = random.pick(widths), shift = random.integer(0, 3);
        const Index queries = random.pick(lengths<T>()), keys = random.pick(lengths<T>());
        const Index diagonal =
            random.pick<Index>({keys, 1, 1 - random.integer(0, queries - 1), random.integer(1, keys)});
        INFO(weight.name << ", queries " << queries << ", keys " << keys << ", key dim " << key_dim << ", value dim "
                         << value_dim << ", diagonal " << diagonal << ", shift " << shift);
        Rows q = Rows::random(random, queries, key_dim), k = Rows::random(random, keys, key_dim);
        for (Rows* rows : {&q, &k})
          for (double& value : rows->values) value *= 1 / std::sqrt(std::sqrt(double(key_dim)));
        const Rows v = Rows::random(random, keys, value_dim), r = Rows::random(random, queries, value_dim);
        const KernelMemory<T> query = packed<T>(q, shift), key = packed<T>(k, shift), value = packed<T>(v, shift);
        const KernelMemory<T> gradient = packed<T>(r, shift), query_rows = padded<T>(q, shift);
        const KernelMemory<T> key_rows = padded<T>(k, shift), gradient_rows = padded<T>(r, shift);
        KernelMemory<T> dot(size, T(0), shift), log_normalizer(size, T(0), shift);
        for (Index i = 0; i < queries; ++i) {
          dot[i] = T(random.normal());
          log_normalizer[i] = T(random.normal());
        }
        KernelMemory<T> weights(size * size, T(nan), shift), slopes(size * size, T(nan), shift);
        KernelMemory<T> query_gradient(size * padded_columns<T>(key_dim), T(0), shift);
        KernelMemory<T> key_gradient(size * padded_columns<T>(key_dim), T(0), shift);
        KernelMemory<T> value_gradient(size * padded_columns<T>(value_dim), T(0), shift);
        for (auto* memory : {&query_gradient, &key_gradient, &value_gradient}) memory->fill(random);
        const KernelMemory<T> query_before = query_gradient, key_before = key_gradient, value_before = value_gradient;
        double slope_sum = 0.5;

        csq::detail::simd::DirectBackwardBlock<T> block;
        block.query = query.data();
        block.query_rows = query_rows.data();
        block.key = key.data();
        block.key_rows = key_rows.data();
        block.value = value.data();
        block.gradient = gradient.data();
        block.gradient_rows = gradient_rows.data();
        block.dot = dot.data();
        block.log_normalizer = log_normalizer.data();
        block.queries = queries;
        block.keys = keys;
        block.key_dim = key_dim;
        block.value_dim = value_dim;
        block.diagonal = diagonal;
        block.weight = weight.kernel;
        block.weights = weights.data();
        block.slopes = slopes.data();
        block.query_gradient = query_gradient.data();
        block.key_gradient = key_gradient.data();
        block.value_gradient = value_gradient.data();
        block.slope_sum = &slope_sum;
        kernels.direct(block);

        Sums dq(queries, key_dim), dk(keys, key_dim), dv(keys, value_dim);
        Real slopes_of_all = 0.5, slopes_magnitude = 0.5;
        const bool exponential = weight.kernel.kind == WeightKind::exponential;
        for (Index i = 0; i < queries; ++i)
          for (Index j = 0; j < std::clamp<Index>(diagonal + i, 0, keys); ++j) {
            const Real s = product(q, i, k, j) - (exponential ? Real(log_normalizer[i]) : 0);
            const auto [w, w_slope] = weight(s);
            const Real rv = product(r, i, v, j), slope = w_slope * (rv - dot[i]);
            Real rv_magnitude = std::abs(Real(dot[i])), s_magnitude = 1;
            for (Index c = 0; c < value_dim; ++c) rv_magnitude += std::abs(r(i, c) * v(j, c));
            for (Index a = 0; a < key_dim; ++a) s_magnitude += std::abs(q(i, a) * k(j, a));
            // What a rounded score makes of w and w': each moves by its own slope, which is at most so large.
            const Real w_size = w + s_magnitude * (exponential ? w : 2 + std::abs(w_slope));
            const Real slope_size =
                rv_magnitude * (exponential ? w_size : std::abs(w_slope) + 4 * s_magnitude * (1 + s_magnitude));
            dv.add(j, r, i, w, w_size);
            dk.add(j, q, i, slope, slope_size);
            dq.add(i, k, j, slope, slope_size);
            slopes_of_all += slope;
            slopes_magnitude += slope_size;
          }
        CHECK(dq.worst(query_gradient, query_before) <= rounding);
        CHECK(dk.worst(key_gradient, key_before) <= rounding);
        CHECK(dv.worst(value_gradient, value_before) <= rounding);
        CHECK(std::abs(slope_sum - double(slopes_of_all)) <=
              rounding * std::numeric_limits<T>::epsilon() * double(slopes_magnitude));
        for (const auto* memory : {&weights, &slopes, &query_gradient, &key_gradient, &value_gradient})
          CHECK(memory->frame_is_whole());
      }
  });
}

TEST_CASE("what a query does not see reaches none of its gradients") {
  Random random(703);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const Index queries : lengths<T>())
      for (const Index dim : {1, 8, 17}) {
        const Index keys = queries, stride = padded_columns<T>(dim), bad = random.integer(0, keys - 1);
        INFO("queries " << queries << ", dim " << dim << ", key " << bad);
        const Rows q = Rows::random(random, queries, dim), r = Rows::random(random, queries, dim);
        Rows k = Rows::random(random, keys, dim), v = Rows::random(random, keys, dim);
        k(bad, 0) = v(bad, 0) = nan;
        const KernelMemory<T> query = packed<T>(q), key = packed<T>(k), value = packed<T>(v), gradient = packed<T>(r);
        const KernelMemory<T> query_rows = padded<T>(q), key_rows = padded<T>(k), gradient_rows = padded<T>(r);
        const KernelMemory<T> zeros(size, T(0));
        KernelMemory<T> weights(size * size), slopes(size * size), dq(size * stride, T(0)), dk(size * stride, T(0));
        KernelMemory<T> dv(size * stride, T(0));
        csq::detail::simd::DirectBackwardBlock<T> block;
        block.query = query.data();
        block.query_rows = query_rows.data();
        block.key = key.data();
        block.key_rows = key_rows.data();
        block.value = value.data();
        block.gradient = gradient.data();
        block.gradient_rows = gradient_rows.data();
        block.dot = block.log_normalizer = zeros.data();
        block.queries = queries;
        block.keys = keys;
        block.key_dim = block.value_dim = dim;
        block.diagonal = 1;
        block.weight.c2 = 1;
        block.weights = weights.data();
        block.slopes = slopes.data();
        block.query_gradient = dq.data();
        block.key_gradient = dk.data();
        block.value_gradient = dv.data();
        kernels.direct(block);
        for (Index t = 0; t < queries; ++t) {
          CHECK(std::isnan(dq[t * stride]) == (t >= bad));
          CHECK(std::isnan(dv[t * stride]) == (t == bad));
          CHECK(std::isnan(dk[t * stride]) == (t == bad));
        }
      }
  });
}

TEST_CASE("pull_back") {
  Random random(704);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const Index dim : {1, 2, 3, 5, 8, 9, 17})
      for (const bool pairs : {true, false})
        for (const Index tokens : lengths<T>()) {
          const FeatureMap map{dim, pairs, !pairs || random.coin(), pairs && random.coin()};
          // Wider than a block now and then: the summary passes through in stretches of columns.
          const Index value_dim = random.integer(0, 9) == 0 ? size + random.integer(-1, 9) : random.pick(widths);
          const Index unit = csq::detail::simd::slice_features, units = (map.size() + unit - 1) / unit;
          const Index first = random.integer(0, units - 1) * unit, shift = random.integer(0, 3);
          const Index last = std::min(map.size(), random.integer(first / unit + 1, units) * unit);
          INFO("dim " << dim << ", pairs " << pairs << ", linear " << map.linear << ", constant " << map.constant
                      << ", tokens " << tokens << ", value dim " << value_dim << ", features " << first << " to "
                      << last << ", shift " << shift);
          const Rows x = Rows::random(random, tokens, dim), y = Rows::random(random, tokens, value_dim + 1);
          const KernelMemory<T> x_packed = packed<T>(x, shift), y_packed = packed<T>(y, shift);
          const Index stride = padded_columns<T>(value_dim);
          KernelMemory<T> summary((last - first) * stride, T(0), shift), normalizer(last - first, T(0), shift);
          KernelMemory<T> panel(csq::detail::simd::panel_features * size, T(nan), shift);
          KernelMemory<T> summary_panel(csq::detail::simd::panel_features * size, T(nan), shift);
          KernelMemory<T> gradient(dim * size, T(0), shift), shifts(size, T(0), shift);
          for (auto* memory : {&summary, &normalizer, &gradient, &shifts}) memory->fill(random);
          const KernelMemory<T> gradient_before = gradient, shifts_before = shifts;

          csq::detail::simd::PullBackBlock<T> block;
          block.packed = x_packed.data();
          block.target = y_packed.data();
          block.tokens = tokens;
          block.value_dim = value_dim;
          block.map = map;
          block.coefficients = {T(1.5), T(0.75), T(-2), T(0.5)};
          block.shift_constant = T(0.375);
          block.first = first;
          block.last = last;
          block.summary = summary.data();
          block.normalizer = normalizer.data();
          block.panel = panel.data();
          block.summary_panel = summary_panel.data();
          block.gradient = gradient.data();
          block.shift = shifts.data();
          kernels.pull_back(block);

          Worst worst;
          for (Index t = 0; t < tokens; ++t) {
            std::vector<Real> dx(std::size_t(dim), 0.0L), size_of_dx(std::size_t(dim), 0.0L);
            Real shift_sum = shifts_before[t], shift_size = std::abs(shift_sum);
            const auto pull = [&](Index a, Real slope, Real p, Real p_size) {
              dx[std::size_t(a)] += slope * p;
              size_of_dx[std::size_t(a)] += std::abs(slope) * p_size;
            };
            Index feature = 0;
            // p = Σ_c S_fc y_tc + z_f y_t,dv where the feature is in the slice.
            const auto visit = [&](const auto& use) {
              if (feature >= first && feature < last) {
                Real p = 0, p_size = 0;
                for (Index c = 0; c <= value_dim; ++c) {
                  const Real cell =
                      c == value_dim ? normalizer[feature - first] : summary[(feature - first) * stride + c];
                  p += cell * y(t, c);
                  p_size += std::abs(cell * y(t, c));
                }
                use(p, p_size);
              }
              ++feature;
            };
            for (Index a = 0; map.pairs && a < dim; ++a)
              for (Index b = a; b < dim; ++b)
                visit([&](Real p, Real p_size) {
                  const Real coefficient = a == b ? 0.75 : 1.5;
                  pull(a, coefficient * x(t, b), p, p_size);
                  pull(b, coefficient * x(t, a), p, p_size);
                });
            for (Index a = 0; map.linear && a < dim; ++a)
              visit([&](Real p, Real p_size) {
                pull(a, -2, p, p_size);
                shift_sum += Real(1.5) * x(t, a) * p;
                shift_size += std::abs(Real(1.5) * x(t, a)) * p_size;
              });
            if (map.constant)
              visit([&](Real p, Real p_size) {
                shift_sum += Real(0.375) * p;
                shift_size += Real(0.375) * p_size;
              });
            for (Index a = 0; a < dim; ++a) {
              const Real before = gradient_before[a * size + t];
              worst.compare(gradient[a * size + t], before + dx[std::size_t(a)],
                            std::abs(before) + size_of_dx[std::size_t(a)]);
            }
            worst.compare(shifts[t], shift_sum, shift_size);
          }
          CHECK(worst.units() <= rounding);
          for (const auto* memory : {&panel, &summary_panel, &gradient, &shifts}) CHECK(memory->frame_is_whole());
        }
  });
}

TEST_CASE("add_transposed") {
  Random random(705);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const Index dim : widths)
      for (const Index tokens : lengths<T>()) {
        const Index stride = padded_columns<T>(dim), shift = random.integer(0, 3);
        INFO("dim " << dim << ", tokens " << tokens << ", shift " << shift);
        KernelMemory<T> lanes((dim + 15) / 16 * 16 * size, T(nan), shift), rows(tokens * stride, T(0), shift);
        for (Index a = 0; a < dim; ++a)
          for (Index t = 0; t < tokens; ++t) lanes[a * size + t] = T(random.normal());
        rows.fill(random);
        const KernelMemory<T> before = rows;
        kernels.add_transposed({lanes.data(), tokens, dim, rows.data()});
        bool right = true;
        for (Index t = 0; t < tokens; ++t)
          for (Index a = 0; a < dim; ++a)
            right = right && rows[t * stride + a] == before[t * stride + a] + lanes[a * size + t];
        CHECK(right);
        CHECK(rows.frame_is_whole());
      }
  });
}

TEST_CASE("multiply_elu_slope") {
  Random random(706);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    const Index line = Index(64 / sizeof(T));
    for (const Index lines : {1, 2, 3, 9})
      for (const Index shift : {0, 1, 5}) {
        INFO("lines " << lines << ", shift " << shift);
        KernelMemory<T> features(lines * line, T(0), shift), gradient(lines * line, T(0), 2 * shift);
        features.fill(random);
        gradient.fill(random);
        for (Index i = 0; i < features.size(); ++i) features[i] = std::abs(features[i]) * 2;  // φ, on both sides of 1
        features[0] = T(nan);
        gradient[0] = 0;  // a row that nobody sees
        const KernelMemory<T> before = gradient;
        kernels.multiply_elu_slope(features.size(), features.data(), gradient.data());
        CHECK(gradient[0] == 0);
        for (Index i = 1; i < features.size(); ++i) CHECK(gradient[i] == before[i] * std::min(features[i], T(1)));
        CHECK(gradient.frame_is_whole());
      }
  });
}

TEST_CASE("uncenter") {
  Random random(707);
  enum class Mean { none, one, suffix, suffix_exclusive };
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    for (const Mean mean : {Mean::none, Mean::one, Mean::suffix, Mean::suffix_exclusive})
      for (const Index dim : widths)
        for (const Index tokens : lengths<T>()) {
          const Index sums = padded_columns<double>(dim), shift = random.integer(0, 3);
          const Index dim_stride = random.pick<Index>({1, 1, 2, -1});
          const double count = double(random.integer(0, 3)), factor = random.pick<double>({1, -0.75});
          INFO("mean " << int(mean) << ", dim " << dim << ", tokens " << tokens << ", stride " << dim_stride
                       << ", count " << count << ", shift " << shift);
          const Rows g = Rows::random(random, tokens, dim);
          const KernelMemory<T> rows = padded<T>(g, shift);
          KernelMemory<double> center(sums, 0, shift);
          for (Index a = 0; a < dim; ++a) center[a] = random.normal();
          const KernelMemory<double> before = center;
          PlacedRows<T> output(Rows(tokens, dim), dim_stride, shift);

          csq::detail::simd::UncenterBlock<T> block;
          block.rows = rows.data();
          block.tokens = tokens;
          block.dim = dim;
          if (mean == Mean::one) block.mean = center.data();
          if (mean == Mean::suffix || mean == Mean::suffix_exclusive) block.suffix_sum = center.data();
          block.count = count;
          block.exclusive = mean == Mean::suffix_exclusive;
          block.factor = factor;
          block.output = writable(output);
          block.token_stride = output.source.token_stride;
          block.dim_stride = dim_stride;
          kernels.uncenter(block);

          Worst worst;
          for (Index a = 0; a < dim; ++a) {
            Real sum = before[a], size = std::abs(sum);
            for (Index t = tokens - 1; t >= 0; --t) {
              const Real divisor = Real(count) + Real(t) + (mean == Mean::suffix_exclusive ? 0 : 1);
              const Real term = divisor > 0 ? g(t, a) / divisor : 0;
              Real subtracted = mean == Mean::none ? 0 : sum;
              if (mean == Mean::suffix) subtracted += term;
              if (mean == Mean::suffix || mean == Mean::suffix_exclusive) {
                sum += term;
                size += std::abs(term);
              }
              worst.compare(block.output[t * block.token_stride + a * dim_stride], factor * (g(t, a) - subtracted),
                            std::abs(g(t, a)) + size);
            }
            worst.compare(T(center[a]), sum, size);
          }
          CHECK(worst.units() <= rounding);
          CHECK(output.memory.frame_is_whole());
          CHECK(center.frame_is_whole());
        }
  });
}

TEST_CASE("score_statistics") {
  Random random(708);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const Index queries : lengths<T>())
      for (int repeat = 0; repeat < 8; ++repeat) {
        const Index dim = random.pick(widths), keys = random.pick(lengths<T>()), shift = random.integer(0, 3);
        const Index diagonal =
            random.pick<Index>({keys, 1, 1 - random.integer(0, queries - 1), random.integer(1, keys)});
        INFO("queries " << queries << ", keys " << keys << ", dim " << dim << ", diagonal " << diagonal << ", shift "
                        << shift);
        const Rows q = Rows::random(random, queries, dim), k = Rows::random(random, keys, dim);
        const KernelMemory<T> query = packed<T>(q, shift), key = packed<T>(k, shift);
        KernelMemory<T> scores(size * size, T(nan), shift);
        const double radius = 1.0009765625;  // between the multiples of 2⁻²⁴ that scores may be, or nearly
        double excess = 0.25, beyond = 3, largest = 0.125;
        kernels.score_statistics({query.data(), key.data(), queries, keys, dim, diagonal, csq::detail::far_before,
                                  radius, scores.data(), &excess, &beyond, &largest});
        Real expected_excess = 0.25, expected_largest = 0.125, magnitude = 0;
        double least_beyond = 3, most_beyond = 3;
        for (Index i = 0; i < queries; ++i)
          for (Index j = 0; j < std::clamp<Index>(diagonal + i, 0, keys); ++j) {
            const Real s = std::abs(product(q, i, k, j));
            Real s_size = 0;
            for (Index a = 0; a < dim; ++a) s_size += std::abs(q(i, a) * k(j, a));
            const Real slack = rounding * std::numeric_limits<T>::epsilon() * s_size;
            expected_largest = std::max(expected_largest, s);
            if (s > radius - slack) ++most_beyond;
            if (s > radius + slack) ++least_beyond;
            if (s > radius) expected_excess += (s - radius) * (s - radius);
            magnitude += s_size * s_size;
          }
        const double unit = std::numeric_limits<T>::epsilon();
        CHECK(std::abs(largest - double(expected_largest)) <= rounding * unit * double(std::sqrt(magnitude) + 1));
        CHECK(beyond >= least_beyond);
        CHECK(beyond <= most_beyond);
        CHECK(std::abs(excess - double(expected_excess)) <= rounding * unit * double(magnitude + 1));
        CHECK(scores.frame_is_whole());
      }
  });
}

}  // namespace

TEST_CASE("scale_tokens") {
  Random random(740);
  for_each_kernel_set([&]<class T>(const auto&, const BackwardKernelSet<T>& kernels) {
    constexpr Index size = block_tokens<T>;
    for (const Index rows : widths)
      for (const Index tokens : lengths<T>()) {
        const Index shift = random.integer(0, 3);
        INFO("rows " << rows << ", tokens " << tokens << ", shift " << shift);
        KernelMemory<T> packed_rows(rows * size, T(0), shift), factor(size, T(0), shift);
        packed_rows.fill(random);
        factor.fill(random);
        const KernelMemory<T> before = packed_rows;
        kernels.scale_tokens(rows, tokens, factor.data(), packed_rows.data());
        bool right = true;
        for (Index row = 0; row < rows; ++row)
          for (Index t = 0; t < tokens; ++t)
            right = right && packed_rows[row * size + t] == before[row * size + t] * factor[t];
        CHECK(right);
        CHECK(packed_rows.frame_is_whole());
      }
  });
}
