#include "runtime/checkpoint/checkpoint.hpp"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <ranges>
#include <system_error>

#include "runtime/checkpoint/checksum.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/checkpoint/json_file.hpp"
#include "runtime/checkpoint/manifest.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step_";
// Folders on their way in or out; never looked at by the loader.
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kModelFile = "model.safetensors";
constexpr std::string_view kOptimizerFile = "optimizer.safetensors";
constexpr std::string_view kStateFile = "state.json";
constexpr std::string_view kConfigFile = "config.json";
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;

std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + kStepPrefix.size(), name.data() + name.size(), step);
  const bool whole = error == std::errc() && end == name.data() + name.size();
  return whole && step >= 0 && name == checkpoint_folder_name(step) ? std::optional(step) : std::nullopt;
}

nlohmann::json to_json(const TrainingState& s) {
  return {{"step", s.step},
          {"applied_updates", s.applied_updates},
          {"next_sample", s.next_sample},
          {"tokens", s.tokens},
          {"seed", s.seed},
          {"loss_scale", s.loss_scale},
          {"loss_scale_streak", s.loss_scale_streak},
          {"identity", s.identity}};
}

TrainingState state_from_json(const nlohmann::json& json) {
  TrainingState s;
  json.at("step").get_to(s.step);
  json.at("applied_updates").get_to(s.applied_updates);
  json.at("next_sample").get_to(s.next_sample);
  json.at("tokens").get_to(s.tokens);
  json.at("seed").get_to(s.seed);
  json.at("loss_scale").get_to(s.loss_scale);
  json.at("loss_scale_streak").get_to(s.loss_scale_streak);
  json.at("identity").get_to(s.identity);
  return s;
}

WrittenFile create_text(const fs::path& path, std::string_view text) {
  File file = File::create_new(path);
  file.reserve(static_cast<std::int64_t>(text.size()));
  file.write(text.data(), static_cast<std::int64_t>(text.size()));
  file.commit();
  return {static_cast<std::int64_t>(text.size()), checksum_of(text.data(), text.size()), {}};
}

WrittenFile copy_checked(const fs::path& from, const fs::path& to) {
  const File source = File::open_regular(from);
  File target = File::create_new(to);
  target.reserve(source.size());
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(source.size(), kPieceBytes)));
  Checksum sum;
  for (std::int64_t done = 0; done < source.size(); done += kPieceBytes) {
    const std::int64_t piece = std::min(kPieceBytes, source.size() - done);
    source.read_at(buffer.data(), piece, done);
    sum.add(buffer.data(), static_cast<std::size_t>(piece));
    target.write(buffer.data(), piece);
  }
  target.commit();
  return {source.size(), sum.hex(), {}};
}

void write_contents(const fs::path& folder, const CheckpointContents& contents) {
  Manifest manifest;
  manifest.step = contents.state.step;
  auto& files = manifest.files;
  files.emplace(kModelFile, create_safetensors(folder / kModelFile, contents.parameters));
  files.emplace(kOptimizerFile, create_safetensors(folder / kOptimizerFile, contents.optimizer));
  files.emplace(kStateFile, create_text(folder / kStateFile, to_json(contents.state).dump(1) + "\n"));
  files.emplace(kConfigFile, create_text(folder / kConfigFile, contents.config_json));
  for (const fs::path& from : contents.copied_files) {
    const std::string name = from.filename().string();
    files.emplace(name, copy_checked(from, folder / name));
  }
  create_text(folder / kManifestFile, manifest_text(manifest));
  sync_directory(folder);
}

// Puts the finished folder in its place. A folder that is there already is exchanged, so that one of them always is.
void put_in_place(const fs::path& temporary, const fs::path& final) {
  if (fs::exists(final) && ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) == 0)
    return;
  if (fs::exists(final)) {
    // Not every file system can exchange.
    const fs::path aside =
        final.parent_path() / fmt::format("{}replaced-{}", kTemporaryPrefix, final.filename().string());
    fs::remove_all(aside);
    rename_path(final, aside);
  }
  rename_path(temporary, final);
}

void remove_leftovers(const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (entry.path().filename().string().starts_with(kTemporaryPrefix)) fs::remove_all(entry.path());
}

// The step is committed: from here on a failure is worth a warning only.
void tidy(const fs::path& directory, std::int64_t step, std::int64_t keep) {
  try {
    replace_file(directory / "latest", checkpoint_folder_name(step) + "\n");
    std::vector<std::int64_t> steps = checkpoint_steps(directory);
    std::erase_if(steps, [&](std::int64_t other) { return other > step; });
    for (std::size_t i = 0; keep > 0 && i + static_cast<std::size_t>(keep) < steps.size(); ++i) {
      // Renamed first: a deletion that is cut short must not leave half a step behind.
      const std::string name = checkpoint_folder_name(steps[i]);
      const fs::path going = directory / fmt::format("{}deleted-{}", kTemporaryPrefix, name);
      rename_path(directory / name, going);
      fs::remove_all(going);
    }
    remove_leftovers(directory);
  } catch (const Error& error) {
    log_warn("step {} is saved, but: {}", step, error.what());
  } catch (const fs::filesystem_error& error) {
    log_warn("step {} is saved, but: {}", step, error.what());
  }
}

// nullopt, and the reason in `fault`, when the folder does not verify.
std::optional<LoadedCheckpoint> load_if_valid(const fs::path& folder, std::int64_t step, std::string& fault) {
  if (std::optional<std::string> found = checkpoint_fault(folder, step)) {
    fault = *std::move(found);
    return std::nullopt;
  }
  // It verifies, so what is wrong now was written wrongly; still an older step may load.
  try {
    const nlohmann::json state = read_json_file(folder / kStateFile, Links::Refuse);
    return LoadedCheckpoint{folder, state_from_json(state), read_text_file(folder / kConfigFile, Links::Refuse),
                            SafetensorsFile::open(folder / kModelFile, Links::Refuse),
                            SafetensorsFile::open(folder / kOptimizerFile, Links::Refuse)};
  } catch (const Error& error) {
    fault = error.what();
  } catch (const nlohmann::json::exception& error) {
    fault = fmt::format("{}: {:.200}", (folder / kStateFile).string(), error.what());
  }
  return std::nullopt;
}

}  // namespace

std::string checkpoint_folder_name(std::int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

std::vector<std::int64_t> checkpoint_steps(const fs::path& directory) {
  std::vector<std::int64_t> steps;
  if (!fs::is_directory(directory)) return steps;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (const auto step = step_of(entry.path().filename().string())) steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<std::string> save_checkpoint(const fs::path& directory, const CheckpointContents& contents,
                                           std::int64_t keep) {
  const std::string name = checkpoint_folder_name(contents.state.step);
  const fs::path temporary = directory / fmt::format("{}{}", kTemporaryPrefix, name);
  std::string fault;
  try {
    fs::create_directories(directory);
    remove_leftovers(directory);
    fs::create_directory(temporary);
    write_contents(temporary, contents);
    put_in_place(temporary, directory / name);
    sync_directory(directory);
  } catch (const Error& error) {
    // Damaged or missing files to copy are I/O too; a defect of the program is not.
    if (error.kind() == ErrorKind::Internal) throw;
    fault = error.what();
  } catch (const fs::filesystem_error& error) {
    fault = error.what();
  }
  if (fault.empty()) {
    tidy(directory, contents.state.step, keep);
    return std::nullopt;
  }
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  return fault;
}

std::optional<LoadedCheckpoint> newest_valid(const fs::path& directory) {
  std::vector<std::int64_t> steps = checkpoint_steps(directory);
  std::vector<std::string> faults;
  for (const std::int64_t step : std::ranges::reverse_view(steps)) {
    std::string fault;
    if (auto loaded = load_if_valid(directory / checkpoint_folder_name(step), step, fault)) return loaded;
    log_warn("step {} is not loaded: {}", step, fault);
    faults.push_back(std::move(fault));
  }
  require(faults.empty(), ErrorKind::NoCheckpoint, "{}: none of the {} checkpoints can be loaded: {}",
          directory.string(), faults.size(), join(faults, "; "));
  return std::nullopt;
}

LoadedCheckpoint load_checkpoint(const fs::path& folder) {
  // "step_1/" has an empty last part.
  const fs::path plain = folder.has_filename() ? folder : folder.parent_path();
  const std::optional<std::int64_t> step = step_of(plain.filename().string());
  require(step.has_value(), ErrorKind::NoCheckpoint, "{}: is not named like a checkpoint (step_00000100)",
          plain.string());
  std::string fault;
  auto loaded = load_if_valid(plain, *step, fault);
  require(loaded.has_value(), ErrorKind::NoCheckpoint, "{}", fault);
  return *std::move(loaded);
}

}  // namespace plimsoll
