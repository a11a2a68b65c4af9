// Entry points for XLA: its call frames to the layers.
#include "adamw.h"
#include "call.h"
#include "transformer.h"

namespace {

using native::Buffer;
using native::Call;

int64_t rows_of(const Buffer& x) { return x.count / x.from_end(1); }

void product(const Call& call) {
  const Buffer x = call.argument(0), y = call.result(0);
  native::Product layer{};
  layer.rows = rows_of(x), layer.depth = x.from_end(1), layer.columns = y.from_end(1);
  layer.x = x.data;
  layer.kernel = call.argument(1).data;
  layer.turned = call.attribute("turned") != 0;
  layer.bias = call.argument(2).data;
  layer.slope_at = call.argument(3).data;
  layer.activation = call.activation("activation");
  layer.y = y.data;
  layer.before = call.result(1).data;
  native::product(call.threads(), layer);
}

void product_gradient(const Call& call) {
  const Buffer x = call.argument(0), dy = call.argument(1);
  native::product_gradient(call.threads(), {rows_of(x), x.from_end(1), dy.from_end(1), x.data,
                                            dy.data, call.result(0).data, call.result(1).data});
}

native::Attention attention_of(const Call& call, float* out) {
  const Buffer qkv = call.argument(0);
  return {qkv.dims[0], qkv.dims[1], qkv.dims[3], qkv.dims[4], qkv.data, call.argument(1).data, out};
}

void attention(const Call& call) {
  native::attention(call.threads(), attention_of(call, call.result(0).data));
}

void attention_gradient(const Call& call) {
  native::attention_gradient(call.threads(), attention_of(call, nullptr), call.argument(2).data,
                             call.result(0).data);
}

native::AdamW update_of(const Call& call, const Buffer& params, const Buffer& mean,
                        const Buffer& square) {
  native::AdamW update{params.count, {}, params.data, mean.data, square.data, call.argument(4).data};
  std::memcpy(&update.numbers, call.argument(0).data, sizeof(update.numbers));
  return update;
}

void adamw_sums(const Call& call) {
  const native::AdamW update =
      update_of(call, call.argument(1), call.argument(2), call.argument(3));
  native::adamw_sums(call.threads(), update, call.result(0).data);
}

// The results lie in the operands' own memory.
void adamw(const Call& call) {
  native::adamw(call.threads(), update_of(call, call.result(0), call.result(1), call.result(2)));
}

}  // namespace

NATIVE_TARGET(dasheng_product, product)
NATIVE_TARGET(dasheng_product_gradient, product_gradient)
NATIVE_TARGET(dasheng_attention, attention)
NATIVE_TARGET(dasheng_attention_gradient, attention_gradient)
NATIVE_TARGET(dasheng_adamw_sums, adamw_sums)
NATIVE_TARGET(dasheng_adamw, adamw)
