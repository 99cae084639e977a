#pragma once
#include <cstdint>

namespace plimsoll {

// Counts calls of operator new on threads that run a program's nodes, while they run them, once started: an op never
// allocates after the first step. The global operators are replaced in allocation_counter.cpp; outside of nodes they
// count nothing. Not seen: threads that a node uses besides its own (OpenMP's, which run loops over given buffers, and
// those of libraries), and malloc() called by name.
class AllocationCounter {
 public:
  static void start();  // counts from zero
  static std::int64_t count();
};

// Marks the thread as running a node; see Executor's hook.
void begin_counted_region();
void end_counted_region();

}  // namespace plimsoll
