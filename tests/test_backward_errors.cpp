// A backward call that cannot mean anything throws std::invalid_argument, names the argument and the sizes, and writes
// nothing.
#include <functional>
#include <limits>

#include "catch.hpp"
#include "problem.hpp"

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
constexpr float untouched = -77.25f;

// A call that is right, in memory larger than it needs; a case below makes one thing wrong.
struct Call {
  std::vector<float> inputs = std::vector<float>(6 * 1024, 0.5f);
  std::vector<float> outputs = std::vector<float>(3 * 1024, untouched);
  double shift = double(untouched);
  csq::Heads<const float> q{inputs.data(), {2, 4, 6, 3}};
  csq::Heads<const float> k{inputs.data() + 1024, {2, 2, 6, 3}};
  csq::Heads<const float> v{inputs.data() + 2 * 1024, {2, 2, 6, 5}};
  csq::Heads<const float> out{inputs.data() + 3 * 1024, {2, 4, 6, 5}};
  csq::Heads<const float> normalizer{inputs.data() + 4 * 1024, {2, 4, 6, 1}};
  csq::Heads<const float> dout{inputs.data() + 5 * 1024, {2, 4, 6, 5}};
  csq::Heads<float> dq{outputs.data(), {2, 4, 6, 3}};
  csq::Heads<float> dk{outputs.data() + 1024, {2, 2, 6, 3}};
  csq::Heads<float> dv{outputs.data() + 2 * 1024, {2, 2, 6, 5}};
  double* dshift = &shift;
  csq::Options options;
  std::vector<Index> lengths;

  Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // As an output: an input's memory, for cases that overlap.
  float* writable(const csq::Heads<const float>& input) { return inputs.data() + (input.data - inputs.data()); }
  void set_key_length(std::vector<Index> values) {
    lengths = std::move(values);
    options.key_length = lengths;
  }
  void set_query_length(std::vector<Index> values) {
    lengths = std::move(values);
    options.query_length = lengths;
  }
};

template <class M>
std::function<void(Call&)> run_with(M mechanism) {
  return [mechanism](Call& c) {
    csq::attention_backward(mechanism, c.q, c.k, c.v, c.out, c.normalizer, c.dout,
                            csq::Gradients<float>{c.dq, c.dk, c.dv, c.dshift}, c.options);
  };
}

struct ErrorCase {
  const char* name;
  std::function<void(Call&)> edit;
  std::vector<const char*> words;  // the message has each of them, as a word of its own
  std::function<void(Call&)> run = run_with(csq::Csq{});
};

void check_rejected(const std::vector<ErrorCase>& cases) {
  for (const ErrorCase& error : cases) {
    INFO(error.name);
    Call call;
    error.edit(call);
    const std::vector<float> inputs = call.inputs, outputs = call.outputs;
    const std::string message = rejection([&] { error.run(call); });
    INFO("message: " << message);
    CHECK(message.starts_with("csq: "));
    for (const char* word : error.words) {
      INFO("word: " << word);
      CHECK(names(message, word));
    }
    CHECK(same_bits(call.inputs, inputs));
    CHECK(same_bits(call.outputs, outputs));
    CHECK(call.shift == double(untouched));
  }
}

// `words`, and first the argument that the case is about.
ErrorCase wrong_shape(const char* argument, std::function<void(Call&)> edit, std::vector<const char*> words) {
  words.insert(words.begin(), argument);
  return {argument, std::move(edit), std::move(words)};
}

}  // namespace

TEST_CASE("the backward call that the error cases start from is right, with every option that they break") {
  const auto check_accepted = [](const std::function<void(Call&)>& edit, const std::function<void(Call&)>& run) {
    Call call;
    edit(call);
    CHECK_NOTHROW(run(call));
    for (const csq::Heads<float>& gradient : {call.dq, call.dk, call.dv}) CHECK(gradient.data[0] != untouched);
  };
  check_accepted([](Call&) {}, run_with(csq::Csq{}));
  check_accepted([](Call& c) { c.dshift = nullptr; }, run_with(csq::Softmax{}));
  check_accepted([](Call& c) { c.set_key_length({6, 1}); }, run_with(csq::Csq{}));
  check_accepted([](Call& c) { c.set_query_length({2, 6}); }, run_with(csq::Csq{}));
  check_accepted([](Call& c) { c.options.method = csq::Method::factored; }, run_with(csq::Csq{}));
  Call call;
  run_with(csq::Csq{})(call);
  CHECK(call.shift != double(untouched));
}

TEST_CASE("backward: inputs that do not fit each other") {
  check_rejected({
      wrong_shape("k",
                  [](Call& c) {
                    c.k = {c.k.data, {2, 2, 6, 7}};
                  },
                  {"dim", "7", "3"}),
      wrong_shape("v",
                  [](Call& c) {
                    c.v = {c.v.data, {2, 2, 9, 5}};
                  },
                  {"tokens", "9", "6"}),
      {"heads that do not divide",
       [](Call& c) {
         c.k = {c.k.data, {2, 3, 6, 3}};
         c.v = {c.v.data, {2, 3, 6, 5}};
       },
       {"heads", "4", "3"}},
      wrong_shape("out",
                  [](Call& c) {
                    c.out = {c.out.data, {2, 4, 5, 5}};
                  },
                  {"5", "6"}),
      wrong_shape("normalizer",
                  [](Call& c) {
                    c.normalizer = {c.normalizer.data, {2, 4, 6, 5}};
                  },
                  {"5", "1"}),
      wrong_shape("dout",
                  [](Call& c) {
                    c.dout = {c.dout.data, {2, 2, 6, 5}};
                  },
                  {"2", "4"}),
  });
}

TEST_CASE("backward: gradients that do not fit what they are gradients of") {
  check_rejected({
      wrong_shape("dq",
                  [](Call& c) {
                    c.dq = {c.dq.data, {2, 2, 6, 3}};
                  },
                  {"2", "4"}),
      wrong_shape("dk",
                  [](Call& c) {
                    c.dk = {c.dk.data, {2, 4, 6, 3}};
                  },
                  {"4", "2"}),
      wrong_shape("dv",
                  [](Call& c) {
                    c.dv = {c.dv.data, {2, 2, 6, 3}};
                  },
                  {"3", "5"}),
      {"a shift where there is none", [](Call&) {}, {"dshift"}, run_with(csq::Softmax{})},
      {"a shift for Linear", [](Call&) {}, {"dshift"}, run_with(csq::Linear{})},
      {"a shift for Taylor", [](Call&) {}, {"dshift"}, run_with(csq::Taylor{})},
  });
}

TEST_CASE("backward: memory that cannot be") {
  check_rejected({
      {"negative tokens", [](Call& c) { c.dout.shape[2] = -6; }, {"dout", "-6"}},
      {"a stride that overflows", [](Call& c) { c.dq.stride[2] = Index{1} << 62; }, {"dq", "overflows"}},
      {"null out", [](Call& c) { c.out.data = nullptr; }, {"out", "null"}},
      {"null normalizer", [](Call& c) { c.normalizer.data = nullptr; }, {"normalizer", "null"}},
      {"null dout", [](Call& c) { c.dout.data = nullptr; }, {"dout", "null"}},
      {"null dq", [](Call& c) { c.dq.data = nullptr; }, {"dq", "null"}},
      {"null dk", [](Call& c) { c.dk.data = nullptr; }, {"dk", "null"}},
      {"null dv", [](Call& c) { c.dv.data = nullptr; }, {"dv", "null"}},
  });
}

TEST_CASE("backward: gradients that overlap themselves, each other or an input") {
  check_rejected({
      {"zero token stride", [](Call& c) { c.dq.stride[2] = 0; }, {"dq", "stride", "6"}},
      {"zero head stride", [](Call& c) { c.dk.stride[1] = 0; }, {"dk", "stride", "2"}},
      {"tokens on each other", [](Call& c) { c.dv.stride[2] = 4; }, {"dv"}},
      {"dk is dq", [](Call& c) { c.dk.data = c.dq.data; }, {"dq", "dk"}},
      {"dv is dq", [](Call& c) { c.dv.data = c.dq.data; }, {"dq", "dv"}},
      {"dv is dk", [](Call& c) { c.dv.data = c.dk.data; }, {"dk", "dv"}},
  });
  using Input = csq::Heads<const float> Call::*;
  using Output = csq::Heads<float> Call::*;
  std::vector<ErrorCase> cases;
  for (const auto& [output_name, output] :
       std::vector<std::pair<const char*, Output>>{{"dq", &Call::dq}, {"dk", &Call::dk}, {"dv", &Call::dv}})
    for (const auto& [input_name, input] : std::vector<std::pair<const char*, Input>>{{"q", &Call::q},
                                                                                      {"k", &Call::k},
                                                                                      {"v", &Call::v},
                                                                                      {"out", &Call::out},
                                                                                      {"normalizer", &Call::normalizer},
                                                                                      {"dout", &Call::dout}})
      cases.push_back({"an input as output",
                       [output = output, input = input](Call& c) { (c.*output).data = c.writable(c.*input); },
                       {output_name, input_name}});
  check_rejected(cases);
}

TEST_CASE("backward: gradients that start elsewhere and overlap all the same") {
  check_rejected({
      {"dq within q", [](Call& c) { c.dq.data = c.writable(c.q) + 3; }, {"dq", "q"}},
      {"dk before dout", [](Call& c) { c.dk.data = c.writable(c.dout) - 71; }, {"dk", "dout"}},
      {"dv at the end of normalizer", [](Call& c) { c.dv.data = c.writable(c.normalizer) + 47; }, {"dv", "normalizer"}},
      {"dk within dq", [](Call& c) { c.dk.data = c.dq.data + 10; }, {"dk", "dq"}},
      {"dshift within dq", [](Call& c) { c.dshift = reinterpret_cast<double*>(c.dq.data + 2); }, {"dshift", "dq"}},
      {"dshift within v", [](Call& c) { c.dshift = reinterpret_cast<double*>(c.writable(c.v) + 4); }, {"dshift", "v"}},
      {"one query that centring would make zero",
       [](Call& c) {
         c.set_query_length({1, 6});
         c.options.threads = 1;
       },
       {"centering", "sequence"}},
  });
}

TEST_CASE("backward: options and mechanisms that mean nothing") {
  const auto without_shift = [](Call& c) { c.dshift = nullptr; };
  const auto factored = [](Call& c) {
    c.dshift = nullptr;
    c.options.method = csq::Method::factored;
  };
  check_rejected({
      {"NaN scale", [](Call& c) { c.options.scale = nan_value; }, {"scale", "nan"}},
      {"key_length beyond the keys",
       [](Call& c) {
         c.set_key_length({6, 7});
       },
       {"key_length", "7", "6"}},
      {"query_length for another batch", [](Call& c) { c.set_query_length({6}); }, {"query_length", "1", "2"}},
      {"causal prefix centring with fewer queries than keys",
       [](Call& c) {
         c.options.causal = true;
         for (csq::Heads<const float>* x : {&c.q, &c.out, &c.normalizer, &c.dout}) x->shape[2] = 4;
         c.dq.shape[2] = 4;
       },
       {"query_history", "4", "6"}},
      {"negative chunk", [](Call& c) { c.options.chunk = -16; }, {"chunk", "-16"}},
      {"negative threads", [](Call& c) { c.options.threads = -2; }, {"threads", "-2"}},
      {"factored Softmax", factored, {"method", "factored"}, run_with(csq::Softmax{})},
      {"factored Polynomial", factored, {"method", "factored"}, run_with(csq::Polynomial{{1, 1, 1}})},
      {"Quadratic that is negative somewhere", without_shift, {"Quadratic", "3"}, run_with(csq::Quadratic{1, 3, 1})},
      {"NaN shift", [](Call&) {}, {"shift"}, run_with(csq::Csq{nan_value})},
  });
}

TEST_CASE("backward: gradients of options that the call does not have, or of other sizes") {
  static const std::vector<float> gates(2 * 2 * 6, -0.5f);
  static const std::vector<double> sinks(4, 0.5);
  const auto with_gates = [](Call& c) {
    c.dshift = nullptr;
    c.options.causal = true;
    c.options.log_gate = csq::Heads<const float>(gates.data(), {2, 2, 6, 1});
  };
  const auto run = [](auto mechanism, csq::Heads<float> log_gate, std::vector<double>* sink) {
    return [=](Call& c) {
      csq::Gradients<float> gradients{c.dq, c.dk, c.dv, c.dshift};
      gradients.log_gate = log_gate;
      if (sink != nullptr) gradients.sink = *sink;
      csq::attention_backward(mechanism, c.q, c.k, c.v, c.out, c.normalizer, c.dout, gradients, c.options);
    };
  };
  static std::vector<float> room(64);
  static std::vector<double> four(4), three(3);
  const auto without_shift = [](Call& c) { c.dshift = nullptr; };
  check_rejected({
      {"dlog_gate without gates",
       without_shift,
       {"dlog_gate", "log_gate"},
       run(csq::Csq{}, {room.data(), {2, 2, 6, 1}}, nullptr)},
      {"dlog_gate of query heads",
       with_gates,
       {"dlog_gate", "4", "2"},
       run(csq::Csq{}, {room.data(), {2, 4, 6, 1}}, nullptr)},
      {"dlog_gate with zero strides",
       with_gates,
       {"dlog_gate", "zero"},
       run(csq::Csq{}, {room.data(), {2, 2, 6, 1}, {6, 0, 1, 1}}, nullptr)},
      {"dsink without sinks", without_shift, {"dsink", "sink"}, run(csq::Softmax{}, {}, &four)},
      {"dsink of three heads",
       [](Call& c) {
         c.dshift = nullptr;
         c.options.sink = sinks;
       },
       {"dsink", "3", "4"},
       run(csq::Softmax{}, {}, &three)},
  });
}
