// A linear layer for a few rows: the gates of squeeze-and-excitation, the classifier.
//
// One row needs each weight once, so reading them is all the time there is. Every item reads one
// contiguous stretch of the kernel (a range of input features) and leaves a partial sum.
#include <cmath>
#include <vector>

#include "layers.h"

namespace native {
namespace {

constexpr int64_t kStretch = 16384;  // weights per item
constexpr int kFeatures = 4;         // input features per pass over the partial sums

void add_features(const float* x, int features, const float* kernel, int64_t columns, float* sums) {
  Vec value[kFeatures];
  for (int i = 0; i < kFeatures; ++i) value[i] = splat(i < features ? x[i] : 0.0f);
  // A missing feature reads the first one's weights, times zero.
  const float* row[kFeatures];
  for (int i = 0; i < kFeatures; ++i) row[i] = kernel + (i < features ? i : 0) * columns;
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
    Vec sum = load(sums + c);
    for (int i = 0; i < kFeatures; ++i) sum += value[i] * load_upto(row[i] + c, n);
    store(sums + c, sum);
  }
}

float finished(float y, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return y < 0 ? 0 : y;
    case Activation::kHardswish:
      return y * std::fmin(std::fmax(y + 3, 0.0f), 6.0f) * (1.0f / 6.0f);
    case Activation::kSigmoid: return 1.0f / (1.0f + std::exp(-y));
    default: return y;
  }
}

}  // namespace

void dense(const Threads& threads, const Dense& layer) {
  const int64_t width = ceil_div(layer.columns, kLanes) * kLanes;
  const int64_t items = ceil_div(layer.features * layer.columns, kStretch);
  std::vector<float> parts(items * layer.rows * width);
  parallel_for(threads, items, [&](int64_t item) {
    const int64_t from = layer.features * item / items;
    const int64_t to = layer.features * (item + 1) / items;
    for (int64_t k = from; k < to; k += kFeatures) {
      const int features = static_cast<int>(std::min<int64_t>(kFeatures, to - k));
      for (int64_t row = 0; row < layer.rows; ++row) {
        add_features(layer.x + row * layer.features + k, features,
                     layer.kernel + k * layer.columns, layer.columns,
                     parts.data() + (item * layer.rows + row) * width);
      }
    }
  });
  for (int64_t row = 0; row < layer.rows; ++row) {
    float* total = parts.data() + row * width;
    for (int64_t item = 1; item < items; ++item) {
      const float* part = parts.data() + (item * layer.rows + row) * width;
      for (int64_t c = 0; c < width; c += kLanes) {
        store(total + c, load(total + c) + load(part + c));
      }
    }
    for (int64_t c = 0; c < layer.columns; ++c) {
      const float bias = layer.bias != nullptr ? layer.bias[c] : 0.0f;
      layer.y[row * layer.columns + c] = finished(total[c] + bias, layer.activation);
    }
  }
}

}  // namespace native
