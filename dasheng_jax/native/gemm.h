// Rows of a matrix times one panel of another: the product under everything here.
#pragma once

#include "simd.h"

namespace native {

// A panel of a transpose: rows [0, valid) of a matrix with rows of `stride` floats become its columns,
// columns [from, to) its rows. Zeros past the last column. Returns the number of vectors: 1 if that
// is enough.
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
