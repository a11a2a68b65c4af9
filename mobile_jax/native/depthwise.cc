#include "depthwise.h"

#include <algorithm>

namespace native {
namespace {

// Adds pairwise: one long chain of additions would take longer than the convolution.
inline void add_group(float* sums, const Vec* sum) {
  const Vec left = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  const Vec right = (sum[4] + sum[5]) + (sum[6] + sum[7]);
  store(sums, load(sums) + (left + right));
}

// Full vectors with a static activation, without leaving the registers.
template <Activation kActivation>
inline void finish_plain(Vec* sum, int64_t first, int count, int column,
                         const DepthwiseFinish& finish) {
  const int64_t stride = finish.out_stride;
  float* out = finish.out + first * stride + column;
#pragma GCC unroll 8
  for (int g = 0; g < kTogether; ++g) {
    sum[g] = g < count ? activate(sum[g], kActivation) : Vec{};
    if (g < count) store(out + g * stride, sum[g]);
  }
  if (finish.sums != nullptr) add_group(finish.sums + column, sum);
}

// Finishes up to kTogether neighbouring outputs of one vector of channels.
__attribute__((noinline)) void finish_group(Vec* sum, int64_t first, int count, int column,
                         const DepthwiseFinish& finish) {
  if (finish.lines != nullptr) {
    const float* slopes = finish.lines + column;
    const float* intercepts = slopes + finish.line_count * kPanel;
    Vec best[kTogether];
    for (int g = 0; g < kTogether; ++g) best[g] = sum[g] * load(slopes) + load(intercepts);
    for (int64_t m = 1; m < finish.line_count; ++m) {
      const Vec slope = load(slopes + m * kPanel);
      const Vec intercept = load(intercepts + m * kPanel);
      for (int g = 0; g < kTogether; ++g) best[g] = at_least(sum[g] * slope + intercept, best[g]);
    }
    for (int g = 0; g < kTogether; ++g) sum[g] = best[g];
  } else {
    for (int g = 0; g < kTogether; ++g) sum[g] = activate(sum[g], finish.activation);
  }
  const int n = finish.columns - column;
  if (finish.gate_row != nullptr) {
    const Vec gate = load(finish.gate_row + column);
    for (int g = 0; g < kTogether; ++g) sum[g] *= gate;
  }
  if (finish.gates != nullptr) {
    const float* gate = finish.gates + first * finish.gate_stride + column;
    for (int g = 0; g < count; ++g) sum[g] *= load_upto(gate + g * finish.gate_stride, n);
  }
  float* out = finish.out + first * finish.out_stride + column;
  for (int g = 0; g < count; ++g) store_upto(out + g * finish.out_stride, sum[g], n);
  if (finish.sums != nullptr) {
    for (int g = count; g < kTogether; ++g) sum[g] = Vec{};
    add_group(finish.sums + column, sum);
  }
}

// K, S, D of zero stand for "as in shape": one body serves the common kernels and all others.
template <int K, int S, int D>
void row_kernel(const float* const* rows, const DepthwiseShape& shape, const float* taps,
                int64_t outputs, const DepthwiseFinish& finish) {
  const int k = K ? K : static_cast<int>(shape.taps);
  const int64_t step = (S ? S : shape.stride) * kPanel;
  const int64_t hop = (D ? D : shape.dilation) * kPanel;
  for (int column = 0; column < kPanel && column < finish.columns; column += kLanes) {
    const Vec bias = load(finish.bias + column);
    const bool plain = finish.lines == nullptr && finish.gate_row == nullptr &&
                       finish.gates == nullptr && finish.columns - column >= kLanes;
    for (int64_t first = 0; first < outputs; first += kTogether) {
      Vec sum[kTogether];
#pragma GCC unroll 8
      for (int g = 0; g < kTogether; ++g) sum[g] = bias;
      for (int i = 0; i < k; ++i) {
        if (rows[i] == nullptr) continue;
        const float* x = rows[i] + first * step + column;
        const float* w = taps + i * k * kPanel + column;
#pragma GCC unroll 5
        for (int j = 0; j < k; ++j) {
          const Vec tap = load(w + j * kPanel);
#pragma GCC unroll 8
          for (int g = 0; g < kTogether; ++g) sum[g] += load(x + g * step + j * hop) * tap;
        }
      }
      const int count = static_cast<int>(std::min<int64_t>(kTogether, outputs - first));
      if (!plain) {
        Vec group[kTogether];  // a copy, so that the sums themselves never need an address
#pragma GCC unroll 8
        for (int g = 0; g < kTogether; ++g) group[g] = sum[g];
        finish_group(group, first, count, column, finish);
      } else if (finish.activation == Activation::kRelu) {
        finish_plain<Activation::kRelu>(sum, first, count, column, finish);
      } else if (finish.activation == Activation::kHardswish) {
        finish_plain<Activation::kHardswish>(sum, first, count, column, finish);
      } else {
        finish_plain<Activation::kNone>(sum, first, count, column, finish);
      }
    }
  }
}

template <int K>
void gradient_row(const float* x, int64_t step, int64_t hop, const float* dy, int64_t outputs,
                  float* sums) {
  Vec sum[K];
  for (int j = 0; j < K; ++j) sum[j] = load(sums + j * kPanel);
  for (int64_t o = 0; o < outputs; ++o, x += step, dy += kPanel) {
    const Vec d = load(dy);
#pragma GCC unroll 9
    for (int j = 0; j < K; ++j) sum[j] += load(x + j * hop) * d;
  }
  for (int j = 0; j < K; ++j) store(sums + j * kPanel, sum[j]);
}

}  // namespace

void depthwise_row(const float* const* rows, const DepthwiseShape& shape, const float* taps,
                   int64_t outputs, const DepthwiseFinish& finish) {
  const bool dense = shape.dilation == 1;
  auto kernel = row_kernel<0, 0, 0>;
  if (dense && shape.taps == 3 && shape.stride == 1) kernel = row_kernel<3, 1, 1>;
  if (dense && shape.taps == 3 && shape.stride == 2) kernel = row_kernel<3, 2, 1>;
  if (dense && shape.taps == 5 && shape.stride == 1) kernel = row_kernel<5, 1, 1>;
  if (dense && shape.taps == 5 && shape.stride == 2) kernel = row_kernel<5, 2, 1>;
  kernel(rows, shape, taps, outputs, finish);
}

void depthwise_taps_gradient(const float* const* rows, const DepthwiseShape& shape, const float* dy,
                             int64_t outputs, float* sums, int vectors) {
  const int64_t step = shape.stride * kPanel;
  const int64_t hop = shape.dilation * kPanel;
  for (int v = 0; v < vectors; ++v) {
    const int64_t column = v * kLanes;
    for (int64_t i = 0; i < shape.taps; ++i) {
      if (rows[i] == nullptr) continue;
      const float* x = rows[i] + column;
      float* sum = sums + i * shape.taps * kPanel + column;
      if (shape.taps == 3) {
        gradient_row<3>(x, step, hop, dy + column, outputs, sum);
      } else if (shape.taps == 5) {
        gradient_row<5>(x, step, hop, dy + column, outputs, sum);
      } else {
        for (int64_t j = 0; j < shape.taps; ++j) {
          gradient_row<1>(x + j * hop, step, hop, dy + column, outputs, sum + j * kPanel);
        }
      }
    }
  }
}

}  // namespace native
