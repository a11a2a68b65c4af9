#include "gemm.h"

#include <algorithm>
#include <utility>

#include "functions.h"

namespace native {

int pack_turned(const float* rows, int64_t stride, int64_t from, int64_t to, int64_t valid,
                float* panel) {
  const int vectors = valid > kLanes ? 2 : 1;
  const int64_t width = vectors * kLanes;
  for (int v = 0; v < vectors; ++v) {
    const float* first = rows + v * kLanes * stride;
    const int columns = static_cast<int>(std::min<int64_t>(kLanes, valid - v * kLanes));
    int64_t k = from;
    for (; k + kLanes <= to && columns == kLanes; k += kLanes) {
      Vec square[kLanes];
      for (int c = 0; c < kLanes; ++c) square[c] = load(first + c * stride + k);
      transpose(square);
      for (int c = 0; c < kLanes; ++c) store(panel + (k - from + c) * width + v * kLanes, square[c]);
    }
    for (; k < to; ++k) {
      float* out = panel + (k - from) * width + v * kLanes;
      for (int c = 0; c < kLanes; ++c) out[c] = c < columns ? first[c * stride + k] : 0.0f;
    }
  }
  return vectors;
}

namespace {

// Residual, stores of part of a vector, and sums, for `rows` activated rows.
//
// Shared by all tile sizes and so not inlined: the round trip of a tile through the first-level
// cache costs less than a fast compile is worth.
__attribute__((noinline)) void finish_tile(Vec* sums, int rows, int vectors, int64_t row,
                                           const Finish& finish) {
  for (int v = 0; v < vectors; ++v) {
    const int n = finish.columns - v * kLanes;
    const int64_t at = row * finish.out_stride + v * kLanes;
    if (finish.before != nullptr) {
      float* before = finish.before + at;
      for (int r = 0; r < rows; ++r, before += finish.out_stride) {
        store_upto(before, sums[r * vectors + v], n);
      }
    }
    if (finish.activation == Activation::kGelu) {
      for (int r = 0; r < rows; ++r) sums[r * vectors + v] = gelu(sums[r * vectors + v]);
    }
    if (finish.slope_at != nullptr) {
      const float* at_row = finish.slope_at + at;
      for (int r = 0; r < rows; ++r, at_row += finish.out_stride) {
        sums[r * vectors + v] *= gelu_slope(load_upto(at_row, n));
      }
    }
    if (finish.residual != nullptr) {
      const float* residual = finish.residual + at;
      for (int r = 0; r < rows; ++r, residual += finish.out_stride) {
        sums[r * vectors + v] += load_upto(residual, n);
      }
    }
    if (finish.out != nullptr) {
      float* out = finish.out + at;
      for (int r = 0; r < rows; ++r, out += finish.out_stride) {
        store_upto(out, sums[r * vectors + v], n);
      }
    }
    if (finish.sums != nullptr) {
      Vec total = load(finish.sums + v * kLanes);
      for (int r = 0; r < rows; ++r) total += sums[r * vectors + v];
      store(finish.sums + v * kLanes, total);
    }
  }
}

// The tile keeps R x V accumulators in registers. Row addresses are formed from every third row
// plus 0, 1 or 2 strides, which an address can hold: fourteen pointers would spill.
template <int R, int V>
void tile(const float* x, int64_t stride, int64_t depth, const float* panel, const Finish& finish,
          int64_t row) {
  constexpr int kBases = (R + 2) / 3;
  const float* base[kBases];
  for (int i = 0; i < kBases; ++i) base[i] = x + 3 * i * stride;
  Vec sum[R][V];
  if (finish.partial != nullptr) {
    const float* partial = finish.partial + row * finish.partial_stride;
#pragma GCC unroll 28
    for (int i = 0; i < R * V; ++i) {
      sum[i / V][i % V] = load(partial + i / V * finish.partial_stride + i % V * kLanes);
    }
  } else {
    for (int v = 0; v < V; ++v) {
      const Vec bias = finish.bias != nullptr ? load(finish.bias + v * kLanes) : Vec{};
      for (int r = 0; r < R; ++r) sum[r][v] = bias;
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec w[V];
    for (int v = 0; v < V; ++v) w[v] = load(panel + v * kLanes);
    panel += V * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec a = splat(base[r / 3][(r % 3) * stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += a * w[v];
    }
  }
  if (finish.activation == Activation::kRelu) {
#pragma GCC unroll 28
    for (int i = 0; i < R * V; ++i) {
      sum[i / V][i % V] = activate(sum[i / V][i % V], Activation::kRelu);
    }
  } else if (finish.activation == Activation::kHardswish) {
#pragma GCC unroll 28
    for (int i = 0; i < R * V; ++i) {
      sum[i / V][i % V] = activate(sum[i / V][i % V], Activation::kHardswish);
    }
  }
  if (finish.plain) {
    float* out = finish.out + row * finish.out_stride;
    if (finish.residual != nullptr) {
      const float* residual = finish.residual + row * finish.out_stride;
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r, residual += finish.out_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] += load(residual + v * kLanes);
      }
    }
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r, out += finish.out_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store(out + v * kLanes, sum[r][v]);
    }
    return;
  }
  Vec sums[R * V];
#pragma GCC unroll 28
  for (int i = 0; i < R * V; ++i) sums[i] = sum[i / V][i % V];
  finish_tile(sums, R, V, row, finish);
}

using Tile = void (*)(const float*, int64_t, int64_t, const float*, const Finish&, int64_t);

template <int V, int... R>
const Tile* tiles(std::integer_sequence<int, R...>) {
  static const Tile table[] = {tile<R + 1, V>...};
  return table;
}

// out[R][V] += or = sum over rows of a[row][0 .. R) times panel[row]: the sums stay in registers.
template <int R, int V>
void outer(const float* a, int64_t stride, int64_t rows, const float* panel, int64_t panel_stride,
           float* out, int64_t out_stride, bool onto) {
  // Rows of a large result lie in pages of their own: they are fetched while the sums are made.
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) __builtin_prefetch(out + r * out_stride + v * kLanes, 1);
  }
  Vec sum[R][V];
#pragma GCC unroll 28
  for (int i = 0; i < R * V; ++i) {
    sum[i / V][i % V] = onto ? load(out + i / V * out_stride + i % V * kLanes) : Vec{};
  }
  for (int64_t row = 0; row < rows; ++row, a += stride, panel += panel_stride) {
    Vec w[V];
    for (int v = 0; v < V; ++v) w[v] = load(panel + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec factor = splat(a[r]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += factor * w[v];
    }
  }
#pragma GCC unroll 28
  for (int i = 0; i < R * V; ++i) store(out + i / V * out_stride + i % V * kLanes, sum[i / V][i % V]);
}

using Outer = void (*)(const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t,
                       bool);

template <int V, int... R>
const Outer* outers(std::integer_sequence<int, R...>) {
  static const Outer table[] = {outer<R + 1, V>...};
  return table;
}

}  // namespace

void multiply_turned(const float* a, int64_t stride, int64_t tall, int64_t rows,
                     const float* panel, int64_t panel_stride, int vectors, float* out,
                     int64_t out_stride, bool onto) {
  using Sizes = std::make_integer_sequence<int, kTileRows>;
  const Outer* table = vectors == 2 ? outers<2>(Sizes{}) : outers<1>(Sizes{});
  const int64_t count = ceil_div(tall, kTileRows);
  for (int64_t i = 0, from = 0; i < count; ++i) {
    const int64_t to = tall * (i + 1) / count;
    table[to - from - 1](a + from, stride, rows, panel, panel_stride, out + from * out_stride,
                         out_stride, onto);
    from = to;
  }
}

void multiply_rows(const float* x, int64_t stride, int64_t rows, int64_t depth, const float* panel,
                   int vectors, const Finish& wanted) {
  Finish finish = wanted;
  finish.plain =
      finish.out != nullptr && finish.sums == nullptr && finish.before == nullptr &&
      finish.slope_at == nullptr && finish.activation != Activation::kGelu &&
      finish.columns >= vectors * kLanes;
  using Sizes = std::make_integer_sequence<int, kTileRows>;
  const Tile* table = vectors == 2 ? tiles<2>(Sizes{}) : tiles<1>(Sizes{});
  // Equal tiles: a last tile of one row would leave the multipliers waiting for its additions.
  const int64_t count = ceil_div(rows, kTileRows);
  for (int64_t i = 0, row = 0; i < count; ++i) {
    const int64_t next = rows * (i + 1) / count;
    table[next - row - 1](x + row * stride, stride, depth, panel, finish, row);
    row = next;
  }
}

}  // namespace native
