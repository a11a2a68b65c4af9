// The layers of a transformer block that Python calls, over plain pointers to row-major arrays.
//
// All numbers of columns are multiples of kWidth.
#pragma once

#include "gemm.h"
#include "parallel.h"

namespace native {

constexpr int64_t kWidth = 16;  // of the widest vectors: no other number of columns is taken

// y = activation(x kernel + bias) [* gelu'(slope_at)].
struct Product {
  int64_t rows, depth, columns;
  const float* x;         // [rows, depth]
  const float* kernel;    // [depth, columns], or [columns, depth] if turned
  bool turned;
  const float* bias;      // [columns] or null
  Activation activation;  // kNone or kGelu
  const float* slope_at;  // [rows, columns] or null
  float* y;               // [rows, columns]
  float* before;          // [rows, columns] or null: what goes into the activation
};
void product(const Threads& threads, const Product& layer);

// kernel = x transposed times dy, bias = the sum of dy's rows.
struct ProductGradient {
  int64_t rows, depth, columns;
  const float* x;   // [rows, depth]
  const float* dy;  // [rows, columns]
  float* kernel;    // [depth, columns]
  float* bias;      // [columns]
};
void product_gradient(const Threads& threads, const ProductGradient& layer);

// softmax(q k / sqrt(size)) v for each clip and head.
struct Attention {
  int64_t clips, tokens, heads, size;
  const float* qkv;   // [clips, tokens, 3, heads, size]
  const float* keep;  // [clips, tokens] or null: 0 for keys that are not attended
  float* out;         // [clips, tokens, heads, size]
};
void attention(const Threads& threads, const Attention& layer);

// dqkv, laid out like qkv, from the gradient of `layer.out`, which is read.
void attention_gradient(const Threads& threads, const Attention& layer, const float* dout,
                        float* dqkv);

}  // namespace native
