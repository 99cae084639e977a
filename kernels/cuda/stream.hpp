#pragma once
// The streams of a CUDA device.
//
// native: a cudaStream_t; launch() calls the task at once, which launches work on native_handle().
// hosted: a thread whose tasks run after what they wait for is done on the device, with a cudaStream_t of their own for
//   copies, which has finished when the next one starts. An event of it is ready when its tasks have run; a native
//   stream that waits for it blocks the host.

#include <memory>

#include "kernels/cuda_module.hpp"

namespace plimsoll {

std::unique_ptr<Stream> make_native_stream(int device, StreamKind kind);
std::unique_ptr<Stream> make_hosted_stream(const CudaDeviceOptions& options);
std::unique_ptr<Event> make_cuda_event(int device);
// Of native streams.
std::unique_ptr<Timer> make_cuda_timer(int device);
// Of the calling thread.
void use_device(int device);

}  // namespace plimsoll
