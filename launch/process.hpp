#pragma once
// This process and its machine: memory, cores, and the environment that libraries read when they are loaded.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace plimsoll {

std::string host_name();
// The cores that a process may run on, a bit each.
using CoreMask = std::array<std::uint64_t, 16>;
CoreMask core_mask();
int usable_cores();  // that this process may run on
// Of the processes of a host with these masks, the cores that process `mine` has, each divided among those that may run
// on it; below 1 where they are more than their cores. (A launcher that binds ranks has divided the cores already; one
// that does not has left it to us.)
double share_of_cores(std::span<const CoreMask> masks, std::size_t mine);
// Threads for such a share: whole cores, at least one.
int threads_of(double cores);
// Are these ranks of a host more than its cores? The launcher's cores are those that it had to divide: it may have
// bound this process to `own_cores` of them.
bool more_ranks_than_cores(int local_ranks, int own_cores, int launcher_cores);
// Room for what libraries allocate later; not measured. The code of kernels comes to a GPU when it is first called, and
// libraries choose by shape: there it is for those that the first calls did not bring, and for recorded launches.
inline constexpr std::int64_t kLibraryAllowanceBytes = std::int64_t{64} << 20;
inline constexpr std::int64_t kGpuAllowanceBytes = std::int64_t{256} << 20;
constexpr std::int64_t allowance_bytes(bool on_gpu) { return on_gpu ? kGpuAllowanceBytes : kLibraryAllowanceBytes; }
std::int64_t current_rss_bytes();
// Of this program; getrusage() would count what its parent had before it executed this one.
std::int64_t peak_rss_bytes();
// What this process has besides an arena that it has not made yet, and kLibraryAllowanceBytes.
std::int64_t outside_arena_bytes();
std::uint64_t hash_of_file(const std::string& path);  // of nothing where it cannot be read
std::uint64_t hash_of_binary();                       // of the file that this process runs
std::string cpu_model();
bool cpu_has_avx512();

// Sets what OpenBLAS and OpenMP read when they are loaded, and executes the binary again, once, when something had to
// change:
// - OPENBLAS_CORETYPE: SkylakeX on a CPU with AVX-512, unless a type of that width is named already (a shell that
//   presets Haswell halves the speed of matrix products);
// - OMP_WAIT_POLICY and GOMP_SPINCOUNT: threads wait actively, so that they do not sleep between ops, unless the ranks
//   of this host are more than its cores (threads of the configuration's choice are not known here);
// - OMPI_MCA_mpi_yield_when_idle: 1 when the ranks of this host are more than its cores;
// - OMPI_MCA_btl_tcp_links: 2 connections between hosts over TCP, unless a number is given. On one, the answer that a
//   message waits for stands behind what goes the other way: what two ranks exchange goes one way after the other;
// - CUDA_DEVICE_MAX_CONNECTIONS: 32 in a build with CUDA, unless it is set.
// Also makes malloc keep large blocks instead of returning them to the system.
void ensure_environment(char** argv);
// What ensure_environment() changed, "NAME=value" each.
std::vector<std::string> environment_changes();

}  // namespace plimsoll
