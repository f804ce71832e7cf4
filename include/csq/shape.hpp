// The sizes of a call.
#pragma once

#include "csq/heads.hpp"

namespace CSQ_TYPES {

/// q [batch, heads, queries, key_dim], k [batch, kv_heads, keys, key_dim], v [batch, kv_heads, keys, value_dim].
/// Dimensions and heads are at least 1 and heads a multiple of kv_heads; a size that is not so is an error that names
/// it.
struct Shape {
  Index queries = 0;
  Index keys = 0;
  Index key_dim = 1;
  Index value_dim = 1;
  Index batch = 1;
  Index heads = 1;     // query heads
  Index kv_heads = 0;  ///< key heads; 0: as many as query heads
  bool causal = false;
};

}  // namespace CSQ_TYPES
