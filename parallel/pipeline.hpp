#pragma once
// Pipeline parallelism: consecutive layers on the ranks of the pipeline axis, micro-batches one after another through
// them. What runs when is the schedule's (runtime/plan/schedule.hpp); here is what the graph of a stage has besides.

#include "runtime/model/flat_layout.hpp"
#include "runtime/model/transformer.hpp"
#include "runtime/plan/schedule.hpp"

namespace plimsoll {

struct PipelineParallel {
  int stages = 1, stage = 0;
  int chunks = 1;
  bool first() const { return stage == 0; }
  bool last() const { return stage + 1 == stages; }
};

// The first layer of each piece, in the order of the model: as listed, or cut so that the most expensive piece (in
// FLOPs of the declarations) costs as little as possible. Throws Error(Config) on more pieces than layers and on a list
// that does not fit.
std::vector<int> pipeline_cuts(const ModelConfig& model, const ModelShape& shape, const PipelineParallel& pipeline,
                               std::span<const std::int64_t> layers_per_piece);
// What a stage holds, chunk by chunk.
std::vector<ModelPart> stage_parts(const ModelConfig& model, std::span<const int> cuts,
                                   const PipelineParallel& pipeline);

// The passes, for a graph of these parts.

// After build_transformer(): the buffers in which messages lie between wire and step, named "pipeline.receive.output",
// "pipeline.send.output", and with `training` "….gradient", each for kMessageBuffers messages; those that the stage
// needs.
inline constexpr std::int64_t kMessageBuffers = 2;
void add_message_buffers(Graph& graph, bool training);
// After add_backward(): outputs go to the next piece in so many parts of rows, and the product and the sum that a piece
// ends with are cut into as many, so that a part is under way while the next is made. Gradients stay whole: the norm
// that they end with sums over all rows. Error(Internal) where rows do not divide, and where a piece ends otherwise.
void cut_outputs(Graph& graph, int parts);
// Why the outputs of [micro_batch, sequence] tokens cannot be cut into so many parts; nullopt when they can.
std::optional<std::string> pipeline_chunks_fault(const ModelConfig& model, std::int64_t tensor, std::int64_t rows,
                                                 std::int64_t parts);
// The nodes that cut_outputs() cuts, of a graph before it: the product, then the sum. nullopt: the piece sends nothing.
std::optional<std::pair<std::size_t, std::size_t>> output_product(const Graph& graph, int chunk);
// After build_transformer(), where several micro-batches are in flight: tokens and targets lie in their slots.
void keep_inputs_in_slots(Graph& graph);

// After add_backward(), before the gradients are placed: the two copies of a tied embedding, on the first and the last
// stage, get the sum of their gradients. Nothing where `model` is not tied or the stage is in between.
void sum_tied_gradients(Graph& graph, const ModelConfig& model, const PipelineParallel& pipeline,
                        std::int64_t scratch_bytes);
// The same with ZeRO 2 and 3, whose whole gradients live in a micro-batch only, after the gradients are placed: of this
// rank's shard, which is of the same elements at both ends (flat_layout()).
void sum_tied_shards(Graph& graph, const ModelConfig& model, const PipelineParallel& pipeline, const FlatLayout& layout,
                     int shard_rank, std::int64_t scratch_bytes);
// After add_update(): "loss" is that of the last stage, on every stage.
void share_loss(Graph& graph, const PipelineParallel& pipeline, std::int64_t scratch_bytes);

// The place of each parameter of `graph` among those of the whole model, `whole`.
std::vector<int> places_in_model(const Graph& graph, const Graph& whole);

}  // namespace plimsoll
