#include "launch/process.hpp"

#include <malloc.h>
#include <sched.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <optional>
#include <sstream>
#include <vector>

#include "kernels/cuda_module.hpp"

namespace plimsoll {
namespace {

// Names what was changed before the binary was executed again; its presence ends the loop.
constexpr const char* kMark = "PLIMSOLL_ENVIRONMENT";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string status_line(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return line.substr(key.size());
  }
  return {};
}

int local_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}) {
    const int ranks = std::atoi(environment(name).c_str());
    if (ranks > 0) return ranks;
  }
  return 1;
}

CoreMask mask_of(pid_t process) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CoreMask mask{};
  if (sched_getaffinity(process, sizeof(set), &set) != 0) return mask;
  for (std::size_t core = 0; core < 64 * mask.size(); ++core)
    if (CPU_ISSET(core, &set)) mask[core / 64] |= std::uint64_t{1} << core % 64;
  return mask;
}

bool has_core(const CoreMask& mask, std::size_t core) { return (mask[core / 64] >> core % 64 & 1U) != 0; }

int cores_of(const CoreMask& mask) {
  return std::accumulate(mask.begin(), mask.end(), 0,
                         [](int sum, std::uint64_t word) { return sum + std::popcount(word); });
}

// mpirun, its daemon or Slurm's is the parent of the ranks and is not bound as they are. Slurm's may run on cores
// that are not the job's.
int launcher_cores() {
  const int cores = cores_of(mask_of(getppid()));
  const int of_job = std::atoi(environment("SLURM_CPUS_ON_NODE").c_str());
  return of_job > 0 ? std::min(cores, of_job) : cores;
}

std::vector<std::pair<std::string, std::string>> wanted_environment() {
  std::vector<std::pair<std::string, std::string>> wanted;
  const std::string core = environment("OPENBLAS_CORETYPE");
  const bool wide = core == "SkylakeX" || core == "Cooperlake" || core == "Sapphirerapids";
  if (cpu_has_avx512() && !wide) wanted.emplace_back("OPENBLAS_CORETYPE", "SkylakeX");
  const bool crowded = more_ranks_than_cores(local_ranks(), usable_cores(), launcher_cores());
  if (environment("OMP_WAIT_POLICY").empty()) wanted.emplace_back("OMP_WAIT_POLICY", crowded ? "passive" : "active");
  if (environment("GOMP_SPINCOUNT").empty() && crowded) wanted.emplace_back("GOMP_SPINCOUNT", "0");
  if (crowded && environment("OMPI_MCA_mpi_yield_when_idle").empty())
    wanted.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
  // Streams share the queues of a GPU, eight of them by default: what one waits for must not stand behind that wait.
  if (cuda_is_built() && environment("CUDA_DEVICE_MAX_CONNECTIONS").empty())
    wanted.emplace_back("CUDA_DEVICE_MAX_CONNECTIONS", "32");
  if (environment("OMPI_MCA_btl_tcp_links").empty()) wanted.emplace_back("OMPI_MCA_btl_tcp_links", "2");
  return wanted;
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

CoreMask core_mask() { return mask_of(0); }

int usable_cores() { return std::max(1, cores_of(core_mask())); }

double share_of_cores(std::span<const CoreMask> masks, std::size_t mine) {
  double share = 0;
  for (std::size_t core = 0; core < 64 * masks[mine].size(); ++core) {
    if (!has_core(masks[mine], core)) continue;
    const auto sharers =
        std::count_if(masks.begin(), masks.end(), [&](const CoreMask& m) { return has_core(m, core); });
    share += 1.0 / static_cast<double>(sharers);
  }
  return share;
}

int threads_of(double cores) {
  constexpr double kRounding = 1e-6;  // three thirds of a core are a core
  return std::max(1, static_cast<int>(cores + kRounding));
}

bool more_ranks_than_cores(int local_ranks, int own_cores, int launcher_cores) {
  return local_ranks > std::max(own_cores, launcher_cores);
}

std::int64_t current_rss_bytes() { return std::atoll(status_line("/proc/self/status", "VmRSS:").c_str()) * 1024; }

std::int64_t peak_rss_bytes() { return std::atoll(status_line("/proc/self/status", "VmHWM:").c_str()) * 1024; }

std::int64_t outside_arena_bytes() { return current_rss_bytes() + kLibraryAllowanceBytes; }

std::uint64_t hash_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  XXH64_state_t* state = XXH64_createState();
  XXH64_reset(state, 0);
  std::vector<char> piece(1 << 20);
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount() > 0) {
    XXH64_update(state, piece.data(), static_cast<std::size_t>(file.gcount()));
  }
  const std::uint64_t hash = XXH64_digest(state);
  XXH64_freeState(state);
  return hash;
}

std::uint64_t hash_of_binary() { return hash_of_file("/proc/self/exe"); }

std::string cpu_model() {
  const std::string line = status_line("/proc/cpuinfo", "model name");
  const std::size_t colon = line.find(": ");
  return colon == std::string::npos ? "unknown" : line.substr(colon + 2);
}

bool cpu_has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

void ensure_environment(char** argv) {
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  if (std::getenv(kMark) != nullptr) return;
  const auto wanted = wanted_environment();
  std::string changes;
  for (const auto& [name, value] : wanted) {
    setenv(name.c_str(), value.c_str(), 1);
    changes += name + "=" + value + " ";
  }
  setenv(kMark, changes.c_str(), 1);
  if (wanted.empty()) return;
  execv("/proc/self/exe", argv);  // returns only on failure: then the run is slower, not wrong
}

std::vector<std::string> environment_changes() {
  std::istringstream words(environment(kMark));
  std::vector<std::string> changes;
  for (std::string word; words >> word;) changes.push_back(word);
  return changes;
}

}  // namespace plimsoll
