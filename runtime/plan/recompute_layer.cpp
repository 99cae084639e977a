#include "runtime/plan/recompute_layer.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"
#include "runtime/graph/offload.hpp"

namespace plimsoll {
namespace {

constexpr int kToEnd = -1;
constexpr std::size_t kAhead = kFetchAhead;

// Something that takes bytes from one event to another, both within.
struct Interval {
  std::int64_t bytes;
  int from, to;
};

// The events of one pass of a layer and what is alive at them.
struct Pass {
  int events = 1;                        // event 0 is the start
  int loop_begin = -1, loop_end = -1;    // events of the blocks of rows
  std::vector<Interval> full, in_block;  // in_block: exists for one block of rows at a time
  std::vector<std::pair<int, std::int64_t>> workspace;

  // The loop is unrolled. What is whole and touched within it is there from the first block that touches it to the
  // last.
  std::int64_t peak(int parts) {
    const int length = loop_begin < 0 ? 0 : loop_end - loop_begin + 1, more = (parts - 1) * length;
    const auto in_loop = [&](int event) { return length > 0 && event >= loop_begin && event <= loop_end; };
    const auto behind = [&](int event) { return length > 0 && event > loop_end; };
    const int all = events + more;
    std::vector<std::int64_t> change(all + 1, 0), extra(all, 0);
    const auto add = [&](int from, int to, std::int64_t bytes) {
      change[from] += bytes;
      change[to + 1] -= bytes;
    };
    for (const Interval& i : full) {
      const int to = i.to == kToEnd ? events - 1 : i.to;
      add(i.from + (behind(i.from) ? more : 0), to + (behind(to) || in_loop(to) ? more : 0), i.bytes);
    }
    for (int part = 0; part < parts; ++part) {
      const int at = part * length;
      for (const Interval& i : in_block) add(i.from + at, i.to + at, (i.bytes + parts - 1) / parts);
      for (const auto& [event, bytes] : workspace) {
        std::int64_t& taken = extra[event + (in_loop(event) ? at : behind(event) ? more : 0)];
        taken = std::max(taken, bytes);
      }
    }
    std::int64_t live = 0, most = 0;
    for (int e = 0; e < all; ++e) {
      live += change[e];
      most = std::max(most, live + extra[e]);
    }
    return most;
  }
};

class Simulation {
 public:
  Simulation(const LayerKind& kind, const std::vector<Fate>& fates, int parts, const HostLink* link)
      : kind_(kind), fates_(fates), parts_(parts), link_(link), count_(static_cast<int>(kind.tensors.size())) {
    in_rows_.assign(count_, false);
    if (parts_ > 1) {
      for (const int v : kind_.rows->tensors) in_rows_[v] = true;
    }
  }

  std::optional<LayerOption> run(LayerOption option) {
    for (int v = 0; v < count_; ++v) {
      const LayerTensor& t = kind_.tensors[v];
      if (t.always_kept && fates_[v] != Fate::Keep && !(t.may_leave && offloaded(v))) return std::nullopt;
      if (t.kept_with >= 0 && fates_[v] != Fate::Drop && fates_[t.kept_with] == Fate::Drop) return std::nullopt;
      if (in_rows_[v] && fates_[v] != Fate::Drop) return std::nullopt;
      if (fates_[v] == Fate::Offload && (!t.offloadable || link_ == nullptr)) return std::nullopt;
      if (fates_[v] == Fate::Keep) option.saved_bytes += t.bytes;
      if (fates_[v] == Fate::Offload) option.host_bytes += t.bytes_on_host();
    }
    if (option.host_bytes > kind_.host_limit_bytes) return std::nullopt;
    option.forward_peak_bytes = forward();
    option.backward_peak_bytes = backward();
    if (!possible_) return std::nullopt;
    for (int v = 0; v < count_; ++v) {
      if (made_[v] >= 0) option.seconds += kind_.tensors[v].seconds + kind_.tensors[v].collective_seconds;
    }
    option.seconds += waiting_seconds_ + price_seconds();
    if (parts_ > 1) option.seconds += kind_.rows->seconds(parts_);
    return option;
  }

 private:
  bool offloaded(int v) const { return fates_[v] == Fate::Offload; }
  double copy_seconds(int v, double rate) const {
    return kind_.tensors[v].copies * link_->latency_seconds + kind_.tensors[v].bytes / rate;
  }

  double price_seconds() const {
    double copies = 0;
    for (int v = 0; v < count_; ++v) {
      if (offloaded(v))
        copies += copy_seconds(v, link_->to_host_bytes_per_second) + copy_seconds(v, link_->from_host_bytes_per_second);
    }
    return copies > 0 && link_->overlap ? link_->price * copies : 0;
  }

  std::int64_t forward() {
    Pass pass;
    std::vector<int> last(count_, 0);
    double now = 0, copied = 0, first_sent = -1;
    pass.events = count_ + 1;
    for (int v = 0; v < count_; ++v) {
      const LayerTensor& t = kind_.tensors[v];
      last[v] = std::max(last[v], v + 1);
      for (const int u : t.made_from) {
        last[u] = v + 1;
        if (in_rows_[u]) pass.loop_end = v + 1;
      }
      if (in_rows_[v] && pass.loop_begin < 0) pass.loop_begin = v + 1;
      pass.loop_end = in_rows_[v] ? v + 1 : pass.loop_end;
      now += t.seconds + t.collective_seconds;
      if (!offloaded(v)) continue;
      const double copy = copy_seconds(v, link_->to_host_bytes_per_second);
      const double before = copied;
      copied = std::max(copied, now) + copy;
      if (first_sent < 0) first_sent = now;
      now = link_->overlap ? std::max(now, before) : copied;
    }
    if (link_ != nullptr && link_->overlap && first_sent >= 0) now = std::max(now, copied - first_sent);
    for (int v = 0; v < count_; ++v) {
      const LayerTensor& t = kind_.tensors[v];
      if (kind_.saved_apart && fates_[v] == Fate::Keep) continue;
      const bool stays = fates_[v] == Fate::Keep || v == kind_.output || (offloaded(v) && link_->overlap);
      (in_rows_[v] ? pass.in_block : pass.full)
          .push_back({t.bytes, t.made_from.empty() ? 0 : v + 1, stays ? kToEnd : last[v]});
    }
    for (int v = 0; v < count_; ++v) {
      const std::int64_t bytes = kind_.tensors[v].workspace_bytes;
      if (bytes > 0) pass.workspace.emplace_back(v + 1, bytes);
    }
    waiting_seconds_ += now - kind_.forward_seconds();
    return pass.peak(parts_);
  }

  std::int64_t backward() {
    made_.assign(count_, -1);
    from_.assign(count_, -1);
    last_use_.assign(count_, 0);
    for (int v = 0; v < count_; ++v) {
      if (fates_[v] == Fate::Keep) from_[v] = 0;
    }
    std::vector<int> step_event(kind_.steps.size());
    const int first = parts_ > 1 ? kind_.rows->first_step : -1, last = parts_ > 1 ? kind_.rows->last_step : -2;
    for (int s = 0; s < static_cast<int>(kind_.steps.size()); ++s) {
      in_loop_ = s >= first && s <= last;
      if (s == first) begin_loop(first, last);
      for (const int v : kind_.steps[s].reads) ensure(v);
      step_event[s] = back_.events++;
      for (const int v : kind_.steps[s].reads) last_use_[v] = step_event[s];
      compute(kind_.steps[s].seconds);
      if (kind_.steps[s].workspace_bytes > 0) {
        back_.workspace.emplace_back(step_event[s], kind_.steps[s].workspace_bytes);
      }
      if (s == last) back_.loop_end = step_event[s];
    }
    for (int v = 0; v < count_; ++v) {
      if (from_[v] < 0 || (kind_.saved_apart && fates_[v] == Fate::Keep)) continue;
      (in_rows_[v] ? back_.in_block : back_.full).push_back({kind_.tensors[v].bytes, from_[v], last_use_[v]});
    }
    gradients(step_event, first, last);
    waiting_seconds_ += waited_;
    return back_.peak(parts_);
  }

  // What the blocks read and is not theirs is there before the first of them.
  void begin_loop(int first, int last) {
    in_loop_ = false;
    for (int s = first; s <= last; ++s) {
      for (const int v : kind_.steps[s].reads) ensure_outside(v);
    }
    in_loop_ = true;
    back_.loop_begin = back_.events;
  }

  void ensure_outside(int v) {
    if (!in_rows_[v]) return ensure(v);
    for (const int u : kind_.tensors[v].made_from) ensure_outside(u);
  }

  void ensure(int v) {
    if (in_rows_[v] && !in_loop_) possible_ = false;
    if (offloaded(v)) fetch(v);
    if (from_[v] >= 0) return;
    const LayerTensor& t = kind_.tensors[v];
    for (const int u : t.made_from) ensure(u);
    if (t.made_from.empty() || !t.replayable) possible_ = false;
    const int event = back_.events++;
    made_[v] = from_[v] = last_use_[v] = event;
    for (const int u : t.made_from) last_use_[u] = event;
    if (t.workspace_bytes > 0) back_.workspace.emplace_back(event, t.workspace_bytes);
    compute(t.seconds + t.collective_seconds);
  }

  void compute(double seconds) {
    begins_.push_back(now_);
    now_ += seconds;
  }

  // With overlap the copies follow each other in the order of these calls.
  void fetch(int v) {
    if (from_[v] >= 0) return;
    const double copy = copy_seconds(v, link_->from_host_bytes_per_second);
    double begin = now_;
    if (link_->overlap) {
      from_[v] = last_use_[v] = std::max(0, back_.events - kFetchAhead);
      begin = copied_ ? std::max(*copied_, ahead()) : ahead();
    } else {
      from_[v] = last_use_[v] = back_.events++;
    }
    copied_ = begin + copy;
    waited_ += std::max(0.0, *copied_ - now_);
    now_ = std::max(now_, *copied_);
  }

  // When compute was so many nodes before the next one; time before the layer's backward is below zero.
  double ahead() const {
    const std::size_t made = begins_.size(), steps = kind_.steps.size();
    if (made >= kAhead) return begins_[made - kAhead];
    double before = 0;
    for (std::size_t s = 0; s < std::min(steps, kAhead - made); ++s) before -= kind_.steps[steps - 1 - s].seconds;
    return before;
  }

  void gradients(const std::vector<int>& step_event, int first, int last) {
    const int count = static_cast<int>(kind_.gradients.size());
    std::vector<int> born(count, -1), used(count, -1);
    for (int s = 0; s < static_cast<int>(kind_.steps.size()); ++s) {
      for (const int g : kind_.steps[s].makes) born[g] = s;
      for (const int g : kind_.steps[s].uses) used[g] = s;
    }
    for (int g = 0; g < count; ++g) {
      const bool within = born[g] >= first && used[g] >= 0 && used[g] <= last && born[g] >= 0;
      (within ? back_.in_block : back_.full)
          .push_back({kind_.gradients[g].bytes, born[g] < 0 ? 0 : step_event[born[g]],
                      used[g] < 0 ? kToEnd : step_event[used[g]]});
    }
  }

  const LayerKind& kind_;
  const std::vector<Fate>& fates_;
  int parts_;
  const HostLink* link_;
  int count_;
  bool possible_ = true, in_loop_ = false;
  std::vector<bool> in_rows_;
  Pass back_;
  std::vector<int> made_, from_, last_use_;  // events of backward; -1: not
  std::vector<double> begins_;               // of backward's compute nodes
  std::optional<double> copied_;             // when the last copy back ends
  double now_ = 0, waited_ = 0, waiting_seconds_ = 0;
};

}  // namespace

double RowSplit::seconds(int count) const {
  if (count == 1) return 0;
  const auto offered = std::find_if(parts.begin(), parts.end(), [count](const Parts& p) { return p.count == count; });
  require(offered != parts.end(), ErrorKind::Internal, "{} blocks of rows are not on offer", count);
  return offered->seconds;
}

double LayerKind::forward_seconds() const {
  double seconds = 0;
  for (const LayerTensor& t : tensors) seconds += t.seconds + t.collective_seconds;
  return seconds;
}

std::optional<LayerOption> simulate_layer(const LayerKind& kind, const std::vector<Fate>& fates, int row_parts,
                                          const HostLink* link) {
  require(fates.size() == kind.tensors.size(), ErrorKind::Internal, "layer kind {}: {} fates for {} tensors", kind.name,
          fates.size(), kind.tensors.size());
  require(row_parts >= 1 && (row_parts == 1 || kind.rows), ErrorKind::Internal, "layer kind {}: {} blocks of rows",
          kind.name, row_parts);
  LayerOption option;
  option.fates = fates;
  option.row_parts = row_parts;
  return Simulation(kind, fates, row_parts, link).run(std::move(option));
}

void check_layer_kind(const LayerKind& kind) {
  const int tensors = static_cast<int>(kind.tensors.size()), gradients = static_cast<int>(kind.gradients.size());
  const auto valid = [](double seconds) { return std::isfinite(seconds) && seconds >= 0; };
  const auto within = [](std::span<const int> indices, int count) {
    return std::all_of(indices.begin(), indices.end(), [count](int i) { return i >= 0 && i < count; });
  };
  for (int v = 0; v < tensors; ++v) {
    const LayerTensor& t = kind.tensors[v];
    require(within(t.made_from, v) && t.kept_with < v && t.bytes >= 0 && t.workspace_bytes >= 0 && t.copies >= 1 &&
                t.host_bytes >= 0 && valid(t.seconds) && valid(t.collective_seconds) &&
                (t.always_kept || !t.made_from.empty()),
            ErrorKind::Internal, "layer kind {}: tensor {} is described wrongly", kind.name, t.name);
  }
  for (const LayerGradient& g : kind.gradients) {
    require(g.bytes >= 0, ErrorKind::Internal, "layer kind {}: gradient {} has {} bytes", kind.name, g.name, g.bytes);
  }
  for (const BackwardStep& s : kind.steps) {
    require(within(s.reads, tensors) && within(s.makes, gradients) && within(s.uses, gradients) && valid(s.seconds) &&
                s.workspace_bytes >= 0,
            ErrorKind::Internal, "layer kind {}: backward step {} is described wrongly", kind.name, s.name);
  }
  require(kind.output >= -1 && kind.output < tensors, ErrorKind::Internal, "layer kind {}: output {}", kind.name,
          kind.output);
  if (!kind.rows) return;
  const RowSplit& r = *kind.rows;
  require(within(r.tensors, tensors) && !r.tensors.empty() && r.first_step >= 0 && r.first_step <= r.last_step &&
              r.last_step < static_cast<int>(kind.steps.size()) &&
              std::all_of(r.parts.begin(), r.parts.end(),
                          [&](const RowSplit::Parts& p) { return p.count >= 2 && valid(p.seconds); }),
          ErrorKind::Internal, "layer kind {}: its row-split is described wrongly", kind.name);
}

}  // namespace plimsoll
