// The unit built with -march=native.
#include "unit.hpp"

std::vector<float> attention_in_native_unit(const Arrays& arrays, csq::Method method, bool causal) {
  return attention_in_this_unit(arrays, method, causal);
}
