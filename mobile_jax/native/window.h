// The rows under a depthwise kernel, for a tile of time and a panel of channels, in a small ring.
//
// A tile walks down the frequency axis. Each row of the (expanded) map is made once, kept while a
// kernel row still needs it, and overwritten afterwards, so the map never exists as a whole.
#pragma once

#include <algorithm>

#include "depthwise.h"

namespace native {

struct Window {
  DepthwiseShape shape;
  int64_t f, t;       // size of the map under the kernel
  int64_t f2;         // output rows
  int64_t first;      // first output column of the tile
  int64_t outputs;    // output columns of the tile
  int64_t room;       // output columns the ring has room for
  int64_t every = 1;  // only every such row and column of the map is other than zero

  int64_t row_floats() const { return shape.buffer(room) * kPanel; }
  int64_t ring_floats() const { return shape.span() * row_floats(); }
};

// fill(row, from, to, at) writes columns [from, to) of that row of the map to at[..][kPanel];
// emit(r, rows) receives the rows under output row r, as depthwise_row takes them.
template <typename Fill, typename Emit>
void walk(const Window& w, float* ring, const Fill& fill, const Emit& emit) {
  const int64_t left = w.first * w.shape.stride - w.shape.padding();
  const int64_t positions = (w.outputs - 1) * w.shape.stride + w.shape.span();
  const int64_t from = std::max<int64_t>(0, left);
  const int64_t to = std::max(from, std::min(w.t, left + positions));
  const int64_t slots = w.shape.span();
  for (int64_t slot = 0; slot < slots; ++slot) {
    // Padding is written once: fill never touches it. Between spread-out columns all is padding.
    float* row = ring + slot * w.row_floats();
    if (w.every > 1) {
      std::fill_n(row, positions * kPanel, 0.0f);
    } else {
      std::fill_n(row, (from - left) * kPanel, 0.0f);
      std::fill_n(row + (to - left) * kPanel, (left + positions - to) * kPanel, 0.0f);
    }
  }
  int64_t next = 0;
  for (int64_t r = 0; r < w.f2; ++r) {
    const int64_t top = r * w.shape.stride - w.shape.padding();
    const int64_t end = std::min(w.f, top + w.shape.span());
    for (next = std::max(next, top); next < end; ++next) {
      if (next % w.every == 0 && from < to) {
        fill(next, from, to, ring + (next % slots) * w.row_floats() + (from - left) * kPanel);
      }
    }
    const float* rows[kMaxTaps];
    for (int64_t i = 0; i < w.shape.taps; ++i) {
      const int64_t row = top + i * w.shape.dilation;
      const bool zeros = row < 0 || row >= w.f || row % w.every != 0;
      rows[i] = zeros ? nullptr : ring + (row % slots) * w.row_floats();
    }
    emit(r, rows);
  }
}

// Copies `columns` of each of `rows` rows into a panel buffer; the last vector
// is filled up with zeros.
inline void copy_panel(const float* source, int64_t stride, int64_t rows, int columns, float* panel,
                       int64_t panel_step = kPanel) {
  for (int64_t i = 0; i < rows; ++i, source += stride, panel += panel_step) {
    for (int column = 0; column < columns; column += kLanes) {
      store(panel + column, load_upto(source + column, columns - column));
    }
  }
}

// A batch normalisation and activation that a map still has to go through: act((x - mean) * factor +
// bias) with a value per channel. Without a mean there is none.
struct Pending {
  const float* mean;
  const float* factor;
  const float* bias;
  Activation activation;
};

// As copy_panel, with what is pending done on the way; `column` is the panel's first channel.
inline void normalise_panel(const Pending& pending, int64_t column, const float* source,
                            int64_t stride, int64_t rows, int columns, float* panel) {
  for (int at = 0; at < columns; at += kLanes) {
    const int n = columns - at;
    const Vec mean = load_upto(pending.mean + column + at, n);
    const Vec factor = load_upto(pending.factor + column + at, n);
    const Vec bias = load_upto(pending.bias + column + at, n);
    const auto run = [&](auto kind) {
      for (int64_t i = 0; i < rows; ++i) {
        const Vec x = load_upto(source + i * stride + at, n);
        store(panel + i * kPanel + at, activate((x - mean) * factor + bias, kind));
      }
    };
    with_activation(pending.activation, run);
  }
}

// Output columns per tile: near 64 input columns wide, so that a ring stays in the first two cache
// levels, and a multiple of kTogether. It depends on shapes only, not on the threads, so that sums
// over tiles are always formed in the same order.
inline int64_t tile_outputs(int64_t t2, int64_t stride, int64_t other_items) {
  int64_t tiles = std::max<int64_t>(1, (t2 * stride + 16) / 64);
  if (other_items * tiles < 4 && t2 > 2 * kTogether) tiles = 4;
  return ceil_div(ceil_div(t2, tiles), kTogether) * kTogether;
}

}  // namespace native
