#pragma once
// A folder of reference results (tests/golden/README.md), read and checked as a whole before anything is computed:
// every number fits every tensor, and every key is one that this program computes as the reference did.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "optim/config.hpp"
#include "runtime/checkpoint/safetensors.hpp"
#include "runtime/model/config.hpp"

namespace plimsoll {

struct GoldenCurve {
  OptimizerConfig optimizer;      // betas, eps, weight_decay, clip
  std::vector<double> lr;         // [steps]
  std::vector<double> loss;       // [steps]
  std::vector<double> grad_norm;  // [steps], before clipping
};

struct GoldenFolder {
  std::filesystem::path path;
  ModelConfig model;  // without dropout: the reference has none
  std::int64_t batch = 0, sequence = 0;
  double loss = 0;
  GoldenCurve curve;
  std::vector<std::int32_t> tokens, targets;  // [batch, sequence]; targets −1: ignored
  std::int64_t valid_targets = 0;             // at least 1
  std::vector<std::int32_t> curve_tokens;     // [steps, batch, sequence + 1]
  std::vector<float> logits;                  // [batch, sequence, vocabulary]

  std::int64_t steps() const { return static_cast<std::int64_t>(curve.lr.size()); }
};

// MissingInput for a file that is not there; BadData naming file and key (or tensor) for what is missing, malformed or
// does not fit the rest; Config naming a key whose value is not supported. `warn` prints keys whose meaning is unknown.
GoldenFolder read_golden_folder(const std::filesystem::path& path, bool warn);

// The floats of a tensor that must have this shape; BadData naming file and tensor.
std::vector<float> read_shaped_floats(const SafetensorsFile& file, const std::string& name, const Shape& shape);

}  // namespace plimsoll
