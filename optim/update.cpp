#include "optim/update.hpp"

namespace plimsoll {

std::vector<Moment> optimizer_moments(OptimizerName name) {
  if (name == OptimizerName::Sgd) return {{"optimizer.momentum", "momentum_buffer"}};
  return {{"optimizer.first", "exp_avg"}, {"optimizer.second", "exp_avg_sq"}};
}

void add_update(Graph& graph, const FlatLayout& layout, const OptimizerConfig& optimizer) {
  graph.update_begin = graph.nodes.size();
  const ValueId parameters = graph.find("parameters");
  const ValueId gradients = graph.find("gradients");
  GlobalNorm::Attrs norm_attrs;
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    for (const ParameterPart& part : graph.parameters[p].parts) {
      norm_attrs.segments.push_back({layout.offset[p] + part.first_element, part.shape.elements()});
    }
  }
  const ValueId norm = add_node<GlobalNorm>(graph, norm_attrs, {{GlobalNorm::kGradients, gradients}}, "gradient_norm",
                                            -1)[GlobalNorm::kNorm];
  graph.nodes.back().phase = Phase::Update;

  std::vector<ValueId> moments;
  for (const Moment& m : optimizer_moments(optimizer.name)) {
    Value v;
    v.name = std::string(m.value);
    v.spec = graph[parameters].spec;
    v.persistent = true;
    v.memory = MemoryClass::Optimizer;
    moments.push_back(graph.named[v.name] = graph.add_value(std::move(v)));
  }
  if (optimizer.name == OptimizerName::AdamW) {
    const AdamW::Attrs attrs{optimizer.betas[0],     optimizer.betas[1], optimizer.eps,
                             optimizer.weight_decay, optimizer.clip,     layout.decay_elements};
    add_node<AdamW>(graph, attrs,
                    {{AdamW::kGradients, gradients},
                     {AdamW::kNorm, norm},
                     {AdamW::kParameters, parameters},
                     {AdamW::kFirst, moments[0]},
                     {AdamW::kSecond, moments[1]}},
                    "adamw", -1);
  } else {
    const Sgd::Attrs attrs{optimizer.momentum, optimizer.weight_decay, optimizer.clip, false, layout.decay_elements};
    add_node<Sgd>(graph, attrs,
                  {{Sgd::kGradients, gradients},
                   {Sgd::kNorm, norm},
                   {Sgd::kParameters, parameters},
                   {Sgd::kMomentum, moments[0]}},
                  "sgd", -1);
  }
  graph.nodes.back().phase = Phase::Update;
}

}  // namespace plimsoll
