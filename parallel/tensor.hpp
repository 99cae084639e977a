#pragma once
// Tensor parallelism (Shoeybi et al. 2019, Megatron-LM) and sequence parallelism (Korthikanti et al. 2022): the ranks
// of the tensor axis share each layer. Column-parallel linears (qkv, up, gate) and row-parallel ones (attention output,
// down) in pairs, so that a layer communicates twice in forward and twice in backward; attention over the rank's own
// heads; the vocabulary of embedding and loss split by rows, logits never gathered.

#include <optional>
#include <string>

#include "runtime/model/transformer.hpp"

namespace plimsoll {

struct TensorParallel {
  int ranks = 1, rank = 0;
  bool sequence = false;  // between the linears, ranks have parts of the tokens instead of copies of all
  // With fewer key/value heads than ranks, this many neighbours have the same ones (else 1).
  int kv_copies(const ModelConfig& model) const;
};

// Why a model cannot be split over so many ranks; nullopt when it can.
std::optional<std::string> tensor_parallel_fault(const ModelConfig& model, std::int64_t sequence,
                                                 const TensorParallel& t);

// The forward graph of this rank, from that of the whole model. Parameters become their parts; collectives over the
// axis "tensor" join them. Parameters that ranks have copies of are owned by one of them (ParameterPart::owned).
Graph split_over_tensor(const Graph& whole, const ModelConfig& model, const TensorParallel& t);

// After add_backward(): sums the gradients of parameters whose copies see only a part of the work: of tokens (norms and
// biases under sequence parallelism), of heads (q/k norms), or of the queries of a key/value head ("kv_copy" axis).
// `every_micro_batch`: where gradients do not stay from one to the next (ZeRO-2).
void sum_split_gradients(Graph& graph, const ModelConfig& model, const TensorParallel& t, bool every_micro_batch,
                         std::int64_t scratch_bytes);

}  // namespace plimsoll
