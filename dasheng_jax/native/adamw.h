// An update of AdamW over arrays of any shape, in two passes: what it would give, then the update.
#pragma once

#include "parallel.h"

namespace native {

// What an update is made with; the order is that of the operand that Python fills.
struct AdamWNumbers {
  float rate;            // of learning
  float mean_scale;      // 1 / (1 - beta1^n)
  float root_scale;      // 1 / sqrt(1 - beta2^n)
  float mean_share;      // 1 - beta1
  float square_kept;     // beta2
  float square_share;    // 1 - beta2
  float eps;
  float decay;
  float good;            // 0: leave everything as it is
};

struct AdamW {
  int64_t count;
  AdamWNumbers numbers;
  float* params;
  float* mean;    // of gradients
  float* square;  // mean of squared gradients
  const float* gradient;
};

// sums = {squares of the gradient, of the parameters after the update, of those before}; changes nothing.
void adamw_sums(const Threads& threads, const AdamW& update, float* sums);

// Changes params, mean and square in place.
void adamw(const Threads& threads, const AdamW& update);

}  // namespace native
