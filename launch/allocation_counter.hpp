#pragma once
#include <cstdint>

namespace plimsoll {

// Counts calls of operator new made while a program's nodes run, in any thread, once started: an op never allocates
// after the first step. The global operators are replaced in allocation_counter.cpp; outside of nodes they count
// nothing.
class AllocationCounter {
 public:
  static void start();  // counts from zero
  static std::int64_t count();
};

// Marks the thread as running a node; see Executor's hook.
void begin_counted_region();
void end_counted_region();

}  // namespace plimsoll
