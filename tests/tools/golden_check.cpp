// golden_check FOLDER…: compares this program with reference results: logits, loss, every gradient, a training curve
// and the parameters after it. A folder is a Hugging Face model with golden.json, golden.safetensors, grads.safetensors
// and final.safetensors beside it (tests/golden/README.md says how they are made). Exits 1 when a tolerance is missed,
// with the code of the worst folder when several are given.
// Under mpirun the rows of the batch are spread over the ranks, or with --tensor the layers and the vocabulary, or with
// --pipeline the layers, through whose stages the rows go one after another.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "comm/group.hpp"
#include "launch/backend.hpp"
#include "launch/bootstrap.hpp"
#include "launch/engine.hpp"
#include "launch/failure.hpp"
#include "launch/groups.hpp"
#include "launch/process.hpp"
#include "launch/run_setup.hpp"
#include "optim/loss_scale.hpp"
#include "parallel/tensor.hpp"
#include "runtime/tensor/convert.hpp"
#include "tests/support/missing_gpu.hpp"
#include "tests/tools/golden_folder.hpp"

namespace plimsoll {
namespace {

// Of a difference to results in fp32. A key bias has no gradient but rounding noise, which Adam makes steps of.
struct Tolerances {
  double logits = 2e-5, loss = 1e-6, gradient = 1e-4, curve = 1e-5, norm = 1e-5, final = 1e-4,
         final_attention_bias = 5e-3;
};
// Wider than what PyTorch's own half precision is away from its fp32 (tests/golden/README.md has its figures).
constexpr Tolerances kBf16{4e-2, 1e-3, 6e-2, 3e-3, 2e-2, 1.5e-2, 0.5};
constexpr Tolerances kFp16{5e-3, 1e-4, 8e-3, 5e-4, 6e-3, 4e-3, 0.3};

// Of bf16 with linears in fp8, half as much again as this program shows: numbers of 3 or 2 bits behind the first are
// rounded by up to 6 or 12 %.
constexpr Tolerances kFp8{4e-2, 6e-3, 0.5, 1.2e-2, 0.15, 8e-2, 0.5};

// What numbers are stored in, and what linears multiply.
struct Precision {
  std::string_view name = "fp32";
  DType dtype = DType::f32;
  bool fp8 = false;
  Tolerances tolerances = {};
};
constexpr std::array kPrecisions{Precision{}, Precision{"bf16", DType::bf16, false, kBf16},
                                 Precision{"fp16", DType::f16, false, kFp16},
                                 Precision{"fp8", DType::bf16, true, kFp8}};

// Keeps small gradients from vanishing in fp16.
constexpr double kLossScale = 1024;

class Report {
 public:
  Report(const Tolerances& wanted, bool prints) : tolerances(wanted), prints_(prints) {}
  const Tolerances tolerances;
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

double relative(double value, double reference) {
  return std::abs(value - reference) / (reference == 0 ? 1 : std::abs(reference));
}

double norm_difference(const float* a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += static_cast<double>(b[i]) * b[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

bool is_attention_bias(const std::string& name) {
  return name.ends_with("c_attn.bias") || name.ends_with("k_proj.bias");
}

// The rows of this rank, padded to the same number on all ranks, a multiple of `multiple`: token 0, target −1.
struct Share {
  std::int64_t rows, first, valid;
  Share(std::int64_t batch, int rank, int ranks, std::int64_t multiple)
      : rows((batch + ranks * multiple - 1) / (ranks * multiple) * multiple),
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

// The logits of the micro-batch that ran, [rows, vocabulary], on every rank: where ranks split the vocabulary, each has
// those of its ids, the last ones padded.
std::vector<float> whole_logits(Device& device, const View& on_device, const Group& tensor, std::int64_t vocabulary) {
  const std::int64_t rows = on_device.spec.rows(), columns = on_device.spec.last(), ranks = tensor.size();
  std::vector<std::byte> mine(static_cast<std::size_t>(on_device.spec.bytes()));
  device.copy_to_host(mine.data(), on_device.data, on_device.spec.bytes());
  const TensorSpec all{{ranks, rows, columns}, on_device.spec.dtype};
  std::vector<std::byte> gathered(static_cast<std::size_t>(all.bytes()));
  tensor.all_gather({mine.data(), on_device.spec}, {gathered.data(), all});
  std::vector<float> parts(static_cast<std::size_t>(all.elements()));
  convert_elements(all.dtype, gathered.data(), DType::f32, parts.data(), all.elements());
  std::vector<float> whole(static_cast<std::size_t>(rows * vocabulary));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t id = 0; id < vocabulary; ++id) {
      const std::int64_t from = (id / columns * rows + r) * columns + id % columns;
      whole[static_cast<std::size_t>(r * vocabulary + id)] = parts[static_cast<std::size_t>(from)];
    }
  }
  return whole;
}

void check_logits(Engine& engine, const GoldenFolder& golden, const Group& tensor, Report& report) {
  Executor& logits = engine.executor("logits");
  const View tokens = logits.view("tokens");
  const std::int64_t rows = tokens.spec.shape[0], width = golden.model.vocabulary * golden.sequence;
  double difference = 0, largest = 0;
  for (std::int64_t row = 0; row < golden.batch; row += rows) {
    std::vector<std::int32_t> some(static_cast<std::size_t>(rows * golden.sequence), 0);
    const std::int64_t count = std::min(rows, golden.batch - row) * golden.sequence;
    std::copy_n(golden.tokens.begin() + row * golden.sequence, count, some.begin());
    engine.device().copy_to_device(tokens.data, some.data(), tokens.spec.bytes());
    logits.run(Graph::Section::Forward);
    logits.synchronize();
    const std::vector<float> ours =
        whole_logits(engine.device(), logits.view("logits"), tensor, golden.model.vocabulary);
    for (std::int64_t i = 0; i < count / golden.sequence * width; ++i) {
      const double want = golden.logits[static_cast<std::size_t>(row * width + i)];
      const float got = ours[static_cast<std::size_t>(i)];
      difference = std::max(difference, std::abs(got - want));
      if (!std::isfinite(got)) difference = NAN;
      largest = std::max(largest, std::abs(want));
    }
  }
  report.check("logits", difference / largest, report.tolerances.logits);
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

// The rows of this rank: at once, or through the stages of a pipeline one after another.
void train_rows(Engine& engine, const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets,
                std::int64_t sequence, double loss_seed) {
  const std::int64_t rows = std::ssize(tokens) / sequence;
  const std::int64_t parts = engine.programs().schedule ? rows : 1;
  const auto size = static_cast<std::size_t>(rows / parts * sequence);
  const auto part = [&](std::int64_t m) {
    const std::size_t first = static_cast<std::size_t>(m) * size;
    return MicroBatch{std::span(tokens).subspan(first, size), std::span(targets).subspan(first, size), 0};
  };
  engine.train_micro_batches(parts, part, loss_seed);
}

double loss_scale_of(const Engine& engine) { return has_loss_scale(engine.programs().dtype()) ? kLossScale : 1; }

void check_gradients(Engine& engine, const GoldenFolder& golden, const Share& share, Report& report) {
  const std::int64_t t = golden.sequence;
  train_rows(engine, share.take(golden.tokens, t, 0, t, 0), share.take(golden.targets, t, 0, t, -1), t,
             1.0 / static_cast<double>(golden.valid_targets));
  Executor& train = engine.executor("train");
  train.synchronize();
  if (!engine.programs().schedule) {
    std::array<double, 2> loss{};
    engine.device().copy_to_host(loss.data(), train.view("loss").data, sizeof(loss));
    report.check("loss", relative(loss[0] / loss[1], golden.loss), report.tolerances.loss);
  }
  const SafetensorsFile file = SafetensorsFile::open(golden.path / "grads.safetensors");
  for (auto& [name, values] : gathered(engine, "gradients")) {
    for (float& g : values) g /= static_cast<float>(loss_scale_of(engine));
    report.check("gradient " + name, norm_difference(values.data(), file.read_floats(name)),
                 report.tolerances.gradient);
  }
  // The stages of a pipeline know the loss of the last one after the update.
  if (engine.programs().schedule)
    report.check("loss", relative(engine.update(0, 0, 0).loss(), golden.loss), report.tolerances.loss);
}

void check_curve(Engine& engine, const GoldenFolder& golden, const Share& share, Report& report) {
  const std::int64_t t = golden.sequence;
  const GoldenCurve& curve = golden.curve;
  for (std::int64_t step = 0; step < golden.steps(); ++step) {
    const auto at = static_cast<std::size_t>(step);
    const std::span<const std::int32_t> batch(golden.curve_tokens.data() + step * golden.batch * (t + 1),
                                              static_cast<std::size_t>(golden.batch * (t + 1)));
    train_rows(engine, share.take(batch, t + 1, 0, t, 0), share.take(batch, t + 1, 1, t, -1), t,
               1.0 / static_cast<double>(golden.batch * t));
    const StepResult result = engine.update(curve.lr[at], static_cast<std::uint64_t>(step), step);
    report.check(fmt::format("step {} loss", step), relative(result.loss(), curve.loss[at]), report.tolerances.curve);
    report.check(fmt::format("step {} gradient norm", step), relative(result.grad_norm, curve.grad_norm[at]),
                 report.tolerances.norm);
  }
  const SafetensorsFile file = SafetensorsFile::open(golden.path / "final.safetensors");
  for (const auto& [name, values] : gathered(engine, engine.programs().weights())) {
    report.check("final " + name, norm_difference(values.data(), file.read_floats(name)),
                 is_attention_bias(name) ? report.tolerances.final_attention_bias : report.tolerances.final);
  }
}

// A folder that was read, and the model of it, loaded.
struct Prepared {
  GoldenFolder golden;
  Groups groups;
  std::unique_ptr<Engine> engine;
};

// What a file holds must be the parameters of the model, by name and shape.
void check_parameters(const std::filesystem::path& path, const std::vector<ModelTensor>& tensors) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  for (const ModelTensor& tensor : tensors) read_shaped_floats(file, tensor.name, tensor.shape);
  require(tensors.size() == file.tensors().size(), ErrorKind::BadData,
          "{}: has {} tensors, the model has {} parameters", path.string(), file.tensors().size(), tensors.size());
}

// How the ranks share the work, and on what; what is left of them are replicas.
struct Spread {
  int tensor = 1, pipeline = 1, zero = 0;
  bool sequence = false;
  Precision precision = {};
  DeviceKind device = DeviceKind::Cpu;
};

Mesh mesh_of(const Spread& spread, const ModelConfig& model, int ranks) {
  const int parts = spread.tensor * spread.pipeline;
  require(ranks % parts == 0, ErrorKind::Usage, "{} ranks are not divisible by --tensor={} times --pipeline={}", ranks,
          spread.tensor, spread.pipeline);
  Mesh mesh;
  mesh.tensor = spread.tensor;
  mesh.pipeline = spread.pipeline;
  mesh.data = mesh.shards = ranks / parts;
  mesh.kv_copies = TensorParallel{spread.tensor, 0, false}.kv_copies(model);
  return mesh;
}

// Whatever the sequence is, so many rows of it are what a GPU takes in fp8.
Share share_of(const GoldenFolder& golden, const Spread& spread, const MpiSession& mpi) {
  const Mesh mesh = mesh_of(spread, golden.model, mpi.size());
  return {golden.batch, coordinates(mesh, mpi.rank()).data, mesh.data, spread.precision.fp8 ? kFp8Multiple : 1};
}

Prepared prepare_folder(const std::filesystem::path& folder, const MpiSession& mpi, const Spread& spread,
                        Backend& backend) {
  Prepared p{read_golden_folder(folder, mpi.rank() == 0), {}, nullptr};
  ProgramOptions options;
  options.model = p.golden.model;
  options.dtype = spread.precision.dtype;
  options.fused_heads = backend.fused_heads;
  options.fp8 = spread.precision.fp8;
  options.sequence = p.golden.sequence;
  options.mesh = mesh_of(spread, p.golden.model, mpi.size());
  options.rank = mpi.rank();
  options.threads = backend.threads;
  options.zero = spread.zero;
  options.sequence_parallel = spread.sequence;
  options.micro_batch = share_of(p.golden, spread, mpi).rows;
  if (spread.pipeline > 1) std::swap(options.micro_batch, options.micro_batches);
  options.bucket_bytes = 1 << 16;  // several buckets also for small models
  options.train = true;
  options.logits = spread.pipeline == 1;
  options.optimizer = p.golden.curve.optimizer;
  EngineOptions engine_options;
  engine_options.backend = &backend;
  TransportOver over;
  if (backend.transports) {
    over = [&backend](const std::string& axis, std::shared_ptr<Transport> below, std::shared_ptr<WatchedGroup> watch) {
      return backend.transports->over(axis, std::move(below), std::move(watch));
    };
  }
  p.groups = connect_groups(
      backend, options.mesh, mpi.rank(),
      [&](const std::string& axis, const std::vector<int>& ranks) { return mpi.group(axis, ranks, false, over); });
  for (const auto& [axis, group] : p.groups) engine_options.groups[axis] = &group;
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder);
  Programs programs = build_programs(options);
  check_parameters(folder / "grads.safetensors", programs.tensors);
  check_parameters(folder / "final.safetensors", programs.tensors);
  p.engine = std::make_unique<Engine>(std::move(programs), engine_options);
  p.engine->load(weights);
  p.engine->set_loss_scale(loss_scale_of(*p.engine));
  return p;
}

// The exit code of a folder: 0, 1 when a quantity is missed, else the kind of what is wrong with it.
int check_folder(const std::filesystem::path& folder, const MpiSession& mpi, const Spread& spread, const Group& control,
                 Backend& backend) {
  std::optional<Prepared> prepared;
  int code = 0;
  try {
    prepared.emplace(prepare_folder(folder, mpi, spread, backend));
  } catch (const Error& error) {
    code = static_cast<int>(error.kind());
    std::fflush(stdout);
    if (mpi.rank() == 0)
      std::fprintf(stderr, "%s: refused, code=%d kind=%s: %s\n", folder.c_str(), code,
                   std::string(exit_code(error.kind()).name).c_str(), error.what());
  }
  code = static_cast<int>(control.max(code));  // a folder that one rank cannot read is checked by none
  if (code != 0) return code;
  const GoldenFolder& golden = prepared->golden;
  const Share share = share_of(golden, spread, mpi);
  if (mpi.rank() == 0)
    std::printf("%s: B=%ld T=%ld\n", folder.c_str(), static_cast<long>(golden.batch),
                static_cast<long>(golden.sequence));
  Report report(spread.precision.tolerances, mpi.rank() == 0);
  if (spread.pipeline == 1) check_logits(*prepared->engine, golden, prepared->groups.find("tensor")->second, report);
  check_gradients(*prepared->engine, golden, share, report);
  // An update, with no learning rate as well, has moved the moments.
  if (spread.pipeline > 1) {
    prepared.reset();  // before its groups are closed
    prepared.emplace(prepare_folder(folder, mpi, spread, backend));
  }
  check_curve(*prepared->engine, prepared->golden, share, report);
  if (mpi.rank() == 0)
    std::printf("%s: %d of %d quantities within tolerance\n", folder.c_str(), report.checks() - report.failures(),
                report.checks());
  return report.failures() == 0 ? 0 : 1;
}

constexpr int kNoGpu = 77;  // no code of an error

// The worst of all folders, or kNoGpu before any. What is there but is no such folder is skipped; nothing to check at
// all is an error.
int check_all(std::span<const std::string> paths, const Spread& spread, const MpiSession& mpi) {
  const Group control = mpi.world("control");
  const auto missing = spread.device == DeviceKind::Cuda ? test::missing_gpu() : std::nullopt;
  if (control.max(missing ? 1 : 0) != 0) {
    if (missing && mpi.rank() == 0) std::printf("skipped: %s\n", missing->c_str());
    return kNoGpu;
  }
  Config config;
  config.device = spread.device;
  config.precision = spread.precision.dtype;
  config.fp8 = spread.precision.fp8 ? Fp8Use::Linears : Fp8Use::Off;
  config.cuda.share = true;  // as many ranks as were started, on as many GPUs as there are
  Backend backend = make_backend(config, {mpi.rank(), mpi.size(), mpi.local_rank(), mpi.local_size()}, control, 1);
  int worst = 0, checked = 0;
  for (const std::string& path : paths) {
    if (std::filesystem::exists(path) && !std::filesystem::exists(std::filesystem::path(path) / "golden.json")) {
      if (mpi.rank() == 0) std::printf("%s: skipped, it is no folder with a golden.json\n", path.c_str());
      continue;
    }
    ++checked;
    worst = std::max(worst, check_folder(path, mpi, spread, control, backend));
  }
  if (backend.transports) backend.transports->close();
  require(checked > 0, ErrorKind::MissingInput, "none of the {} paths is a folder with a golden.json", paths.size());
  return worst;
}

// The value of `--name=value`, a whole number from `low` to `high`; nothing when the argument is another one or has no
// such value.
std::optional<int> option_value(std::string_view argument, std::string_view name, int low, int high) {
  if (!argument.starts_with(name)) return std::nullopt;
  argument.remove_prefix(name.size());
  int value = 0;
  const auto [end, error] = std::from_chars(argument.data(), argument.data() + argument.size(), value);
  const bool good = error == std::errc() && end == argument.data() + argument.size() && value >= low && value <= high;
  return good ? std::optional(value) : std::nullopt;
}

// Does `argument` change how the ranks share the work, on what, or in what precision?
bool take_option(std::string_view argument, Spread& spread) {
  constexpr int kMostRanks = 1 << 16;
  if (argument == "--sequence") return spread.sequence = true;
  if (argument == "--device=cpu" || argument == "--device=cuda") {
    spread.device = argument.ends_with("cuda") ? DeviceKind::Cuda : DeviceKind::Cpu;
    return true;
  }
  constexpr std::string_view kPrecision = "--precision=";
  if (argument.starts_with(kPrecision)) {
    const std::string_view name = argument.substr(kPrecision.size());
    const auto* found =
        std::find_if(kPrecisions.begin(), kPrecisions.end(), [&](const Precision& p) { return p.name == name; });
    if (found == kPrecisions.end()) return false;
    spread.precision = *found;
    return true;
  }
  const auto tensor = option_value(argument, "--tensor=", 1, kMostRanks);
  const auto pipeline = option_value(argument, "--pipeline=", 1, kMostRanks);
  const auto zero = option_value(argument, "--zero=", 0, 3);
  spread.tensor = tensor.value_or(spread.tensor);
  spread.pipeline = pipeline.value_or(spread.pipeline);
  spread.zero = zero.value_or(spread.zero);
  return tensor || pipeline || zero;
}

constexpr const char* kUsage =
    "usage: golden_check [--precision=fp32|bf16|fp16|fp8] [--device=cpu|cuda] FOLDER...\n"
    "       mpirun -n N golden_check [--precision=...] [--device=...] [--tensor=N] [--sequence] [--pipeline=N] "
    "[--zero=0..3] "
    "FOLDER...\n"
    "Compares logits (not on a pipeline), loss, gradients, a training curve and the parameters after it with the\n"
    "reference results of each FOLDER (config.json, model.safetensors, golden.json, golden.safetensors,\n"
    "grads.safetensors, final.safetensors). These are fp32; in bf16 and fp16 more of a difference is tolerated, about\n"
    "half as much again as PyTorch shows in them, and in fp8 (bf16 with linears in fp8), whose sizes on a GPU are\n"
    "multiples of 16, up to ten times that. With --device=cuda ranks may share a GPU.\n"
    "What is no folder with a golden.json is skipped. Exit code: 0 all within tolerance, 1 a quantity is missed, 65 a\n"
    "malformed folder, 66 a missing one or nothing to check, 78 a key that is not supported; the largest of all "
    "folders.\n"
    "77 with --device=cuda where there is no GPU, with PLIMSOLL_GPU_REQUIRED that of the error.\n";

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  ensure_environment(argv);
  Spread spread;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (take_option(argument, spread)) continue;
    if (argument.starts_with("-")) {
      std::fprintf(stderr, "golden_check: '%s' is no option or has no such value\n%s", argv[i], kUsage);
      return static_cast<int>(ErrorKind::Usage);
    } else {
      paths.emplace_back(argument);
    }
  }
  if (paths.empty()) {
    std::fputs(kUsage, stderr);
    return static_cast<int>(ErrorKind::Usage);
  }
  MpiSession mpi;
  try {
    return check_all(paths, spread, mpi);
  } catch (const std::exception& error) {
    fail_run({mpi.rank(), host_name(), -1, ""}, error, [&](int code) { mpi.abort(code); });
  }
}
