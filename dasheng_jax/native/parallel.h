// A parallel loop over XLA's intra-op threads, and memory that each thread keeps between calls.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>

#include "simd.h"

namespace native {

// How many threads may work, and how a task is handed to one of the others.
struct Threads {
  int64_t count;
  void (*schedule)(const void* context, void (*task)(void*), void* data);
  const void* context;
};

namespace detail {

struct Loop {
  int64_t items;
  void (*call)(const void* body, int64_t item);
  const void* body;
  std::atomic<int64_t> users;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  std::atomic<bool> failed{false};

  void work() {
    for (;;) {
      const int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) return;
      // An exception may leave neither a helper's thread nor the loop before the others are done.
      try {
        call(body, item);
      } catch (...) {
        failed.store(true, std::memory_order_relaxed);
      }
      done.fetch_add(1, std::memory_order_release);
    }
  }
  void leave() {
    if (users.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace detail

// Calls body(0) .. body(items - 1), each once, in any order, and returns when all have ended.
//
// The caller takes items like everyone else and waits only for items that a running thread has
// taken. So the loop ends even if no helper ever starts (a pool of one thread, a nested call), and
// a helper that comes late finds nothing left; the last user of the shared state frees it. Throws
// std::bad_alloc where an item ran out of memory.
template <typename Body>
void parallel_for(const Threads& threads, int64_t items, const Body& body) {
  const int64_t helpers = std::min(threads.count, items) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < items; ++i) body(i);
    return;
  }
  const auto call = [](const void* b, int64_t item) { (*static_cast<const Body*>(b))(item); };
  auto* loop = new detail::Loop{items, call, &body, {helpers + 1}};
  const auto task = [](void* data) {
    auto* shared = static_cast<detail::Loop*>(data);
    shared->work();
    shared->leave();
  };
  for (int64_t h = 0; h < helpers; ++h) threads.schedule(threads.context, task, loop);
  loop->work();
  for (int spin = 0; loop->done.load(std::memory_order_acquire) < items; ++spin) {
    // Items take microseconds: spin first, then give the core away, as another job may hold the
    // helper's.
    if (spin < 4096) {
      detail::relax();
    } else {
      std::this_thread::yield();
    }
  }
  const bool failed = loop->failed.load(std::memory_order_relaxed);
  loop->leave();
  if (failed) throw std::bad_alloc();  // nothing else is thrown in here
}

// Aligned floats that grow and stay with the thread; the slot keeps their users apart.
enum class Slot { kPanel, kRows, kTaps, kParts, kCount };

inline float* scratch(Slot slot, int64_t count) {
  struct Block {
    float* data = nullptr;
    int64_t size = 0;
    ~Block() { std::free(data); }
  };
  thread_local Block blocks[static_cast<int>(Slot::kCount)];
  Block& block = blocks[static_cast<int>(slot)];
  if (block.size < count) {
    std::free(block.data);
    block.size = 0;
    const int64_t rounded = ceil_div(count, 1024) * 1024;
    block.data = static_cast<float*>(std::aligned_alloc(64, rounded * sizeof(float)));
    if (block.data == nullptr) throw std::bad_alloc();
    block.size = rounded;
  }
  return block.data;
}

}  // namespace native
