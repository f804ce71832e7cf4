// Calls on 16-bit arrays that cannot mean anything throw std::invalid_argument and write nothing; arrays of different
// element sizes share memory exactly where they do; and Eigen's matrices of 16 bits.
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "catch.hpp"
#include "sixteen_pair.hpp"

namespace {

using csq::Centering;
using csq::Heads;
using sixteen::for_both_types;
using sixteen::rounded;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

// A forward and a backward call that are right, in one piece of memory; a case below makes one thing wrong.
template <class Element>
struct Call {
  static constexpr std::size_t part = 4096;  // bytes of each array

  std::vector<double> memory = std::vector<double>(16 * part / sizeof(double));
  template <class T>
  Heads<T> view(std::size_t index, std::array<Index, 4> shape) {
    return {reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(memory.data()) + index * part), shape};
  }
  Heads<Element> q = view<Element>(0, {2, 4, 6, 3}), k = view<Element>(1, {2, 2, 6, 3}),
                 v = view<Element>(2, {2, 2, 6, 5}), out = view<Element>(3, {2, 4, 6, 5});
  Heads<float> normalizer = view<float>(4, {2, 4, 6, 1}), gates = view<float>(5, {2, 2, 6, 1}),
               bias = view<float>(6, {2, 4, 6, 6});
  Heads<Element> dout = view<Element>(7, {2, 4, 6, 5}), dq = view<Element>(8, {2, 4, 6, 3}),
                 dk = view<Element>(9, {2, 2, 6, 3}), dv = view<Element>(10, {2, 2, 6, 5});
  Heads<float> dgates = view<float>(11, {2, 2, 6, 1});
  double* dshift = &memory[12 * part / sizeof(double)];
  csq::Options options{.causal = true};
  std::vector<Index> lengths;

  Call() {
    for (const Heads<Element>& array : {q, k, v, dout})
      for (std::size_t i = 0; i < part / 2; ++i) array.data[i] = rounded<Element>(0.5);
    for (const Heads<float>& array : {gates, bias})
      for (std::size_t i = 0; i < part / 4; ++i) array.data[i] = -0.25f;
    options.log_gate = gates;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void forward() { csq::attention(csq::Csq{}, q, k, v, out, normalizer, options); }
  void backward() {
    csq::Gradients<Element> gradients{dq, dk, dv, dshift};
    gradients.log_gate = dgates;
    csq::attention_backward(csq::Csq{}, q, k, v, out, normalizer, dout, gradients, options);
  }
};

template <class Element>
struct ErrorCase {
  std::function<void(Call<Element>&)> edit;
  std::vector<const char*> words;  // the message has each of them
};

template <class Element>
void check_rejected(const ErrorCase<Element>& error, bool backward) {
  Call<Element> call;
  if (backward) call.forward();
  error.edit(call);
  const std::vector<double> before = call.memory;
  const std::string message = rejection([&] { backward ? call.backward() : call.forward(); });
  INFO(sixteen::Format<Element>::name << ", message: " << message);
  CHECK(message.starts_with("csq: "));
  for (const char* word : error.words) {
    INFO("word: " << word);
    CHECK(names(message, word));
  }
  CHECK(std::memcmp(call.memory.data(), before.data(), before.size() * sizeof(double)) == 0);
}

// The bytes of a view's elements.
template <class View>
std::set<std::uintptr_t> bytes_of(const View& view, std::size_t size) {
  std::set<std::uintptr_t> bytes;
  for (Index b = 0; b < view.shape[0]; ++b)
    for (Index h = 0; h < view.shape[1]; ++h)
      for (Index t = 0; t < view.shape[2]; ++t)
        for (Index a = 0; a < view.shape[3]; ++a) {
          const Index at = b * view.stride[0] + h * view.stride[1] + t * view.stride[2] + a * view.stride[3];
          for (std::size_t byte = 0; byte < size; ++byte)
            bytes.insert(reinterpret_cast<std::uintptr_t>(view.data) + std::uintptr_t(at) * size + byte);
        }
  return bytes;
}
bool meet(const std::set<std::uintptr_t>& x, const std::set<std::uintptr_t>& y) {
  for (const std::uintptr_t byte : x)
    if (y.count(byte) != 0) return true;
  return false;
}

}  // namespace

TEST_CASE("sixteen: the calls that the error cases start from are right") {
  for_both_types([]<class Element>() {
    Call<Element> call;
    call.forward();
    CHECK(double(call.out.data[0]) == 0.5);
    call.backward();
    CHECK(std::isfinite(double(call.dq.data[0])));
  });
}

TEST_CASE("sixteen: forward calls that cannot be") {
  for_both_types([]<class Element>() {
    using C = Call<Element>;
    const auto as = []<class T>(const auto& view, T*) { return reinterpret_cast<T*>(view.data); };
    static const std::vector<double> doubles(1000, -0.5);
    const std::vector<ErrorCase<Element>> cases{
        {[](C& c) { c.q.data = nullptr; }, {"q", "null"}},
        {[](C& c) { c.k.data = nullptr; }, {"k", "null"}},
        {[](C& c) { c.v.data = nullptr; }, {"v", "null"}},
        {[](C& c) { c.out.data = nullptr; }, {"out", "null"}},
        {[](C& c) { c.normalizer.data = nullptr; }, {"normalizer", "null"}},
        {[](C& c) { c.k.shape[3] = 7; }, {"k", "dim", "7", "3"}},
        {[](C& c) { c.out.shape[2] = 5; }, {"out", "5", "6"}},
        {[](C& c) { c.normalizer.shape[2] = 7; }, {"normalizer", "7", "6"}},
        {[](C& c) { c.q.shape[2] = Index{1} << 62; }, {"q", "overflows"}},
        // Bytes of two: what overflows as float does not, but for what it would write to.
        {[](C& c) { c.out.stride[2] = Index{1} << 61; }, {"out", "overflows"}},
        {[](C& c) { c.out.stride[3] = 0; }, {"out", "stride", "5"}},
        {[](C& c) { c.out.stride[2] = 4; }, {"out"}},
        {[](C& c) { c.normalizer.stride[1] = 5; }, {"normalizer"}},
        {[](C& c) { c.out.data = c.q.data; }, {"out", "q"}},
        {[](C& c) { c.out.data = c.k.data + 35; }, {"out", "k"}},
        {[](C& c) { c.out.data = c.v.data + 119; }, {"out", "v"}},
        {[as](C& c) { c.normalizer.data = as(c.q, c.normalizer.data); }, {"normalizer", "q"}},
        {[as](C& c) { c.normalizer.data = as(c.out, c.normalizer.data) + 119; }, {"normalizer", "out"}},
        {[as](C& c) { c.out.data = as(c.normalizer, c.out.data) + 95; }, {"normalizer", "out"}},
        {[as](C& c) { c.out.data = as(c.gates, c.out.data) - 239; }, {"out", "log_gate"}},
        {[as](C& c) { c.out.data = as(c.gates, c.out.data) + 47; }, {"out", "log_gate"}},
        {[](C& c) {
           c.options.key_length = {reinterpret_cast<const Index*>(c.out.data + 8), 2};
         },
         {"out", "key_length"}},
        {[](C& c) { c.options.scale = nan_value; }, {"scale", "nan"}},
        {[](C& c) { c.options.threads = -2; }, {"threads", "-2"}},
        {[](C& c) {
           c.options.log_gate = Heads<const double>(doubles.data(), {2, 2, 6, 1});
         },
         {"log_gate", "8", "4"}},
        {[](C& c) { c.options.causal = false; }, {"log_gate", "causal"}},
        {[](C& c) { c.options.bias = c.bias; }, {"bias", "Softmax"}},
    };
    for (const ErrorCase<Element>& error : cases) check_rejected(error, false);
  });
}

TEST_CASE("sixteen: backward calls that cannot be") {
  for_both_types([]<class Element>() {
    using C = Call<Element>;
    const auto as = []<class T>(const auto& view, T*) { return reinterpret_cast<T*>(view.data); };
    const std::vector<ErrorCase<Element>> cases{
        {[](C& c) { c.dq.data = nullptr; }, {"dq", "null"}},
        {[](C& c) { c.dout.data = nullptr; }, {"dout", "null"}},
        {[](C& c) { c.normalizer.data = nullptr; }, {"normalizer", "null"}},
        {[](C& c) { c.dgates.data = nullptr; }, {"dlog_gate", "null"}},
        {[](C& c) { c.dk.shape[2] = 5; }, {"dk", "5", "6"}},
        {[](C& c) { c.dgates.shape[2] = 5; }, {"dlog_gate", "5", "6"}},
        {[](C& c) { c.dv.stride[2] = 0; }, {"dv", "stride"}},
        {[](C& c) { c.dk.data = c.dq.data + 143; }, {"dq", "dk"}},
        {[](C& c) { c.dq.data = c.q.data; }, {"dq", "q"}},
        {[](C& c) { c.dv.data = c.out.data; }, {"dv", "out"}},
        {[](C& c) { c.dv.data = c.dout.data + 239; }, {"dv", "dout"}},
        {[as](C& c) { c.dgates.data = as(c.dq, c.dgates.data) + 71; }, {"dq", "dlog_gate"}},
        {[as](C& c) { c.dgates.data = as(c.k, c.dgates.data); }, {"k", "dlog_gate"}},
        {[as](C& c) { c.dq.data = as(c.normalizer, c.dq.data) + 95; }, {"dq", "normalizer"}},
        {[as](C& c) { c.dq.data = as(c.gates, c.dq.data) + 47; }, {"dq", "log_gate"}},
        {[as](C& c) { c.dshift = as(c.dq, c.dshift); }, {"dq", "dshift"}},
        {[as](C& c) { c.dshift = as(c.dq, c.dshift) + 35; }, {"dq", "dshift"}},
        {[as](C& c) { c.dshift = as(c.v, c.dshift) + 1; }, {"v", "dshift"}},
    };
    for (const ErrorCase<Element>& error : cases) check_rejected(error, true);
    // Right beside it is right.
    Call<Element> beside;
    beside.forward();
    beside.dshift = as(beside.dq, beside.dshift) + 36;
    beside.dgates.data = as(beside.dq, beside.dgates.data) + 74;
    beside.backward();
  });
}

TEST_CASE("sixteen: a sink's gradient in a 16-bit gradient") {
  for_both_types([]<class Element>() {
    Call<Element> call;
    const std::vector<double> sink(4, 0.5);
    call.options.sink = sink;
    csq::attention(csq::Softmax{}, call.q, call.k, call.v, call.out, call.normalizer, call.options);
    for (const Index at : {35, 36}) {
      csq::Gradients<Element> gradients{call.dq, call.dk, call.dv};
      gradients.sink = std::span<double>(reinterpret_cast<double*>(call.dq.data) + at, 4);
      const std::string message = rejection([&] {
        csq::attention_backward(csq::Softmax{}, call.q, call.k, call.v, call.out, call.normalizer, call.dout, gradients,
                                call.options);
      });
      INFO(message);
      CHECK(message.empty() == (at == 36));
    }
  });
}

// Footprints of 2, 4 and 8 bytes an element against the sets of their bytes.
TEST_CASE("sixteen: arrays of different element sizes share memory exactly where they do") {
  using csq::detail::Footprint;
  Random random(1631);
  alignas(8) static unsigned char memory[8192];
  struct Some {
    unsigned char* data;
    std::array<Index, 4> shape, stride;
  };
  const auto footprint = [](const Some& view, Index size) {
    const auto base = reinterpret_cast<std::uintptr_t>(view.data);
    Index before = 0, behind = 0;
    for (std::size_t axis = 0; axis < 4; ++axis)
      (view.stride[axis] < 0 ? before : behind) += (view.shape[axis] - 1) * view.stride[axis];
    return Footprint{
        "array",    base,       base - std::uintptr_t(-before * size), base + std::uintptr_t((behind + 1) * size), size,
        view.shape, view.stride};
  };
  int sharing = 0, wrong = 0;
  constexpr int draws = 30000;
  for (int draw = 0; draw < draws; ++draw) {
    const Index sizes[2] = {random.pick<Index>({2, 4, 8}), random.pick<Index>({2, 4, 8})};
    const Index unit = std::min(sizes[0], sizes[1]);
    Some views[2];
    for (Some& view : views) {
      view.data = memory + 4096 + unit * random.integer(-60, 60);
      for (std::size_t axis = 0; axis < 4; ++axis) {
        view.shape[axis] = random.integer(1, 3);
        view.stride[axis] = view.shape[axis] == 1 ? 0 : random.integer(-12, 12);
      }
    }
    const bool share = meet(bytes_of(views[0], std::size_t(sizes[0])), bytes_of(views[1], std::size_t(sizes[1])));
    const Footprint first = footprint(views[0], sizes[0]), second = footprint(views[1], sizes[1]);
    sharing += share ? 1 : 0;
    if (csq::detail::shares_element(first, second) != share || csq::detail::shares_element(second, first) != share)
      ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(sharing > draws / 10);
  CHECK(sharing < draws * 9 / 10);
}

// The same through a call: a float normaliser somewhere among the rows of a 16-bit output.
TEST_CASE("sixteen: a float normaliser interleaved with a 16-bit output") {
  Random random(1632);
  constexpr Index n = 4, heads = 2;
  for_both_types([&]<class Element>() {
    int accepted = 0, refused = 0;
    std::vector<Element> inputs(64, rounded<Element>(0.5));
    const Heads<Element> x(inputs.data(), {1, heads, n, 3});
    for (int draw = 0; draw < 400; ++draw) {
      std::vector<double> memory(400, 0.0), before = memory;
      const Index row = 2 * random.integer(8, 11);  // elements of 16 bits
      auto* const elements = reinterpret_cast<Element*>(memory.data());
      auto* const numbers = reinterpret_cast<float*>(memory.data());
      const Heads<Element> out(elements + random.integer(0, 12), {1, heads, n, 3},
                               {0, random.pick<Index>({3, 4, row * n}), row, 1});
      const Heads<float> normalizer(numbers + random.integer(0, 20), {1, heads, n, 1},
                                    {0, random.pick<Index>({1, 2, row / 2 * n}), row / 2, 1});
      const bool share = meet(bytes_of(out, 2), bytes_of(normalizer, 4));
      const std::string message = rejection([&] { csq::attention(csq::Taylor{}, x, x, x, out, normalizer); });
      CHECK(message.empty() == !share);
      (share ? refused : accepted) += 1;
      if (share) {
        CHECK(same_bits(memory, before));
        continue;
      }
      for (Index h = 0; h < heads; ++h)
        for (Index t = 0; t < n; ++t) {
          CHECK(double(out.head(0, h)(t, 2)) == 0.5);
          CHECK(normalizer.head(0, h)(t, 0) > 4);
        }
    }
    CHECK(accepted > 40);
    CHECK(refused > 40);
  });
}

TEST_CASE("sixteen: interleaved 16-bit inputs and outputs, and arrays that are two bytes off a float's address") {
  constexpr Index n = 40, heads = 3, d = 5, row = heads * 4 * d + 1;
  Random random(1633);
  for_both_types([&]<class Element>() {
    std::vector<Element> together(n * row + 1);
    for (Element& x : together) x = rounded<Element>(random.normal());
    std::vector<Element> apart = together, out(n * heads * d);
    const auto part = [&](std::vector<Element>& memory, Index which) {
      return Heads<Element>(memory.data() + 1 + which * heads * d, {1, heads, n, d}, {n * row, d, row, 1});
    };
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored}) {
      csq::attention(csq::Csq{}, part(apart, 0), part(apart, 1), part(apart, 2),
                     Heads<Element>(out.data(), {1, heads, n, d}), {.method = method});
      csq::attention(csq::Csq{}, part(together, 0), part(together, 1), part(together, 2), part(together, 3),
                     {.method = method});
      bool same = true;
      for (Index h = 0; h < heads; ++h)
        for (Index t = 0; t < n; ++t)
          for (Index a = 0; a < d; ++a)
            same = same && sixteen::bits_of(part(together, 3).head(0, h)(t, a)) ==
                               sixteen::bits_of(out[std::size_t((h * n + t) * d + a)]);
      CHECK(same);
      // What lies between is what it was.
      for (Index t = 0; t < n; ++t)
        for (Index a = 0; a < 3 * heads * d; ++a)
          same = same && sixteen::bits_of(together[std::size_t(1 + t * row + a)]) ==
                             sixteen::bits_of(apart[std::size_t(1 + t * row + a)]);
      CHECK(same);
    }
  });
}

TEST_CASE("sixteen: calls of nothing may have no memory") {
  for_both_types([]<class Element>() {
    std::vector<Element> memory(64, rounded<Element>(0.5)), out(64, rounded<Element>(7));
    const Heads<Element> nothing(nullptr, {2, 2, 0, 4}, {INT64_MAX, INT64_MIN, 1000, 7});
    const Heads<Element> q(memory.data(), {2, 2, 3, 4}), to(out.data(), {2, 2, 3, 4});
    std::vector<Element> gradient(64, rounded<Element>(7));
    std::vector<float> statistic(12, 7);
    const Heads<Element> dq(gradient.data(), {2, 2, 3, 4});
    const Heads<float> normalizer(statistic.data(), {2, 2, 3, 1}), no_normalizer(nullptr, {2, 2, 0, 1});
    for (const csq::Method method : {csq::Method::direct, csq::Method::factored})
      for (const bool causal : {false, true}) {
        const csq::Options options{.causal = causal, .method = method};
        CHECK_NOTHROW(csq::attention(csq::Csq{}, q, nothing, nothing, to, normalizer, options));
        CHECK(sixteen::bits_of(out[47]) == 0);
        CHECK(statistic[11] == 0);
        CHECK_NOTHROW(csq::attention_backward(csq::Csq{}, q, nothing, nothing, to, normalizer, q,
                                              csq::Gradients<Element>{dq, nothing, nothing}, options));
        CHECK(sixteen::bits_of(gradient[47]) == 0);
        CHECK_NOTHROW(csq::attention(csq::Squared{}, nothing, q, q, nothing, no_normalizer, options));
      }
  });
}

// --- Eigen's matrices ---

TEST_CASE("sixteen: Eigen's matrices, read and written") {
  Random random(1634);
  for_both_types([&]<class Element>() {
    using Matrix = csq::Matrix<Element>;
    constexpr Index n = 9, m = 12, d = 6, dv = 7;
    const auto fill = [&](Index rows, Index columns) {
      Matrix x(rows, columns);
      for (Index i = 0; i < x.size(); ++i) x.data()[i] = rounded<Element>(random.normal());
      return x;
    };
    const auto same = [](const auto& x, const auto& y) {
      if (x.rows() != y.rows() || x.cols() != y.cols()) return false;
      for (Index row = 0; row < x.rows(); ++row)
        for (Index column = 0; column < x.cols(); ++column)
          if (sixteen::bits_of(Element(x(row, column))) != sixteen::bits_of(Element(y(row, column)))) return false;
      return true;
    };
    const Matrix q = fill(n, d), k = fill(m, d), v = fill(m, dv), dout = fill(n, dv);
    const csq::Matrix<float> wide_q = q.template cast<float>(), wide_k = k.template cast<float>(),
                             wide_v = v.template cast<float>();
    Matrix out;  // takes its size, as the normaliser does
    csq::Matrix<float> normalizer, wide_out, wide_normalizer;
    csq::attention(csq::Taylor{}, q, k, v, out, normalizer);
    csq::attention(csq::Taylor{}, wide_q, wide_k, wide_v, wide_out, wide_normalizer);
    REQUIRE((out.rows() == n && out.cols() == dv && normalizer.rows() == n && normalizer.cols() == 1));
    const auto numbers = [](const auto& x) {
      return std::vector<typename std::decay_t<decltype(x)>::Scalar>(x.data(), x.data() + x.size());
    };
    if (!sixteen::matrix_unit_in_use<Eigen::bfloat16>()) {
      CHECK(sixteen::are_roundings_of(numbers(out), numbers(wide_out)));
      CHECK(normalizer == wide_normalizer);
    }

    CHECK(same(csq::attention(csq::Taylor{}, q, k, v), out));
    Matrix again;
    csq::attention(csq::Taylor{}, q, k, v, again, {.threads = 2});
    CHECK(same(again, out));

    // Column by column, blocks, maps, transposes.
    using ColumnMajor = Eigen::Matrix<Element, Eigen::Dynamic, Eigen::Dynamic>;
    const ColumnMajor columns_q = q, columns_k = k, transposed = v.transpose();
    ColumnMajor columns_out = ColumnMajor::Constant(n + 2, dv + 1, Element(7.0f));
    Eigen::VectorXf statistic(n);
    csq::attention(csq::Taylor{}, columns_q, Eigen::Map<const ColumnMajor>(columns_k.data(), m, d),
                   transposed.transpose(), columns_out.block(1, 1, n, dv), statistic);
    CHECK(same(columns_out.block(1, 1, n, dv), out));
    CHECK(double(columns_out(0, 0)) == 7);
    CHECK(double(columns_out(n + 1, dv)) == 7);
    CHECK(statistic == normalizer.col(0));

    Matrix dq(n, d), dk(m, d), dv_matrix(m, dv), heads_dq(n, d);
    csq::attention_backward(csq::Taylor{}, q, k, v, out, normalizer, dout,
                            {csq::heads_of(dq), csq::heads_of(dk), csq::heads_of(dv_matrix)});
    csq::attention_backward(
        csq::Taylor{}, csq::heads_of(q), csq::heads_of(k), csq::heads_of(v), csq::heads_of(out),
        csq::heads_of(normalizer), csq::heads_of(dout),
        csq::Gradients<Element>{csq::heads_of(heads_dq), csq::heads_of(dk), csq::heads_of(dv_matrix)});
    CHECK(same(dq, heads_dq));

    // An error leaves a matrix of another size what it was.
    Matrix kept = Matrix::Constant(3, 3, Element(7.0f));
    CHECK_THROWS_AS(csq::attention(csq::Taylor{}, q, v, v, kept, normalizer), std::invalid_argument);
    CHECK((kept.rows() == 3 && kept.cols() == 3 && double(kept(2, 2)) == 7));
    Matrix square = fill(4, 4);
    CHECK_THROWS_AS(csq::attention(csq::Taylor{}, square, square, square, square), std::invalid_argument);
  });
}
