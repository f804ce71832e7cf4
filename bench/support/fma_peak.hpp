// The float FMA peak of this machine, measured: what every "fraction of peak" divides by.
//
// Independent chains a = a·x + y, enough of them to cover the latency of two FMA units (4 to 5 cycles each): 24 with
// the 32 registers of AVX-512, and of NEON, whose processors have up to four such units; 14 with 16 registers (all that
// fit beside x and y). Each chain starts elsewhere, or the compiler would merge them. Without FMA a multiplication and
// an addition count as the same two flops. Like the kernels, each loop carries its own target.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <string_view>
#include <vector>

#include "threads.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bench {

using PeakLoop = float (*)(long iterations, const float* starts);

struct PeakKernel {
  PeakLoop loop = nullptr;
  double flops_per_iteration = 0;
};

inline float portable_peak_loop(long iterations, const float* s) {
  using Vector __attribute__((vector_size(16))) = float;
  const Vector x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {0.001f, 0.001f, 0.001f, 0.001f};
  Vector a0 = x * s[0], a1 = x * s[1], a2 = x * s[2], a3 = x * s[3], a4 = x * s[4], a5 = x * s[5], a6 = x * s[6];
  Vector b0 = y * s[0], b1 = y * s[1], b2 = y * s[2], b3 = y * s[3], b4 = y * s[4], b5 = y * s[5], b6 = y * s[6];
  for (long i = 0; i < iterations; ++i) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y, a4 = a4 * x + y, a5 = a5 * x + y;
    a6 = a6 * x + y, b0 = b0 * x + y, b1 = b1 * x + y, b2 = b2 * x + y, b3 = b3 * x + y, b4 = b4 * x + y;
    b5 = b5 * x + y, b6 = b6 * x + y;
  }
  const Vector sum = (a0 + a1 + a2 + a3 + a4 + a5 + a6) + (b0 + b1 + b2 + b3 + b4 + b5 + b6);
  return sum[0] + sum[1] + sum[2] + sum[3];
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) inline float avx2_peak_loop(long iterations, const float* s) {
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  __m256 a0 = _mm256_set1_ps(s[0]), a1 = _mm256_set1_ps(s[1]), a2 = _mm256_set1_ps(s[2]), a3 = _mm256_set1_ps(s[3]);
  __m256 a4 = _mm256_set1_ps(s[4]), a5 = _mm256_set1_ps(s[5]), a6 = _mm256_set1_ps(s[6]), a7 = _mm256_set1_ps(s[7]);
  __m256 b0 = _mm256_set1_ps(s[8]), b1 = _mm256_set1_ps(s[9]), b2 = _mm256_set1_ps(s[10]), b3 = _mm256_set1_ps(s[11]);
  __m256 b4 = _mm256_set1_ps(s[12]), b5 = _mm256_set1_ps(s[13]);
  for (long i = 0; i < iterations; ++i) {
    a0 = _mm256_fmadd_ps(a0, x, y), a1 = _mm256_fmadd_ps(a1, x, y), a2 = _mm256_fmadd_ps(a2, x, y);
    a3 = _mm256_fmadd_ps(a3, x, y), a4 = _mm256_fmadd_ps(a4, x, y), a5 = _mm256_fmadd_ps(a5, x, y);
    a6 = _mm256_fmadd_ps(a6, x, y), a7 = _mm256_fmadd_ps(a7, x, y), b0 = _mm256_fmadd_ps(b0, x, y);
    b1 = _mm256_fmadd_ps(b1, x, y), b2 = _mm256_fmadd_ps(b2, x, y), b3 = _mm256_fmadd_ps(b3, x, y);
    b4 = _mm256_fmadd_ps(b4, x, y), b5 = _mm256_fmadd_ps(b5, x, y);
  }
  const __m256 sum = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) + ((b0 + b1) + (b2 + b3)) + (b4 + b5);
  float lanes[8];
  _mm256_storeu_ps(lanes, sum);
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

__attribute__((target("avx512f"))) inline float avx512_peak_loop(long iterations, const float* s) {
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  __m512 a0 = _mm512_set1_ps(s[0]), a1 = _mm512_set1_ps(s[1]), a2 = _mm512_set1_ps(s[2]), a3 = _mm512_set1_ps(s[3]);
  __m512 a4 = _mm512_set1_ps(s[4]), a5 = _mm512_set1_ps(s[5]), a6 = _mm512_set1_ps(s[6]), a7 = _mm512_set1_ps(s[7]);
  __m512 b0 = _mm512_set1_ps(s[8]), b1 = _mm512_set1_ps(s[9]), b2 = _mm512_set1_ps(s[10]), b3 = _mm512_set1_ps(s[11]);
  __m512 b4 = _mm512_set1_ps(s[12]), b5 = _mm512_set1_ps(s[13]), b6 = _mm512_set1_ps(s[14]);
  __m512 b7 = _mm512_set1_ps(s[15]), c0 = _mm512_set1_ps(s[16]), c1 = _mm512_set1_ps(s[17]);
  __m512 c2 = _mm512_set1_ps(s[18]), c3 = _mm512_set1_ps(s[19]), c4 = _mm512_set1_ps(s[20]);
  __m512 c5 = _mm512_set1_ps(s[21]), c6 = _mm512_set1_ps(s[22]), c7 = _mm512_set1_ps(s[23]);
  for (long i = 0; i < iterations; ++i) {
    a0 = _mm512_fmadd_ps(a0, x, y), a1 = _mm512_fmadd_ps(a1, x, y), a2 = _mm512_fmadd_ps(a2, x, y);
    a3 = _mm512_fmadd_ps(a3, x, y), a4 = _mm512_fmadd_ps(a4, x, y), a5 = _mm512_fmadd_ps(a5, x, y);
    a6 = _mm512_fmadd_ps(a6, x, y), a7 = _mm512_fmadd_ps(a7, x, y), b0 = _mm512_fmadd_ps(b0, x, y);
    b1 = _mm512_fmadd_ps(b1, x, y), b2 = _mm512_fmadd_ps(b2, x, y), b3 = _mm512_fmadd_ps(b3, x, y);
    b4 = _mm512_fmadd_ps(b4, x, y), b5 = _mm512_fmadd_ps(b5, x, y), b6 = _mm512_fmadd_ps(b6, x, y);
    b7 = _mm512_fmadd_ps(b7, x, y), c0 = _mm512_fmadd_ps(c0, x, y), c1 = _mm512_fmadd_ps(c1, x, y);
    c2 = _mm512_fmadd_ps(c2, x, y), c3 = _mm512_fmadd_ps(c3, x, y), c4 = _mm512_fmadd_ps(c4, x, y);
    c5 = _mm512_fmadd_ps(c5, x, y), c6 = _mm512_fmadd_ps(c6, x, y), c7 = _mm512_fmadd_ps(c7, x, y);
  }
  const __m512 sum = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) + ((b0 + b1) + (b2 + b3)) +
                     ((b4 + b5) + (b6 + b7)) + ((c0 + c1) + (c2 + c3)) + ((c4 + c5) + (c6 + c7));
  float lanes[16];
  _mm512_storeu_ps(lanes, sum);
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

#elif defined(__aarch64__)

// a = x·y + a: the instruction adds to its third register, and a·x + y would take a copy of y each time.
inline float neon_peak_loop(long iterations, const float* s) {
  constexpr int chains = 24;
  const float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
  float32x4_t a[chains];
#pragma GCC unroll 24
  for (int chain = 0; chain < chains; ++chain) a[chain] = vdupq_n_f32(s[chain]);
  for (long i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int chain = 0; chain < chains; ++chain) a[chain] = vfmaq_f32(a[chain], x, y);
  }
  float32x4_t sum = vdupq_n_f32(0);
#pragma GCC unroll 24
  for (int chain = 0; chain < chains; ++chain) sum = vaddq_f32(sum, a[chain]);
  return vaddvq_f32(sum);
}

#endif

// `set` as csq::simd_name() says it: the peak is that of the instructions the kernels use.
inline PeakKernel peak_kernel(std::string_view set) {
#if defined(__x86_64__)
  if (set.starts_with("avx512") && __builtin_cpu_supports("avx512f")) return {avx512_peak_loop, 24 * 16 * 2};
  if (set == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {avx2_peak_loop, 14 * 8 * 2};
#elif defined(__aarch64__)
  if (set == "neon") return {neon_peak_loop, 24 * 4 * 2};
#endif
  static_cast<void>(set);
  return {portable_peak_loop, 14 * 4 * 2};
}

// Flops per second of one run of the peak loop.
struct PeakRate {
  double together = 0;  // from the first thread's start to the last one's end
  double apart = 0;     // what each thread reached by its own clock, summed: without waking up and waiting for the last
};

// The peak loop on some threads, each doing the same work: a run takes about `seconds` where nothing else runs.
class PeakRun {
 public:
  PeakRun(std::string_view set, int threads, double seconds) : kernel_(peak_kernel(set)), threads_(threads) {
    for (int i = 0; i < 24; ++i) starts_[i] = 1.0f + 0.01f * static_cast<float>(i);
    constexpr double long_enough = 0.004;
    long iterations = 1000;
    while (seconds_of(iterations) < long_enough) iterations *= 2;
    // The fastest of a few: a busy moment must not make the runs short.
    double taken = seconds_of(iterations);
    for (int repeat = 0; repeat < 4; ++repeat) taken = std::min(taken, seconds_of(iterations));
    iterations_ = std::max(1000L, static_cast<long>(static_cast<double>(iterations) * seconds / taken));
  }

  // Of one run, all threads together.
  double flops() const { return flops_of(iterations_) * threads_; }

  // One run, or one that is `times` as long.
  PeakRate operator()(int times = 1) const {
    const long iterations = times * iterations_;
    std::vector<double> own(static_cast<std::size_t>(threads_), std::numeric_limits<double>::infinity());
    const auto start = Clock::now();
    on_each_thread(threads_, [&](int thread) { own[static_cast<std::size_t>(thread)] = seconds_of(iterations); });
    PeakRate rate{flops_of(iterations) * threads_ / since(start), 0};
    for (const double taken : own) rate.apart += flops_of(iterations) / taken;
    return rate;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

  // Of one thread.
  double flops_of(long iterations) const { return kernel_.flops_per_iteration * static_cast<double>(iterations); }
  double seconds_of(long iterations) const {
    const auto start = Clock::now();
    [[maybe_unused]] volatile float sink = kernel_.loop(iterations, starts_);
    return since(start);
  }

  PeakKernel kernel_;
  int threads_;
  float starts_[24];
  long iterations_ = 0;
};

// Flops per second, the best of `repeats` runs: short ones, so that one falls between the turns of other programs.
inline double measure_fma_peak(std::string_view set, int threads, int repeats = 60) {
  const PeakRun run(set, threads, 0.004);
  double best = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) best = std::max(best, run().together);
  return best;
}

}  // namespace bench
