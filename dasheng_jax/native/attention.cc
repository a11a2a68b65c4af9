// Self-attention of one clip and head at a time, whose keys, values and scores stay in the cache.
#include <algorithm>
#include <limits>

#include "functions.h"
#include "transformer.h"

namespace native {
namespace {

// One head of one clip: strided views of qkv, and the scores' rows filled up to whole panels.
struct Head {
  const Attention& layer;
  int64_t clip, head;

  int64_t stride() const { return 3 * layer.heads * layer.size; }
  int64_t out_stride() const { return layer.heads * layer.size; }
  int64_t wide() const { return ceil_div(layer.tokens, kPanel) * kPanel; }
  int64_t at(int64_t which) const {
    return clip * layer.tokens * stride() + (which * layer.heads + head) * layer.size;
  }
  int64_t out_at() const { return clip * layer.tokens * out_stride() + head * layer.size; }
  const float* query() const { return layer.qkv + at(0); }
  const float* key() const { return layer.qkv + at(1); }
  const float* value() const { return layer.qkv + at(2); }
  const float* keep() const {
    return layer.keep == nullptr ? nullptr : layer.keep + clip * layer.tokens;
  }
};

// rows [tokens, size] as panels of their columns, one after the other.
void pack_columns(const float* rows, int64_t stride, int64_t tokens, int64_t size, float* panels) {
  for (int64_t c = 0; c < size; c += kPanel) {
    const int64_t valid = std::min<int64_t>(kPanel, size - c);
    for (int64_t t = 0; t < tokens; ++t, panels += valid) std::copy_n(rows + t * stride + c, valid, panels);
  }
}

// The transpose as panels of kPanel tokens, the last one filled up with zeros.
void pack_tokens(const float* rows, int64_t stride, int64_t tokens, int64_t size, float* panels) {
  for (int64_t t = 0; t < tokens; t += kPanel, panels += size * kPanel) {
    const int64_t valid = std::min<int64_t>(kPanel, tokens - t);
    if (valid > kLanes) {
      pack_turned(rows + t * stride, stride, 0, size, valid, panels);
    } else {  // a panel of one vector would be narrower than its place
      for (int64_t k = 0; k < size; ++k) {
        for (int64_t c = 0; c < kPanel; ++c) {
          panels[k * kPanel + c] = c < valid ? rows[(t + c) * stride + k] : 0.0f;
        }
      }
    }
  }
}

// out[rows][wide] = x[rows][size] times panels of pack_tokens.
void against_tokens(const float* x, int64_t stride, int64_t rows, int64_t size,
                    const float* panels, int64_t wide, float* out) {
  for (int64_t t = 0; t < wide; t += kPanel, panels += size * kPanel) {
    Finish finish{};
    finish.out = out + t;
    finish.out_stride = wide;
    finish.columns = kPanel;
    multiply_rows(x, stride, rows, size, panels, 2, finish);
  }
}

// out[rows][size] = x[rows][tokens] times panels of pack_columns.
void against_columns(const float* x, int64_t stride, int64_t rows, int64_t tokens, int64_t size,
                     const float* panels, float* out, int64_t out_stride) {
  for (int64_t c = 0; c < size; c += kPanel) {
    Finish finish{};
    finish.out = out + c;
    finish.out_stride = out_stride;
    finish.columns = static_cast<int>(std::min<int64_t>(kPanel, size - c));
    multiply_rows(x, stride, rows, tokens, panels, finish.columns > kLanes ? 2 : 1, finish);
    panels += tokens * finish.columns;
  }
}

float total(Vec v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// One row of products q k becomes weights that sum to 1; zeros behind the last token.
void softmax(float* row, int64_t tokens, int64_t wide, float scale, const float* keep) {
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  for (int64_t t = 0; t < tokens; ++t) {
    row[t] = keep != nullptr && keep[t] == 0 ? kLowest : row[t] * scale;
  }
  std::fill(row + tokens, row + wide, kLowest);
  Vec most = load(row);
  for (int64_t t = kLanes; t < wide; t += kLanes) most = at_least(load(row + t), most);
  float top = most[0];
  for (int i = 1; i < kLanes; ++i) top = most[i] > top ? most[i] : top;
  Vec sum{};
  for (int64_t t = 0; t < wide; t += kLanes) {
    Vec weight = exponential(load(row + t) - splat(top));
    const int64_t n = tokens - t;
    if (n < kLanes) {
      for (int i = static_cast<int>(std::max<int64_t>(n, 0)); i < kLanes; ++i) weight[i] = 0;
    }
    store(row + t, weight);
    sum += weight;
  }
  const Vec factor = splat(1.0f / total(sum));
  for (int64_t t = 0; t < wide; t += kLanes) store(row + t, load(row + t) * factor);
}

float scale_of(const Attention& layer) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(layer.size));
}

}  // namespace

void attention(const Threads& threads, const Attention& layer) {
  const int64_t tokens = layer.tokens, size = layer.size;
  parallel_for(threads, layer.clips * layer.heads, [&](int64_t item) {
    const Head head{layer, item / layer.heads, item % layer.heads};
    const int64_t wide = head.wide();
    float* keys = scratch(Slot::kPanel, wide * size);
    float* values = scratch(Slot::kRows, tokens * size);
    float* weights = scratch(Slot::kParts, kTileRows * wide);
    pack_tokens(head.key(), head.stride(), tokens, size, keys);
    pack_columns(head.value(), head.stride(), tokens, size, values);
    const int64_t tiles = ceil_div(tokens, kTileRows);
    for (int64_t i = 0, row = 0; i < tiles; ++i) {
      const int64_t next = tokens * (i + 1) / tiles, rows = next - row;
      against_tokens(head.query() + row * head.stride(), head.stride(), rows, size, keys, wide,
                     weights);
      for (int64_t r = 0; r < rows; ++r) {
        softmax(weights + r * wide, tokens, wide, scale_of(layer), head.keep());
      }
      against_columns(weights, wide, rows, tokens, size, values,
                      layer.out + head.out_at() + row * head.out_stride(), head.out_stride());
      row = next;
    }
  });
}

void attention_gradient(const Threads& threads, const Attention& layer, const float* dout,
                        float* dqkv) {
  const int64_t tokens = layer.tokens, size = layer.size;
  const float scale = scale_of(layer);
  parallel_for(threads, layer.clips * layer.heads, [&](int64_t item) {
    const Head head{layer, item / layer.heads, item % layer.heads};
    const int64_t wide = head.wide(), stride = head.stride(), out_stride = head.out_stride();
    const float* dy = dout + head.out_at();
    float* packed = scratch(Slot::kPanel, 3 * wide * size);
    float *keys = packed, *turned_values = packed + wide * size, *columns = turned_values + wide * size;
    float* weights = scratch(Slot::kRows, tokens * wide);
    float* slopes = scratch(Slot::kParts, tokens * wide);  // of the scores
    pack_tokens(head.key(), stride, tokens, size, keys);
    pack_tokens(head.value(), stride, tokens, size, turned_values);
    pack_columns(head.key(), stride, tokens, size, columns);
    const int64_t tiles = ceil_div(tokens, kTileRows);
    for (int64_t i = 0, row = 0; i < tiles; ++i) {
      const int64_t next = tokens * (i + 1) / tiles, rows = next - row;
      float *p = weights + row * wide, *ds = slopes + row * wide;
      against_tokens(head.query() + row * stride, stride, rows, size, keys, wide, p);
      against_tokens(dy + row * out_stride, out_stride, rows, size, turned_values, wide, ds);
      for (int64_t r = 0; r < rows; ++r, p += wide, ds += wide) {
        softmax(p, tokens, wide, scale, head.keep());
        // The softmax takes the weighted mean off.
        Vec sum{};
        for (int64_t t = 0; t < wide; t += kLanes) sum += load(p + t) * load(ds + t);
        const Vec mean = splat(total(sum));
        for (int64_t t = 0; t < wide; t += kLanes) {
          store(ds + t, load(p + t) * (load(ds + t) - mean) * splat(scale));
        }
        if (const float* keep = head.keep()) {  // a score that the mask replaced has no slope
          for (int64_t t = 0; t < tokens; ++t) ds[t] = keep[t] == 0 ? 0.0f : ds[t];
        }
      }
      against_columns(slopes + row * wide, wide, rows, tokens, size, columns,
                      dqkv + head.at(0) + row * stride, stride);
      row = next;
    }
    const auto turned = [&](const float* left, const float* right, int64_t right_stride, float* out) {
      pack_columns(right, right_stride, tokens, size, columns);
      const float* panel = columns;
      for (int64_t c = 0; c < size; c += kPanel) {
        const int64_t valid = std::min<int64_t>(kPanel, size - c);
        multiply_turned(left, wide, tokens, tokens, panel, valid, valid > kLanes ? 2 : 1, out + c,
                        stride, false);
        panel += tokens * valid;
      }
    };
    turned(weights, dy, out_stride, dqkv + head.at(2));
    turned(slopes, head.query(), stride, dqkv + head.at(1));
  });
}

}  // namespace native
