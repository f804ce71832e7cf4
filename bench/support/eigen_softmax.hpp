// Softmax attention of one head as a plain composition of Eigen products: what a short sequence is measured against.
#pragma once

namespace bench {

// out [n, d] = softmax(scale·q kᵀ)·v, rows contiguous. Scores are an n×m matrix that is kept between calls.
void eigen_softmax(const float* q, const float* k, const float* v, float* out, long n, long m, long d);

}  // namespace bench
