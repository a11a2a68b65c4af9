#include "kernel1x1.h"

#include <algorithm>

namespace native {

constexpr int64_t kKernelRowsAhead = 8;  // of a kernel, fetched before they are packed

int pack_panel(const Kernel1x1& kernel, int64_t from, int64_t to, int64_t column, float* panel) {
  const int valid = static_cast<int>(std::min<int64_t>(kPanel, kernel.columns - column));
  const int vectors = valid > kLanes ? 2 : 1;
  const int64_t size = kernel.depth * kernel.columns;
  const int64_t mixed = kernel.mix != nullptr ? kernel.mixed : 1;
  for (int64_t k = from; k < to; ++k) {
    const float* row = kernel.data + k * kernel.columns + column;
    // A panel's rows lie far apart, so the processor does not foresee them.
    if (k + kKernelRowsAhead < to) {
      for (int64_t m = 0; m < mixed; ++m) {
        const float* ahead = row + kKernelRowsAhead * kernel.columns + m * size;
        for (int v = 0; v < vectors; ++v) __builtin_prefetch(ahead + v * kLanes);
      }
    }
    for (int v = 0; v < vectors; ++v, panel += kLanes) {
      const float* source = row + v * kLanes;
      const int n = valid - v * kLanes;
      Vec value = load_upto(source, n);
      if (kernel.mix != nullptr) {
        value *= splat(kernel.mix[0]);
        for (int64_t m = 1; m < kernel.mixed; ++m) {
          value += splat(kernel.mix[m]) * load_upto(source + m * size, n);
        }
      }
      if (kernel.column_scale != nullptr) {
        value *= load_upto(kernel.column_scale + column + v * kLanes, n);
      }
      if (kernel.scale != nullptr) value *= splat(kernel.scale[k]);
      store(panel, value);
    }
  }
  return vectors;
}

}  // namespace native
