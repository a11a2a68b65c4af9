// Batch normalisation with its activation, forwards and backwards, in passes over tiles of rows.
//
// A tile stays in the second-level cache while it is read twice. Sums are formed per tile and added
// up in double precision in a fixed order, so they depend on neither the number of threads nor the
// distance of the mean from zero.
#include <vector>

#include "layers.h"

namespace native {
namespace {

constexpr int64_t kTileFloats = 1 << 14;
constexpr int kRows = 4;  // rows that share one round trip of a column's sum

struct Tiles {
  int64_t rows, channels, height;

  explicit Tiles(const Norm& layer)
      : rows(layer.rows),
        channels(layer.channels),
        height(std::max<int64_t>(kRows, kTileFloats / layer.channels)) {}
  int64_t count() const { return ceil_div(rows, height); }
  int64_t first(int64_t tile) const { return tile * height; }
  int64_t size(int64_t tile) const { return std::min(height, rows - first(tile)); }
};

// body(row, column, rows, valid): some consecutive rows and one vector of columns, `valid` of them.
template <typename Body>
void over(int64_t rows, int64_t channels, const Body& body) {
  for (int64_t row = 0; row < rows; row += kRows) {
    const int together = static_cast<int>(std::min<int64_t>(kRows, rows - row));
    for (int64_t column = 0; column < channels; column += kLanes) {
      const int valid = static_cast<int>(std::min<int64_t>(kLanes, channels - column));
      if (together == kRows && valid == kLanes) {
        body(row, column, std::integral_constant<int, kRows>{},
             std::integral_constant<int, kLanes>{});
      } else {
        body(row, column, together, valid);
      }
    }
  }
}

// The derivative of the activation at n.
inline Vec slope(Vec n, Activation kind) {
  const Vec one = splat(1.0f);
  if (kind == Activation::kRelu) return n > Vec{} ? one : Vec{};
  if (kind == Activation::kHardswish) {
    const Vec middle = (n + n + splat(3.0f)) * splat(1.0f / 6.0f);
    return n < splat(-3.0f) ? Vec{} : (n > splat(3.0f) ? one : middle);
  }
  return one;
}

// Columns of what the passes share: the mean to take off, the factor, the bias.
struct Columns {
  Vec mean, factor, bias;

  Columns(const Norm& layer, int64_t column, int valid)
      : mean(load_upto(layer.mean + column, valid)),
        factor(load_upto(layer.factor + column, valid)),
        bias(load_upto(layer.bias + column, valid)) {}
};

// sums[0 .. channels) and sums[channels .. 2 channels) of all tiles, in order.
std::vector<double> joined(const std::vector<float>& parts, int64_t tiles, int64_t channels) {
  std::vector<double> total(2 * channels);
  for (int64_t i = 0; i < tiles; ++i) {
    const float* part = parts.data() + i * 2 * channels;
    for (int64_t c = 0; c < 2 * channels; ++c) total[c] += part[c];
  }
  return total;
}

}  // namespace

void norm_statistics(const Threads& threads, const Norm& layer, float* mean, float* var) {
  const Tiles tiles(layer);
  const int64_t c = layer.channels;
  std::vector<float> parts(tiles.count() * 2 * c);  // per tile: mean, squares around it

  parallel_for(threads, tiles.count(), [&](int64_t tile) {
    const float* x = layer.x + tiles.first(tile) * c;
    const int64_t rows = tiles.size(tile);
    float* centre = parts.data() + tile * 2 * c;
    float* squares = centre + c;
    over(rows, c, [&](int64_t row, int64_t column, auto together, auto valid) {
      Vec sum = load_upto(centre + column, valid);
      for (int r = 0; r < together; ++r) sum += load_upto(x + (row + r) * c + column, valid);
      store_upto(centre + column, sum, valid);
    });
    for (int64_t i = 0; i < c; ++i) centre[i] /= static_cast<float>(rows);
    over(rows, c, [&](int64_t row, int64_t column, auto together, auto valid) {
      const Vec middle = load_upto(centre + column, valid);
      Vec sum = load_upto(squares + column, valid);
      for (int r = 0; r < together; ++r) {
        const Vec off = load_upto(x + (row + r) * c + column, valid) - middle;
        sum += off * off;
      }
      store_upto(squares + column, sum, valid);
    });
  });

  const double all = static_cast<double>(layer.rows);
  std::vector<double> centre(c), squares(c);
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const float* part = parts.data() + t * 2 * c;
    for (int64_t i = 0; i < c; ++i) centre[i] += part[i] * (tiles.size(t) / all);
  }
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const float* part = parts.data() + t * 2 * c;
    for (int64_t i = 0; i < c; ++i) {
      const double off = part[i] - centre[i];
      squares[i] += part[c + i] + off * off * tiles.size(t);
    }
  }
  for (int64_t i = 0; i < c; ++i) {
    mean[i] = static_cast<float>(centre[i]);
    var[i] = static_cast<float>(squares[i] / all);
  }
}

void norm_apply(const Threads& threads, const Norm& layer, float* y) {
  const Tiles tiles(layer);
  const int64_t c = layer.channels;
  parallel_for(threads, tiles.count(), [&](int64_t tile) {
    const int64_t first = tiles.first(tile) * c;
    const auto run = [&](auto kind) {
      over(tiles.size(tile), c, [&](int64_t row, int64_t column, auto together, auto valid) {
        const Columns k(layer, column, valid);
        for (int r = 0; r < together; ++r) {
          const int64_t at = first + (row + r) * c + column;
          const Vec n = (load_upto(layer.x + at, valid) - k.mean) * k.factor + k.bias;
          store_upto(y + at, activate(n, kind), valid);
        }
      });
    };
    with_activation(layer.activation, run);
  });
}

void norm_gradient_sums(const Threads& threads, const Norm& layer, const float* dy, float* sum,
                        float* moment) {
  const Tiles tiles(layer);
  const int64_t c = layer.channels;
  std::vector<float> parts(tiles.count() * 2 * c);
  parallel_for(threads, tiles.count(), [&](int64_t tile) {
    const int64_t first = tiles.first(tile) * c;
    float* sums = parts.data() + tile * 2 * c;
    float* moments = sums + c;
    const auto run = [&](auto kind) {
      over(tiles.size(tile), c, [&](int64_t row, int64_t column, auto together, auto valid) {
        const Columns k(layer, column, valid);
        Vec s = load_upto(sums + column, valid), m = load_upto(moments + column, valid);
        for (int r = 0; r < together; ++r) {
          const int64_t at = first + (row + r) * c + column;
          const Vec off = load_upto(layer.x + at, valid) - k.mean;
          const Vec g = load_upto(dy + at, valid) * slope(off * k.factor + k.bias, kind);
          s += g;
          m += g * off;
        }
        store_upto(sums + column, s, valid);
        store_upto(moments + column, m, valid);
      });
    };
    with_activation(layer.activation, run);
  });
  const std::vector<double> total = joined(parts, tiles.count(), c);
  for (int64_t i = 0; i < c; ++i) {
    sum[i] = static_cast<float>(total[i]);
    moment[i] = static_cast<float>(total[c + i]);
  }
}

void norm_gradient(const Threads& threads, const Norm& layer, const float* dy, const float* level,
                   const float* tilt, float* dx) {
  const Tiles tiles(layer);
  const int64_t c = layer.channels;
  parallel_for(threads, tiles.count(), [&](int64_t tile) {
    const int64_t first = tiles.first(tile) * c;
    const auto run = [&](auto kind) {
      over(tiles.size(tile), c, [&](int64_t row, int64_t column, auto together, auto valid) {
        const Columns k(layer, column, valid);
        const Vec down = load_upto(level + column, valid), lean = load_upto(tilt + column, valid);
        for (int r = 0; r < together; ++r) {
          const int64_t at = first + (row + r) * c + column;
          const Vec off = load_upto(layer.x + at, valid) - k.mean;
          const Vec g = load_upto(dy + at, valid) * slope(off * k.factor + k.bias, kind);
          store_upto(dx + at, g * k.factor - down - off * lean, valid);
        }
      });
    };
    with_activation(layer.activation, run);
  });
}

}  // namespace native
