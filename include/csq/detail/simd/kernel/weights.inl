// w(s) and w'(s) of every kind of weight, in vectors: the one place where the kernels know one kind from another.
//
// A new kind of weight, say max(0, s)², is
//   here                   a struct with value and value_and_slope, and its line in visit_weight
//   base/weight_kind.hpp   its name
//   call/weight.hpp        the branch of weight_of that makes it of the mechanism and checks its parameters
//   csq/mechanism.hpp      the mechanism
// Numbers that it needs come from KernelWeight, where kernel_weight puts those of Weight. Quadratic weights need none
// of this.
//
// Each holds its numbers in registers: read through the block they would be loaded anew after every store. `origin` is
// what a relative weight is relative to, in each lane.

struct WeightTraits {
  static constexpr bool is_relative = false;       // known up to a factor, which the kernels choose: see `origin`
  static constexpr bool is_rare = false;           // not worth code of its own for blocks that no mask cuts
  static constexpr bool is_gradient_only = false;  // no mechanism, a penalty
};

// 2^(s − origin): the running maximum of a row forward, the logarithm of its normaliser backward.
template <class T>
struct ExponentialWeight : WeightTraits {
  static constexpr bool is_relative = true;
  Vector<T> origin;

  CSQ_INLINE ExponentialWeight(const KernelWeight&, const Vector<T>& relative_to) : origin(relative_to) {}
  CSQ_INLINE void value(Vector<T>& score) const {
    score -= origin;
    exp2_in_place(score);
  }
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    value(score);
    slope = score;
  }
};

// (c2·t + c1)·t + c0 with t = s + offset.
template <class T>
struct QuadraticWeight : WeightTraits {
  Vector<T> offset, c0, c1, c2;

  CSQ_INLINE QuadraticWeight(const KernelWeight& weight, const Vector<T>&) {
    broadcast<T>(static_cast<T>(weight.offset), offset);
    broadcast<T>(static_cast<T>(weight.c0), c0);
    broadcast<T>(static_cast<T>(weight.c1), c1);
    broadcast<T>(static_cast<T>(weight.c2), c2);
  }
  CSQ_INLINE void value(Vector<T>& score) const {
    const Vector<T> t = score + offset;
    score = (t * c2 + c1) * t + c0;
  }
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> t = score + offset;
    const Vector<T> linear = t * c2 + c1;
    score = linear * t + c0;
    slope = t * c2 + linear;
  }
};

// Σ coefficients[t]·sᵗ.
template <class T>
struct PowerSeriesWeight : WeightTraits {
  static constexpr bool is_rare = true;
  const double* coefficients;
  Index count;

  CSQ_INLINE PowerSeriesWeight(const KernelWeight& weight, const Vector<T>&)
      : coefficients(weight.coefficients), count(weight.coefficient_count) {}
  CSQ_INLINE void value(Vector<T>& score) const {
    Vector<T> sum = {};
    for (Index t = count - 1; t >= 0; --t) sum = sum * score + static_cast<T>(coefficients[t]);
    score = sum;
  }
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    Vector<T> sum = {}, derivative = {};
    for (Index t = count - 1; t >= 0; --t) {
      derivative = derivative * score + sum;
      sum = sum * score + static_cast<T>(coefficients[t]);
    }
    score = sum;
    slope = derivative;
  }
};

// (Σ coefficients[t]·T_t(s/radius))² + floor: Clenshaw's recurrence and, beside it, the recurrence of its derivative.
template <class T>
struct ChebyshevSquareWeight : WeightTraits {
  static constexpr bool is_rare = true;
  const double* coefficients;
  Index count;
  T reciprocal_radius, floor;

  CSQ_INLINE ChebyshevSquareWeight(const KernelWeight& weight, const Vector<T>&)
      : coefficients(weight.coefficients),
        count(weight.coefficient_count),
        reciprocal_radius(static_cast<T>(1 / weight.radius)),
        floor(static_cast<T>(weight.floor)) {}
  CSQ_INLINE void value(Vector<T>& score) const {
    const Vector<T> x = score * reciprocal_radius;
    const Vector<T> twice = x + x;
    Vector<T> next = {}, after = {};
    for (Index t = count - 1; t > 0; --t) {
      const Vector<T> current = twice * next - after + static_cast<T>(coefficients[t]);
      after = next;
      next = current;
    }
    const Vector<T> root = x * next - after + static_cast<T>(coefficients[0]);
    score = root * root + floor;
  }
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> x = score * reciprocal_radius;
    const Vector<T> twice = x + x;
    Vector<T> next = {}, after = {}, next_slope = {}, after_slope = {};
    for (Index t = count - 1; t > 0; --t) {
      const Vector<T> current = twice * next - after + static_cast<T>(coefficients[t]);
      const Vector<T> current_slope = next + next + twice * next_slope - after_slope;
      after = next;
      next = current;
      after_slope = next_slope;
      next_slope = current_slope;
    }
    const Vector<T> root = x * next - after + static_cast<T>(coefficients[0]);
    const Vector<T> root_slope = next + x * next_slope - after_slope;
    score = root * root + floor;
    slope = (root + root) * root_slope * reciprocal_radius;
  }
};

// max(0, |s| − radius)².
template <class T>
struct BoundWeight : WeightTraits {
  static constexpr bool is_gradient_only = true;
  Vector<T> radius;

  CSQ_INLINE BoundWeight(const KernelWeight& weight, const Vector<T>&) {
    broadcast<T>(static_cast<T>(weight.radius), radius);
  }
  CSQ_INLINE void value_and_slope(Vector<T>& score, Vector<T>& slope) const {
    const Vector<T> zero = {};
    const Vector<T> above = score - radius, below = score + radius;
    const Vector<T> excess = above > zero ? above : below < zero ? below : zero;
    score = excess * excess;
    slope = excess + excess;
  }
};

// visit.run<Weight>() for the kind of weight that a block has.
template <class T, class Visit>
CSQ_INLINE bool visit_weight(WeightKind kind, const Visit& visit) {
  switch (kind) {
    case WeightKind::exponential:
      return visit.template run<ExponentialWeight<T>>();
    case WeightKind::quadratic:
    case WeightKind::feature_product:
      return visit.template run<QuadraticWeight<T>>();
    case WeightKind::power_series:
      return visit.template run<PowerSeriesWeight<T>>();
    case WeightKind::chebyshev_square:
      return visit.template run<ChebyshevSquareWeight<T>>();
    case WeightKind::bound:
      return visit.template run<BoundWeight<T>>();
  }
  return false;
}
