// Rows of a matrix times one panel of another: the product under everything here.
#pragma once

#include "simd.h"

namespace native {

// The static or dynamic kernel of a 1x1 convolution, and what is folded in while it is packed.
struct Kernel1x1 {
  const float* data;      // [depth, columns] row-major, or `mixed` of them one after the other
  int64_t depth;
  int64_t columns;
  const float* scale;     // [depth]: a factor per input channel, or null
  const float* mix;       // [mixed]: the weight of each kernel in a dynamic convolution, or null
  int64_t mixed;
  const float* column_scale;  // [columns]: a factor per output channel (batch norm), or null
};

// Copies rows [from, to), columns [column, column + kPanel) to panel[to - from][vectors * kLanes],
// zeros past the kernel's last column. Returns the number of vectors: 1 if that is enough.
int pack_panel(const Kernel1x1& kernel, int64_t from, int64_t to, int64_t column, float* panel);

// The same for the transpose of a matrix with rows of `stride` floats: rows [0, valid) of it
// become the panel's columns, its columns [from, to) the panel's rows.
int pack_turned(const float* rows, int64_t stride, int64_t from, int64_t to, int64_t valid,
                float* panel);

// What happens to a finished row of the product.
struct Finish {
  const float* bias;      // kPanel values, or null
  Activation activation;
  float* out;             // first row, first column; null if only the sums are wanted
  int64_t out_stride;
  const float* residual;  // laid out like out, or null; added after the activation
  float* sums;            // kPanel column sums, added to; or null
  int columns;            // valid columns: no others are read or written
  const float* partial;   // unfinished sums to go on with, bias included; or null
  int64_t partial_stride;
  float* before;          // laid out like out: what goes into the activation; or null
  const float* slope_at;  // laid out like out: the product is multiplied by GELU's slope there
  bool plain;             // set by multiply_rows: full vectors to store and no sums
};

// x [rows, depth] with the given row stride times panel [depth, vectors * kLanes].
void multiply_rows(const float* x, int64_t stride, int64_t rows, int64_t depth, const float* panel,
                   int vectors, const Finish& finish);

// out[tall][vectors * kLanes] = (or +=, with `onto`) the sum over `rows` of a[row][0 .. tall) times
// panel[row][vectors * kLanes]: a transposed times the panel, whose rows lie panel_stride apart.
void multiply_turned(const float* a, int64_t stride, int64_t tall, int64_t rows,
                     const float* panel, int64_t panel_stride, int vectors, float* out,
                     int64_t out_stride, bool onto);

}  // namespace native
