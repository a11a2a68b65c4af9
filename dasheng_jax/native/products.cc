// Matrix products for hundreds of rows and thousands of columns, forward and backward.
//
// A piece of the kernel, packed in panels, stays in the second-level cache while all rows go by; a
// tile of rows, copied so that its addresses do not collide, stays in the first-level one while it
// meets every panel. Unfinished sums wait in the result itself.
#include <algorithm>

#include "transformer.h"

namespace native {
namespace {

constexpr int64_t kDepthPiece = 384;     // 14 rows of it: 21 KiB
constexpr int64_t kTallBlock = 112;      // rows of a kernel's gradient per item: eight tiles
constexpr int64_t kRowPiece = 256;       // rows that are summed before the sums go to memory
constexpr int64_t kPanelsTogether = 4;

// Columns of an item, in panels: more of them read the rows less often, fewer share out better.
int64_t together(int64_t columns) { return columns >= 2048 ? 2 * kPanelsTogether : kPanelsTogether; }

void copy_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * stride, columns, to + r * columns);
}

}  // namespace

void product(const Threads& threads, const Product& layer) {
  const int64_t rows = layer.rows, depth = layer.depth, columns = layer.columns;
  const int64_t group = together(columns) * kPanel;
  const int64_t pieces = ceil_div(depth, kDepthPiece);
  const Kernel1x1 kernel{layer.kernel, depth, columns, nullptr, nullptr, 1, nullptr};
  parallel_for(threads, ceil_div(columns, group), [&](int64_t item) {
    const int64_t first = item * group, last = std::min(columns, first + group);
    float* panels = scratch(Slot::kPanel, kDepthPiece * group);
    float* tile = scratch(Slot::kRows, kTileRows * kDepthPiece);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = depth * piece / pieces, to = depth * (piece + 1) / pieces;
      const int64_t length = to - from;
      for (int64_t column = first; column < last; column += kPanel) {
        float* panel = panels + (column - first) * length;
        if (layer.turned) {
          pack_turned(layer.kernel + column * depth, depth, from, to,
                      std::min<int64_t>(kPanel, last - column), panel);
        } else {
          pack_panel(kernel, from, to, column, panel);
        }
      }
      // Equal tiles: a last one of one row would leave the multipliers waiting for its additions.
      const int64_t tiles = ceil_div(rows, kTileRows);
      for (int64_t t = 0, row = 0; t < tiles; ++t) {
        const int64_t next = rows * (t + 1) / tiles;
        copy_rows(layer.x + row * depth + from, depth, next - row, length, tile);
        for (int64_t column = first; column < last; column += kPanel) {
          const int64_t at = row * columns + column;
          Finish finish{};
          finish.out = layer.y + at;
          finish.out_stride = columns;
          finish.columns = static_cast<int>(std::min<int64_t>(kPanel, last - column));
          if (piece > 0) {
            finish.partial = finish.out;
            finish.partial_stride = columns;
          } else if (layer.bias != nullptr) {
            finish.bias = layer.bias + column;
          }
          if (piece == pieces - 1) {
            finish.activation = layer.activation;
            if (layer.before != nullptr) finish.before = layer.before + at;
            if (layer.slope_at != nullptr) finish.slope_at = layer.slope_at + at;
          }
          multiply_rows(tile, length, next - row, length, panels + (column - first) * length,
                        finish.columns > kLanes ? 2 : 1, finish);
        }
        row = next;
      }
    }
  });
}

void product_gradient(const Threads& threads, const ProductGradient& layer) {
  const int64_t rows = layer.rows, depth = layer.depth, columns = layer.columns;
  const int64_t group = kPanelsTogether * kPanel;
  const int64_t groups = ceil_div(columns, group);
  const int64_t pieces = ceil_div(rows, kRowPiece);
  parallel_for(threads, groups * ceil_div(depth, kTallBlock), [&](int64_t item) {
    const int64_t first = item % groups * group, last = std::min(columns, first + group);
    const int64_t low = item / groups * kTallBlock, high = std::min(depth, low + kTallBlock);
    float* panels = scratch(Slot::kPanel, kRowPiece * group);
    float* block = scratch(Slot::kRows, kRowPiece * kTallBlock);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = rows * piece / pieces, to = rows * (piece + 1) / pieces;
      copy_rows(layer.x + from * depth + low, depth, to - from, high - low, block);
      for (int64_t column = first; column < last; column += kPanel) {
        const int64_t valid = std::min<int64_t>(kPanel, last - column);
        float* panel = panels + (column - first) * (to - from);
        copy_rows(layer.dy + from * columns + column, columns, to - from, valid, panel);
        if (low == 0) {  // one of the items that see these columns
          for (int64_t c = 0; c < valid; c += kLanes) {
            Vec sum = piece > 0 ? load(layer.bias + column + c) : Vec{};
            for (int64_t r = 0; r < to - from; ++r) sum += load(panel + r * valid + c);
            store(layer.bias + column + c, sum);
          }
        }
        multiply_turned(block, high - low, high - low, to - from, panel, valid,
                        valid > kLanes ? 2 : 1, layer.kernel + low * columns + column, columns,
                        piece > 0);
      }
    }
  });
}

}  // namespace native
