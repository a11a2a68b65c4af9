// The panels of a 1x1 convolution.
#pragma once

#include "gemm.h"

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

}  // namespace native
