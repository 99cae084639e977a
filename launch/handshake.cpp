#include "launch/handshake.hpp"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>

#include "comm/group.hpp"
#include "launch/config_keys.hpp"
#include "launch/process.hpp"
#include "runtime/core/text.hpp"
#include "runtime/exec/collectives.hpp"

namespace plimsoll {
namespace {

using Items = std::vector<std::pair<std::string, std::string>>;

std::uint64_t hash_of(const std::string& text) { return XXH64(text.data(), text.size(), 0); }

// Name and value of an item have no such characters.
constexpr char kEndOfName = '\x1f', kEndOfItem = '\x1e';

std::string encode(const Items& items) {
  std::string text;
  for (const auto& [name, value] : items) text += name + kEndOfName + value + kEndOfItem;
  return text;
}

Items decode(const std::string& text) {
  Items items;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t name = text.find(kEndOfName, at), value = text.find(kEndOfItem, name);
    items.emplace_back(text.substr(at, name - at), text.substr(name + 1, value - name - 1));
    at = value + 1;
  }
  return items;
}

// The text of rank `root`, on all ranks.
std::string broadcast_text(const Group& group, std::string text, int root) {
  auto size = static_cast<std::int64_t>(text.size());
  group.broadcast({&size, {{1}, DType::i64}}, root);
  text.resize(static_cast<std::size_t>(size));
  if (size > 0) group.broadcast({text.data(), {{size}, DType::u8}}, root);
  return text;
}

struct Stance {
  std::uint64_t role, items;
};

// Of the ranks of a role: those that differ from its majority, and the lowest of that. The majority is the largest
// group; of equal ones, that of the lowest rank.
struct Split {
  int majority = 0;
  std::size_t most = 0, ranks = 0;
  std::vector<int> minority;
};

Split split_role(const std::vector<Stance>& all, std::uint64_t role) {
  std::map<std::uint64_t, std::size_t> count;
  Split split;
  for (const Stance& s : all) {
    if (s.role == role) split.most = std::max(split.most, ++count[s.items]), ++split.ranks;
  }
  const auto of_majority = [&](const Stance& s) { return s.role == role && count[s.items] == split.most; };
  const auto first = std::find_if(all.begin(), all.end(), of_majority);
  split.majority = static_cast<int>(first - all.begin());
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].role == role && all[r].items != first->items) split.minority.push_back(static_cast<int>(r));
  }
  return split;
}

// "train.steps is 10 on rank 0 and 20 on rank 1".
std::string first_difference(const Items& a, int rank_a, const Items& b, int rank_b) {
  const std::size_t n = std::min(a.size(), b.size());
  for (std::size_t i = 0; i < n; ++i) {
    if (a[i] == b[i]) continue;
    if (a[i].first == b[i].first)
      return fmt::format("{} is {} on rank {} and {} on rank {}", a[i].first, a[i].second, rank_a, b[i].second, rank_b);
    return fmt::format("rank {} has {} ({}) where rank {} has {} ({})", rank_a, a[i].first, a[i].second, rank_b,
                       b[i].first, b[i].second);
  }
  const bool a_longer = a.size() > n;
  const auto& [name, value] = (a_longer ? a : b)[n];
  return fmt::format("rank {} has {} ({}), rank {} does not", a_longer ? rank_a : rank_b, name, value,
                     a_longer ? rank_b : rank_a);
}

}  // namespace

void agree_on(const Group& control, const Agreement& mine) {
  const std::string text = encode(mine.items);
  const Stance stance{hash_of(mine.role), hash_of(text)};
  std::vector<Stance> all(static_cast<std::size_t>(control.size()));
  control.gather_values(&stance, sizeof(stance), all.data());
  for (const Stance& s : all) {
    const Split split = split_role(all, s.role);
    if (split.minority.empty()) continue;
    const int other = split.minority.front();
    const std::string role = broadcast_text(control, mine.role, split.majority);
    const Items theirs = decode(broadcast_text(control, text, split.majority)),
                different = decode(broadcast_text(control, text, other));
    std::vector<std::string> ranks;
    for (const int r : split.minority) ranks.push_back(std::to_string(r));
    fail(ErrorKind::RanksDisagree, "the ranks{}{} do not agree about {}: rank(s) {} differ from {} of {}: {}",
         role.empty() ? "" : " of ", role, mine.subject, join(ranks, ", "), split.most, split.ranks,
         first_difference(theirs, split.majority, different, other));
  }
}

Agreement build_agreement() {
  return {"the build", "", {{"the hash of the binary", fmt::format("{:016x}", hash_of_binary())}}};
}

Agreement config_agreement(const Config& config) {
  return {"the configuration", "", config_keys().write(config).values()};
}

Agreement plan_agreement(const Programs& programs, const ProgramOptions& o) {
  Agreement a{"the plan", "", {}};
  a.items = {
      {"parallel.data", std::to_string(o.mesh.data)},
      {"parallel.pipeline", std::to_string(o.mesh.pipeline)},
      {"parallel.tensor", std::to_string(o.mesh.tensor)},
      {"parallel.shard", std::to_string(o.mesh.shards)},
      {"parallel.zero", std::to_string(o.zero)},
      {"parallel.sequence", o.sequence_parallel ? "true" : "false"},
      {"parallel.tensor_chunks", std::to_string(o.tensor_chunks)},
      {"comm.pipeline_chunks", std::to_string(o.pipeline_chunks)},
      {"train.micro_batch", std::to_string(o.micro_batch)},
      {"parallel.shares",
       o.shares.empty() ? fmt::format("{} each", o.micro_batches) : fmt::format("{}", fmt::join(o.shares, ", "))},
      {"parallel.state_shares", o.state_shares.empty() ? "even" : fmt::format("{}", fmt::join(o.state_shares, ", "))},
      {"comm.bucket", o.bucket_bytes            ? std::to_string(*o.bucket_bytes)
                      : o.unit_bucket_bytes > 0 ? fmt::format("auto: {}", o.unit_bucket_bytes)
                                                : "auto"},
      {"comm.prefetch", std::to_string(o.prefetch)},
      {"comm.gather", std::to_string(o.gather_bytes)},
      {"comm.hierarchical", o.hierarchical ? "on" : "off"},
      {"memory.logits", std::to_string(o.logits_bytes)},
      {"precision", std::string(dtype_name(o.dtype))},
      {"fp8", o.fp8 ? "linears" : "off"},
      {"the list of programs", join(programs.names, ", ")}};
  return a;
}

Agreement memory_agreement(const Programs& programs, const ProgramOptions& o) {
  const int stage = coordinates(o.mesh, o.rank).pipeline;
  std::string role = fmt::format("pipeline stage {} with {} threads", stage, o.threads);
  if (o.mesh.pipeline > 1 && !o.shares.empty())
    role += fmt::format(" and {} micro-batches", micro_batches_of(o, o.rank));
  if (uneven_state(o)) role += fmt::format(" and shard {}", coordinates(o.mesh, o.rank).data % o.mesh.shards);
  Agreement a{"the bytes of the plan", std::move(role), {}};
  for (const PersistentRegion& r : programs.plan.persistent) a.items.emplace_back(r.name, std::to_string(r.bytes));
  for (const ProgramLayout& p : programs.plan.programs)
    a.items.emplace_back(fmt::format("program {}", p.name), std::to_string(p.step_bytes));
  a.items.emplace_back("the arena", std::to_string(programs.plan.total_bytes));
  a.items.emplace_back("the host arena", std::to_string(programs.plan.host_bytes));
  return a;
}

Agreement order_agreement(const Programs& programs, const ProgramOptions& o, std::string_view axis) {
  const std::vector<int> ranks = axis_group(o.mesh, o.rank, axis);
  Agreement a{fmt::format("the order of collectives over axis {}", axis), "", {}};
  a.role = fmt::format("axis {} that holds rank {}", axis, ranks.front());
  for (const Program& program : programs.list()) {
    int position = 0;
    for (const CollectiveCall& c : collectives(*program.graph)) {
      if (c.axis != axis) continue;
      a.items.emplace_back(
          fmt::format("call {} of program {}", position++, program.name),
          fmt::format("{} of {} bytes, {}, '{}'", collective_name(c.kind), c.bytes(), dtype_name(c.dtype), c.label));
    }
  }
  return a;
}

Agreement message_agreement(const Programs& programs, const ProgramOptions& o, MessageKind kind, int colour) {
  const Coordinates here = coordinates(o.mesh, o.rank);
  const int stages = o.mesh.pipeline;
  // Of a ring with an odd number of links, the last one has a colour of its own.
  const auto colour_of = [&](int link) { return stages % 2 == 1 && link + 1 == stages ? 2 : link % 2; };
  const int before = (here.pipeline + stages - 1) % stages;
  Agreement a{
      fmt::format("the order of messages over axis {}", message_axis(kind)), fmt::format("rank {}", o.rank), {}};
  for (const int link : {here.pipeline, before}) {
    if (stages == 1 || colour_of(link) != colour) continue;
    // Outputs go along the link, gradients against it.
    const bool sends = (link == here.pipeline) == (kind == MessageKind::Output);
    const int peer_stage = link == here.pipeline ? (here.pipeline + 1) % stages : before;
    const int peer = rank_at(o.mesh, {here.data, peer_stage, here.tensor});
    a.role = fmt::format("the link from rank {} to rank {}", sends ? o.rank : peer, sends ? peer : o.rank);
    for (const Program& program : programs.list()) {
      int position = 0;
      for (const StageMessage& m :
           stage_messages(*program.graph, *programs.schedule, programs.stage, program.schedule != nullptr)) {
        if (m.kind != kind || m.sends != sends || m.peer != peer_stage) continue;
        a.items.emplace_back(fmt::format("message {} of program {}", position++, program.name),
                             fmt::format("{} of {} bytes, {}", to_text(m), m.bytes(), dtype_name(m.dtype)));
      }
    }
  }
  return a;
}

void agree(const Group& control, const Agreement& command) {
  agree_on(control, build_agreement());
  agree_on(control, command);
}

void agree(const Group& control, const Config& config) { agree_on(control, config_agreement(config)); }

void agree(const Group& control, const Programs& programs, const ProgramOptions& options) {
  agree_on(control, plan_agreement(programs, options));
  agree_on(control, memory_agreement(programs, options));
  for (const std::string_view axis : kMeshAxes) agree_on(control, order_agreement(programs, options, axis));
  if (options.mesh.pipeline == 1) return;
  for (const MessageKind kind : {MessageKind::Output, MessageKind::Gradient}) {
    for (int colour = 0; colour < kLinkColours; ++colour)
      agree_on(control, message_agreement(programs, options, kind, colour));
  }
}

}  // namespace plimsoll
