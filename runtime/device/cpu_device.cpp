#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"
#include "runtime/device/cpu_stream.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

std::int64_t round_up(std::int64_t bytes, std::int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// The number behind `key` in a file of "key value" lines; `missing` when there is none.
std::int64_t number_after(const std::string& path, const std::string& key, std::int64_t missing) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    std::int64_t value = 0;
    if (words >> word && word == key && words >> value) return value;
  }
  return missing;
}

// The one number in a file; "max" and a missing file mean unlimited.
std::int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

// Lowers `memory` to what a control group allows. Page cache that can be dropped (inactive_file) counts as free.
void apply_limit(DeviceMemory& memory, std::int64_t limit, std::int64_t used, std::int64_t droppable) {
  if (limit >= memory.total_bytes || used == kUnlimited) return;
  memory.total_bytes = limit;
  memory.free_bytes = std::min(memory.free_bytes, std::max<std::int64_t>(0, limit - used + std::min(used, droppable)));
}

void apply_cgroup_limits(DeviceMemory& memory) {
  const std::string v1 = "/sys/fs/cgroup/memory";
  apply_limit(memory, number_in(v1 + "/memory.limit_in_bytes"), number_in(v1 + "/memory.usage_in_bytes"),
              number_after(v1 + "/memory.stat", "total_inactive_file", 0));
  std::ifstream groups("/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with("0::")) path = line.substr(3);
  }
  // Version 2: a limit on any ancestor binds.
  for (;;) {
    const std::string folder = "/sys/fs/cgroup" + path;
    apply_limit(memory, number_in(folder + "/memory.max"), number_in(folder + "/memory.current"),
                number_after(folder + "/memory.stat", "inactive_file", 0));
    if (path.empty()) return;
    path.erase(path.find_last_of('/'));
  }
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads) : threads_(threads) {
    require(threads >= 1, ErrorKind::Internal, "a CPU device needs at least one thread, not {}", threads);
  }

  std::string_view kind() const override { return "cpu"; }
  std::string description() const override {
    return fmt::format("{}, {} thread{}", processor_name(), threads_, threads_ == 1 ? "" : "s");
  }

  DeviceMemory memory() const override {
    DeviceMemory memory{number_after("/proc/meminfo", "MemTotal:", 0) * 1024,
                        number_after("/proc/meminfo", "MemAvailable:", 0) * 1024};
    apply_cgroup_limits(memory);
    return memory;
  }

  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    return kind == StreamKind::Compute ? make_inline_stream() : make_worker_stream();
  }
  std::unique_ptr<Event> make_event() override { return make_cpu_event(); }

  void* allocate(std::int64_t bytes) override;
  void release(void* memory, std::int64_t bytes) noexcept override {
    if (memory != nullptr) munmap(memory, mapped_bytes(bytes));
  }
  void* allocate_host(std::int64_t bytes) override { return allocate(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { release(memory, bytes); }

  void copy_to_device(void* device, const void* host, std::int64_t bytes) override { copy(device, host, bytes); }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override { copy(host, device, bytes); }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
    if (bytes > 0) std::memset(device, byte, static_cast<std::size_t>(bytes));
  }

 private:
  static std::size_t mapped_bytes(std::int64_t bytes) {
    return static_cast<std::size_t>(round_up(std::max<std::int64_t>(bytes, 1), sysconf(_SC_PAGESIZE)));
  }
  static void copy(void* to, const void* from, std::int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }

  int threads_;
};

void* CpuDevice::allocate(std::int64_t bytes) {
  require(bytes >= 0, ErrorKind::Internal, "an allocation of {} bytes", bytes);
  const std::int64_t total = memory().total_bytes;
  require(bytes <= total, ErrorKind::OutOfMemory, "cannot allocate {} ({} bytes): this machine has {}",
          format_bytes(bytes), format_count(bytes), format_bytes(total));
  // Large blocks start at a huge page; what the alignment skips is given back.
  const std::size_t wanted = mapped_bytes(bytes);
  const std::size_t slack = bytes >= kHugePage ? static_cast<std::size_t>(kHugePage) : 0;
  void* raw = mmap(nullptr, wanted + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int error = errno;  // of mmap: what is free is read from a file
  require(raw != MAP_FAILED, ErrorKind::OutOfMemory, "cannot allocate {} ({} bytes): {}; {} are free",
          format_bytes(bytes), format_count(bytes), std::strerror(error), format_bytes(memory().free_bytes));
  auto* first = static_cast<std::byte*>(raw);
  if (slack == 0) return first;
  const std::size_t misfit = reinterpret_cast<std::uintptr_t>(first) % static_cast<std::size_t>(kHugePage);
  const std::size_t skip = misfit == 0 ? 0 : static_cast<std::size_t>(kHugePage) - misfit;
  if (skip > 0) munmap(first, skip);
  if (slack > skip) munmap(first + skip + wanted, slack - skip);
  madvise(first + skip, wanted, MADV_HUGEPAGE);  // a hint: without it the same memory is only slower
  return first + skip;
}

}  // namespace

std::unique_ptr<Device> make_cpu_device(int threads) { return std::make_unique<CpuDevice>(threads); }

}  // namespace plimsoll
