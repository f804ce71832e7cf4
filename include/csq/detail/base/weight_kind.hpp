// The kinds of weight w(s), by name.
#pragma once

#include "csq/detail/base/abi.hpp"

namespace CSQ_CODE::detail {

//   exponential       eˢ
//   quadratic         c0 + c1·s + c2·s²
//   feature_product   s itself, a product of features
//   power_series      Σ coefficients[t]·sᵗ
//   chebyshev_square  (Σ coefficients[t]·T_t(s/radius))² + floor
//   bound             max(0, |s| − radius)², for the penalty's gradient alone
enum class WeightKind { exponential, quadratic, feature_product, power_series, chebyshev_square, bound };

}  // namespace CSQ_CODE::detail
