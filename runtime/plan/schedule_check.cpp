#include "runtime/plan/schedule_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

namespace plimsoll {
namespace {

using Violation = std::optional<std::string>;

// What an action does for its (chunk, micro-batch), as bits.
constexpr unsigned kForward = 1;
constexpr unsigned kInputGrad = 2;
constexpr unsigned kWeightGrad = 4;
constexpr unsigned kAll = kForward | kInputGrad | kWeightGrad;

unsigned effects(ActionKind kind) {
  switch (kind) {
    case ActionKind::Forward: return kForward;
    case ActionKind::Backward: return kInputGrad | kWeightGrad;
    case ActionKind::InputGrad: return kInputGrad;
    case ActionKind::WeightGrad: return kWeightGrad;
  }
  return 0;
}

template <class... Args>
std::string violation(int stage, int index, const Action& action, fmt::format_string<Args...> text, Args&&... args) {
  return fmt::format("stage {}, action {} ({}): {}", stage, index, to_text(action),
                     fmt::format(text, std::forward<Args>(args)...));
}

// The rules that concern one stage alone.
class StageChecker {
 public:
  StageChecker(const Schedule& schedule, int stage) : schedule_(schedule), stage_(stage) {
    for (const int slots : schedule.slots[stage]) {
      chunks_.push_back({std::vector<unsigned>(schedule.micro_batches, 0), std::vector<int>(schedule.micro_batches, -1),
                         std::vector<int>(std::max(slots, 0), -1)});
    }
  }

  Violation check() {
    const std::vector<Action>& actions = schedule_.actions[stage_];
    for (int i = 0; i < static_cast<int>(actions.size()); ++i) {
      for (const auto rule : {&StageChecker::range, &StageChecker::order, &StageChecker::slot}) {
        if (Violation v = (this->*rule)(i, actions[i])) return v;
      }
      chunks_[actions[i].chunk].done[actions[i].micro_batch] |= effects(actions[i].kind);
    }
    return end();
  }

 private:
  struct Chunk {
    std::vector<unsigned> done;  // [micro-batch] effects so far
    std::vector<int> slot;       // [micro-batch] taken by its Forward
    std::vector<int> holder;     // [slot] micro-batch, or -1
    int next_input = 0;          // micro-batch
    int next_weight = 0;
    int in_flight = 0, most = 0;
  };

  Violation range(int i, const Action& a) {
    if (a.chunk < 0 || a.chunk >= schedule_.chunks)
      return violation(stage_, i, a, "there are {} chunks", schedule_.chunks);
    if (a.micro_batch < 0 || a.micro_batch >= schedule_.micro_batches) {
      return violation(stage_, i, a, "there are {} micro-batches", schedule_.micro_batches);
    }
    const std::size_t slots = chunks_[a.chunk].holder.size();
    if (a.slot < 0 || a.slot >= static_cast<int>(slots)) {
      return violation(stage_, i, a, "slot {} of {}", a.slot, slots);
    }
    return std::nullopt;
  }

  Violation order(int i, const Action& a) {
    Chunk& chunk = chunks_[a.chunk];
    const unsigned done = chunk.done[a.micro_batch];
    const unsigned now = effects(a.kind);
    if ((done & now) != 0) return violation(stage_, i, a, "runs a second time");
    if (now != kForward && (done & kForward) == 0) return violation(stage_, i, a, "runs before its forward");
    if (now == kWeightGrad && (done & kInputGrad) == 0)
      return violation(stage_, i, a, "runs before its input gradient");
    for (const auto& [effect, next] : {std::pair{kInputGrad, &chunk.next_input}, {kWeightGrad, &chunk.next_weight}}) {
      if ((now & effect) == 0) continue;
      if (a.micro_batch != *next) return violation(stage_, i, a, "out of order: micro-batch {} is next", *next);
      ++*next;
    }
    return std::nullopt;
  }

  Violation slot(int i, const Action& a) {
    Chunk& chunk = chunks_[a.chunk];
    int& holder = chunk.holder[a.slot];
    int& taken = chunk.slot[a.micro_batch];
    if (a.kind == ActionKind::Forward) {
      if (holder >= 0) return violation(stage_, i, a, "slot {} still holds micro-batch {}", a.slot, holder);
      holder = a.micro_batch;
      taken = a.slot;
      chunk.most = std::max(chunk.most, ++chunk.in_flight);
      return std::nullopt;
    }
    if (taken != a.slot) return violation(stage_, i, a, "reads slot {}, but its forward wrote slot {}", a.slot, taken);
    if ((effects(a.kind) & kWeightGrad) != 0) {
      holder = -1;
      --chunk.in_flight;
    }
    return std::nullopt;
  }

  Violation end() const {
    const std::size_t size = schedule_.actions[stage_].size();
    for (int c = 0; c < schedule_.chunks; ++c) {
      for (int i = 0; i < schedule_.micro_batches; ++i) {
        const unsigned missing = kAll & ~chunks_[c].done[i];
        if (missing == 0) continue;
        const auto name = (missing & kForward) != 0     ? ActionKind::Forward
                          : (missing & kInputGrad) != 0 ? ActionKind::InputGrad
                                                        : ActionKind::WeightGrad;
        return violation(stage_, static_cast<int>(size), {name, c, i, 0}, "never runs");
      }
      const int slots = schedule_.slots[stage_][c];
      if (chunks_[c].most == slots) continue;
      return fmt::format("stage {}, action {} (end): chunk {} has {} slots, and at most {} micro-batches are in flight",
                         stage_, size, c, slots, chunks_[c].most);
    }
    return std::nullopt;
  }

  const Schedule& schedule_;
  int stage_;
  std::vector<Chunk> chunks_;
};

Violation check_shape(const Schedule& s) {
  if (s.stages < 1 || s.chunks < 1 || s.micro_batches < 1) return "a size is below 1";
  if (static_cast<int>(s.actions.size()) != s.stages || static_cast<int>(s.slots.size()) != s.stages) {
    return fmt::format("lists of {} stages and slots of {}, where there are {}", s.actions.size(), s.slots.size(),
                       s.stages);
  }
  for (int stage = 0; stage < s.stages; ++stage) {
    if (static_cast<int>(s.slots[stage].size()) == s.chunks) continue;
    return fmt::format("stage {}: slots of {} chunks, where there are {}", stage, s.slots[stage].size(), s.chunks);
  }
  return std::nullopt;
}

// Transports keep the order of messages between two ranks, so receives that are posted in another order get the wrong
// ones.
Violation check_links(const Schedule& s) {
  using Link = std::tuple<int, int, bool>;  // from, to, of a Forward
  std::map<Link, std::deque<Action>> sent;  // as the receiver will name it
  for (int stage = 0; stage < s.stages; ++stage) {
    for (const Action& a : s.actions[stage]) {
      const auto to = sends_to(s, stage, a);
      if (to && to->stage != stage) {
        sent[{stage, to->stage, a.kind == ActionKind::Forward}].push_back({a.kind, to->chunk, a.micro_batch, 0});
      }
    }
  }
  for (int stage = 0; stage < s.stages; ++stage) {
    for (int i = 0; i < static_cast<int>(s.actions[stage].size()); ++i) {
      const Action& a = s.actions[stage][i];
      const auto from = receives_from(s, stage, a);
      if (!from || from->stage == stage) continue;
      auto& queue = sent[{from->stage, stage, a.kind == ActionKind::Forward}];
      const Action head = queue.front();
      queue.pop_front();
      if (head.chunk == a.chunk && head.micro_batch == a.micro_batch) continue;
      return violation(stage, i, a, "stage {} sends that of micro-batch {}, chunk {} first", from->stage,
                       head.micro_batch, head.chunk);
    }
  }
  return std::nullopt;
}

Violation check_progress(const Schedule& s) {
  const std::vector<int> visited = walk(s, [](int, int) {});
  for (int stage = 0; stage < s.stages; ++stage) {
    const int i = visited[stage];
    if (i == static_cast<int>(s.actions[stage].size())) continue;
    const Action& a = s.actions[stage][i];
    return violation(stage, i, a, "waits for stage {} for ever", receives_from(s, stage, a)->stage);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> verify(const Schedule& schedule) {
  if (Violation v = check_shape(schedule)) return v;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    if (Violation v = StageChecker(schedule, stage).check()) return v;
  }
  if (Violation v = check_links(schedule)) return v;
  return check_progress(schedule);
}

std::vector<int> walk(const Schedule& s, const std::function<void(int stage, int index)>& visit) {
  const auto message = [&](bool forward, const PipelinePiece& from, int micro_batch) {
    return (piece_index(s.stages, from.stage, from.chunk) * 2 + (forward ? 0 : 1)) * s.micro_batches + micro_batch;
  };
  std::vector<bool> sent(static_cast<std::size_t>(s.stages) * s.chunks * 2 * s.micro_batches, false);
  std::vector<int> next(s.stages, 0);
  std::deque<int> ready;
  for (int stage = 0; stage < s.stages; ++stage) ready.push_back(stage);
  while (!ready.empty()) {
    const int stage = ready.front();
    ready.pop_front();
    for (; next[stage] < static_cast<int>(s.actions[stage].size()); ++next[stage]) {
      const Action& a = s.actions[stage][next[stage]];
      const bool forward = a.kind == ActionKind::Forward;
      const auto from = receives_from(s, stage, a);
      if (from && !sent[message(forward, *from, a.micro_batch)]) break;
      visit(stage, next[stage]);
      if (const auto to = sends_to(s, stage, a)) {
        sent[message(forward, {stage, a.chunk}, a.micro_batch)] = true;
        if (to->stage != stage) ready.push_back(to->stage);
      }
    }
  }
  return next;
}

}  // namespace plimsoll
