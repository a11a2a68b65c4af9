// Entry points for XLA: its call frames to the layers.
#include "call.h"
#include "layers.h"

namespace {

using native::Buffer;
using native::Call;

native::DepthwiseShape shape_of(const Call& call, const Buffer& kernel) {
  return {kernel.from_end(2), call.attribute("stride"), call.attribute("dilation")};
}

void expand_depthwise(const Call& call) {
  const Buffer x = call.argument(0), expand_kernel = call.argument(1), mix = call.argument(2);
  const Buffer kernel = call.argument(4), lines = call.argument(6);
  native::ExpandDepthwise layer{};
  layer.batch = x.dims[0], layer.f = x.dims[1], layer.t = x.dims[2], layer.channels = x.dims[3];
  layer.expanded = kernel.from_end(1);
  layer.shape = shape_of(call, kernel);
  layer.activation = call.activation("activation");
  layer.depthwise_activation = call.activation("depthwise_activation");
  layer.x = x.data;
  layer.expand_kernel = expand_kernel.data;
  layer.expand_mix = mix.data;
  layer.expand_per_clip = expand_kernel.rank == 3 && mix.data == nullptr;
  layer.expand_mixed = mix.data != nullptr ? mix.dims[1] : 1;
  layer.expand_scale = call.argument(11).data;
  layer.expand_bias = call.argument(3).data;
  layer.depthwise_kernel = kernel.data;
  layer.depthwise_per_clip = kernel.rank == 4;
  layer.depthwise_bias = call.argument(5).data;
  layer.lines = lines.data;
  layer.line_count = lines.data != nullptr ? lines.dims[2] / 2 : 0;
  layer.gate_f = call.argument(7).data;
  layer.gate_t = call.argument(8).data;
  layer.mean = call.argument(9).data;
  layer.factor = call.argument(10).data;
  layer.y = call.result(0).data;
  layer.pooled = call.result(1).data;
  native::expand_depthwise(call.threads(), layer);
}

void pointwise(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1), mix = call.argument(2);
  native::Pointwise layer{};
  layer.batch = x.dims[0], layer.positions = x.dims[1] * x.dims[2], layer.channels = x.dims[3];
  layer.out_channels = kernel.from_end(1);
  layer.activation = call.activation("activation");
  layer.x = x.data;
  layer.kernel = kernel.data;
  layer.mix = mix.data;
  layer.mixed = mix.data != nullptr ? mix.dims[1] : 1;
  layer.per_clip = kernel.rank == 3 && mix.data == nullptr;
  layer.bias = call.argument(3).data;
  layer.scale = call.argument(4).data;
  layer.residual = call.argument(5).data;
  layer.kernel_scale = call.argument(6).data;
  layer.y = call.result(0).data;
  layer.pooled = call.result(1).data;
  native::pointwise(call.threads(), layer);
}

void axis_means(const Call& call) {
  const Buffer x = call.argument(0);
  native::axis_means(call.threads(), {x.dims[0], x.dims[1], x.dims[2], x.dims[3], x.data,
                                      call.result(0).data});
}

void stem(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1);
  native::Stem layer{};
  layer.batch = x.dims[0], layer.f = x.dims[1], layer.t = x.dims[2];
  layer.channels = kernel.from_end(1);
  layer.activation = call.activation("activation");
  layer.x = x.data;
  layer.kernel = kernel.data;
  layer.bias = call.argument(2).data;
  layer.y = call.result(0).data;
  native::stem(call.threads(), layer);
}

void stem_patches(const Call& call) {
  const Buffer x = call.argument(0);
  native::stem_patches(call.threads(), x.dims[0], x.dims[1], x.dims[2], x.data,
                       call.result(0).data);
}

void dense(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1);
  native::Dense layer{};
  layer.rows = x.dims[0], layer.features = x.dims[1], layer.columns = kernel.dims[1];
  layer.activation = call.activation("activation");
  layer.x = x.data;
  layer.kernel = kernel.data;
  layer.bias = call.argument(2).data;
  layer.y = call.result(0).data;
  native::dense(call.threads(), layer);
}

native::DepthwiseGradient gradient(const Call& call, const Buffer& map, const Buffer& kernel) {
  return {map.dims[0],      map.dims[1],      map.dims[2],          map.dims[3],
          shape_of(call, kernel), kernel.rank == 4, call.argument(0).data,        {}};
}

void input_gradient(const Call& call) {
  const Buffer kernel = call.argument(1), dx = call.result(0);
  const auto layer = gradient(call, dx, kernel);
  native::depthwise_input_gradient(call.threads(), layer, kernel.data, dx.data);
}

void kernel_gradient(const Call& call) {
  const Buffer x = call.argument(1), dkernel = call.result(0);
  auto layer = gradient(call, x, dkernel);
  layer.pending = {call.argument(2).data, call.argument(3).data, call.argument(4).data,
                   call.activation("activation")};
  native::depthwise_kernel_gradient(call.threads(), layer, x.data, dkernel.data);
}

void pointwise_gradient(const Call& call) {
  const Buffer x = call.argument(0), dy = call.argument(1), dkernel = call.result(0);
  const native::PointwiseGradient layer{x.dims[0], x.dims[1] * x.dims[2], x.dims[3], dy.dims[3],
                                        dkernel.rank == 3, x.data, dy.data};
  native::pointwise_kernel_gradient(call.threads(), layer, dkernel.data);
}

native::Norm norm(const Call& call, bool only_x = false) {
  const Buffer x = call.argument(0);
  native::Norm layer{};
  layer.channels = x.from_end(1);
  layer.rows = 1;
  for (int64_t i = 0; i + 1 < x.rank; ++i) layer.rows *= x.dims[i];
  layer.activation = call.activation("activation");
  layer.x = x.data;
  if (only_x) return layer;
  layer.mean = call.argument(1).data;
  layer.factor = call.argument(2).data;
  layer.bias = call.argument(3).data;
  return layer;
}

void norm_statistics(const Call& call) {
  native::norm_statistics(call.threads(), norm(call, true), call.result(0).data,
                          call.result(1).data);
}

void norm_apply(const Call& call) {
  native::norm_apply(call.threads(), norm(call), call.result(0).data);
}

void norm_gradient_sums(const Call& call) {
  native::norm_gradient_sums(call.threads(), norm(call), call.argument(4).data,
                             call.result(0).data, call.result(1).data);
}

void norm_gradient(const Call& call) {
  native::norm_gradient(call.threads(), norm(call), call.argument(4).data, call.argument(5).data,
                        call.argument(6).data, call.result(0).data);
}

}  // namespace

NATIVE_TARGET(mobile_expand_depthwise, expand_depthwise)
NATIVE_TARGET(mobile_pointwise, pointwise)
NATIVE_TARGET(mobile_axis_means, axis_means)
NATIVE_TARGET(mobile_stem, stem)
NATIVE_TARGET(mobile_stem_patches, stem_patches)
NATIVE_TARGET(mobile_dense, dense)
NATIVE_TARGET(mobile_depthwise_input_gradient, input_gradient)
NATIVE_TARGET(mobile_depthwise_kernel_gradient, kernel_gradient)
NATIVE_TARGET(mobile_pointwise_kernel_gradient, pointwise_gradient)
NATIVE_TARGET(mobile_norm_statistics, norm_statistics)
NATIVE_TARGET(mobile_norm_apply, norm_apply)
NATIVE_TARGET(mobile_norm_gradient_sums, norm_gradient_sums)
NATIVE_TARGET(mobile_norm_gradient, norm_gradient)
