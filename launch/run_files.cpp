#include "launch/run_files.hpp"

#include <nlohmann/json.hpp>

#include "launch/run_setup.hpp"
#include "optim/update.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/weights.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/core/text.hpp"
#include "runtime/model/huggingface.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// The tensors of a flat region as sources of a checkpoint; the data are read in the arena, piece by piece.
std::vector<TensorSource> sources(Engine& engine, std::string_view region, const std::string& prefix) {
  std::vector<TensorSource> all;
  for (const NamedTensor& t : engine.tensors(region, prefix)) {
    Device* device = &engine.device();
    all.push_back({t.name, t.spec, nullptr, [device, data = static_cast<const std::byte*>(t.data)](std::int64_t offset, std::span<std::byte> out) {
                     device->copy_to_host(out.data(), data + offset, static_cast<std::int64_t>(out.size()));
                   }});
  }
  return all;
}

// What must not change when a run is resumed: the function that is trained and the order of its data.
std::string identity(const Config& config) {
  const nlohmann::json what{{"model", model_to_huggingface(config.model)}, {"seed", config.run.seed}, {"sequence", config.data.sequence},
                            {"global_batch", config.train.global_batch}, {"optimizer", static_cast<int>(config.optimizer.name)},
                            {"precision", dtype_name(config.precision)}};
  return fmt::format("{:016x}", stream_id(what.dump()));
}

void read_tensors(Engine& engine, const SafetensorsFile& file, std::string_view region, const std::string& prefix) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 18;
  std::vector<std::byte> piece;
  for (const NamedTensor& t : engine.tensors(region, prefix)) {
    require(file.spec(t.name).shape == t.spec.shape, ErrorKind::NoCheckpoint, "{}: tensor '{}' is {} but the model needs {}",
            file.path().string(), t.name, to_string(file.spec(t.name)), to_string(t.spec));
    const std::int64_t element = dtype_bytes(t.spec.dtype);
    for (std::int64_t first = 0; first < t.spec.elements(); first += kPiece) {
      const std::int64_t count = std::min(kPiece, t.spec.elements() - first);
      piece.resize(static_cast<std::size_t>(count * element));
      file.read_elements(t.name, first, count, t.spec.dtype, piece.data());
      engine.device().copy_to_device(static_cast<std::byte*>(t.data) + first * element, piece.data(), count * element);
    }
  }
}

// The newest checkpoint of a run directory, or the folder itself when it is one, or holds Hugging Face weights.
fs::path weights_folder(const fs::path& from) {
  if (fs::exists(from / "model.safetensors") || fs::exists(from / "model.safetensors.index.json")) return from;
  const auto newest = newest_valid(from / "checkpoints");
  require(newest.has_value(), ErrorKind::MissingInput, "{}: is neither a run directory with a checkpoint nor a Hugging Face folder", from.string());
  return newest->folder;
}

}  // namespace

fs::path checkpoint_folder(const Config& config) { return fs::path(config.run.dir) / "checkpoints"; }

void write_run_files(const Config& config, const std::string& plan) {
  std::error_code error;
  fs::create_directories(config.run.dir, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be made: {}", config.run.dir, error.message());
  replace_file(fs::path(config.run.dir) / "config.yaml", dump_config(config));
  replace_file(fs::path(config.run.dir) / "plan.json", plan + "\n");
  // Checkpoints take the tokenizer from here: later changes of the data do not reach the run.
  for (const DataSource& source : config.data.train) {
    if (!has_tokenizer(source.path)) continue;
    copy_tokenizer(source.path, config.run.dir);
    break;
  }
}

void keep_plan_choices(Config& config, int ranks) {
  const fs::path file = fs::path(config.run.dir) / "plan.json";
  if (!fs::exists(checkpoint_folder(config)) || !fs::exists(file)) return;
  const auto plan = nlohmann::json::parse(read_text_file(file), nullptr, false);
  require(plan.is_object(), ErrorKind::BadData, "{}: is not a plan; remove it to plan the run anew", file.string());
  if (plan.value("ranks", 0) != ranks) return;
  const auto keep = [&](const char* name, std::optional<std::int64_t>& key) {
    if (!key && plan.contains(name)) key = plan[name].get<std::int64_t>();
  };
  keep("micro_batch", config.train.micro_batch);
  keep("logits_bytes", config.memory.logits);
}

std::optional<std::string> save_run(const Config& config, Engine& engine, const TrainingState& state) {
  const std::vector<TensorSource> parameters = sources(engine, "parameters", "");
  std::vector<TensorSource> moments;
  for (const Moment& m : optimizer_moments(config.optimizer.name)) {
    for (TensorSource& t : sources(engine, m.value, std::string(m.checkpoint) + ".")) moments.push_back(std::move(t));
  }
  CheckpointContents contents{parameters, moments, state, model_to_huggingface(config.model).dump(2), {}};
  contents.state.config_hash = identity(config);
  for (const char* name : {"data.tokenizer.json", "data.model"}) {
    const fs::path file = fs::path(config.run.dir) / name;
    if (fs::exists(file)) contents.copied_files.push_back(file);
  }
  return save_checkpoint(checkpoint_folder(config), contents, config.run.keep);
}

std::optional<TrainingState> load_run(const Config& config, Engine& engine) {
  const auto loaded = newest_valid(checkpoint_folder(config));
  if (!loaded) return std::nullopt;
  const bool trains = engine.programs().has("train");
  require(!trains || loaded->state.config_hash == identity(config), ErrorKind::Config,
          "{}: is a checkpoint of another model, optimizer, precision, seed, sequence or global_batch than this configuration; use another run.dir",
          loaded->folder.string());
  read_tensors(engine, loaded->parameters, "parameters", "");
  if (trains) {
    for (const Moment& m : optimizer_moments(config.optimizer.name)) {
      read_tensors(engine, loaded->optimizer, m.value, std::string(m.checkpoint) + ".");
    }
  }
  return loaded->state;
}

GenerationSource open_generation_source(const std::string& source, std::span<const std::string> overrides, const std::string& tokenizer) {
  GenerationSource result;
  const bool folder = fs::is_directory(source);
  require(folder || fs::exists(source), ErrorKind::MissingInput, "{}: there is no such file or folder", source);
  if (folder && !fs::exists(fs::path(source) / "config.yaml")) {
    result.weights = weights_folder(source);
  } else {
    result.config = load_config(folder ? (fs::path(source) / "config.yaml").string() : source, overrides);
    result.weights = weights_folder(folder ? source : result.config.run.dir);
  }
  result.config.model = model_from_huggingface_folder(result.weights);
  if (!tokenizer.empty()) {
    result.tokenizer = load_tokenizer(tokenizer);
  } else if (has_tokenizer(result.weights.string())) {
    result.tokenizer = load_tokenizer(result.weights.string());
  } else if (result.config.model.vocabulary == 256 || result.config.model.vocabulary == 257) {
    result.tokenizer = make_byte_tokenizer();
  } else {
    fail(ErrorKind::MissingInput, "{}: has no tokenizer; name one with --tokenizer", result.weights.string());
  }
  require(result.tokenizer->vocabulary() <= result.config.model.vocabulary || result.config.model.vocabulary == 256, ErrorKind::Config,
          "the tokenizer has {} ids, the model {}", result.tokenizer->vocabulary(), result.config.model.vocabulary);
  return result;
}

void export_run(const fs::path& from, const fs::path& to) {
  const fs::path folder = weights_folder(from);
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder);
  const ModelConfig model = model_from_huggingface_folder(folder);
  const nlohmann::json config = model_to_huggingface(model);
  const std::vector<std::string> gaps = huggingface_gaps(config);
  require(gaps.empty(), ErrorKind::Config, "transformers would compute another function of this model: {}", join(gaps, "; "));
  require(!fs::exists(to / "model.safetensors"), ErrorKind::Usage, "{}: holds a model already", to.string());
  std::error_code error;
  fs::create_directories(to, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be made: {}", to.string(), error.message());
  std::vector<TensorSource> tensors;
  for (const std::string& name : weights.parameter_names()) {
    const TensorSpec spec = weights.spec(name);
    tensors.push_back({name, spec, nullptr, [&weights, name, spec](std::int64_t offset, std::span<std::byte> out) {
                         const std::int64_t element = dtype_bytes(spec.dtype);
                         weights.read_elements(name, offset / element, static_cast<std::int64_t>(out.size()) / element, spec.dtype, out.data());
                       }});
  }
  write_safetensors(to / "model.safetensors", tensors);
  replace_file(to / "config.json", config.dump(2) + "\n");
  if (has_tokenizer(folder.string())) copy_tokenizer(folder.string(), to.string());
}

}  // namespace plimsoll
