#pragma once
// Named ranges of the calling thread in the timeline of a profiler (NVTX 3, header-only: Nsight puts itself behind its
// calls when it starts the program, and without it a call is a load and a branch).

#include <nvtx3/nvToolsExt.h>

namespace plimsoll {

// Our own, so that a profiler can tell these from the ranges of libraries; null where none listens, which calls take.
inline nvtxDomainHandle_t range_domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("plimsoll");
  return domain;
}

inline void push_range(const char* name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  nvtxDomainRangePushEx(range_domain(), &attributes);
}
inline void pop_range() { nvtxDomainRangePop(range_domain()); }

}  // namespace plimsoll
