#pragma once
// The streams of the CPU device.
//
// inline: launch() runs the task in the caller and lets its exception pass; wait() blocks the caller.
// worker: a thread with a ring of kStreamCapacity tasks; launch() allocates nothing and blocks only while the ring is
// full.
//   A task that throws fails the stream: the tasks behind it are dropped, and every synchronize(), every wait for a
//   later event and every stream waiting for such an event rethrows the exception. Destruction drops what has not
//   started and raises stop_requested() for what runs: synchronize() first to keep the work.
// Events belong to one host thread at a time; a wait() uses the place recorded at the time of the call.

#include <memory>

#include "runtime/device/device.hpp"

namespace plimsoll {

inline constexpr int kStreamCapacity = 1024;

std::unique_ptr<Stream> make_inline_stream();
std::unique_ptr<Stream> make_worker_stream();
std::unique_ptr<Event> make_cpu_event();

}  // namespace plimsoll
