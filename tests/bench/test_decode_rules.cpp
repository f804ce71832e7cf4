// The rules of bench/decode: what must be read, from which context on CSQ must read less, where a crossover is found in
// made-up measurements, and when it is not told.
#include <cmath>

#include "../catch.hpp"
#include "support/decode_results.hpp"

namespace {

using bench::DecodeShape;

constexpr double peak = 100e9;

bench::Timing timing(double us, double scatter = 0.05, double share = 0.95) {
  const double s = us * 1e-6;
  return {{s * (1 - scatter / 2), s, s * (1 + scatter / 2)}, share * peak, 5};
}

bench::Machine quiet_machine() {
  bench::Machine machine;
  machine.peak_one_thread = machine.peak_all_threads = machine.best_peak_turn = peak;
  return machine;
}

// A cache costs 50 ns a token; streams of it up to 512 tokens, calls beyond.
bench::DecodeRow made_row(double csq_us) {
  bench::DecodeRow row;
  row.shape = {64, 64, 8, 8};
  row.absorbed = 96;
  for (const bench::FlatSeries series : bench::flat_series)
    row.flat[series] = {9e6, 4e6, timing(csq_us), timing(csq_us), timing(csq_us / 2)};
  for (const bench::Index tokens : {128, 256, 512, 1024, 2048}) {
    bench::ContextResult context;
    context.tokens = tokens;
    context.read_bytes = bench::cache_read_bytes(row.shape, tokens);
    const double us = 0.05 * static_cast<double>(tokens);
    if (tokens <= 512) context.stream = timing(us);
    context.call = timing(tokens <= 512 ? 1000 : us);  // what a stream tells is taken from it
    context.read = timing(us / 2);
    row.contexts.push_back(context);
  }
  return row;
}

}  // namespace

TEST_CASE("bytes of a token, and the context from which CSQ reads fewer") {
  const DecodeShape shape{64, 64, 8, 8}, grouped{64, 64, 8, 2}, unequal{16, 64, 8, 8};
  // D = 2145 features of 65 numbers, and half of 96 tokens.
  CHECK(bench::csq_read_bytes(shape, 96) == 8 * 4 * (2145.0 * 65 + 48 * 128));
  CHECK(bench::csq_read_bytes(grouped, 96) == bench::csq_read_bytes(shape, 96) / 4);
  CHECK(bench::cache_read_bytes(shape, 1000) == 8 * 4 * 1000.0 * 128);
  CHECK(std::lround(bench::predicted_decode_crossover(shape, 96)) == 1137);
  CHECK(bench::predicted_decode_crossover(grouped, 96) == bench::predicted_decode_crossover(shape, 96));
  CHECK(std::lround(bench::predicted_decode_crossover({32, 32, 8, 8}, 72)) == 325);
  CHECK(std::lround(bench::predicted_decode_crossover({128, 128, 8, 8}, 96)) == 4273);
  CHECK(std::lround(bench::predicted_decode_crossover(unequal, 72)) == 160);  // 153·65/80 + 36
  for (const DecodeShape& each : {shape, grouped, unequal}) {
    const double there = bench::predicted_decode_crossover(each, 96);
    CHECK(std::abs(bench::cache_read_bytes(each, 1) * there / bench::csq_read_bytes(each, 96) - 1) < 1e-12);
  }
  // In 16 bits: the cache and the values of the tail; the summary and the centred keys of the tail stay float.
  const DecodeShape sixteen{64, 64, 8, 8, bench::Dtype::bfloat16};
  CHECK(bench::cache_read_bytes(sixteen, 1000) == bench::cache_read_bytes(shape, 1000) / 2);
  CHECK(bench::csq_read_bytes(sixteen, 96) == 8 * (4 * 2145.0 * 65 + 48 * (4 * 64 + 2 * 64)));
  CHECK(std::lround(bench::predicted_decode_crossover(sixteen, 96)) == 2251);
}

TEST_CASE("tokens that a stream absorbs at a time are found from its state") {
  for (const bench::Index dim : {1, 16, 64}) {
    const bench::Index absorbed = bench::absorbed_tokens(dim);
    INFO("d = " << dim << ", " << absorbed << " tokens");
    CHECK(absorbed >= 8);
    CHECK(absorbed <= 1024);
    // The tail is empty after each of these, and holds a token after the next one.
    const std::vector<float> numbers(static_cast<std::size_t>(2 * absorbed * dim), 0.25f);
    std::vector<float> out(static_cast<std::size_t>(2 * absorbed));
    const auto bytes_after = [&](bench::Index tokens) {
      csq::Stream<float> stream(csq::Csq{}, {.key_dim = dim, .value_dim = 1}, {.rollback = 0, .threads = 1});
      const csq::Heads<const float> rows(numbers.data(), {1, 1, tokens, dim});
      stream.prefill(rows, rows, csq::Heads<const float>(numbers.data(), {1, 1, tokens, 1}),
                     csq::Heads<float>(out.data(), {1, 1, tokens, 1}));
      return stream.save().size();
    };
    CHECK(bytes_after(absorbed) == bytes_after(2 * absorbed));
    CHECK(bytes_after(absorbed) < bytes_after(1));
    CHECK(bytes_after(absorbed + 1) == bytes_after(1));
    CHECK(bench::steps_of_whole_blocks(absorbed) % absorbed == 0);
    CHECK(bench::steps_of_whole_blocks(absorbed) >= 288);
  }
}

TEST_CASE("a crossover is interpolated, and judged by the contexts around it") {
  const bench::Machine machine = quiet_machine();
  bench::DecodeRow row = made_row(30);  // as 600 tokens of cache
  bench::Crossover found = bench::decode_crossover(row, bench::csq_stream);
  CHECK(found.kind == bench::Crossover::Kind::measured);
  CHECK(std::abs(found.tokens - 600) < 1);
  CHECK(bench::decode_disturbance(row, bench::csq_stream, machine) == bench::Disturbance::none);

  row.contexts[0].stream = timing(6.4, 2, 0.1);  // decides nothing
  CHECK(bench::decode_disturbance(row, bench::csq_stream, machine) == bench::Disturbance::none);
  row.contexts[3].call = timing(51.2, 0.05, 0.5);
  CHECK(bench::decode_disturbance(row, bench::csq_stream, machine) == bench::Disturbance::peak);
  row.contexts[3].call = timing(51.2);
  row.flat[bench::csq_stream].step = timing(30, 0.3);
  CHECK(bench::decode_disturbance(row, bench::csq_stream, machine) == bench::Disturbance::scatter);
  CHECK(bench::decode_disturbance(row, bench::gated_csq_stream, machine) == bench::Disturbance::none);

  CHECK(bench::decode_crossover(made_row(1), bench::csq_stream).kind == bench::Crossover::Kind::at_or_below);
  found = bench::decode_crossover(made_row(1000), bench::csq_stream);
  CHECK(found.kind == bench::Crossover::Kind::none);
  CHECK(found.tokens == 2048);
}

TEST_CASE("CSV and JSON say that the machine was too busy instead of a number") {
  bench::DecodeResults results;
  results.machine = quiet_machine();
  results.planned_rows = 2;
  results.rows.push_back(made_row(30));
  CHECK(bench::csv_of(results).find(",600,measured,600,measured\n") != std::string::npos);
  results.rows[0].flat[bench::csq_stream].step = timing(30, 0.3);
  CHECK(bench::csv_of(results).find(",,too_busy,600,measured\n") != std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(bench::json_of(results));
  CHECK(json["interrupted"] == true);
  CHECK(json["rows"][0]["crossover_csq"] == nlohmann::json{{"kind", "too_busy"}, {"sign", "scatter"}});
  CHECK(json["rows"][0]["crossover_gated_csq"]["kind"] == "measured");
  CHECK(json["rows"][0]["csq"]["disturbed"] == "scatter");
  CHECK(json["rows"][0]["contexts"][4].count("softmax_stream") == 0);
}
