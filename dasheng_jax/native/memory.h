// Large results in large pages.
//
// XLA asks the system for the working memory of a program anew at every call, and the first write
// to each page of 4 KiB is a trap into the kernel: a training step spent a third of its time there.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace native {

constexpr uintptr_t kLargePage = uintptr_t{1} << 21;

// Asks that [data, data + bytes) be given pages of 2 MiB if it fills one, the two at its ends
// included: results lie side by side. Advice: where the system does not know it, nothing happens.
inline void prefer_large_pages(const void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  if (bytes < kLargePage) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) & ~(kLargePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes + kLargePage - 1) & ~(kLargePage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace native
