#pragma once
// This process and its machine: memory, cores, and the environment that libraries read when they are loaded.

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

std::string host_name();
int usable_cores();  // that this process may run on
std::int64_t current_rss_bytes();
std::int64_t peak_rss_bytes();
// What this process has besides an arena that it has not made yet, and room for what libraries allocate later.
std::int64_t outside_arena_bytes();
std::uint64_t hash_of_binary();  // of the file that this process runs
std::string cpu_model();
bool cpu_has_avx512();

// Sets what OpenBLAS and OpenMP read when they are loaded, and executes the binary again, once, when something had to
// change:
// - OPENBLAS_CORETYPE: SkylakeX on a CPU with AVX-512, unless a type of that width is named already (a shell that
// presets
//   Haswell halves the speed of matrix products);
// - OMP_WAIT_POLICY and GOMP_SPINCOUNT: threads wait actively, so that they do not sleep between ops, unless the ranks
// of this
//   host have more threads than there are cores;
// - OMPI_MCA_mpi_yield_when_idle: 1 when the ranks of this host are more than its cores.
// Also makes malloc keep large blocks instead of returning them to the system.
void ensure_environment(char** argv);
// What ensure_environment() changed, "NAME=value" each.
std::vector<std::string> environment_changes();

}  // namespace plimsoll
