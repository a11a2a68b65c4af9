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
constexpr int64_t kTallTiles = 16;       // of a kernel's gradient per item
constexpr int64_t kRowPiece = 256;       // rows that are summed before the sums go to memory
constexpr int64_t kPanelsTogether = 4;
constexpr int64_t kRowsAhead = 6;        // of a kernel, fetched before they are packed

// Columns of an item, in panels: more of them read the rows less often, fewer share out better.
int64_t together(int64_t columns) { return columns >= 2048 ? 2 * kPanelsTogether : kPanelsTogether; }

// A call of memcpy for a few floats would take longer than the copy.
void copy_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to,
               int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += to_stride) {
    if (r + kRowsAhead < rows) {
      for (int64_t c = 0; c < columns; c += kWidth) __builtin_prefetch(from + kRowsAhead * stride + c);
    }
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) store(to + c, load(from + c));
    if (c < columns) store_part(to + c, load_part(from + c, columns - c), columns - c);
  }
}

// What a tile's end will touch is fetched while its sums are made: rows lie in pages of their own,
// where the processor does not look ahead by itself.
void fetch_rows(const float* at, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, at += stride) {
    for (int64_t c = 0; c < columns; c += kWidth) __builtin_prefetch(at + c, 1);
  }
}

// Rows [from, to) of a matrix as panels, one after the other. All panels of a row are filled at once:
// the rows lie in pages of their own.
void pack_panels(const float* rows, int64_t stride, int64_t from, int64_t to, int64_t columns,
                 float* panels) {
  for (int64_t k = from; k < to; ++k) {
    const float* row = rows + k * stride;
    if (k + kRowsAhead < to) {
      for (int64_t c = 0; c < columns; c += kWidth) __builtin_prefetch(row + kRowsAhead * stride + c);
    }
    for (int64_t column = 0; column < columns; column += kPanel) {
      const int64_t valid = std::min<int64_t>(kPanel, columns - column);
      float* out = panels + column * (to - from) + (k - from) * valid;
      for (int64_t c = 0; c < valid; c += kLanes) store(out + c, load(row + column + c));
    }
  }
}

}  // namespace

void product(const Threads& threads, const Product& layer) {
  const int64_t rows = layer.rows, depth = layer.depth, columns = layer.columns;
  const int64_t group = together(columns) * kPanel;
  const int64_t pieces = ceil_div(depth, kDepthPiece);
  parallel_for(threads, ceil_div(columns, group), [&](int64_t item) {
    const int64_t first = item * group, last = std::min(columns, first + group);
    float* panels = scratch(Slot::kPanel, kDepthPiece * group);
    float* tile = scratch(Slot::kRows, kTileRows * kDepthPiece);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = depth * piece / pieces, to = depth * (piece + 1) / pieces;
      const int64_t length = to - from;
      if (layer.turned) {
        for (int64_t column = first; column < last; column += kPanel) {
          pack_turned(layer.kernel + column * depth, depth, from, to,
                      std::min<int64_t>(kPanel, last - column), panels + (column - first) * length);
        }
      } else {
        pack_panels(layer.kernel + first, columns, from, to, last - first, panels);
      }
      // Equal tiles: a last one of one row would leave the multipliers waiting for its additions.
      const int64_t tiles = ceil_div(rows, kTileRows);
      for (int64_t t = 0, row = 0; t < tiles; ++t) {
        const int64_t next = rows * (t + 1) / tiles;
        copy_rows(layer.x + row * depth + from, depth, next - row, length, tile, length);
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
          fetch_rows(finish.out, columns, next - row, finish.columns);
          if (finish.slope_at != nullptr) {
            fetch_rows(finish.slope_at, columns, next - row, finish.columns);
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
  const int64_t group = 2 * kPanelsTogether * kPanel, block = kTallTiles * kTileRows;
  const int64_t groups = ceil_div(columns, group);
  const int64_t pieces = ceil_div(rows, kRowPiece);
  parallel_for(threads, groups * ceil_div(depth, block), [&](int64_t item) {
    const int64_t first = item % groups * group, last = std::min(columns, first + group);
    const int64_t low = item / groups * block, high = std::min(depth, low + block);
    const int64_t tiles = ceil_div(high - low, kTileRows);
    const auto edge = [&](int64_t t) { return low + (high - low) * t / tiles; };
    float* panels = scratch(Slot::kPanel, kRowPiece * group);
    float* tall = scratch(Slot::kRows, kRowPiece * kTallTiles * kWidth);
    // Rows of a large kernel lie a power of two apart and would push each other out of the cache, so
    // sums that are not finished wait side by side.
    const int64_t width = last - first;
    float* sums = pieces > 1 ? scratch(Slot::kParts, (high - low) * width) : nullptr;
    float* out = sums != nullptr ? sums : layer.kernel + low * columns + first;
    const int64_t stride = sums != nullptr ? width : columns;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = rows * piece / pieces, to = rows * (piece + 1) / pieces;
      const int64_t length = to - from;
      // The columns of x that make a tile, row by row, each row in a cache line of its own.
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t wide = edge(t + 1) - edge(t);
        copy_rows(layer.x + from * depth + edge(t), depth, length, wide,
                  tall + t * length * kWidth, kWidth);
      }
      for (int64_t column = first; column < last; column += kPanel) {
        const int64_t valid = std::min<int64_t>(kPanel, last - column);
        const int vectors = valid > kLanes ? 2 : 1;
        float* panel = panels + (column - first) * length;
        copy_rows(layer.dy + from * columns + column, columns, length, valid, panel, valid);
        if (low == 0) {  // one of the items that see these columns
          for (int64_t c = 0; c < valid; c += kLanes) {
            Vec sum = piece > 0 ? load(layer.bias + column + c) : Vec{};
            for (int64_t r = 0; r < length; ++r) sum += load(panel + r * valid + c);
            store(layer.bias + column + c, sum);
          }
        }
        for (int64_t t = 0; t < tiles; ++t) {
          multiply_turned(tall + t * length * kWidth, kWidth, edge(t + 1) - edge(t), length, panel,
                          valid, vectors, out + (edge(t) - low) * stride + column - first, stride,
                          piece > 0);
        }
      }
    }
    for (int64_t i = low; sums != nullptr && i < high; ++i, sums += width) {
      std::copy_n(sums, width, layer.kernel + i * columns + first);
    }
  });
}

}  // namespace native
