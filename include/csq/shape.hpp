// The sizes of a call.
#pragma once

#include "csq/heads.hpp"

namespace CSQ_TYPES {

struct Shape {
  Index queries = 0;
  Index keys = 0;
  Index key_dim = 1;
  Index value_dim = 1;
  Index batch = 1;
  Index heads = 1;     // query heads
  Index kv_heads = 1;  // key heads
  bool causal = false;
};

}  // namespace CSQ_TYPES
