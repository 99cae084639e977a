#include "launch/plan_file.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "launch/layout_choice.hpp"
#include "launch/plan_question.hpp"
#include "launch/recompute_report.hpp"
#include "launch/run_files.hpp"
#include "launch/run_setup.hpp"
#include "parallel/rules.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/core/log.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The groups of ten thousand ranks, and what is live at the peaks of all stages, are long lists.
constexpr std::int64_t kMostPlanBytes = std::int64_t{256} << 20;
constexpr std::int64_t kMostBytes = std::numeric_limits<std::int64_t>::max();

// For messages: one line, and not the whole of a list.
std::string shown(const json& value) {
  constexpr std::size_t kMostShown = 80;
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= kMostShown ? text : text.substr(0, kMostShown) + "…";
}

// An object of a plan and where it is. What it lacks is nullopt; what it has must be as asked.
class PlanPart {
 public:
  PlanPart(const json& object, const fs::path& file, std::string at = "")
      : object_(object), file_(file), at_(std::move(at)) {}

  bool has(const char* name) const { return object_.contains(name); }
  std::optional<std::int64_t> whole(const char* name, std::int64_t least, std::int64_t most) const {
    if (!has(name)) return std::nullopt;
    const json& value = object_[name];
    require_that(is_whole(value, least, most), name, range_text("a whole number", least, most));
    return value.get<std::int64_t>();
  }
  std::optional<std::vector<std::int64_t>> wholes(const char* name, std::int64_t least) const {
    if (!has(name)) return std::nullopt;
    const json& value = object_[name];
    const auto good = [least](const json& item) { return is_whole(item, least, kMostBytes); };
    require_that(value.is_array() && std::all_of(value.begin(), value.end(), good), name,
                 range_text("a list of whole numbers", least, kMostBytes));
    return value.get<std::vector<std::int64_t>>();
  }
  std::optional<std::string> text(const char* name) const {
    if (!has(name)) return std::nullopt;
    require_that(object_[name].is_string(), name, "a text");
    return object_[name].get<std::string>();
  }
  std::optional<PlanPart> part(const char* name) const {
    if (!has(name)) return std::nullopt;
    require_that(object_[name].is_object(), name, "an object");
    return PlanPart(object_[name], file_, place(name));
  }
  std::vector<PlanPart> parts(const char* name) const {
    const json& list = has(name) ? object_[name] : json();
    const bool objects =
        list.is_array() && std::all_of(list.begin(), list.end(), [](const json& item) { return item.is_object(); });
    require_that(objects && !list.empty(), name, "a list of objects");
    std::vector<PlanPart> all;
    for (std::size_t i = 0; i < list.size(); ++i)
      all.emplace_back(object_[name][i], file_, fmt::format("{}/{}", place(name), i));
    return all;
  }
  const json& object() const { return object_; }
  void require_that(bool good, const char* name, const std::string& wanted) const {
    require(good, ErrorKind::BadData, "{}: {} is {}, not {}", file_.string(), place(name),
            has(name) ? shown(object_[name]) : "missing", wanted);
  }

 private:
  // An unsigned number above the signed ones turns negative.
  static bool is_whole(const json& value, std::int64_t least, std::int64_t most) {
    return value.is_number_integer() && value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most &&
           (!value.is_number_unsigned() || value.get<std::uint64_t>() <= static_cast<std::uint64_t>(kMostBytes));
  }
  static std::string range_text(const char* what, std::int64_t least, std::int64_t most) {
    return most == kMostBytes ? fmt::format("{} from {}", what, least)
                              : fmt::format("{} from {} to {}", what, least, most);
  }
  std::string place(const char* name) const { return fmt::format("{}/{}", at_, name); }

  const json& object_;
  const fs::path& file_;
  std::string at_;
};

// The replicas of `config`, whose layout is known.
std::int64_t replicas_of(const Config& config, int ranks) {
  const ParallelConfig& p = config.parallel;
  return std::max<std::int64_t>(1, p.data.value_or(ranks / std::max<std::int64_t>(1, p.pipeline * p.tensor)));
}

// parallel.shard, and whether gradients are summed inside nodes first.
void take_groups(Config& config, const PlanPart& plan, int ranks) {
  const std::int64_t replicas = replicas_of(config, ranks);
  const auto mesh = plan.part("mesh");
  if (config.parallel.auto_shard && mesh) {
    const std::int64_t shard = mesh->whole("shard", 1, ranks).value_or(replicas);
    if (replicas % shard == 0) {  // of other replicas it is no guide
      config.parallel.auto_shard = false;
      if (config.parallel.zero.value_or(0) > 0) config.parallel.shard = shard;
    }
  }
  const auto buckets = plan.part("buckets");
  if (buckets && config.comm.hierarchical == HierarchicalSums::Auto) {
    const std::int64_t node_ranks = buckets->whole("node_ranks", 1, ranks).value_or(1);
    // Shares of buckets begin at cache lines.
    buckets->require_that(64 / dtype_bytes(config.precision) % node_ranks == 0, "node_ranks", "a part of a cache line");
    config.comm.hierarchical = HierarchicalSums::Off;
    if (node_ranks > 1 && node_ranks < replicas && replicas % node_ranks == 0) {
      config.comm.hierarchical = HierarchicalSums::On;
      config.comm.node_ranks = node_ranks;
    }
  }
}

// In how many pieces, and how far ahead, things are sent.
void take_pieces(Config& config, const PlanPart& plan) {
  // Products of some of the rows may round otherwise than whole ones.
  const auto mesh = plan.part("mesh");
  if (mesh) {
    const std::int64_t chunks = mesh->whole("tensor_chunks", 1, kMostTensorChunks).value_or(1);
    if (!config.parallel.tensor_chunks) config.parallel.tensor_chunks = chunks;
  }
  const auto message = plan.part("stage_message");
  if (!config.comm.pipeline_chunks)
    config.comm.pipeline_chunks = message ? message->whole("pieces", 1, kMostPipelineChunks).value_or(1) : 1;
  if (const auto gathers = plan.part("gathers"); gathers && !config.comm.prefetch)
    config.comm.prefetch = gathers->whole("distance", 0, kMostPrefetchUses);
}

// Shares of micro-batches and of the state, where these ranks and this batch allow them.
void take_shares(Config& config, const PlanPart& plan, int ranks) {
  const auto take = [&](ParallelConfig parallel) {
    if (rank_issues(parallel, ranks, config.train.global_batch, config.train.micro_batch).empty())
      config.parallel = std::move(parallel);
  };
  const auto state_shares = plan.wholes("state_shares", 0), shares = plan.wholes("shares", 0);
  const auto mesh = plan.part("mesh");
  const auto zero = mesh ? mesh->whole("zero", 0, 3) : std::nullopt;
  if (config.parallel.auto_state_shares && zero.value_or(0) == config.parallel.zero) {
    ParallelConfig parallel = config.parallel;
    parallel.state_shares = state_shares.value_or(std::vector<std::int64_t>{});
    parallel.auto_state_shares = false;
    take(std::move(parallel));
  }
  if (config.parallel.auto_shares && shares) {
    ParallelConfig parallel = config.parallel;
    parallel.shares = *shares;
    take(std::move(parallel));
  }
}

// What `plan` has where `config` says auto.
void take_choices(Config& config, const PlanPart& plan, int ranks, const fs::path& file) {
  const auto layout = plan.text("parallel");
  if (config.parallel.automatic && layout) config.parallel = read_parallel_line(*layout, file.string());
  const auto recompute = plan.part("recompute");
  const auto lines = recompute ? recompute->text("yaml") : std::nullopt;
  if (config.memory.recompute == RecomputeMode::Auto && lines) {
    std::vector<LayerRecompute> layers = read_recompute_line(*lines, file.string());
    if (std::ssize(layers) == config.model.layers) config.memory.recompute_layers = std::move(layers);
  }
  take_groups(config, plan, ranks);
  take_pieces(config, plan);
  const auto micro_batch = plan.whole("micro_batch", 1, kMostBatch),
             logits_bytes = plan.whole("logits_bytes", 1, kMostBytes);
  take_shares(config, plan, ranks);
  if (!config.train.micro_batch) config.train.micro_batch = micro_batch;
  if (!config.memory.logits) config.memory.logits = logits_bytes;
}

json read_plan(const fs::path& file, std::string_view remedy) {
  auto plan = json::parse(read_text_file(file, Links::Follow, kMostPlanBytes), nullptr, false);
  require(plan.is_object() && plan.contains("roles"), ErrorKind::BadData, "{}: is not a plan; {}", file.string(),
          remedy);
  const PlanPart whole(plan, file);
  require(whole.has("ranks"), ErrorKind::BadData, "{}: /ranks is missing; {}", file.string(), remedy);
  whole.whole("ranks", 1, std::numeric_limits<int>::max());
  for (const PlanPart& role : whole.parts("roles")) {
    for (const char* name : {"buckets", "gathers", "recompute"}) role.part(name);
  }
  return plan;
}

// Buckets and gathers, which follow from what links and kernels take: from what they took when the plan was made.
void take_sizes(Config& config, const PlanPart& plan, int ranks) {
  const Mesh mesh = choose_mesh(config, ranks);
  std::vector<std::vector<std::int64_t>> buckets(static_cast<std::size_t>(mesh.pipeline)), gathers = buckets;
  std::optional<std::int64_t> gather_bytes;
  for (const PlanPart& role : plan.parts("roles")) {
    const auto members = role.wholes("ranks", 0);
    role.require_that(members && !members->empty() && members->front() < ranks, "ranks", "a list of ranks of the plan");
    const auto stage = static_cast<std::size_t>(coordinates(mesh, static_cast<int>(members->front())).pipeline);
    if (const auto part = role.part("buckets")) {
      const auto bytes = part->wholes("bytes", 1);
      part->require_that(bytes && !bytes->empty(), "bytes", "a list of bytes");
      buckets[stage] = *bytes;
    }
    if (const auto part = role.part("gathers")) {
      gathers[stage] = part->wholes("ends", 1).value_or(std::vector<std::int64_t>{});
      gather_bytes = std::max(gather_bytes.value_or(0), part->whole("most_bytes", 0, kMostBytes).value_or(0));
    }
  }
  if (!config.comm.bucket) config.comm.planned_buckets = std::move(buckets);
  if (config.comm.gather || !gather_bytes) return;
  config.comm.gather = gather_bytes;
  config.comm.planned_gathers = std::move(gathers);
}

// What decides the bytes and the bits of a run: no times, and nothing that was measured.
json binding_part(const json& plan) {
  json part;
  const auto take = [](json& to, const json& from, std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (from.contains(name)) to[name] = from[name];
    }
  };
  take(part, plan,
       {"parameters", "ranks", "mesh", "micro_batch", "sequence", "threads", "fused_heads", "logits_bytes", "shares",
        "state_shares"});
  if (plan.contains("stage_message")) take(part["stage_message"], plan["stage_message"], {"bytes", "pieces"});
  for (const json& role : plan["roles"]) {
    json& mine = part["roles"].emplace_back();
    take(mine, role, {"role", "ranks", "arena_bytes", "host_arena_bytes", "class_bytes", "persistent", "programs"});
    if (role.contains("buckets")) take(mine["buckets"], role["buckets"], {"bytes", "node_ranks"});
    if (role.contains("gathers")) take(mine["gathers"], role["gathers"], {"distance", "gathers", "ends"});
    if (role.contains("recompute")) take(mine["recompute"], role["recompute"], {"layers"});
  }
  return part;
}

// A run's own plan says nothing of the predicted step.
bool is_of_plan_command(const fs::path& file) {
  try {
    const json there = read_plan(file, "");
    return there.contains("asked") && there.contains("step");
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool write_plan(const fs::path& file, const json& plan, bool careful) {
  if (careful && fs::exists(file) && !is_of_plan_command(file)) {
    log_warn("{}: is there, and not from plimsoll plan: it stays; --out FILE writes another", file.string());
    return false;
  }
  try {
    replace_file(file, plan.dump(2) + "\n");
  } catch (const Error& error) {
    if (!careful) throw;
    log_warn("the plan was not written ({}); --out FILE writes it elsewhere, --out none nowhere", error.what());
    return false;
  }
  return true;
}

void keep_plan_choices(Config& config, int ranks) {
  const fs::path file = fs::path(config.run.dir) / "plan.json";
  if (!fs::exists(checkpoint_folder(config)) || !fs::exists(file)) return;
  const json plan = read_plan(file, "remove it to plan the run anew");
  if (plan["ranks"] == ranks) take_choices(config, PlanPart(plan, file), ranks, file);
}

void follow_plan(Config& config, int ranks, const fs::path& file) {
  const json read = read_plan(file, "plimsoll plan --out writes one");
  const PlanPart plan(read, file);
  require(read["ranks"] == ranks, ErrorKind::Config, "{}: is a plan for {} rank(s), and this run has {}", file.string(),
          shown(read["ranks"]), ranks);
  const auto asked = plan.part("asked");
  require(asked.has_value(), ErrorKind::BadData, "{}: /asked is missing; plimsoll plan --out writes one",
          file.string());
  check_question(asked->object(), config, file.string());
  take_choices(config, plan, ranks, file);
  std::vector<ConfigIssue> issues = layout_issues(config.parallel, config.model, config.data.sequence);
  if (issues.empty()) issues = rank_issues(config.parallel, ranks, config.train.global_batch, config.train.micro_batch);
  require(issues.empty(), ErrorKind::Config, "{}: was made for another run: {}: {}", file.string(),
          issues.empty() ? "" : issues.front().key, issues.empty() ? "" : issues.front().text);
  take_sizes(config, plan, ranks);
  config.parallel.auto_shares = false;  // it has them, or they are even
  // What is recomputed is said by layer; a budget that it does not fit changes nothing of it.
  if (config.memory.recompute == RecomputeMode::Auto) config.memory.recompute = RecomputeMode::None;
  // A device computes with as many threads as it likes, and its plans say so with 0.
  if (const auto threads = plan.whole("threads", 0, kMostThreads); threads.value_or(0) > 0 && !config.run.threads)
    config.run.threads = threads;
  const auto cluster = plan.text("cluster");
  if (config.comm.cluster.empty()) config.comm.cluster = cluster.value_or("");
  config.plan.measured_links = plan.text("links").value_or("") == "profile";
}

void check_followed(const json& mine, const fs::path& file) {
  const json planned = binding_part(read_plan(file, "plimsoll plan --out writes one")), here = binding_part(mine);
  const json differences = json::diff(planned, here);
  if (differences.empty()) return;
  const std::string path = differences.front()["path"].get<std::string>();
  const json::json_pointer at(path);
  const auto said = [&](const json& part) { return part.contains(at) ? shown(part[at]) : std::string("missing"); };
  fail(ErrorKind::Config, "{}: was made for another run: {} is {} there, and here {}", file.string(), path,
       said(planned), said(here));
}

}  // namespace plimsoll
