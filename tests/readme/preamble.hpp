// What the README's snippets take as given: each becomes the body of a function behind this.
#include <csq/csq.hpp>
#include <vector>

const csq::Index batch = 1, n = 16, d = 8, dv = 8;
const csq::Matrix<float> q = csq::Matrix<float>::Random(n, d), k = q, v = q;
float memory[8][32 * 16 * 8];
const float *q_data = memory[0], *k_data = memory[1], *v_data = memory[2];
float* out_data = memory[3];
const std::vector<double> mean_of_earlier_queries(32 * 8);

csq::Heads<const float> Q{q_data, {batch, 32, n, d}}, K{k_data, {batch, 8, n, d}}, V{v_data, {batch, 8, n, dv}};
csq::Heads<const float> Q1{q_data, {batch, 32, 1, d}};
csq::Heads<const float> K1{k_data, {batch, 8, 1, d}}, V1{v_data, {batch, 8, 1, dv}};
csq::Heads<float> O{out_data, {batch, 32, n, dv}}, O1{out_data, {batch, 32, 1, dv}};
csq::Heads<float> normalizer{memory[4], {batch, 32, n, 1}}, dO{memory[3], {batch, 32, n, dv}};
csq::Heads<float> dQ{memory[5], {batch, 32, n, d}}, dK{memory[6], {batch, 8, n, d}}, dV{memory[7], {batch, 8, n, dv}};
const csq::Options options;
float gates[8 * 16], gate_gradients[8 * 16];
const float* gate_data = gates;
csq::Heads<float> dG{gate_gradients, {batch, 8, n, 1}};
const std::vector<double> sinks(32);
struct {
  template <class Task>
  void for_each(csq::Index count, const Task& task) const {
    for (csq::Index i = 0; i < count; ++i) task(i);
  }
} const pool;
