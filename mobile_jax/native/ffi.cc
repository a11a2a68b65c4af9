// Entry points for XLA: its call frames to the layers, its intra-op threads to the parallel loop.
//
// Written against XLA's C interface: its C++ one takes longer to compile than all kernels together.
// Shapes are checked in Python while tracing, where a mistake can be named; here they are trusted.
// An absent operand or result is a buffer of no elements.
#include <exception>

#include "layers.h"
#include "memory.h"
#include "xla/ffi/api/c_api.h"

namespace {

using mobile::Activation;

// Version 4 of the interface calls its own extensions by another name.
#if XLA_FFI_API_MINOR >= 4
using Extension = XLA_FFI_InternalExtension;
#else
using Extension = XLA_FFI_Extension_Base;
#endif

struct Buffer {
  float* data;  // null if it holds nothing
  const int64_t* dims;
  int64_t rank;
  int64_t count = 1;

  explicit Buffer(void* raw) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(raw);
    dims = buffer->dims;
    rank = buffer->rank;
    for (int64_t i = 0; i < rank; ++i) count *= dims[i];
    data = count > 0 ? static_cast<float*>(buffer->data) : nullptr;
  }
  int64_t from_end(int64_t i) const { return dims[rank - i]; }
};

struct Call {
  const XLA_FFI_CallFrame* frame;

  Buffer argument(int64_t i) const { return Buffer(frame->args.args[i]); }
  Buffer result(int64_t i) const {
    const Buffer made(frame->rets.rets[i]);
    mobile::prefer_large_pages(made.data, made.count * sizeof(float));
    return made;
  }
  int64_t attribute(const char* name) const {
    const XLA_FFI_Attrs& attrs = frame->attrs;
    for (int64_t i = 0; i < attrs.size; ++i) {
      const XLA_FFI_ByteSpan& found = *attrs.names[i];
      if (found.len == std::strlen(name) && std::memcmp(found.ptr, name, found.len) == 0) {
        return *static_cast<const int64_t*>(static_cast<XLA_FFI_Scalar*>(attrs.attrs[i])->value);
      }
    }
    return 0;
  }
  Activation activation(const char* name) const { return static_cast<Activation>(attribute(name)); }
  mobile::DepthwiseShape shape(const Buffer& kernel) const {
    return {kernel.from_end(2), attribute("stride"), attribute("dilation")};
  }
  mobile::Threads threads() const {
    int64_t count = 1;
    XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr,
                                            frame->ctx, &count};
    if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args)) {
      destroy(frame, error);
      count = 1;
    }
    return {count, schedule, frame};
  }

  static void destroy(const XLA_FFI_CallFrame* frame, XLA_FFI_Error* error) {
    XLA_FFI_Error_Destroy_Args args{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    frame->api->XLA_FFI_Error_Destroy(&args);
  }
  static void schedule(const void* context, void (*task)(void*), void* data) {
    const auto* frame = static_cast<const XLA_FFI_CallFrame*>(context);
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                          frame->ctx, task, data};
    if (XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args)) {
      destroy(frame, error);
      task(data);  // no pool: the caller does the work of the helper too
    }
  }
};

void expand_depthwise(const Call& call) {
  const Buffer x = call.argument(0), expand_kernel = call.argument(1), mix = call.argument(2);
  const Buffer kernel = call.argument(4), lines = call.argument(6);
  mobile::ExpandDepthwise layer{};
  layer.batch = x.dims[0], layer.f = x.dims[1], layer.t = x.dims[2], layer.channels = x.dims[3];
  layer.expanded = kernel.from_end(1);
  layer.shape = call.shape(kernel);
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
  mobile::expand_depthwise(call.threads(), layer);
}

void pointwise(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1), mix = call.argument(2);
  mobile::Pointwise layer{};
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
  mobile::pointwise(call.threads(), layer);
}

void axis_means(const Call& call) {
  const Buffer x = call.argument(0);
  mobile::axis_means(call.threads(), {x.dims[0], x.dims[1], x.dims[2], x.dims[3], x.data,
                                      call.result(0).data});
}

void stem(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1);
  mobile::Stem layer{};
  layer.batch = x.dims[0], layer.f = x.dims[1], layer.t = x.dims[2];
  layer.channels = kernel.from_end(1);
  layer.activation = call.activation("activation");
  layer.x = x.data;
  layer.kernel = kernel.data;
  layer.bias = call.argument(2).data;
  layer.y = call.result(0).data;
  mobile::stem(call.threads(), layer);
}

void stem_patches(const Call& call) {
  const Buffer x = call.argument(0);
  mobile::stem_patches(call.threads(), x.dims[0], x.dims[1], x.dims[2], x.data,
                       call.result(0).data);
}

void dense(const Call& call) {
  const Buffer x = call.argument(0), kernel = call.argument(1);
  mobile::Dense layer{};
  layer.rows = x.dims[0], layer.features = x.dims[1], layer.columns = kernel.dims[1];
  layer.activation = call.activation("activation");
  layer.x = x.data;
  layer.kernel = kernel.data;
  layer.bias = call.argument(2).data;
  layer.y = call.result(0).data;
  mobile::dense(call.threads(), layer);
}

mobile::DepthwiseGradient gradient(const Call& call, const Buffer& map, const Buffer& kernel) {
  return {map.dims[0],      map.dims[1],      map.dims[2],          map.dims[3],
          call.shape(kernel), kernel.rank == 4, call.argument(0).data,        {}};
}

void input_gradient(const Call& call) {
  const Buffer kernel = call.argument(1), dx = call.result(0);
  const auto layer = gradient(call, dx, kernel);
  mobile::depthwise_input_gradient(call.threads(), layer, kernel.data, dx.data);
}

void kernel_gradient(const Call& call) {
  const Buffer x = call.argument(1), dkernel = call.result(0);
  auto layer = gradient(call, x, dkernel);
  layer.pending = {call.argument(2).data, call.argument(3).data, call.argument(4).data,
                   call.activation("activation")};
  mobile::depthwise_kernel_gradient(call.threads(), layer, x.data, dkernel.data);
}

void pointwise_gradient(const Call& call) {
  const Buffer x = call.argument(0), dy = call.argument(1), dkernel = call.result(0);
  const mobile::PointwiseGradient layer{x.dims[0], x.dims[1] * x.dims[2], x.dims[3], dy.dims[3],
                                        dkernel.rank == 3, x.data, dy.data};
  mobile::pointwise_kernel_gradient(call.threads(), layer, dkernel.data);
}

mobile::Norm norm(const Call& call, bool only_x = false) {
  const Buffer x = call.argument(0);
  mobile::Norm layer{};
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
  mobile::norm_statistics(call.threads(), norm(call, true), call.result(0).data,
                          call.result(1).data);
}

void norm_apply(const Call& call) {
  mobile::norm_apply(call.threads(), norm(call), call.result(0).data);
}

void norm_gradient_sums(const Call& call) {
  mobile::norm_gradient_sums(call.threads(), norm(call), call.argument(4).data,
                             call.result(0).data, call.result(1).data);
}

void norm_gradient(const Call& call) {
  mobile::norm_gradient(call.threads(), norm(call), call.argument(4).data, call.argument(5).data,
                        call.argument(6).data, call.result(0).data);
}

XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, void (*run)(const Call&)) {
  // Registration asks with an empty call which version of the interface this was written for.
  const Extension* extension = frame->extension_start;
  if (extension != nullptr && extension->type == XLA_FFI_Extension_Metadata) {
    auto* asked = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
    asked->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                          XLA_FFI_API_MINOR};
    asked->traits = 0;
    asked->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  try {
    run(Call{frame});
    return nullptr;
  } catch (const std::exception& problem) {
    XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, problem.what(),
                                   XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&args);
  }
}

}  // namespace

#define MOBILE_TARGET(name, run)                                              \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* name(      \
      XLA_FFI_CallFrame* frame) {                                             \
    return handle(frame, run);                                                \
  }

MOBILE_TARGET(mobile_expand_depthwise, expand_depthwise)
MOBILE_TARGET(mobile_pointwise, pointwise)
MOBILE_TARGET(mobile_axis_means, axis_means)
MOBILE_TARGET(mobile_stem, stem)
MOBILE_TARGET(mobile_stem_patches, stem_patches)
MOBILE_TARGET(mobile_dense, dense)
MOBILE_TARGET(mobile_depthwise_input_gradient, input_gradient)
MOBILE_TARGET(mobile_depthwise_kernel_gradient, kernel_gradient)
MOBILE_TARGET(mobile_pointwise_kernel_gradient, pointwise_gradient)
MOBILE_TARGET(mobile_norm_statistics, norm_statistics)
MOBILE_TARGET(mobile_norm_apply, norm_apply)
MOBILE_TARGET(mobile_norm_gradient_sums, norm_gradient_sums)
MOBILE_TARGET(mobile_norm_gradient, norm_gradient)
