// Means of a map along both of its axes in one reading: what the context of a dynamic block is.
#include "layers.h"

namespace native {
namespace {

constexpr int64_t kMeanItems = 16;  // where there are rows enough
constexpr int64_t kMeanRows = 8;    // an item leaves one row of sums: it shall read many more
constexpr int kMeanChains = 4;      // sums that do not wait for each other

// Means of row [t, channels] over t.
void mean_over_time(const float* row, int64_t t, int64_t channels, float* mean) {
  const Vec share = splat(1.0f / static_cast<float>(t));
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, channels - c));
    Vec sums[kMeanChains]{};
    int64_t at = 0;
    for (; at + kMeanChains <= t; at += kMeanChains) {
      for (int i = 0; i < kMeanChains; ++i) sums[i] += load_upto(row + (at + i) * channels + c, n);
    }
    for (; at < t; ++at) sums[0] += load_upto(row + at * channels + c, n);
    for (int i = 1; i < kMeanChains; ++i) sums[0] += sums[i];
    store_upto(mean + c, sums[0] * share, n);
  }
}

void add_row(const float* x, int64_t count, float* sums) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    store_upto(sums + i, load_upto(sums + i, n) + load_upto(x + i, n), n);
  }
}

}  // namespace

void axis_means(const Threads& threads, const AxisMeans& layer) {
  const int64_t row = layer.t * layer.channels;
  const int64_t places = layer.f + layer.t;
  // By shapes alone, so that results never depend on the number of threads.
  const int64_t wanted = std::min(ceil_div(kMeanItems, layer.batch), layer.f / kMeanRows);
  const int64_t chunks = std::max<int64_t>(wanted, 1);
  float* parts = scratch(Slot::kParts, layer.batch * chunks * row);
  parallel_for(threads, layer.batch * chunks, [&](int64_t item) {
    const int64_t clip = item / chunks, chunk = item % chunks;
    const int64_t from = layer.f * chunk / chunks;
    for (int64_t f = from; f < layer.f * (chunk + 1) / chunks; ++f) {
      const float* x = layer.x + (clip * layer.f + f) * row;
      if (f == from) {
        std::copy_n(x, row, parts + item * row);
      } else {
        add_row(x, row, parts + item * row);
      }
      mean_over_time(x, layer.t, layer.channels, layer.y + (clip * places + f) * layer.channels);
    }
  });
  const Vec share = splat(1.0f / static_cast<float>(layer.f));
  parallel_for(threads, layer.batch, [&](int64_t clip) {
    const float* part = parts + clip * chunks * row;
    float* y = layer.y + (clip * places + layer.f) * layer.channels;
    for (int64_t i = 0; i < row; i += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, row - i));
      Vec sum = load_upto(part + i, n);
      for (int64_t chunk = 1; chunk < chunks; ++chunk) sum += load_upto(part + chunk * row + i, n);
      store_upto(y + i, sum * share, n);
    }
  });
}

}  // namespace native
