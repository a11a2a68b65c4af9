// The layers that Python calls, over plain pointers. Maps are [batch, f, t, channels], row-major.
#pragma once

#include "depthwise.h"
#include "kernel1x1.h"
#include "parallel.h"
#include "window.h"

namespace native {

struct ExpandDepthwise {
  int64_t batch, f, t, channels;  // of x
  int64_t expanded;
  DepthwiseShape shape;
  Activation activation;            // after the expansion
  Activation depthwise_activation;  // after the depthwise convolution, unless there are lines
  const float* x;
  const float* expand_kernel;  // [channels, expanded], or null: the depthwise reads x itself
  bool expand_per_clip;        // a leading batch axis
  const float* expand_mix;     // [batch, expand_mixed] or null
  int64_t expand_mixed;
  const float* expand_scale;      // [expanded] or null: a factor per column of the kernel
  const float* expand_bias;       // [expanded] or null
  const float* depthwise_kernel;  // [taps, taps, expanded]
  bool depthwise_per_clip;
  const float* depthwise_bias;  // [expanded] or null
  const float* lines;           // dynamic ReLU [batch, expanded, 2 * line_count] or null
  int64_t line_count;
  const float* gate_f;  // [batch, f2, expanded] or null
  const float* gate_t;  // [batch, t2, expanded] or null
  float* y;             // [batch, f2, t2, expanded]
  float* pooled;        // [batch, expanded] or null: mean of y over f2 and t2
  // Without expand_kernel: what x goes through first, with expand_bias and activation, or null.
  const float* mean;    // [expanded]
  const float* factor;  // [expanded]
};
void expand_depthwise(const Threads& threads, const ExpandDepthwise& layer);

struct Pointwise {
  int64_t batch, positions, channels, out_channels;
  Activation activation;
  const float* x;       // [batch, positions, channels]
  const float* kernel;  // [channels, out_channels]
  bool per_clip;
  const float* mix;  // [batch, mixed] or null
  int64_t mixed;
  const float* kernel_scale;  // [out_channels] or null: a factor per column of the kernel
  const float* bias;      // [out_channels] or null
  const float* scale;     // [batch, channels] or null
  const float* residual;  // like y, or null
  float* y;               // [batch, positions, out_channels] or null
  float* pooled;          // [batch, out_channels] or null: mean of y over the positions
};
void pointwise(const Threads& threads, const Pointwise& layer);

struct Stem {
  int64_t batch, f, t, channels;
  Activation activation;
  const float* x;       // [batch, f, t]
  const float* kernel;  // [3, 3, channels]
  const float* bias;    // [channels]
  float* y;             // [batch, (f + 1) / 2, (t + 1) / 2, channels]
};
void stem(const Threads& threads, const Stem& layer);

// The nine values under the stem's kernel at each of its outputs: [batch, f2, t2, 9], zeros outside.
void stem_patches(const Threads& threads, int64_t batch, int64_t f, int64_t t, const float* x,
                  float* patches);

struct Dense {
  int64_t rows, features, columns;
  Activation activation;
  const float* x;       // [rows, features]
  const float* kernel;  // [features, columns]
  const float* bias;    // [columns] or null
  float* y;             // [rows, columns]
};
void dense(const Threads& threads, const Dense& layer);

// Means of a map over time, at every frequency, then over frequency, at every time.
struct AxisMeans {
  int64_t batch, f, t, channels;
  const float* x;  // [batch, f, t, channels]
  float* y;        // [batch, f + t, channels]
};
void axis_means(const Threads& threads, const AxisMeans& layer);

struct DepthwiseGradient {
  int64_t batch, f, t, channels;  // of x
  DepthwiseShape shape;
  bool per_clip;
  const float* dy;  // [batch, f2, t2, channels]
  Pending pending;  // what x goes through before the convolution; for the kernel's gradient
};
// kernel as in the forward pass; dx like x.
void depthwise_input_gradient(const Threads& threads, const DepthwiseGradient& layer,
                              const float* kernel, float* dx);
// dkernel like the kernel: summed over the batch unless per clip.
void depthwise_kernel_gradient(const Threads& threads, const DepthwiseGradient& layer,
                               const float* x, float* dkernel);

struct PointwiseGradient {
  int64_t batch, positions, channels, out_channels;
  bool per_clip;
  const float* x;   // [batch, positions, channels]
  const float* dy;  // [batch, positions, out_channels]
};
// dkernel [channels, out_channels], or one per clip.
void pointwise_kernel_gradient(const Threads& threads, const PointwiseGradient& layer,
                               float* dkernel);

// Batch normalisation over the rows of x: act((x - mean) * factor + bias), all [channels].
struct Norm {
  int64_t rows, channels;
  Activation activation;
  const float* x;
  const float* mean;
  const float* factor;
  const float* bias;
};
// Mean and biased variance of every channel of x, which is all that is read.
void norm_statistics(const Threads& threads, const Norm& layer, float* mean, float* var);
void norm_apply(const Threads& threads, const Norm& layer, float* y);
// With g = dy * act': sums of g, and of g * (x - mean).
void norm_gradient_sums(const Threads& threads, const Norm& layer, const float* dy, float* sum,
                        float* moment);
// dx = g * factor - level - (x - mean) * tilt.
void norm_gradient(const Threads& threads, const Norm& layer, const float* dy, const float* level,
                   const float* tilt, float* dx);

}  // namespace native
