#pragma once
// Where a model is cut into the pieces of a pipeline (schedule.hpp). A piece is a run of consecutive layers, at least
// one; the first piece also has the embedding, the last one the head.

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

// The first layer of each of `pieces` pieces, such that the most expensive piece costs as little as possible; among
// such cuts, one with the smallest sum of squared costs, so that the others are even. Exact, by dynamic programming in
// O(pieces · layers²); a function of its arguments alone. Throws Error(Config) on more pieces than layers and
// Error(Internal) on a cost that is negative or not finite.
std::vector<int> cut_layers(std::span<const double> layer_costs, double first_cost, double last_cost, int pieces);

// The same from a user's list of layers per piece, in the order of the model (stage 0, 1, …, then the second chunk of
// stage 0, …). Throws Error(Config) unless there is one number per piece, each at least 1, and their sum is `layers`.
std::vector<int> cut_layers_as_listed(std::span<const std::int64_t> layers_per_piece, int layers, int pieces);

}  // namespace plimsoll
