// 2^x for x ≤ 0 and elu(x) + 1, elementwise.

// 2^x = 2^n·2^f with n the nearest integer and |f| ≤ ½: a polynomial for 2^f (Chebyshev interpolation; relative error
// 1.0e-7 in float, 4e-18 in double before rounding) times 2^n. The magic number leaves n plus the exponent's bias in
// the low bits of the sum, which shifted are 2^n. They are 0 for n = −127 (−1023), where x is held: below 2^-126.5
// (2^-1022.5) the result is 0. A NaN of any payload stays one, as it would not if n were added to the exponent bits.
// Casts of vectors keep the bits.
CSQ_INLINE void exp2_in_place(Vector<float>& x) {
  constexpr float smallest = -127.0f;
  constexpr float magic = 12582912.0f + 127.0f;  // 1.5·2^23 and the exponent's bias
  Vector<float> lowest;
  broadcast<float>(smallest, lowest);
  x = x < lowest ? lowest : x;
  const Vector<float> shifted = x + magic;
  const Vector<float> f = x - (shifted - magic);
  Vector<float> p = f * 1.339086336467123443e-03f + 9.676031918322053685e-03f;
  p = p * f + 5.550357114219078153e-02f;
  p = p * f + 2.402210748530833884e-01f;
  p = p * f + 6.931471880262287666e-01f;
  p = p * f + 1.000000075454897219e+00f;
  const Integers<float> power = reinterpret_cast<Integers<float>>(shifted) << 23;
  x = p * reinterpret_cast<Vector<float>>(power);
}
CSQ_INLINE void exp2_in_place(Vector<double>& x) {
  constexpr double smallest = -1023.0;
  constexpr double magic = 6755399441055744.0 + 1023.0;  // 1.5·2^52 and the exponent's bias
  Vector<double> lowest;
  broadcast<double>(smallest, lowest);
  x = x < lowest ? lowest : x;
  const Vector<double> shifted = x + magic;
  const Vector<double> f = x - (shifted - magic);
  Vector<double> p = f * 4.455817908336064490e-10 + 7.074194297288521056e-09;
  p = p * f + 1.017805708773394075e-07;
  p = p * f + 1.321543253591237529e-06;
  p = p * f + 1.525273384155677332e-05;
  p = p * f + 1.540353046372435299e-04;
  p = p * f + 1.333355814640647084e-03;
  p = p * f + 9.618129107587256379e-03;
  p = p * f + 5.550410866482162475e-02;
  p = p * f + 2.402265069591015823e-01;
  p = p * f + 6.931471805599452862e-01;
  p = p * f + 1.0;
  const Integers<double> power = reinterpret_cast<Integers<double>>(shifted) << 52;
  x = p * reinterpret_cast<Vector<double>>(power);
}

// φ(x) = x + 1 for x > 0, eˣ otherwise (Katharopoulos et al. 2020). A row of φ(q) may be small in every element and is
// normalised all the same: so eˣ is the square of its root, right down to where T ends.
template <class T>
CSQ_INLINE void elu_plus_one(Vector<T>& x) {
  const Vector<T> zero = {};
  Vector<T> root = (x > zero ? zero : x) * static_cast<T>(0.7213475204444817036799623405009460687);
  exp2_in_place(root);
  x = x > zero ? x + static_cast<T>(1) : root * root;
}
