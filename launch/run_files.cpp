#include "launch/run_files.hpp"

#include <map>
#include <nlohmann/json.hpp>

#include "comm/group.hpp"
#include "launch/fp8_state.hpp"
#include "launch/run_identity.hpp"
#include "launch/run_setup.hpp"
#include "optim/update.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/core/keys.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// A piece of a tensor that rank 0 asks all ranks for while it writes a checkpoint; region < 0: it has finished.
struct Request {
  std::int64_t region = -1, tensor = 0, first = 0, count = 0;
  static View view(Request& r) { return {&r, {{static_cast<std::int64_t>(sizeof(r))}, DType::u8}}; }
};

// The tensors of a flat region as sources of a checkpoint, read from all ranks piece by piece.
std::vector<TensorSource> sources(Engine& engine, const Group& world, std::span<const std::string> regions,
                                  std::size_t region, const std::string& prefix) {
  std::vector<TensorSource> all;
  const Programs& programs = engine.programs();
  const std::int64_t element = dtype_bytes(programs.wide());
  for (std::size_t t = 0; t < programs.tensors.size(); ++t) {
    const auto produce = [&engine, &world, regions, region, t, element](std::int64_t offset, std::span<std::byte> out) {
      Request request{static_cast<std::int64_t>(region), static_cast<std::int64_t>(t), offset / element,
                      static_cast<std::int64_t>(out.size()) / element};
      world.broadcast(Request::view(request), 0);
      engine.gather(regions[region], t, request.first, request.count, out.data());
    };
    all.push_back({prefix + programs.tensors[t].name, {programs.tensors[t].shape, programs.wide()}, nullptr, produce});
  }
  return all;
}

// The other ranks' side of it.
void serve_sources(Engine& engine, const Group& world, std::span<const std::string> regions) {
  std::vector<std::byte> piece;
  for (Request request;;) {
    world.broadcast(Request::view(request), 0);
    if (request.region < 0) return;
    piece.resize(static_cast<std::size_t>(request.count * dtype_bytes(engine.programs().wide())));
    engine.gather(regions[static_cast<std::size_t>(request.region)], static_cast<std::size_t>(request.tensor),
                  request.first, request.count, piece.data());
  }
}

// What fills a region with the tensors of a file.
Engine::ReadElements reader(const Engine& engine, const SafetensorsFile& file, const std::string& prefix) {
  for (const ModelTensor& t : engine.programs().tensors) {
    const TensorSpec stored = file.spec(prefix + t.name);
    require(stored.shape == t.shape, ErrorKind::NoCheckpoint, "{}: tensor '{}' is {} but the model needs {}",
            file.path().string(), prefix + t.name, to_string(stored), to_string(TensorSpec{t.shape, stored.dtype}));
  }
  return [&file, prefix, wide = engine.programs().wide()](const Engine::LocalRun& run, std::int64_t first,
                                                          std::int64_t count, void* out) {
    file.read_elements(prefix + run.part->name, first, count, wide, out);
  };
}

}  // namespace

fs::path weights_folder(const fs::path& from) {
  if (fs::exists(from / "model.safetensors") || fs::exists(from / "model.safetensors.index.json")) return from;
  const auto newest = newest_valid(from / "checkpoints");
  require(newest.has_value(), ErrorKind::MissingInput,
          "{}: is neither a run directory with a checkpoint nor a Hugging Face folder", from.string());
  return newest->folder;
}

fs::path checkpoint_folder(const Config& config) { return fs::path(config.run.dir) / "checkpoints"; }

void write_run_files(const Config& config, const Choices& choices, const std::string& plan) {
  std::error_code error;
  fs::create_directories(config.run.dir, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be made: {}", config.run.dir, error.message());
  replace_file(fs::path(config.run.dir) / "config.yaml", dump_config(config, choices));
  replace_file(fs::path(config.run.dir) / "plan.json", plan + "\n");
  // Checkpoints take the tokenizer from here: later changes of the data do not reach the run.
  for (const DataSource& source : config.data.train) {
    if (!has_tokenizer(source.path)) continue;
    copy_tokenizer(source.path, config.run.dir);
    break;
  }
}

std::optional<std::string> save_run(const Config& config, Engine& engine, const Group& world,
                                    const TrainingState& state) {
  std::vector<std::string> regions{std::string(engine.programs().weights())};
  for (const Moment& m : optimizer_moments(config.optimizer)) regions.emplace_back(m.value);
  const std::optional<Fp8State> fp8 = gather_fp8_state(engine, config.model, world);
  if (world.rank() != 0) {
    serve_sources(engine, world, regions);
    return std::nullopt;
  }
  const std::vector<TensorSource> parameters = sources(engine, world, regions, 0, "");
  std::vector<TensorSource> moments;
  for (std::size_t m = 1; m < regions.size(); ++m) {
    const std::string prefix(optimizer_moments(config.optimizer)[m - 1].checkpoint);
    for (TensorSource& t : sources(engine, world, regions, m, prefix + ".")) moments.push_back(std::move(t));
  }
  if (fp8) moments.push_back({std::string(kFp8StateName), {fp8->shape, DType::f32}, fp8->numbers.data()});
  CheckpointContents contents{
      parameters, moments, state, model_to_huggingface(config.model, config.precision).dump(2), {}};
  contents.state.identity = run_identity(config);
  for (const char* name : {"data.tokenizer.json", "data.model"}) {
    const fs::path file = fs::path(config.run.dir) / name;
    if (fs::exists(file)) contents.copied_files.push_back(file);
  }
  auto error = save_checkpoint(checkpoint_folder(config), contents, config.run.keep);
  Request finished;
  world.broadcast(Request::view(finished), 0);
  return error;
}

namespace {

// Keys of the model that say something else than the weights are of.
void require_same_model(const ModelConfig& asked, const ModelConfig& stored, const fs::path& weights) {
  const auto saved = model_keys().write(stored).values("model");
  std::map<std::string, std::string> have(saved.begin(), saved.end());
  std::vector<std::string> lines;
  for (const auto& [key, value] : model_keys().write(asked).values("model")) {
    if (key == "model.preset" || key == "model.from" || value == "auto" || value == have[key]) continue;
    lines.push_back(
        fmt::format("{}: is {}, the weights in {} are of a model with {}", key, value, weights.string(), have[key]));
  }
  require(lines.empty(), ErrorKind::Config, "{}", join(lines, "\n"));
}

// The text that is evaluated is of the tokens that the weights were trained with.
void require_same_tokenizer(const DataConfig& data, const fs::path& checkpoint) {
  std::vector<std::string> paths{checkpoint.string()};
  for (const DataSource& source : data.train) paths.push_back(source.path);
  paths.insert(paths.end(), data.validation_files.begin(), data.validation_files.end());
  load_common_tokenizer(paths, data.validation_files.empty() ? "data.train" : "data.validation");
}

// A Hugging Face folder says only what the model is.
Config folder_config(const fs::path& folder, std::span<const std::string> overrides) {
  const std::string name =
      nlohmann::json(folder.string()).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return parse_config(fmt::format("model: {{from: {}}}\ndata: {{train: none, sequence: 1}}\n", name), folder.string(),
                      overrides);
}

}  // namespace

std::optional<TrainingState> load_run(const Config& config, Engine& engine) {
  const auto loaded = newest_valid(checkpoint_folder(config));
  if (!loaded) return std::nullopt;
  const bool trains = engine.programs().has("train");
  if (trains) {
    for (const std::string& change : compare_identity(loaded->state.identity, config, loaded->folder.string()))
      log_info("resuming with another {}", change);
  } else {
    require_same_model(config.model, model_from_huggingface_folder(loaded->folder), loaded->folder);
    require_same_tokenizer(config.data, loaded->folder);
  }
  std::optional<Engine::Rounding> rounding;
  if (config.optimizer.rounding == WeightRounding::Stochastic && loaded->state.applied_updates > 0)
    rounding = {config.run.seed, static_cast<std::uint64_t>(loaded->state.applied_updates)};
  engine.read_weights(reader(engine, loaded->parameters, ""), rounding);
  if (trains) {
    for (const Moment& m : optimizer_moments(config.optimizer))
      engine.read(m.value, reader(engine, loaded->optimizer, std::string(m.checkpoint) + "."));
    read_fp8_state(engine, config.model, loaded->optimizer);
  }
  return loaded->state;
}

GenerationSource open_generation_source(const std::string& source, std::span<const std::string> overrides,
                                        const std::string& tokenizer) {
  GenerationSource result;
  const bool folder = fs::is_directory(source);
  require(folder || fs::exists(source), ErrorKind::MissingInput, "{}: there is no such file or folder", source);
  if (folder && !fs::exists(fs::path(source) / "config.yaml")) {
    result.weights = weights_folder(source);
    result.config = folder_config(result.weights, overrides);
  } else {
    result.config = load_config(folder ? (fs::path(source) / "config.yaml").string() : source, overrides);
    result.weights = weights_folder(folder ? source : result.config.run.dir);
  }
  const ModelConfig model = model_from_huggingface_folder(result.weights);
  require_same_model(result.config.model, model, result.weights);
  result.config.model = model;
  result.config.parallel = {};  // one process, whatever the run had
  if (!tokenizer.empty()) {
    result.tokenizer = load_tokenizer(tokenizer);
  } else if (has_tokenizer(result.weights.string())) {
    result.tokenizer = load_tokenizer(result.weights.string());
  } else if (result.config.model.vocabulary == 256 || result.config.model.vocabulary == 257) {
    result.tokenizer = make_byte_tokenizer();
  } else {
    fail(ErrorKind::MissingInput, "{}: has no tokenizer; name one with --tokenizer", result.weights.string());
  }
  require(result.tokenizer->vocabulary() <= result.config.model.vocabulary || result.config.model.vocabulary == 256,
          ErrorKind::Config, "the tokenizer has {} ids, the model {}", result.tokenizer->vocabulary(),
          result.config.model.vocabulary);
  return result;
}

}  // namespace plimsoll
