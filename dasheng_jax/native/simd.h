// One vector type for the widest float32 registers of the machine that compiles this file.
//
// Arithmetic uses the compiler's vector operators; intrinsics appear here only, where the operators
// have no good spelling (minimum, maximum, root, broadcast, partial loads and stores).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace native {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 14;  // 14 x 2 sums, 2 kernel vectors, 1 broadcast: 31 of 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;  // 6 x 2 + 2 + 1 of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 12;  // 12 x 2 + 2 + 1 of 32 registers
#endif
constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;  // channels that travel together through all kernels

using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));
using LooseVec = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }

#if defined(__AVX512F__)
inline Vec splat(float v) { return _mm512_set1_ps(v); }
// The second operand is what x86 returns for a NaN in either, so NaNs of `x` survive.
inline Vec at_least(Vec x, Vec low) { return _mm512_max_ps(low, x); }
inline Vec at_most(Vec x, Vec high) { return _mm512_min_ps(high, x); }
inline Vec square_root(Vec x) { return _mm512_sqrt_ps(x); }
inline Vec load_part(const float* p, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
inline void store_part(float* p, Vec v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
#else
#if defined(__AVX__)
inline Vec splat(float v) { return _mm256_set1_ps(v); }
inline Vec at_least(Vec x, Vec low) { return _mm256_max_ps(low, x); }
inline Vec at_most(Vec x, Vec high) { return _mm256_min_ps(high, x); }
inline Vec square_root(Vec x) { return _mm256_sqrt_ps(x); }
#elif defined(__aarch64__)
inline Vec splat(float v) { return vdupq_n_f32(v); }
inline Vec at_least(Vec x, Vec low) { return vmaxq_f32(x, low); }
inline Vec at_most(Vec x, Vec high) { return vminq_f32(x, high); }
inline Vec square_root(Vec x) { return vsqrtq_f32(x); }
#else
inline Vec splat(float v) { return Vec{v, v, v, v}; }
inline Vec at_least(Vec x, Vec low) { return x < low ? low : x; }
inline Vec at_most(Vec x, Vec high) { return x > high ? high : x; }
inline Vec square_root(Vec x) { return _mm_sqrt_ps(x); }  // only x86 has four lanes and comes here
#endif
inline Vec load_part(const float* p, int n) {
  Vec v{};
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}
inline void store_part(float* p, Vec v, int n) { std::memcpy(p, &v, n * sizeof(float)); }
#endif

// `n` floats or a full vector, whichever is less: nothing past a buffer is read or written.
inline Vec load_upto(const float* p, int n) { return n >= kLanes ? load(p) : load_part(p, n); }
inline void store_upto(float* p, Vec v, int n) {
  if (n >= kLanes) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

#if defined(__clang__) || __GNUC__ >= 12
namespace detail {
// Lanes of a and b in turn: those of the lower halves, or those of the upper ones.
template <int From, int... I>
Vec interleave(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (From + I / 2 + I % 2 * kLanes)...);
}
}  // namespace detail

// Rows become columns. Each of log2(lanes) rounds moves one bit of the row number to the column's.
inline void transpose(Vec* square) {
  using Lanes = std::make_integer_sequence<int, kLanes>;
  constexpr int kHalf = kLanes / 2;
  for (int done = 1; done < kLanes; done *= 2) {
    Vec next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      next[2 * i] = detail::interleave<0>(square[i], square[i + kHalf], Lanes{});
      next[2 * i + 1] = detail::interleave<kHalf>(square[i], square[i + kHalf], Lanes{});
    }
    for (int i = 0; i < kLanes; ++i) square[i] = next[i];
  }
}
#else
inline void transpose(Vec* square) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float kept = square[i][j];
      square[i][j] = square[j][i];
      square[j][i] = kept;
    }
  }
}
#endif

// The sigmoid is known to the linear layer of `mobile_jax` alone, GELU to matrix products.
enum class Activation : int64_t { kNone = 0, kRelu = 1, kHardswish = 2, kSigmoid = 3, kGelu = 4 };

inline Vec activate(Vec x, Activation kind) {
  if (kind == Activation::kRelu) return at_least(x, Vec{});
  if (kind == Activation::kHardswish) {
    return x * at_most(at_least(x + splat(3.0f), Vec{}), splat(6.0f)) * splat(1.0f / 6.0f);
  }
  return x;
}

// Calls run with the activation as a constant, so that loops hold no choice.
template <typename Run>
void with_activation(Activation kind, const Run& run) {
  switch (kind) {
    case Activation::kRelu:
      return run(std::integral_constant<Activation, Activation::kRelu>{});
    case Activation::kHardswish:
      return run(std::integral_constant<Activation, Activation::kHardswish>{});
    default:
      return run(std::integral_constant<Activation, Activation::kNone>{});
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace native
