#include "launch/run_costs.hpp"

#include "launch/cluster_file.hpp"
#include "launch/measured.hpp"
#include "launch/process.hpp"
#include "runtime/core/error.hpp"
#include "runtime/ops/attention_device.hpp"
#include "runtime/plan/device_table.hpp"

namespace plimsoll {
namespace {

// Rank 0's text on every rank.
std::string broadcast(const Group& control, std::string text) {
  std::int64_t bytes = std::ssize(text);
  control.broadcast({&bytes, {{1}, DType::i64}}, 0);
  text.resize(static_cast<std::size_t>(bytes));
  if (bytes > 0) control.broadcast({text.data(), {{bytes}, DType::u8}}, 0);
  return text;
}

ClusterDescription described_cluster(const Config& config) {
  if (!config.comm.cluster.empty()) return load_cluster(config.comm.cluster);
  if (config.device == DeviceKind::Cpu) return {};
  constexpr std::int64_t kMemoryOfH200 = std::int64_t{139} << 30;
  if (config.gpu.name.empty()) return describe_gpus(*find_gpu("H200"), kMemoryOfH200, config.cuda.tf32);
  if (config.gpu.measured) return describe_gpus(*config.gpu.measured);
  const GpuDataSheet* gpu = find_gpu(config.gpu.name);
  require(gpu != nullptr, ErrorKind::Internal, "{} has no data sheet and was not measured", config.gpu.name);
  return describe_gpus(*gpu, config.gpu.memory_bytes, config.cuda.tf32);
}

}  // namespace

ClusterDescription choose_cluster(const Config& config) {
  ClusterDescription cluster = described_cluster(config);
  require(config.fp8 == Fp8Use::Off || cluster.device.matmul.fp8 > 0, ErrorKind::Config,
          "{}: to be planned for {}, which has no rate for it (device.matmul.fp8)", key_place(config, "fp8"),
          cluster.device.name);
  return cluster;
}

KernelsOf kernels_of(const Config& config) {
  return config.device == DeviceKind::Cuda ? KernelsOf::Gpu : KernelsOf::Host;
}

FusedHeads fused_heads_of(const Config& config) {
  if (config.device != DeviceKind::Cuda) return {};
  if (!config.gpu.name.empty()) return config.gpu.fused_heads;
  const GpuDataSheet* gpu = find_gpu(choose_cluster(config).device.name);
  return fused_heads(gpu != nullptr ? gpu->compute_capability : 0);
}

RunCosts::RunCosts(const Config& config, const Place& place, const Group* control, std::int64_t most_bytes,
                   Backend* backend, const Group* messages)
    : cluster_(choose_cluster(config)), described_(cluster_, kernels_of(config)), costs_(&described_) {
  if (!config.comm.cluster.empty() || config.plan.profile == "") return;
  if (config.device == DeviceKind::Cuda && backend == nullptr) {
    require(!config.plan.profile, ErrorKind::Config,
            "{}: whose times of {} hold is known to a run, which finds a GPU, and not here: give comm.cluster, or auto "
            "for a description",
            key_place(config, "plan.profile"), config.plan.profile.value_or(""));
    return;
  }
  owner_ = {cpu_model(), build_name(), choose_threads(config, place), place.local_ranks};
  if (config.device == DeviceKind::Cuda) owner_.device = backend->kernels_name;
  named_ = config.plan.profile.has_value();
  file_ = named_ ? std::filesystem::path(*config.plan.profile) : cache_file("kernels.json");
  writes_ = control != nullptr && place.rank == 0;
  KernelProfile profile = load(config, control);
  known_ = profile.seconds.size();
  if (control != nullptr) {
    KernelTimerOptions options{owner_.threads, most_bytes};
    if (place.ranks > 1) options.group = control;
    if (config.device == DeviceKind::Cuda) {
      options.backend = backend;
      options.messages = place.ranks > 1 ? messages : nullptr;
    }
    timer_ = std::make_unique<KernelTimer>(options);
  }
  // Collectives were measured over the ranks of one host.
  const int processes = place.ranks == place.local_ranks ? place.ranks : 1;
  profiled_ = std::make_shared<const ProfiledCosts>(described_, std::move(profile), timer_.get(), processes);
  costs_ = profiled_.get();
}

KernelProfile RunCosts::load(const Config& config, const Group* control) {
  if (control == nullptr) return read_kernel_profile(file_, owner_, named_);
  KernelProfile profile;
  std::string fault;
  if (control->rank() == 0) {
    try {
      profile = read_kernel_profile(file_, owner_, named_);
    } catch (const Error& error) {
      fault = error.what();
    }
  }
  fault = broadcast(*control, fault);
  require(fault.empty(), ErrorKind::Config, "{}: {}", key_place(config, "plan.profile"), fault);
  return profile_of_text(broadcast(*control, profile_text(profile)), owner_.processes);
}

void RunCosts::keep() const {
  if (!writes_ || !profiled_ || !profiled_->grew()) return;
  const bool written = write_kernel_profile(file_, owner_, profiled_->profile());
  require(written || !named_, ErrorKind::Config, "plan.profile: {} cannot be written", file_.string());
}

std::string RunCosts::text() const {
  if (!profiled_) return fmt::format("times: those of {}", cluster_.device.name);
  const auto [measured, described] = profiled_->coverage();
  std::string out = fmt::format("times: kernel profile, {} kinds of nodes measured", measured);
  if (timer_ != nullptr && profiled_->grew())
    out += fmt::format(" ({} of them now, in {:.1f} s)", profiled_->profile().seconds.size() - known_,
                       timer_->spent_seconds());
  return described > 0 ? out + fmt::format(", {} from the description of {}", described, cluster_.device.name) : out;
}

}  // namespace plimsoll
