// golden_check FOLDER…: compares this program with reference results: logits, loss, every gradient, a training curve
// and the parameters after it. A folder is a Hugging Face model with golden.json, golden.safetensors, grads.safetensors
// and final.safetensors beside it (tests/golden/README.md says how they are made). Exits 1 when a tolerance is missed.
// Under mpirun the rows of the batch are spread over the ranks.

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/group.hpp"
#include "launch/bootstrap.hpp"
#include "launch/engine.hpp"
#include "launch/failure.hpp"
#include "launch/groups.hpp"
#include "launch/process.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

constexpr double kLogits = 2e-5, kLoss = 1e-6, kGradient = 1e-4, kCurve = 1e-5, kNorm = 1e-5, kFinal = 1e-4,
                 kFinalAttentionBias = 5e-3;

class Report {
 public:
  explicit Report(bool prints) : prints_(prints) {}
  void check(const std::string& what, double difference, double tolerance) {
    const bool ok = difference <= tolerance;  // false for NaN
    failures_ += ok ? 0 : 1;
    ++checks_;
    if (prints_)
      std::printf("  %-58s %11.3e  (tolerance %.0e) %s\n", what.c_str(), difference, tolerance, ok ? "ok" : "MISSED");
  }
  int failures() const { return failures_; }
  int checks() const { return checks_; }

 private:
  bool prints_;
  int failures_ = 0, checks_ = 0;
};

double relative(double value, double reference) { return std::abs(value - reference) / std::abs(reference); }

double norm_difference(const float* a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += static_cast<double>(b[i]) * b[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// The key bias of attention has no gradient in exact arithmetic: Adam turns rounding noise into steps.
bool is_attention_bias(const std::string& name) {
  return name.ends_with("c_attn.bias") || name.ends_with("k_proj.bias");
}

struct Golden {
  std::filesystem::path folder;
  nlohmann::json json;
  std::int64_t batch = 0, sequence = 0;

  explicit Golden(std::filesystem::path path) : folder(std::move(path)) {
    const std::filesystem::path file = folder / "golden.json";
    std::ifstream in(file);
    require(in.good(), ErrorKind::MissingInput, "{}: there is no such file", file.string());
    json = nlohmann::json::parse(in, nullptr, false);
    require(json.is_object() && json.contains("B") && json.contains("T") && json.contains("loss"), ErrorKind::BadData,
            "{}: is not JSON with B, T and loss", file.string());
    batch = json["B"];
    sequence = json["T"];
  }
  std::vector<std::int32_t> integers(const SafetensorsFile& file, const std::string& name) const {
    std::vector<std::int32_t> all(static_cast<std::size_t>(file.spec(name).elements()));
    file.read(name, all.data(), static_cast<std::int64_t>(all.size() * sizeof(std::int32_t)));
    return all;
  }
};

// The rows of this rank, padded to the same number on all ranks: token 0, target −1.
struct Share {
  std::int64_t rows, first, valid;
  Share(std::int64_t batch, int rank, int ranks)
      : rows((batch + ranks - 1) / ranks),
        first(std::min<std::int64_t>(batch, rows * rank)),
        valid(std::min(rows, batch - first)) {}
  std::vector<std::int32_t> take(std::span<const std::int32_t> all, std::int64_t stride, std::int64_t offset,
                                 std::int64_t width, std::int32_t padding) const {
    std::vector<std::int32_t> out(static_cast<std::size_t>(rows * width), padding);
    for (std::int64_t r = 0; r < valid; ++r) {
      for (std::int64_t t = 0; t < width; ++t) {
        out[static_cast<std::size_t>(r * width + t)] = all[static_cast<std::size_t>((first + r) * stride + offset + t)];
      }
    }
    return out;
  }
};

void check_logits(Engine& engine, const Golden& golden, const SafetensorsFile& data, Report& report) {
  const std::vector<float> expected = data.read_floats("logits");
  Executor& logits = engine.executor("logits");
  const View tokens = logits.view("tokens");
  const std::int64_t rows = tokens.spec.shape[0], width = logits.view("logits").spec.last() * golden.sequence;
  const std::vector<std::int32_t> all = golden.integers(data, "tokens");
  double difference = 0, largest = 0;
  for (std::int64_t row = 0; row < golden.batch; row += rows) {
    std::vector<std::int32_t> some(static_cast<std::size_t>(rows * golden.sequence), 0);
    const std::int64_t count = std::min(rows, golden.batch - row) * golden.sequence;
    std::copy_n(all.begin() + row * golden.sequence, count, some.begin());
    engine.device().copy_to_device(tokens.data, some.data(), tokens.spec.bytes());
    logits.run(Graph::Section::Forward);
    logits.synchronize();
    const auto* ours = logits.view("logits").as<float>();
    for (std::int64_t i = 0; i < count / golden.sequence * width; ++i) {
      const double want = expected[static_cast<std::size_t>(row * width + i)];
      difference = std::max(difference, std::abs(ours[i] - want));
      if (!std::isfinite(ours[i])) difference = NAN;
      largest = std::max(largest, std::abs(want));
    }
  }
  report.check("logits", difference / largest, kLogits);
}

// The tensors of a flat region, whole, by name in model order.
std::vector<std::pair<std::string, std::vector<float>>> gathered(Engine& engine, std::string_view region) {
  std::vector<std::pair<std::string, std::vector<float>>> all;
  for (std::size_t t = 0; t < engine.programs().tensors.size(); ++t) {
    const ModelTensor& tensor = engine.programs().tensors[t];
    all.emplace_back(tensor.name, std::vector<float>(static_cast<std::size_t>(tensor.shape.elements())));
    engine.gather(region, t, 0, tensor.shape.elements(), all.back().second.data());
  }
  return all;
}

void check_gradients(Engine& engine, const Golden& golden, const SafetensorsFile& data, const Share& share,
                     Report& report) {
  const std::vector<std::int32_t> tokens = golden.integers(data, "tokens"), targets = golden.integers(data, "targets");
  const std::int64_t t = golden.sequence;
  double valid = 0;
  for (const std::int32_t target : targets) valid += target >= 0 ? 1 : 0;
  engine.train_micro_batch(share.take(tokens, t, 0, t, 0), share.take(targets, t, 0, t, -1), Variant::Only, 1.0 / valid,
                           0);
  Executor& train = engine.executor("train");
  train.synchronize();
  const auto* loss = train.view("loss").as<double>();
  report.check("loss", relative(loss[0] / loss[1], golden.json["loss"]), kLoss);
  const SafetensorsFile file = SafetensorsFile::open(golden.folder / "grads.safetensors");
  std::size_t found = 0;
  for (const auto& [name, values] : gathered(engine, "gradients")) {
    require(file.contains(name), ErrorKind::BadData, "{}: has no gradient of '{}'", file.path().string(), name);
    report.check("gradient " + name, norm_difference(values.data(), file.read_floats(name)), kGradient);
    ++found;
  }
  require(found == file.tensors().size(), ErrorKind::BadData, "{}: has {} gradients, the model has {} parameters",
          file.path().string(), file.tensors().size(), found);
}

void check_curve(Engine& engine, const Golden& golden, const SafetensorsFile& data, const Share& share,
                 Report& report) {
  const nlohmann::json& curve = golden.json["curve"];
  const std::vector<std::int32_t> all = golden.integers(data, "curve_tokens");
  const std::int64_t t = golden.sequence, steps = curve["steps"];
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::span<const std::int32_t> batch(all.data() + step * golden.batch * (t + 1),
                                              static_cast<std::size_t>(golden.batch * (t + 1)));
    engine.train_micro_batch(share.take(batch, t + 1, 0, t, 0), share.take(batch, t + 1, 1, t, -1), Variant::Only,
                             1.0 / static_cast<double>(golden.batch * t), 0);
    const StepResult result =
        engine.update(curve["lr_per_step"][static_cast<std::size_t>(step)], static_cast<std::uint64_t>(step), step);
    report.check(fmt::format("step {} loss", step),
                 relative(result.loss(), curve["loss"][static_cast<std::size_t>(step)]), kCurve);
    report.check(fmt::format("step {} gradient norm", step),
                 relative(result.grad_norm, curve["grad_norm_before_clip"][static_cast<std::size_t>(step)]), kNorm);
  }
  const SafetensorsFile file = SafetensorsFile::open(golden.folder / "final.safetensors");
  for (const auto& [name, values] : gathered(engine, "parameters")) {
    report.check("final " + name, norm_difference(values.data(), file.read_floats(name)),
                 is_attention_bias(name) ? kFinalAttentionBias : kFinal);
  }
}

int check_folder(const std::filesystem::path& folder, const MpiSession& mpi) {
  const Golden golden(folder);
  if (mpi.rank() == 0)
    std::printf("%s: B=%ld T=%ld\n", folder.c_str(), static_cast<long>(golden.batch),
                static_cast<long>(golden.sequence));
  const SafetensorsFile data = SafetensorsFile::open(folder / "golden.safetensors");
  const Share share(golden.batch, mpi.rank(), mpi.size());
  const nlohmann::json& curve = golden.json["curve"];
  ProgramOptions options;
  options.model = model_from_huggingface_folder(folder);
  options.sequence = golden.sequence;
  options.micro_batch = share.rows;
  options.mesh.data = options.mesh.shards = mpi.size();
  options.rank = mpi.rank();
  options.bucket_bytes = 1 << 16;  // several buckets also for small models
  options.train = options.logits = true;
  options.optimizer.betas = {curve["beta1"], curve["beta2"]};
  options.optimizer.eps = curve["eps"];
  options.optimizer.weight_decay = curve["weight_decay"];
  options.optimizer.clip = curve["grad_clip"];
  const Groups groups =
      make_groups(options.mesh, mpi.rank(),
                  [&](const std::string& axis, const std::vector<int>& ranks) { return mpi.group(axis, ranks); });
  EngineOptions engine_options;
  for (const auto& [axis, group] : groups) engine_options.groups[axis] = &group;
  Engine engine(build_programs(options), engine_options);
  engine.load(HuggingFaceWeights::open(folder));
  Report report(mpi.rank() == 0);
  check_logits(engine, golden, data, report);
  check_gradients(engine, golden, data, share, report);
  check_curve(engine, golden, data, share, report);
  if (mpi.rank() == 0)
    std::printf("%s: %d of %d quantities within tolerance\n", folder.c_str(), report.checks() - report.failures(),
                report.checks());
  return report.failures();
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: golden_check FOLDER...\n");
    return static_cast<int>(ErrorKind::Usage);
  }
  MpiSession mpi;
  try {
    int failures = 0;
    for (int i = 1; i < argc; ++i) failures += check_folder(argv[i], mpi);
    return failures == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fail_run({mpi.rank(), host_name(), -1, ""}, error, [&](int code) { mpi.abort(code); });
  }
}
