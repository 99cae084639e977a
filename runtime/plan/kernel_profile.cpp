#include "runtime/plan/kernel_profile.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;

// Attributes that change how much a kernel does, not where it is in the model.
std::string attributes_text(const Attrs& attrs) {
  std::string text;
  std::visit(
      [&text](const auto& a) {
        if constexpr (requires { a.weight_in_out; }) text += a.weight_in_out ? " in-out" : "";
        if constexpr (requires { a.activation; }) text += fmt::format(" activation {}", static_cast<int>(a.activation));
        if constexpr (requires { a.layout.head_dim; })
          text += fmt::format(" heads {}/{} of {}", a.layout.heads, a.layout.kv_heads, a.layout.head_dim);
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

std::string owner_name(const ProfileOwner& owner) { return fmt::format("{} x {}", owner.threads, owner.processes); }

bool is_time(const json& value) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
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
  const json& own = all["profiles"][owner_name(owner)];
  for (const auto& [key, seconds] : own["seconds"].items()) profile.seconds[key] = seconds.get<double>();
  profile.memory_seconds_per_byte = std::max(0.0, own["memory_seconds_per_byte"].get<double>());
  return profile;
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
  json& own = all["profiles"][owner_name(owner)];
  own = {{"seconds", json::object()}, {"memory_seconds_per_byte", profile.memory_seconds_per_byte}};
  for (const auto& [key, seconds] : profile.seconds) own["seconds"][key] = seconds;
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

ProfiledCosts::ProfiledCosts(const CostModel& described, KernelProfile profile, NodeTimer* timer)
    : described_(described), timer_(timer), profile_(std::move(profile)) {}

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
