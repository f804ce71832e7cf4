// What both units do. In an unnamed namespace, so each has its own copy, compiled with its own flags.
//
// Memory is handed over as pointers: how Eigen aligns, and so frees, a matrix follows a unit's -march, so an Eigen matrix
// must not cross units built with different ones, in any program.
#pragma once

#include <csq/csq.hpp>
#include <vector>

struct Arrays {
  csq::Index tokens = 0;
  csq::Index dim = 0;
  std::vector<float> queries;
  std::vector<float> keys;
  std::vector<float> values;
};

// In native.cpp.
std::vector<float> attention_in_native_unit(const Arrays& arrays, csq::Method method, bool causal);

namespace {

std::vector<float> attention_in_this_unit(const Arrays& arrays, csq::Method method, bool causal) {
  std::vector<float> out(arrays.values.size());
  const csq::Heads<const float>::Shape shape{1, 1, arrays.tokens, arrays.dim};
  const csq::Heads<const float> queries(arrays.queries.data(), shape);
  const csq::Heads<const float> keys(arrays.keys.data(), shape);
  const csq::Heads<const float> values(arrays.values.data(), shape);
  csq::attention(csq::Csq{}, queries, keys, values, csq::Heads<float>(out.data(), shape),
                 {.causal = causal, .method = method});
  return out;
}

}  // namespace
