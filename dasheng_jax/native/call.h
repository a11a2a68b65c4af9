// What XLA hands to an entry point: its call frame as buffers, attributes and intra-op threads.
//
// Written against XLA's C interface: its C++ one takes longer to compile than all kernels together.
// Shapes are checked in Python while tracing, where a mistake can be named; here they are trusted.
// An absent operand or result is a buffer of no elements.
#pragma once

#include <cstring>
#include <exception>

#include "memory.h"
#include "parallel.h"
#include "xla/ffi/api/c_api.h"

namespace native {

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
    prefer_large_pages(made.data, made.count * sizeof(float));
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
  Threads threads() const {
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

inline XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, void (*run)(const Call&)) {
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

}  // namespace native

// Makes `run` (a function of a native::Call) the entry point of that name.
#define NATIVE_TARGET(name, run)                                              \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* name(      \
      XLA_FFI_CallFrame* frame) {                                             \
    return native::handle(frame, run);                                        \
  }
