// 1x1 convolution with the squeeze-and-excitation gate, the residual and the mean folded in.
#include <vector>

#include "layers.h"

namespace native {
namespace {

constexpr int64_t kDepthPiece = 192;  // with kPanel floats of the widest registers: 24 KiB

// How the product is cut into items. It depends on shapes only, so that results never depend on
// the number of threads.
struct Cut {
  int64_t groups;  // clips, or 1 where all clips share one matrix product
  int64_t rows;    // rows of one group
  int64_t blocks;  // row blocks of one group
  int64_t panels;
  int64_t splits;  // parts of the summed axis

  int64_t items() const { return groups * blocks * panels * splits; }
};

Cut cut(const Pointwise& layer) {
  const bool shared = layer.scale == nullptr && !layer.per_clip && layer.mix == nullptr &&
                      layer.pooled == nullptr;
  Cut made;
  made.groups = shared ? 1 : layer.batch;
  made.rows = shared ? layer.batch * layer.positions : layer.positions;
  made.panels = ceil_div(layer.out_channels, kPanel);
  // A block packs its own copy of the panel: enough rows to pay for that, few enough to share out.
  const int64_t block = (int64_t{1} << 21) / (layer.channels * kPanel);
  made.blocks = ceil_div(made.rows, std::min<int64_t>(std::max<int64_t>(block, 256), 4096));
  // Few rows and a long sum: halves of the sum share the work without packing anything twice.
  const bool few = made.groups * made.blocks * made.panels < 16 && layer.channels >= 256;
  made.splits = few && layer.pooled == nullptr ? 2 : 1;
  return made;
}

// Adds the partial products of all splits and finishes the rows.
void join_splits(const Threads& threads, const Pointwise& layer, const Cut& c,
                 const float* parts, int64_t width, const float* bias) {
  const int64_t all_rows = c.groups * c.rows;
  constexpr int64_t kRowsPerItem = 64;
  parallel_for(threads, ceil_div(all_rows, kRowsPerItem), [&](int64_t item) {
    const int64_t end = std::min(all_rows, (item + 1) * kRowsPerItem);
    for (int64_t row = item * kRowsPerItem; row < end; ++row) {
      for (int64_t column = 0; column < layer.out_channels; column += kLanes) {
        const int n = static_cast<int>(std::min<int64_t>(kLanes, layer.out_channels - column));
        Vec y = load(bias + column);
        for (int64_t s = 0; s < c.splits; ++s) {
          y += load(parts + (s * all_rows + row) * width + column);
        }
        y = activate(y, layer.activation);
        const int64_t at = row * layer.out_channels + column;
        if (layer.residual != nullptr) y += load_upto(layer.residual + at, n);
        store_upto(layer.y + at, y, n);
      }
    }
  });
}

}  // namespace

void pointwise(const Threads& threads, const Pointwise& layer) {
  const Cut c = cut(layer);
  const int64_t depth = layer.channels;
  const int64_t d = layer.out_channels;
  const int64_t width = c.panels * kPanel;
  std::vector<float> bias(width);
  if (layer.bias != nullptr) std::copy_n(layer.bias, d, bias.data());
  std::vector<float> sums(layer.pooled != nullptr ? c.groups * c.blocks * width : 0);
  float* parts = nullptr;
  if (c.splits > 1) parts = scratch(Slot::kParts, c.splits * c.groups * c.rows * width);

  parallel_for(threads, c.items(), [&](int64_t item) {
    const int64_t split = item % c.splits;
    const int64_t column = item / c.splits % c.panels * kPanel;
    const int64_t block = item / c.splits / c.panels % c.blocks;
    const int64_t group = item / c.splits / c.panels / c.blocks;
    const int64_t from = c.rows * block / c.blocks;
    const int64_t to = c.rows * (block + 1) / c.blocks;
    const int64_t low = depth * split / c.splits;
    const int64_t high = depth * (split + 1) / c.splits;

    Kernel1x1 kernel{layer.kernel, depth, d, nullptr, nullptr, layer.mixed, layer.kernel_scale};
    if (layer.per_clip) kernel.data += group * depth * d;
    if (layer.scale != nullptr) kernel.scale = layer.scale + group * depth;
    if (layer.mix != nullptr) kernel.mix = layer.mix + group * layer.mixed;
    const int64_t row = group * c.rows + from;
    Finish last{};
    if (parts != nullptr) {
      last.out = parts + (split * c.groups * c.rows + row) * width + column;
      last.out_stride = width;
      last.columns = kPanel;
    } else {
      last.activation = layer.activation;
      if (layer.y != nullptr) last.out = layer.y + row * d + column;
      last.out_stride = d;
      if (layer.residual != nullptr) last.residual = layer.residual + row * d + column;
      if (layer.pooled != nullptr) {
        last.sums = sums.data() + (group * c.blocks + block) * width + column;
      }
      last.columns = static_cast<int>(std::min<int64_t>(kPanel, d - column));
    }
    // The sum goes in pieces whose part of the kernel stays in the first-level cache; the rows'
    // unfinished sums wait in between.
    const int64_t pieces = ceil_div(high - low, kDepthPiece);
    float* panel = scratch(Slot::kPanel, kDepthPiece * kPanel);
    float* partial = pieces > 1 ? scratch(Slot::kRows, (to - from) * kPanel) : nullptr;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t k = low + (high - low) * piece / pieces;
      const int64_t next = low + (high - low) * (piece + 1) / pieces;
      const int vectors = pack_panel(kernel, k, next, column, panel);
      Finish finish{};
      if (piece == pieces - 1) {
        finish = last;
      } else {
        finish.out = partial;
        finish.out_stride = kPanel;
        finish.columns = kPanel;
      }
      if (piece > 0) {
        finish.partial = partial;
        finish.partial_stride = kPanel;
      } else if (parts == nullptr) {
        finish.bias = bias.data() + column;
      }
      multiply_rows(layer.x + row * depth + k, depth, to - from, next - k, panel, vectors, finish);
    }
  });

  if (parts != nullptr) join_splits(threads, layer, c, parts, width, bias.data());
  if (layer.pooled == nullptr) return;
  for (int64_t group = 0; group < c.groups; ++group) {
    for (int64_t i = 0; i < d; ++i) {
      float sum = 0;
      for (int64_t b = 0; b < c.blocks; ++b) sum += sums[(group * c.blocks + b) * width + i];
      layer.pooled[group * d + i] = sum / static_cast<float>(c.rows);
    }
  }
}

}  // namespace native
