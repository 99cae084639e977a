#include "runtime/plan/kernel_profile.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"
#include "runtime/ops/attention_device.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 2;

// Attributes that change how much a kernel does, not where it is in the model.
std::string attributes_text(const Attrs& attrs) {
  std::string text;
  std::visit(
      [&text](const auto& a) {
        if constexpr (requires { a.weight_in_out; }) text += a.weight_in_out ? " in-out" : "";
        if constexpr (requires { a.activation; }) text += fmt::format(" activation {}", static_cast<int>(a.activation));
        if constexpr (requires { a.layout.head_dim; })
          text += fmt::format(" heads {}/{} of {}", a.layout.heads, a.layout.kv_heads, a.layout.head_dim);
        if constexpr (requires { a.fused_heads; })
          if (names_fused_heads(a.fused_heads, a.layout.head_dim))
            text += fmt::format(" fused {}/{}", a.fused_heads.forward, a.fused_heads.backward);
        if constexpr (requires { a.dropout; }) text += a.dropout > 0 ? " dropout" : "";
        if constexpr (requires { a.chunk_rows; }) text += fmt::format(" rows {}", a.chunk_rows);
        if constexpr (requires { a.ranks; }) text += fmt::format(" ranks {}", a.ranks);
        if constexpr (requires { a.positions; }) text += a.positions ? " positions" : "";
        if constexpr (requires { a.tensors; }) text += fmt::format(" tensors {}", a.tensors);
        if constexpr (requires { a.clip; }) text += a.clip > 0 ? " clip" : "";
      },
      attrs);
  return text;
}

std::string owner_name(const ProfileOwner& owner) {
  return owner.device.empty() ? fmt::format("{} x {}", owner.threads, owner.processes)
                              : fmt::format("{} x {}", owner.device, owner.processes);
}

bool is_time(const json& value) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
}

std::optional<LinkOperation> operation_named(const json& name) {
  for (const EnumName& known : enum_names(LinkOperation{})) {
    if (name == known.name) return static_cast<LinkOperation>(known.value);
  }
  return std::nullopt;
}

bool is_link(const json& link) {
  if (!link.is_object() || !operation_named(link.value("operation", json()))) return false;
  const json bytes = link.value("bytes", json()), seconds = link.value("seconds", json());
  const json slows = link.value("slows", json(0.0));
  if (!slows.is_number() || slows < 0.0 || slows >= 1.0) return false;
  if (!bytes.is_array() || !seconds.is_array() || bytes.empty() || bytes.size() != seconds.size()) return false;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const bool rises = bytes[i].is_number_integer() && bytes[i] > (i == 0 ? json(0) : bytes[i - 1]);
    if (!rises || !is_time(seconds[i])) return false;
  }
  return true;
}

json to_json(const KernelProfile& profile) {
  json own{{"seconds", profile.seconds},
           {"memory_seconds_per_byte", profile.memory_seconds_per_byte},
           {"links", json::array()}};
  for (const MeasuredLink& link : profile.links)
    own["links"].push_back({{"operation", to_text(link.operation)},
                            {"bytes", link.bytes},
                            {"seconds", link.seconds},
                            {"slows", link.slows}});
  return own;
}

KernelProfile from_json(const json& own, int processes) {
  KernelProfile profile;
  for (const auto& [key, seconds] : own["seconds"].items()) profile.seconds[key] = seconds.get<double>();
  profile.memory_seconds_per_byte = std::max(0.0, own["memory_seconds_per_byte"].get<double>());
  for (const json& link : own.value("links", json::array())) {
    MeasuredLink& l = profile.links.emplace_back();
    l.axis = "world";
    l.operation = *operation_named(link["operation"]);
    l.ranks = processes;
    link["bytes"].get_to(l.bytes);
    link["seconds"].get_to(l.seconds);
    l.slows = link.value("slows", 0.0);
  }
  return profile;
}

// The file as JSON of `owner`'s CPU and build; null with a reason where it is not.
json parse_profiles(const fs::path& file, const ProfileOwner& owner, std::string& reason) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) {
    reason = "is not a file";
    return {};
  }
  std::ifstream in(file);
  const json all = json::parse(in, nullptr, false);
  const auto text = [&](const char* name) {
    return all.contains(name) && all[name].is_string() ? all[name] : json("");
  };
  if (!all.is_object() || all.value("format", json()) != kFormat || !all.contains("profiles") ||
      !all["profiles"].is_object()) {
    reason = "is not a kernel profile";
  } else if (text("cpu") != owner.cpu) {
    reason = fmt::format("is of another CPU ('{}', this is '{}')", text("cpu").get<std::string>(), owner.cpu);
  } else if (text("build") != owner.build) {
    reason = fmt::format("is of another build ({}, this is {})", text("build").get<std::string>(), owner.build);
  }
  if (!reason.empty()) return {};
  for (const auto& [name, one] : all["profiles"].items()) {
    const bool whole = one.is_object() && one.contains("seconds") && one["seconds"].is_object() &&
                       one.contains("memory_seconds_per_byte") && one["memory_seconds_per_byte"].is_number();
    if (!whole) reason = fmt::format("has no times in '{}'", name);
    if (!whole) continue;
    for (const auto& [key, seconds] : one["seconds"].items()) {
      if (!is_time(seconds)) reason = fmt::format("has no time for '{}'", key);
    }
    for (const json& link : one.value("links", json::array())) {
      if (!is_link(link)) reason = fmt::format("has a collective without times in '{}'", name);
    }
  }
  return reason.empty() ? all : json();
}

}  // namespace

std::string kernel_key(const Node& node) {
  const OpInfo& op = op_info(node.op);
  std::string key = fmt::format("{} {} {}", op.name, phase_name(node.phase), dtype_name(compute_dtype(op, node.specs)));
  for (std::size_t s = 0; s < op.slots.size(); ++s) {
    const int slot = static_cast<int>(s);
    if (!node.specs.has(slot)) continue;
    const TensorSpec& spec = node.specs[slot];
    key += fmt::format(" {}[{}]", op.slots[s].name, fmt::join(spec.shape.begin(), spec.shape.end(), ","));
    if (node.value[s] == kNoValue) key += "-";
    if (node.grad[s] != kNoValue) key += node.accumulate[s] == Accumulate::Never ? "=" : "+";
  }
  return key + attributes_text(node.attrs);
}

KernelProfile read_kernel_profile(const fs::path& file, const ProfileOwner& owner, bool strict) {
  KernelProfile profile;
  std::error_code ignored;
  if (file.empty() || !fs::exists(file, ignored)) return profile;
  std::string reason;
  const json all = parse_profiles(file, owner, reason);
  require(reason.empty() || !strict, ErrorKind::Config, "{}: {}: remove it, and it is measured anew", file.string(),
          reason);
  if (!reason.empty() || !all["profiles"].contains(owner_name(owner))) return profile;
  return from_json(all["profiles"][owner_name(owner)], owner.processes);
}

bool write_kernel_profile(const fs::path& file, const ProfileOwner& owner, const KernelProfile& profile) {
  if (file.empty()) return false;
  std::string reason;
  json all;
  std::error_code error;
  if (fs::exists(file, error)) all = parse_profiles(file, owner, reason);
  if (!all.is_object()) {
    all = {{"format", kFormat}, {"cpu", owner.cpu}, {"build", owner.build}, {"profiles", json::object()}};
  }
  all["profiles"][owner_name(owner)] = to_json(profile);
  if (!file.parent_path().empty()) fs::create_directories(file.parent_path(), error);
  const fs::path temporary = file.string() + fmt::format(".{}.tmp", getpid());
  std::ofstream out(temporary);
  out << all.dump(1) << "\n";
  out.close();
  if (out.good()) {
    fs::rename(temporary, file, error);
    if (!error) return true;
  }
  fs::remove(temporary, error);
  return false;
}

std::string profile_text(const KernelProfile& profile) { return to_json(profile).dump(); }

KernelProfile profile_of_text(const std::string& text, int processes) {
  return from_json(json::parse(text), processes);
}

ProfiledCosts::ProfiledCosts(const CostModel& described, KernelProfile profile, NodeTimer* timer, int processes)
    : described_(described), timer_(timer), processes_(processes), profile_(std::move(profile)) {}

const ProfiledCosts::MeasuredTable* ProfiledCosts::link(LinkOperation operation) const {
  const auto [entry, is_new] = links_.try_emplace(operation);
  if (is_new) {
    auto known = std::find_if(profile_.links.begin(), profile_.links.end(),
                              [&](const MeasuredLink& l) { return l.operation == operation; });
    if (known == profile_.links.end() && timer_ != nullptr) {
      if (auto measured = timer_->link(operation)) {
        known = profile_.links.insert(profile_.links.end(), std::move(*measured));
        grew_ = true;
      }
    }
    if (known != profile_.links.end()) entry->second = MeasuredTable{known->table(), known->slows};
  }
  return entry->second ? &*entry->second : nullptr;
}

double ProfiledCosts::collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const {
  const double described = described_.collective_seconds(kind, bytes, ranks, stride);
  if (ranks == 1 || processes_ == 1) return described;
  const MeasuredTable* all = link(operation_of(kind));
  if (all == nullptr) return described;
  const double measured = all->table.seconds(static_cast<double>(bytes));
  return ranks == processes_ ? measured
                             : described * measured / described_.collective_seconds(kind, bytes, processes_, 1);
}

double ProfiledCosts::collective_slows(CollectiveKind kind, int ranks, int stride) const {
  const double described = described_.collective_slows(kind, ranks, stride);
  if (ranks == 1 || processes_ == 1) return described;
  const MeasuredTable* all = link(operation_of(kind));
  return all == nullptr ? described : all->slows;
}

double ProfiledCosts::node_seconds(const Graph& graph, const Node& node) const {
  if (op_info(node.op).collective) return 0;
  const double described = described_.node_seconds(graph, node);
  const std::string key = kernel_key(node);
  auto known = profile_.seconds.find(key);
  const bool first = !asked_.contains(key);
  std::vector<Known>& like = like_[{node.op, node.phase}];
  if (first && known == profile_.seconds.end() && timer_ != nullptr) {
    if (const auto seconds = timer_->node_seconds(graph, node)) {
      known = profile_.seconds.emplace(key, *seconds).first;
      grew_ = true;
    }
  }
  const bool measured = known != profile_.seconds.end();
  if (first) asked_[key] = measured;
  if (first && measured) like.push_back({described, known->second});
  if (measured) return known->second;
  const auto nearest = std::min_element(like.begin(), like.end(), [described](const Known& a, const Known& b) {
    return std::abs(std::log(a.described / described)) < std::abs(std::log(b.described / described));
  });
  return nearest == like.end() ? described : described * nearest->measured / nearest->described;
}

double ProfiledCosts::memory_seconds(std::int64_t bytes) const {
  if (profile_.memory_seconds_per_byte == 0 && timer_ != nullptr) {
    if (const auto seconds = timer_->memory_seconds_per_byte()) {
      profile_.memory_seconds_per_byte = *seconds;
      grew_ = true;
    }
  }
  if (profile_.memory_seconds_per_byte == 0) return described_.memory_seconds(bytes);
  return static_cast<double>(bytes) * profile_.memory_seconds_per_byte;
}

ProfiledCosts::Coverage ProfiledCosts::coverage() const {
  Coverage c;
  for (const auto& [key, measured] : asked_) ++(measured ? c.measured : c.described);
  return c;
}

}  // namespace plimsoll
