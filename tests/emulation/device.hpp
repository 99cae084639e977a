#pragma once
// The emulated device: memory, and streams whose work runs as late as it can.
//
// What is enqueued waits until the host waits for it: for its stream, for an event behind it, or for another stream
// that waits for such an event. So a wait that is missing shows in the results. EMULATED_CUDA_STREAMS=eager runs it at
// once instead. Memory of the device can be touched by its work only: the host that reads or writes it dies of SIGSEGV.
// It is filled with ones, which are NaNs, when it is allocated. Everything here may be called by several threads; one
// at a time has the device.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace emulated {

using Work = std::function<void()>;

// Adds work to a stream, or to what it captures.
cudaError_t enqueue(cudaStream_t stream, Work work);

// Of the calling thread.
void set_last_error(cudaError_t code);

// What cudaFuncSetAttribute() allows a kernel.
std::size_t allowed_shared_bytes(const void* kernel);

// Memory that libraries take when they are first used.
void load_library(std::size_t bytes);

}  // namespace emulated
