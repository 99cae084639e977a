#include "runtime/plan/recompute_graph.hpp"

#include <algorithm>

#include "runtime/plan/offload_costs.hpp"
#include "runtime/plan/recompute_reader.hpp"

namespace plimsoll {
namespace {

bool keeps_what_is_read(const LayerKind& kind, const LayerOption& option) {
  return std::all_of(kind.steps.begin(), kind.steps.end(), [&](const BackwardStep& step) {
    return std::all_of(step.reads.begin(), step.reads.end(),
                       [&](int v) { return option.fates[static_cast<std::size_t>(v)] == Fate::Keep; });
  });
}

// Keeps `option` (nothing, where it `opens` a segment) what the mode keeps? What backward has no use for does not
// count.
bool is_mode(const GraphStage& s, std::size_t k, const LayerOption& option, bool opens, bool full) {
  if (option.host_bytes > 0) return false;
  const LayerKind& kind = s.stage.kinds[k];
  const std::vector<Fate> all = keep_everything(kind).fates;
  const std::vector<bool>& of_mode = s.modes[k][full ? 0 : 1];
  for (std::size_t t = 0; t < kind.tensors.size(); ++t) {
    const bool kept = kind.tensors[t].always_kept || (!opens && option.fates[t] == Fate::Keep);
    if (!s.names[k][t].empty() && (kept || all[t] == Fate::Keep) && kept != of_mode[t]) return false;
  }
  return true;
}

}  // namespace

bool GraphStage::communicates_again() const {
  return std::any_of(stage.kinds.begin(), stage.kinds.end(), [](const LayerKind& kind) {
    return std::any_of(kind.tensors.begin(), kind.tensors.end(),
                       [](const LayerTensor& t) { return t.collective_seconds > 0; });
  });
}

GraphStage graph_stage(const Graph& graph, const CostModel& costs, const GraphStageOptions& options) {
  ReadStage read = read_stage(graph, costs, options);
  GraphStage s;
  s.stage.in_flight = options.in_flight;
  s.stage.row_splits = options.row_splits;
  s.stage.once = true;
  s.stage.head_bytes = read.head_bytes;
  s.micro_batch_seconds = read.seconds;
  s.beside_copies_seconds = read.beside_copies_seconds;
  std::vector<ReadLayer> kinds;
  for (ReadLayer& layer : read.layers) {
    const auto same = std::find(kinds.begin(), kinds.end(), layer);
    s.stage.layers.push_back(static_cast<int>(same - kinds.begin()));
    if (same == kinds.end()) kinds.push_back(std::move(layer));
  }
  for (ReadLayer& layer : kinds) {
    layer.kind.name = fmt::format("{}", s.stage.kinds.size());
    s.stage.kinds.push_back(std::move(layer.kind));
    s.names.push_back(std::move(layer.names));
    s.modes.push_back(std::move(layer.modes));
  }
  s.layers = std::move(read.numbers);
  if (options.offload_overlap) s.stage.link = host_link(graph, s.layers, costs, *options.offload_overlap);
  return s;
}

namespace {

// `may`: by layer.
GraphStage limited(GraphStage s, const std::vector<bool>& may, std::int64_t bytes) {
  const std::size_t kinds = s.stage.kinds.size();
  if (std::find(may.begin(), may.end(), false) == may.end()) {
    for (LayerKind& kind : s.stage.kinds) kind.host_limit_bytes = bytes;
    return s;
  }
  for (std::size_t k = 0; k < kinds; ++k) {
    LayerKind limited = s.stage.kinds[k];
    s.stage.kinds[k].host_limit_bytes = 0;
    limited.host_limit_bytes = bytes;
    s.stage.kinds.push_back(std::move(limited));
    s.names.push_back(s.names[k]);
    s.modes.push_back(s.modes[k]);
  }
  for (std::size_t l = 0; l < may.size(); ++l) s.stage.layers[l] += may[l] ? static_cast<int>(kinds) : 0;
  return s;
}

}  // namespace

GraphStage with_host_limit(GraphStage s, int layers, std::int64_t bytes) {
  std::vector<bool> may(s.stage.layers.size(), false);
  std::fill(may.begin(), may.begin() + layers, true);
  return limited(std::move(s), may, bytes);
}

GraphStage with_spread_host_limit(GraphStage s, int layers, std::int64_t bytes) {
  const auto all = std::ssize(s.stage.layers);
  std::vector<bool> may;
  for (std::ptrdiff_t l = 0; l < all; ++l) may.push_back((l + 1) * layers / all > l * layers / all);
  return limited(std::move(s), may, bytes);
}

std::vector<LayerChoice> spread_choices(const RecomputeStage& stage, const std::vector<LayerChoice>& choices) {
  struct Same {
    const LayerChoice* choice;
    int count, dealt;
  };
  std::vector<LayerChoice> spread = choices;
  for (int kind = 0; kind < static_cast<int>(stage.kinds.size()); ++kind) {
    std::vector<Same> groups;
    int layers = 0;
    for (std::size_t l = 0; l < choices.size(); ++l) {
      if (stage.layers[l] != kind) continue;
      ++layers;
      const auto same = std::find_if(groups.begin(), groups.end(), [&](const Same& g) {
        return g.choice->option.fates == choices[l].option.fates &&
               g.choice->option.row_parts == choices[l].option.row_parts;
      });
      if (same == groups.end()) {
        groups.push_back({&choices[l], 1, 0});
      } else {
        ++same->count;
      }
    }
    int dealt = 0;
    for (std::size_t l = 0; l < choices.size(); ++l) {
      if (stage.layers[l] != kind) continue;
      ++dealt;
      // The one that is furthest behind its share of those dealt.
      const auto behind = [&](const Same& g) { return g.count * dealt - g.dealt * layers; };
      const auto next = std::max_element(groups.begin(), groups.end(),
                                         [&](const Same& a, const Same& b) { return behind(a) < behind(b); });
      ++next->dealt;
      spread[l] = *next->choice;
      spread[l].segment = static_cast<int>(l);
    }
  }
  return spread;
}

std::vector<LayerRecompute> layer_recompute(const GraphStage& s, const RecomputePlan& plan) {
  std::vector<LayerRecompute> layers;
  for (std::size_t l = 0; l < plan.layers.size(); ++l) {
    const LayerChoice& choice = plan.layers[l];
    const auto k = static_cast<std::size_t>(s.stage.layers[l]);
    const LayerKind& kind = s.stage.kinds[k];
    // Of a segment only the first boundary stays.
    const bool inner = choice.segment != static_cast<int>(l);
    const bool opens = l + 1 < plan.layers.size() && plan.layers[l + 1].segment == static_cast<int>(l);
    LayerRecompute& layer = layers.emplace_back();
    layer.rows = choice.option.row_parts;
    require(layer.rows == 1 || !choice.rerun, ErrorKind::Internal, "layer {} is run again in blocks of rows",
            s.layers[l]);
    if (!inner && !opens && keeps_what_is_read(kind, choice.option)) continue;
    layer.mode = RecomputeMode::Auto;
    if (inner) continue;
    if (const bool full = is_mode(s, k, choice.option, opens, true);
        full || is_mode(s, k, choice.option, opens, false)) {
      layer.mode = full ? RecomputeMode::Full : RecomputeMode::Selective;
      continue;
    }
    for (std::size_t t = 0; t < kind.tensors.size(); ++t) {
      const bool sent = choice.option.fates[t] == Fate::Offload;
      const bool stays = kind.tensors[t].always_kept || (!opens && choice.option.fates[t] == Fate::Keep);
      std::vector<std::string>& names = sent ? layer.offload : layer.keep;
      if (sent || stays) names.insert(names.end(), s.names[k][t].begin(), s.names[k][t].end());
    }
  }
  return layers;
}

double row_split_seconds(const Graph& keeping, const CostModel& costs, std::span<const LayerRecompute> layers) {
  if (!has_row_splits(layers)) return 0;
  RowCosts rows(keeping, costs);
  double sum = 0;
  for (const int layer : layers_of(keeping)) {
    const auto blocks = static_cast<int>(layers[static_cast<std::size_t>(layer)].rows);
    const auto block = blocks > 1 ? row_block(keeping, layer) : std::nullopt;
    if (!block) continue;
    for (const std::size_t n : block->forward) sum += rows.more_seconds(n, blocks);
    for (const std::size_t n : backward_of(keeping, layer, *block)) sum += rows.more_seconds(n, blocks);
  }
  return sum;
}

double recompute_seconds(const Graph& graph, const CostModel& costs) {
  double sum = 0;
  for (const Node& node : graph.nodes) sum += node.again ? costs.node_seconds(graph, node) : 0;
  for (const CollectiveCall& call : collectives(graph)) {
    if (graph.nodes[call.node].again) sum += costs.collective_seconds(call.kind, call.bytes(), call.ranks, 1);
  }
  return sum;
}

}  // namespace plimsoll
