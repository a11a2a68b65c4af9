// The gradient of a 1x1 kernel: the rows of the input, each times its row of the output's gradient.
#include <vector>

#include "layers.h"
#include "window.h"

namespace native {
namespace {

constexpr int64_t kBlockRows = 128;  // of both maps together: they stay in the second-level cache
constexpr int64_t kItems = 16;       // pieces of work, where there is enough of it

int64_t padded(int64_t columns) { return ceil_div(columns, kPanel) * kPanel; }

// Lanes in use when an axis of this length is laid along the vectors.
double filled(int64_t columns) {
  return static_cast<double>(columns) / (ceil_div(columns, kLanes) * kLanes);
}

}  // namespace

void pointwise_kernel_gradient(const Threads& threads, const PointwiseGradient& layer,
                               float* dkernel) {
  const int64_t c = layer.channels, d = layer.out_channels;
  // The axis that fills vectors better is laid along them.
  const bool turned = filled(c) > filled(d);
  const float* across = turned ? layer.dy : layer.x;
  const float* along = turned ? layer.x : layer.dy;
  const int64_t tall = turned ? d : c, wide = turned ? c : d, width = padded(wide);
  const int64_t groups = layer.per_clip ? layer.batch : 1;
  const int64_t rows = layer.batch * layer.positions / groups;
  const int64_t panels = width / kPanel;
  // Panels share the work without a sum to join; rows are cut only where there are few panels. By
  // shape alone, so that sums never depend on the number of threads.
  const int64_t chunks =
      std::min(ceil_div(kItems, groups * panels), ceil_div(rows, 4 * kBlockRows));
  const int64_t room = tall * width;
  std::vector<float> parts(groups * chunks * room);

  parallel_for(threads, groups * chunks * panels, [&](int64_t item) {
    const int64_t column = item % panels * kPanel;
    const int64_t chunk = item / panels % chunks, group = item / panels / chunks;
    const int64_t last = rows * (chunk + 1) / chunks;
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, wide - column));
    const int vectors = columns > kLanes ? 2 : 1;
    float* out = parts.data() + (group * chunks + chunk) * room + column;
    float* panel = scratch(Slot::kPanel, kBlockRows * kPanel);
    for (int64_t row = rows * chunk / chunks; row < last; row += kBlockRows) {
      const int64_t block = std::min(kBlockRows, last - row);
      const float* a = across + (group * rows + row) * tall;
      copy_panel(along + (group * rows + row) * wide + column, wide, block, columns, panel);
      multiply_turned(a, tall, tall, block, panel, kPanel, vectors, out, width, true);
    }
  });

  for (int64_t group = 0; group < groups; ++group) {
    float* out = dkernel + group * c * d;
    for (int64_t i = 0; i < tall; ++i) {
      for (int64_t j = 0; j < wide; ++j) {
        float sum = 0;
        for (int64_t k = 0; k < chunks; ++k) {
          sum += parts[(group * chunks + k) * room + i * width + j];
        }
        out[turned ? j * d + i : i * d + j] = sum;
      }
    }
  }
}

}  // namespace native
