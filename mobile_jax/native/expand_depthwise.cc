// 1x1 expansion, activation, depthwise convolution and what follows it, as one pass over the map.
#include <vector>

#include "layers.h"
#include "window.h"

namespace native {
namespace {

// One clip's constants of one panel of channels, padded to the panel.
struct PanelConstants {
  float* taps;
  float* expand_bias;
  float* depthwise_bias;
  float* lines;
  float* gate_row;
  float* sums;
};

PanelConstants prepare(const ExpandDepthwise& layer, int64_t clip, int64_t column, int columns) {
  const int64_t taps = layer.shape.taps * layer.shape.taps;
  float* memory = scratch(Slot::kTaps, (taps + 4 + 2 * layer.line_count) * kPanel);
  PanelConstants made;
  made.taps = memory;
  made.expand_bias = made.taps + taps * kPanel;
  made.depthwise_bias = made.expand_bias + kPanel;
  made.gate_row = made.depthwise_bias + kPanel;
  made.sums = made.gate_row + kPanel;
  made.lines = made.sums + kPanel;
  std::fill_n(made.expand_bias, (4 + 2 * layer.line_count) * kPanel, 0.0f);
  const float* kernel = layer.depthwise_kernel + column;
  if (layer.depthwise_per_clip) kernel += clip * taps * layer.expanded;
  copy_panel(kernel, layer.expanded, taps, columns, made.taps);
  if (layer.expand_bias != nullptr) {
    copy_panel(layer.expand_bias + column, 0, 1, columns, made.expand_bias);
  }
  if (layer.depthwise_bias != nullptr) {
    copy_panel(layer.depthwise_bias + column, 0, 1, columns, made.depthwise_bias);
  }
  if (layer.lines != nullptr) {
    const int64_t values = 2 * layer.line_count;
    const float* lines = layer.lines + (clip * layer.expanded + column) * values;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t m = 0; m < values; ++m) made.lines[m * kPanel + c] = lines[c * values + m];
    }
  }
  return made;
}

// The next row's cache lines are fetched for writing while its expansion is computed: the channels
// of one position lie far from the next one's, so the processor does not foresee these stores.
void prefetch_row(const float* out, int64_t stride, int64_t outputs, int columns) {
  constexpr int kLine = 64 / sizeof(float);
  for (int64_t i = 0; i < outputs; ++i, out += stride) {
    for (int column = 0; column < columns; column += kLine) __builtin_prefetch(out + column, 1);
  }
}

}  // namespace

void expand_depthwise(const Threads& threads, const ExpandDepthwise& layer) {
  const int64_t f2 = layer.shape.out(layer.f);
  const int64_t t2 = layer.shape.out(layer.t);
  const int64_t e = layer.expanded;
  const int64_t c = layer.channels;
  const int64_t panels = ceil_div(e, kPanel);
  const int64_t room = tile_outputs(t2, layer.shape.stride, layer.batch * panels);
  const int64_t tiles = ceil_div(t2, room);
  std::vector<float> tile_sums(layer.pooled != nullptr ? layer.batch * tiles * e : 0);

  parallel_for(threads, layer.batch * panels * tiles, [&](int64_t item) {
    // Panels of one tile follow each other, while the tile's input is in the cache.
    const int64_t column = item % panels * kPanel;
    const int64_t tile = item / panels % tiles;
    const int64_t clip = item / panels / tiles;
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, e - column));
    const PanelConstants made = prepare(layer, clip, column, columns);

    Window window{layer.shape, layer.f, layer.t, f2, tile * room, 0, room};
    window.outputs = std::min(room, t2 - window.first);
    float* ring = scratch(Slot::kRows, window.ring_floats());
    const float* x = layer.x + clip * layer.f * layer.t * c;

    int vectors = 0;
    float* panel = nullptr;
    if (layer.expand_kernel != nullptr) {
      Kernel1x1 kernel{layer.expand_kernel, c, e, nullptr, nullptr, layer.expand_mixed,
                       layer.expand_scale};
      if (layer.expand_per_clip) kernel.data += clip * c * e;
      if (layer.expand_mix != nullptr) kernel.mix = layer.expand_mix + clip * layer.expand_mixed;
      panel = scratch(Slot::kPanel, c * kPanel);
      vectors = pack_panel(kernel, 0, c, column, panel);
    }
    const auto fill = [&](int64_t row, int64_t from, int64_t to, float* at) {
      const float* source = x + (row * layer.t + from) * c;
      if (panel != nullptr) {
        Finish finish{};
        finish.bias = made.expand_bias;
        finish.activation = layer.activation;
        finish.out = at;
        finish.out_stride = kPanel;
        finish.columns = kPanel;
        multiply_rows(source, c, to - from, c, panel, vectors, finish);
      } else if (layer.mean != nullptr) {
        const Pending pending{layer.mean, layer.factor, layer.expand_bias, layer.activation};
        normalise_panel(pending, column, source + column, c, to - from, columns, at);
      } else {
        copy_panel(source + column, c, to - from, columns, at);
      }
    };
    DepthwiseFinish finish{};
    finish.bias = made.depthwise_bias;
    finish.activation = layer.depthwise_activation;
    if (layer.lines != nullptr) finish.lines = made.lines;
    finish.line_count = layer.line_count;
    if (layer.gate_f != nullptr) finish.gate_row = made.gate_row;
    if (layer.gate_t != nullptr) {
      finish.gates = layer.gate_t + (clip * t2 + window.first) * e + column;
      finish.gate_stride = e;
    }
    finish.out_stride = e;
    if (layer.pooled != nullptr) finish.sums = made.sums;
    finish.columns = columns;
    walk(window, ring, fill, [&](int64_t r, const float* const* rows) {
      if (layer.gate_f != nullptr) {
        copy_panel(layer.gate_f + (clip * f2 + r) * e + column, 0, 1, columns, made.gate_row);
      }
      finish.out = layer.y + ((clip * f2 + r) * t2 + window.first) * e + column;
      depthwise_row(rows, layer.shape, made.taps, window.outputs, finish);
      if (r + 1 < f2) prefetch_row(finish.out + t2 * e, e, window.outputs, columns);
    });
    if (layer.pooled != nullptr) {
      std::copy_n(made.sums, columns, tile_sums.data() + (clip * tiles + tile) * e + column);
    }
  });

  if (layer.pooled == nullptr) return;
  for (int64_t clip = 0; clip < layer.batch; ++clip) {
    for (int64_t i = 0; i < e; ++i) {
      float sum = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) sum += tile_sums[(clip * tiles + tile) * e + i];
      layer.pooled[clip * e + i] = sum / static_cast<float>(f2 * t2);
    }
  }
}

}  // namespace native
