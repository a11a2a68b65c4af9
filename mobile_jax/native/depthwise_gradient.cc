// The two backward passes of a depthwise convolution.
#include <vector>

#include "layers.h"
#include "window.h"

namespace native {

// The transposed convolution is a depthwise convolution of stride 1 with the kernel turned round,
// over dy spread out by the stride with zeros between; rows of zeros cost nothing there.
void depthwise_input_gradient(const Threads& threads, const DepthwiseGradient& layer,
                              const float* kernel, float* dx) {
  const int64_t c = layer.channels;
  const int64_t f2 = layer.shape.out(layer.f);
  const int64_t t2 = layer.shape.out(layer.t);
  const int64_t s = layer.shape.stride;
  const int64_t taps = layer.shape.taps * layer.shape.taps;
  const int64_t panels = ceil_div(c, kPanel);
  const int64_t room = tile_outputs(layer.t, 1, layer.batch * panels);
  const int64_t tiles = ceil_div(layer.t, room);
  const DepthwiseShape turned{layer.shape.taps, 1, layer.shape.dilation};

  parallel_for(threads, layer.batch * panels * tiles, [&](int64_t item) {
    const int64_t tile = item % tiles;
    const int64_t column = item / tiles % panels * kPanel;
    const int64_t clip = item / tiles / panels;
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, c - column));
    Window window{turned, (f2 - 1) * s + 1, (t2 - 1) * s + 1, layer.f, tile * room, 0, room, s};
    window.outputs = std::min(room, layer.t - window.first);
    float* ring = scratch(Slot::kRows, window.ring_floats());
    float* w = scratch(Slot::kTaps, (taps + 1) * kPanel);
    const float* source = kernel + (layer.per_clip ? clip * taps * c : 0) + column;
    for (int64_t i = 0; i < taps; ++i) {
      copy_panel(source + i * c, 0, 1, columns, w + (taps - 1 - i) * kPanel);
    }
    std::fill_n(w + taps * kPanel, kPanel, 0.0f);
    DepthwiseFinish finish{};
    finish.bias = w + taps * kPanel;
    finish.out_stride = c;
    finish.columns = columns;
    const auto fill = [&](int64_t row, int64_t from, int64_t to, float* at) {
      const int64_t first = ceil_div(from, s);
      const int64_t count = ceil_div(to, s) - first;
      const float* dy = layer.dy + ((clip * f2 + row / s) * t2 + first) * c + column;
      copy_panel(dy, c, count, columns, at + (first * s - from) * kPanel, s * kPanel);
    };
    walk(window, ring, fill, [&](int64_t r, const float* const* rows) {
      finish.out = dx + ((clip * layer.f + r) * layer.t + window.first) * c + column;
      depthwise_row(rows, turned, w, window.outputs, finish);
    });
  });
}

void depthwise_kernel_gradient(const Threads& threads, const DepthwiseGradient& layer,
                               const float* x, float* dkernel) {
  const int64_t c = layer.channels;
  const int64_t f2 = layer.shape.out(layer.f);
  const int64_t t2 = layer.shape.out(layer.t);
  const int64_t taps = layer.shape.taps * layer.shape.taps;
  const int64_t panels = ceil_div(c, kPanel);
  const int64_t room = tile_outputs(t2, layer.shape.stride, layer.batch * panels);
  const int64_t tiles = ceil_div(t2, room);
  // One sum per clip and tile, added up afterwards in a fixed order.
  std::vector<float> parts(layer.batch * tiles * taps * c);

  parallel_for(threads, layer.batch * panels * tiles, [&](int64_t item) {
    const int64_t tile = item % tiles;
    const int64_t column = item / tiles % panels * kPanel;
    const int64_t clip = item / tiles / panels;
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, c - column));
    Window window{layer.shape, layer.f, layer.t, f2, tile * room, 0, room};
    window.outputs = std::min(room, t2 - window.first);
    float* ring = scratch(Slot::kRows, window.ring_floats());
    float* sums = scratch(Slot::kTaps, taps * kPanel);
    float* dy_row = scratch(Slot::kPanel, room * kPanel);
    std::fill_n(sums, taps * kPanel, 0.0f);
    const auto fill = [&](int64_t row, int64_t from, int64_t to, float* at) {
      const float* source = x + ((clip * layer.f + row) * layer.t + from) * c + column;
      if (layer.pending.mean != nullptr) {
        normalise_panel(layer.pending, column, source, c, to - from, columns, at);
      } else {
        copy_panel(source, c, to - from, columns, at);
      }
    };
    walk(window, ring, fill, [&](int64_t r, const float* const* rows) {
      const float* dy = layer.dy + ((clip * f2 + r) * t2 + window.first) * c + column;
      copy_panel(dy, c, window.outputs, columns, dy_row);
      const int vectors = columns > kLanes ? 2 : 1;
      depthwise_taps_gradient(rows, layer.shape, dy_row, window.outputs, sums, vectors);
    });
    float* part = parts.data() + (clip * tiles + tile) * taps * c + column;
    for (int64_t i = 0; i < taps; ++i) std::copy_n(sums + i * kPanel, columns, part + i * c);
  });

  const int64_t size = taps * c;
  const int64_t kernels = layer.per_clip ? layer.batch : 1;
  const int64_t per_kernel = layer.batch * tiles / kernels;
  for (int64_t k = 0; k < kernels; ++k) {
    float* out = dkernel + k * size;
    std::fill_n(out, size, 0.0f);
    for (int64_t p = 0; p < per_kernel; ++p) {
      const float* part = parts.data() + (k * per_kernel + p) * size;
      for (int64_t i = 0; i < size; ++i) out[i] += part[i];
    }
  }
}

}  // namespace native
