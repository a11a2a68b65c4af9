// One row of a depthwise convolution over a panel of channels that lies in a padded row buffer.
#pragma once

#include "simd.h"

namespace native {

constexpr int kMaxTaps = 9;   // widest kernel side
constexpr int kTogether = 8;  // outputs side by side; row buffers have room for a full last group

struct DepthwiseShape {
  int64_t taps;  // the kernel is taps x taps
  int64_t stride;
  int64_t dilation;

  int64_t span() const { return (taps - 1) * dilation + 1; }
  int64_t padding() const { return dilation * ((taps - 1) / 2); }
  int64_t out(int64_t size) const { return (size + 2 * padding() - span()) / stride + 1; }
  // Buffer positions read for `outputs` outputs, with the last group of outputs filled up.
  int64_t buffer(int64_t outputs) const {
    return (ceil_div(outputs, kTogether) * kTogether - 1) * stride + span();
  }
};

// What happens to a finished output: activation or dynamic ReLU, then the two attention gates.
struct DepthwiseFinish {
  const float* bias;  // kPanel values
  Activation activation;
  const float* lines;  // dynamic ReLU, [2 * line_count][kPanel]: slopes, then intercepts; or null
  int64_t line_count;
  const float* gate_row;  // this row's factor per channel, kPanel values; or null
  const float* gates;     // a factor per output position and channel, first column here; or null
  int64_t gate_stride;
  float* out;
  int64_t out_stride;
  float* sums;  // kPanel sums over positions, added to; or null
  int columns;
};

// rows[i] points at the first tap of the first output in the i-th row under the kernel; null stands
// for a row of zeros. Taps are [taps * taps][kPanel].
void depthwise_row(const float* const* rows, const DepthwiseShape& shape, const float* taps,
                   int64_t outputs, const DepthwiseFinish& finish);

// sums[taps * taps][kPanel] += sum over outputs of dy times the input under each tap. Here dy lies
// in a panel buffer, one position every kPanel floats.
void depthwise_taps_gradient(const float* const* rows, const DepthwiseShape& shape, const float* dy,
                             int64_t outputs, float* sums, int vectors);

}  // namespace native
