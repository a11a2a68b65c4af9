// Every array is read once in a pass and, in the second, written once: memory is all that this waits
// for. Whether a batch may change anything is known only when all sums of the first pass are there.
#include "adamw.h"

#include <vector>

namespace native {
namespace {

constexpr int64_t kChunk = 1 << 16;  // floats of an item
constexpr int64_t kSummed = 1 << 11;  // floats whose squares are summed before they join the total

struct Vectors {
  Vec params, mean, square, gradient;
};

struct Constants {
  Vec rate, mean_scale, root_scale, mean_share, square_kept, square_share, eps, decay;

  explicit Constants(const AdamWNumbers& n)
      : rate(splat(n.rate)),
        mean_scale(splat(n.mean_scale)),
        root_scale(splat(n.root_scale)),
        mean_share(splat(n.mean_share)),
        square_kept(splat(n.square_kept)),
        square_share(splat(n.square_share)),
        eps(splat(n.eps)),
        decay(splat(n.decay)) {}
};

inline void step(const Constants& c, Vectors& x) {
  x.mean += c.mean_share * (x.gradient - x.mean);
  x.square = c.square_kept * x.square + c.square_share * x.gradient * x.gradient;
  const Vec direction =
      x.mean * c.mean_scale / (square_root(x.square) * c.root_scale + c.eps) + c.decay * x.params;
  x.params -= c.rate * direction;
}

inline Vectors load_all(const AdamW& u, int64_t at, int n) {
  return {load_upto(u.params + at, n), load_upto(u.mean + at, n), load_upto(u.square + at, n),
          load_upto(u.gradient + at, n)};
}

inline double across(Vec x) {
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

struct Sums {
  double gradient = 0, after = 0, before = 0;
};

Sums chunk_sums(const AdamW& update, const Constants& constants, int64_t from, int64_t to) {
  Sums sums;
  for (int64_t at = from; at < to;) {
    const int64_t end = std::min(to, at + kSummed);
    Vec gradient{}, after{}, before{};
    for (; at < end; at += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, end - at));
      Vectors x = load_all(update, at, n);
      gradient += x.gradient * x.gradient;
      before += x.params * x.params;
      step(constants, x);
      for (int i = n; i < kLanes; ++i) x.params[i] = 0;  // lanes behind the end: 0 / 0 where eps is 0
      after += x.params * x.params;
    }
    at = end;
    sums.gradient += across(gradient), sums.after += across(after), sums.before += across(before);
  }
  return sums;
}

}  // namespace

void adamw_sums(const Threads& threads, const AdamW& update, float* sums) {
  const Constants constants(update.numbers);
  const int64_t chunks = ceil_div(update.count, kChunk);
  std::vector<Sums> parts(chunks);  // added in their order, whoever made them
  parallel_for(threads, chunks, [&](int64_t item) {
    const int64_t from = item * kChunk;
    parts[item] = chunk_sums(update, constants, from, std::min(update.count, from + kChunk));
  });
  Sums all;
  for (const Sums& part : parts) {
    all.gradient += part.gradient, all.after += part.after, all.before += part.before;
  }
  sums[0] = static_cast<float>(all.gradient);
  sums[1] = static_cast<float>(all.after);
  sums[2] = static_cast<float>(all.before);
}

void adamw(const Threads& threads, const AdamW& update) {
  if (update.numbers.good == 0.0f) return;
  const Constants constants(update.numbers);
  parallel_for(threads, ceil_div(update.count, kChunk), [&](int64_t item) {
    const int64_t end = std::min(update.count, (item + 1) * kChunk);
    for (int64_t at = item * kChunk; at < end; at += kLanes) {
      const int n = static_cast<int>(std::min<int64_t>(kLanes, end - at));
      Vectors x = load_all(update, at, n);
      step(constants, x);
      store_upto(update.params + at, x.params, n);
      store_upto(update.mean + at, x.mean, n);
      store_upto(update.square + at, x.square, n);
    }
  });
}

}  // namespace native
