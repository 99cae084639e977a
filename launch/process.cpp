#include "launch/process.hpp"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

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

std::vector<std::pair<std::string, std::string>> wanted_environment() {
  std::vector<std::pair<std::string, std::string>> wanted;
  const std::string core = environment("OPENBLAS_CORETYPE");
  const bool wide = core == "SkylakeX" || core == "Cooperlake" || core == "Sapphirerapids";
  if (cpu_has_avx512() && !wide) wanted.emplace_back("OPENBLAS_CORETYPE", "SkylakeX");
  const bool crowded = local_ranks() > usable_cores();
  if (environment("OMP_WAIT_POLICY").empty()) wanted.emplace_back("OMP_WAIT_POLICY", crowded ? "passive" : "active");
  if (environment("GOMP_SPINCOUNT").empty() && crowded) wanted.emplace_back("GOMP_SPINCOUNT", "0");
  if (crowded && environment("OMPI_MCA_mpi_yield_when_idle").empty())
    wanted.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
  return wanted;
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::int64_t current_rss_bytes() { return std::atoll(status_line("/proc/self/status", "VmRSS:").c_str()) * 1024; }

std::int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::int64_t outside_arena_bytes() { return current_rss_bytes() + (std::int64_t{64} << 20); }

std::uint64_t hash_of_binary() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
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
