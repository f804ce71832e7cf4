// Runs of 16-bit elements to float and back: rounded to nearest even, NaN stays NaN, subnormal numbers stay what they
// are. By integers, what a processor's own instructions would give, wherever these kernels run; but half to float by
// the instruction where a set has it: fifteen operations would take longer than the row's products.

struct Sixteen {
  typedef std::uint16_t Narrow __attribute__((vector_size(vector_bytes / 2)));
  typedef std::uint16_t NarrowUnaligned __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
  typedef std::uint32_t Wide __attribute__((vector_size(vector_bytes)));

  // By name where a set has it: GCC 12 makes five instructions of the conversion. Templates, so that a set without these
  // instructions does not compile them; and clang looks at the constraints of asm in templates too.
  template <class From, class To>
  static CSQ_INLINE void widen(const From& narrow, To& bits) {
#if defined(__x86_64__)
    if constexpr (has_widening)
      __asm__("vpmovzxwd %1, %0" : "=v"(bits) : "v"(narrow));
    else
#endif
      bits = __builtin_convertvector(narrow, To);
  }
  template <class From, class To>
  static CSQ_INLINE void widen_half([[maybe_unused]] const From& narrow, [[maybe_unused]] To& value) {
#if defined(__x86_64__)
    __asm__("vcvtph2ps %1, %0" : "=v"(value) : "v"(narrow));
#endif
  }
};

// 8 bits of exponent, as float has: its upper half.
struct Bfloat16 {
  static constexpr Index code = 0x102;
  static CSQ_INLINE void widen(const Sixteen::Narrow& narrow, Vector<float>& value) {
    Sixteen::Wide bits;
    Sixteen::widen(narrow, bits);
    value = reinterpret_cast<Vector<float>>(bits << 16);
  }
  static CSQ_INLINE void round(const Vector<float>& value, Sixteen::Wide& bits) {
    const Sixteen::Wide all = reinterpret_cast<Sixteen::Wide>(value);
    const Sixteen::Wide rounded = (all + 0x7fff + (all >> 16 & 1)) >> 16;
    bits = (all & 0x7fffffff) > 0x7f800000 ? (all >> 16 | 0x40) : rounded;
  }
};

// 5 bits of exponent and 10 of mantissa.
struct Half {
  static constexpr Index code = 0x202;
  static CSQ_INLINE void widen(const Sixteen::Narrow& narrow, Vector<float>& value) {
    choose_widening(narrow, value);
  }
  template <class From>
  static CSQ_INLINE void choose_widening(const From& narrow, Vector<float>& value) {
    if constexpr (has_widening)
      Sixteen::widen_half(narrow, value);
    else
      widen_by_integers(narrow, value);
  }
  static CSQ_INLINE void widen_by_integers(const Sixteen::Narrow& narrow, Vector<float>& value) {
    Sixteen::Wide bits;
    Sixteen::widen(narrow, bits);
    const Sixteen::Wide size = bits & 0x7fff;
    const Sixteen::Wide normal = (size << 13) + (112u << 23);  // another bias
    const Sixteen::Wide endless = (size << 13) + (224u << 23);  // infinity and NaN keep the highest exponent
    const Vector<float> count = __builtin_convertvector(reinterpret_cast<Integers<float>>(size), Vector<float>);
    const Sixteen::Wide subnormal = reinterpret_cast<Sixteen::Wide>(count * 0x1p-24f);
    const Sixteen::Wide any = size >= 0x7c00 ? endless : size < 0x400 ? subnormal : normal;
    value = reinterpret_cast<Vector<float>>(any | (bits & 0x8000) << 16);
  }
  static CSQ_INLINE void round(const Vector<float>& value, Sixteen::Wide& bits) {
    const Sixteen::Wide all = reinterpret_cast<Sixteen::Wide>(value), size = all & 0x7fffffff;
    const Sixteen::Wide normal = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
    // Added to ½, whose last bit is 2^-24, the least that half holds.
    Vector<float> half;
    broadcast<float>(0.5f, half);
    const Vector<float> shifted = reinterpret_cast<Vector<float>>(size) + half;
    const Sixteen::Wide subnormal = reinterpret_cast<Sixteen::Wide>(shifted) - reinterpret_cast<Sixteen::Wide>(half);
    const Sixteen::Wide large = size > 0x7f800000 ? Sixteen::Wide{} + 0x7e00 : Sixteen::Wide{} + 0x7c00;
    const Sixteen::Wide any = size >= 0x477ff000 ? large : size < 0x38800000 ? subnormal : normal;
    bits = any | (all >> 16 & 0x8000);
  }
};

// Elements as rows hold them: of T itself, or of a format.
template <class T>
struct Own {
  using Element = T;
  static CSQ_INLINE void load_row(const T* from, Vector<T>& value) { load<T>(from, value); }
};
template <class Format>
struct Stored {
  using Element = std::uint16_t;
  static CSQ_INLINE void load_row(const std::uint16_t* from, Vector<float>& value) {
    const Sixteen::Narrow narrow = *reinterpret_cast<const Sixteen::NarrowUnaligned*>(from);
    Format::widen(narrow, value);
  }
};

template <class Format>
CSQ_INLINE void load_some(const std::uint16_t* from, float* to) {
  Vector<float> value;
  Stored<Format>::load_row(from, value);
  store<float>(to, value);
}
template <class Format>
CSQ_INLINE void store_some(const float* from, std::uint16_t* to) {
  Vector<float> value;
  load<float>(from, value);
  Sixteen::Wide bits;
  Format::round(value, bits);
  *reinterpret_cast<Sixteen::NarrowUnaligned*>(to) = __builtin_convertvector(bits, Sixteen::Narrow);
}

// What does not fill a vector, or lies apart, passes through one.
template <class Format>
void load_sixteen(const void* from, Index stride, Index count, float* to) {
  constexpr Index step = lanes<float>;
  const auto* elements = static_cast<const unsigned char*>(from);
  Index done = 0;
  if (stride == 1)
    for (; done + step <= count; done += step)
      load_some<Format>(reinterpret_cast<const std::uint16_t*>(elements + 2 * done), to + done);
  while (done < count) {
    std::uint16_t some[std::size_t{step}] = {};
    float values[std::size_t{step}];
    const Index end = done + step < count ? step : count - done;
    for (Index i = 0; i < end; ++i) __builtin_memcpy(some + i, elements + 2 * (done + i) * stride, 2);
    load_some<Format>(some, values);
    for (Index i = 0; i < end; ++i) to[done + i] = values[i];
    done += end;
  }
}
template <class Format>
void store_sixteen(const float* from, Index count, void* to, Index stride) {
  constexpr Index step = lanes<float>;
  auto* elements = static_cast<unsigned char*>(to);
  Index done = 0;
  if (stride == 1)
    for (; done + step <= count; done += step)
      store_some<Format>(from + done, reinterpret_cast<std::uint16_t*>(elements + 2 * done));
  while (done < count) {
    float values[std::size_t{step}] = {};
    std::uint16_t some[std::size_t{step}];
    const Index end = done + step < count ? step : count - done;
    for (Index i = 0; i < end; ++i) values[i] = from[done + i];
    store_some<Format>(values, some);
    for (Index i = 0; i < end; ++i) __builtin_memcpy(elements + 2 * (done + i) * stride, some + i, 2);
    done += end;
  }
}
