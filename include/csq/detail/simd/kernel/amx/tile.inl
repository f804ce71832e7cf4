// What Intel AMX does, one function an instruction: eight tiles of 16 rows of 64 bytes, and C += A·B for
//   A   16 rows × 32 bfloat16 of depth
//   B   16 rows of pairs of depth × 16 columns: row r holds B[2r][n], B[2r+1][n] for n = 0 … 15
//   C   16×16 float, sums in float; subnormal numbers count as 0, and no flag or rounding mode is looked at.
// On Sapphire Rapids a product takes 16 cycles, a load from the first-level cache 8, and what is loaded need not wait for
// what is multiplied. Beside them the instructions of these processors that round floats to bfloat16.
//
// Everything in this folder uses the names of this file alone for it, so that tests may bring tiles in plain C++.
//
// Tiles are configured by each kernel that uses them and released when it returns. The calling convention of x86-64
// lets any function change them, as it does vector registers: a program whose own code uses tiles has to configure
// them again after a call to csq, as after a call to anything.

// Bits of a bfloat16, 32 to a vector.
typedef std::uint16_t Bits __attribute__((vector_size(64)));
typedef std::uint16_t UnalignedBits __attribute__((vector_size(64), aligned(2), may_alias));

// Assembly, since the intrinsics are in headers that cost half a second to read. The compiler uses no tile on its own,
// so none is named as changed; loads and stores keep their place among those of memory.
class Tiles {
 public:
  CSQ_INLINE Tiles() {
    struct alignas(64) Configuration {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Configuration all_whole{};
    asm volatile("ldtilecfg %0" : : "m"(all_whole));
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  CSQ_INLINE ~Tiles() { asm volatile("tilerelease"); }

  template <int Tile>
  CSQ_INLINE static void clear() {
    asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
  }
  // Rows `stride` bytes apart.
  template <int Tile>
  CSQ_INLINE static void load(const void* memory, Index stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(memory), "r"(stride), "i"(Tile) : "memory");
  }
  template <int Tile>
  CSQ_INLINE static void store(void* memory, Index stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(memory), "r"(stride), "i"(Tile) : "memory");
  }
  // C += A·B.
  template <int Sum, int Left, int Right>
  CSQ_INLINE static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
  }
};

// Both rounded to nearest even, one behind the other. NaN stays NaN.
CSQ_INLINE void round_to_bits(const Vector<float>& low, const Vector<float>& high, Bits& result) {
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(result) : "v"(high), "v"(low));
}

// 2^x with a relative error of 3e-6, a thousandth of what rounding to bfloat16 makes of it: x less the integer below it
// by one instruction, times that power of two by another, which takes the integer below as well, and knows infinity
// and NaN.
CSQ_INLINE void coarse_exp2_in_place(Vector<float>& x) {
  Vector<float> f;
  asm("vreduceps $9, %1, %0" : "=v"(f) : "v"(x));
  Vector<float> p = f * 1.353417332638691e-02f + 5.201146589680983e-02f;
  p = p * f + 2.414427410972814e-01f;
  p = p * f + 6.930038416347650e-01f;
  p = p * f + 1.000002592681526e+00f;
  asm("vscalefps %2, %1, %0" : "=v"(x) : "v"(p), "v"(x));
}
