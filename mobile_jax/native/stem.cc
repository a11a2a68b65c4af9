// The first convolution: 3x3, stride 2, from one channel to a few.
#include "layers.h"

namespace native {

void stem(const Threads& threads, const Stem& layer) {
  const int64_t f2 = (layer.f + 1) / 2;
  const int64_t t2 = (layer.t + 1) / 2;
  const int64_t c = layer.channels;
  const int64_t room = 2 * (ceil_div(t2, kTogether) * kTogether) + 1;
  const int64_t vectors = ceil_div(c, kLanes);
  parallel_for(threads, layer.batch * f2, [&](int64_t item) {
    const int64_t clip = item / f2;
    const int64_t r = item % f2;
    // The three input rows with a zero on the left and zeros on the right; rows outside are zeros.
    float* rows = scratch(Slot::kRows, 3 * room);
    float* taps = scratch(Slot::kTaps, 10 * vectors * kLanes);
    std::fill_n(rows, 3 * room, 0.0f);
    for (int64_t i = 0; i < 3; ++i) {
      const int64_t row = 2 * r - 1 + i;
      if (row < 0 || row >= layer.f) continue;
      std::copy_n(layer.x + (clip * layer.f + row) * layer.t, layer.t, rows + i * room + 1);
    }
    std::fill_n(taps, 10 * vectors * kLanes, 0.0f);
    for (int64_t i = 0; i < 9; ++i) {
      std::copy_n(layer.kernel + i * c, c, taps + i * vectors * kLanes);
    }
    std::copy_n(layer.bias, c, taps + 9 * vectors * kLanes);

    float* out = layer.y + item * t2 * c;
    for (int64_t v = 0; v < vectors; ++v) {
      Vec w[9];
      for (int i = 0; i < 9; ++i) w[i] = load(taps + (i * vectors + v) * kLanes);
      const Vec bias = load(taps + (9 * vectors + v) * kLanes);
      const int n = static_cast<int>(std::min<int64_t>(kLanes, c - v * kLanes));
      for (int64_t first = 0; first < t2; first += kTogether) {
        Vec sum[kTogether];
#pragma GCC unroll 8
        for (int g = 0; g < kTogether; ++g) sum[g] = bias;
#pragma GCC unroll 9
        for (int i = 0; i < 9; ++i) {
          const float* x = rows + i / 3 * room + 2 * first + i % 3;
#pragma GCC unroll 8
          for (int g = 0; g < kTogether; ++g) sum[g] += splat(x[2 * g]) * w[i];
        }
        const int count = static_cast<int>(std::min<int64_t>(kTogether, t2 - first));
        for (int g = 0; g < kTogether; ++g) sum[g] = activate(sum[g], layer.activation);
        for (int g = 0; g < count; ++g) store_upto(out + (first + g) * c + v * kLanes, sum[g], n);
      }
    }
  });
}

void stem_patches(const Threads& threads, int64_t batch, int64_t f, int64_t t, const float* x,
                  float* patches) {
  const int64_t f2 = (f + 1) / 2;
  const int64_t t2 = (t + 1) / 2;
  parallel_for(threads, batch * f2, [&](int64_t item) {
    const int64_t clip = item / f2;
    const int64_t top = item % f2 * 2 - 1;
    for (int64_t i = 0; i < 9; ++i) {
      const int64_t row = top + i / 3;
      const float* source = x + (clip * f + row) * t;
      float* out = patches + item * t2 * 9 + i;
      for (int64_t r = 0; r < t2; ++r, out += 9) {
        const int64_t column = 2 * r - 1 + i % 3;
        const bool inside = row >= 0 && row < f && column >= 0 && column < t;
        *out = inside ? source[column] : 0.0f;
      }
    }
  });
}

}  // namespace native
