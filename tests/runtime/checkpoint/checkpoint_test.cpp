#include "runtime/checkpoint/checkpoint.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <numeric>

#include "runtime/checkpoint/manifest.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

// A small training state whose values depend on the step.
class SmallRun {
 public:
  explicit SmallRun(const TempFolder& folder)
      : directory_(folder / "checkpoints"), tokenizer_(folder / "tokenizer.model") {
    test::write_text(tokenizer_, "pieces");
  }
  const fs::path& directory() const { return directory_; }
  fs::path folder(std::int64_t step) const { return directory_ / checkpoint_folder_name(step); }
  std::vector<float> weights(std::int64_t step) const {
    std::vector<float> values(3000);
    std::iota(values.begin(), values.end(), static_cast<float>(step));
    return values;
  }
  std::optional<std::string> save(std::int64_t step, std::int64_t keep = 0) const {
    const std::vector<float> values = weights(step);
    const std::vector<TensorSource> parameters{{"a.weight", {{30, 50}, DType::f32}, values.data()},
                                               {"b.weight", {{1500}, DType::f32}, values.data() + 1500}};
    const std::vector<TensorSource> optimizer{{"exp_avg.a.weight", {{30, 50}, DType::f32}, values.data()}};
    const CheckpointContents contents{parameters, optimizer, state(step), "{}\n", {tokenizer_}};
    return save_checkpoint(directory_, contents, keep);
  }
  static TrainingState state(std::int64_t step) {
    return {step, step - 1, step * 8, step * 512, ~std::uint64_t{0}, 65536.0, 3, "abc"};
  }
  // The step that loads, checked for its contents; −1 for none.
  std::int64_t loaded_step() const {
    const std::optional<LoadedCheckpoint> loaded = newest_valid(directory_);
    if (!loaded) return -1;
    EXPECT_EQ(loaded->state, state(loaded->state.step));
    std::vector<float> values = loaded->parameters.read_floats("a.weight");
    const std::vector<float> rest = loaded->parameters.read_floats("b.weight");
    values.insert(values.end(), rest.begin(), rest.end());
    EXPECT_EQ(values, weights(loaded->state.step));
    EXPECT_EQ(loaded->optimizer.read_floats("exp_avg.a.weight").size(), 1500U);
    EXPECT_EQ(loaded->config_json, "{}\n");
    EXPECT_EQ(test::read_text(loaded->folder / "tokenizer.model"), "pieces");
    return loaded->state.step;
  }
  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  fs::path directory_, tokenizer_;
};

void flip(const fs::path& path, std::size_t byte, int bit = 0) {
  std::string text = test::read_text(path);
  text[byte] = static_cast<char>(text[byte] ^ (1 << bit));
  test::write_text(path, text);
}

TEST(Checkpoint, SavesAndLoads) {
  const TempFolder folder;
  const SmallRun run(folder);
  EXPECT_EQ(run.loaded_step(), -1);
  EXPECT_EQ(run.save(100), std::nullopt);
  EXPECT_EQ(run.loaded_step(), 100);
  EXPECT_EQ(run.save(1'234'567'890), std::nullopt);
  EXPECT_EQ(run.loaded_step(), 1'234'567'890);
  EXPECT_EQ(run.entries(), (std::vector<std::string>{"latest", "step_00000100", "step_1234567890"}));
  EXPECT_EQ(test::read_text(run.directory() / "latest"), "step_1234567890\n");
  EXPECT_EQ(load_checkpoint(run.folder(100) / "").state.step, 100);
}

TEST(Checkpoint, KeepsTheNewest) {
  const TempFolder folder;
  const SmallRun run(folder);
  for (std::int64_t step = 1; step <= 5; ++step) ASSERT_EQ(run.save(step, 2), std::nullopt);
  EXPECT_EQ(run.entries(), (std::vector<std::string>{"latest", "step_00000004", "step_00000005"}));
  // After a fallback the run saves below a damaged newer step: what was just saved stays.
  flip(run.folder(5) / "state.json", 3);
  ASSERT_EQ(run.save(3, 1), std::nullopt);
  EXPECT_EQ(checkpoint_steps(run.directory()), (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_EQ(run.loaded_step(), 4);
}

TEST(Checkpoint, ADamagedStepIsReplacedWhenItIsSavedAgain) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  flip(run.folder(1) / "model.safetensors", 500);
  EXPECT_THROW(newest_valid(run.directory()), Error);
  ASSERT_EQ(run.save(1), std::nullopt);
  EXPECT_EQ(run.loaded_step(), 1);
  EXPECT_EQ(run.entries(), (std::vector<std::string>{"latest", "step_00000001"}));
}

TEST(Checkpoint, EveryKindOfDamageIsFoundAndAnOlderStepLoads) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json", "config.json", "tokenizer.model",
                           "manifest.json"}) {
    const auto damaged = [&](const auto& damage) {
      ASSERT_EQ(run.save(2), std::nullopt);
      damage(run.folder(2) / name);
      const std::optional<std::string> fault = checkpoint_fault(run.folder(2), 2);
      ASSERT_TRUE(fault.has_value()) << name;
      EXPECT_NE(fault->find(name), std::string::npos) << *fault;
      EXPECT_EQ(run.loaded_step(), 1) << name;
    };
    const auto size = [](const fs::path& path) { return fs::file_size(path); };
    damaged([](const fs::path& path) { fs::remove(path); });
    damaged([](const fs::path& path) { fs::resize_file(path, 0); });
    damaged([&](const fs::path& path) { fs::resize_file(path, size(path) - 1); });
    damaged([](const fs::path& path) { test::write_text(path, test::read_text(path) + "x"); });
    damaged([](const fs::path& path) { flip(path, 1, 3); });
    damaged([&](const fs::path& path) { flip(path, size(path) / 2, 7); });
    damaged([&](const fs::path& path) {
      fs::rename(path, path.string() + ".away");
      fs::create_symlink(path.string() + ".away", path);
    });
    damaged([](const fs::path& path) {
      fs::remove(path);
      ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    });
  }
}

TEST(Checkpoint, ADamagedTensorIsNamed) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  flip(run.folder(1) / "model.safetensors", fs::file_size(run.folder(1) / "model.safetensors") - 10);
  try {
    newest_valid(run.directory());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::NoCheckpoint);
    EXPECT_NE(std::string(error.what()).find("tensor 'b.weight'"), std::string::npos) << error.what();
  }
}

TEST(Checkpoint, EveryTruncationOfTheModelIsFound) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  const fs::path path = run.folder(1) / "model.safetensors";
  for (auto bytes = static_cast<std::int64_t>(fs::file_size(path)) - 1; bytes >= 0; bytes -= 509) {
    fs::resize_file(path, static_cast<std::uintmax_t>(bytes));
    EXPECT_TRUE(checkpoint_fault(run.folder(1), 1).has_value()) << bytes;
  }
}

TEST(Checkpoint, SwappedAndStaleFilesAreFound) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  ASSERT_EQ(run.save(2), std::nullopt);
  ASSERT_EQ(run.save(3), std::nullopt);
  fs::copy_file(run.folder(1) / "model.safetensors", run.folder(3) / "model.safetensors",
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(run.loaded_step(), 2);
  fs::remove_all(run.folder(3));
  fs::rename(run.folder(1), run.folder(3));
  EXPECT_NE(checkpoint_fault(run.folder(3), 3)->find("belongs to step 1"), std::string::npos);
  EXPECT_EQ(run.loaded_step(), 2);
}

TEST(Checkpoint, AManifestMayNameFilesOfItsFolderOnly) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  Manifest manifest{1, {{"../../tokenizer.model", {6, "0", {}}}}};
  test::write_text(run.folder(1) / "manifest.json", manifest_text(manifest));
  EXPECT_NE(checkpoint_fault(run.folder(1), 1)->find("same folder"), std::string::npos);
}

TEST(Checkpoint, LeftoversAndOtherFoldersAreNoCheckpoints) {
  const TempFolder folder;
  const SmallRun run(folder);
  for (const char* name : {".tmp-step_00000009", "step_9", "step_-0000009", "step_00000009.bak", "other"})
    fs::create_directories(run.directory() / name);
  EXPECT_EQ(run.loaded_step(), -1);
  EXPECT_THROW(load_checkpoint(run.directory() / "step_9"), Error);
  ASSERT_EQ(run.save(1), std::nullopt);
  EXPECT_FALSE(fs::exists(run.directory() / ".tmp-step_00000009"));
  fs::create_directories(run.folder(9));  // empty: not a checkpoint that loads
  EXPECT_EQ(run.loaded_step(), 1);
}

TEST(Checkpoint, AFailedSaveIsAnAnswerAndLeavesTheOldSteps) {
  const TempFolder folder;
  const SmallRun run(folder);
  ASSERT_EQ(run.save(1), std::nullopt);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{8192, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::optional<std::string> fault = run.save(2);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  ASSERT_TRUE(fault.has_value());
  EXPECT_NE(fault->find("model.safetensors"), std::string::npos) << *fault;
  EXPECT_NE(fault->find("File too large"), std::string::npos) << *fault;
  EXPECT_EQ(run.entries(), (std::vector<std::string>{"latest", "step_00000001"}));
  EXPECT_EQ(run.loaded_step(), 1);
  ASSERT_EQ(run.save(2), std::nullopt);  // the next attempt works
  fs::remove(folder / "tokenizer.model");
  EXPECT_NE(run.save(3)->find("tokenizer.model"), std::string::npos);
  EXPECT_EQ(run.loaded_step(), 2);
}

TEST(Checkpoint, ADirectoryThatCannotBeMadeIsAnAnswer) {
  const TempFolder folder;
  test::write_text(folder / "checkpoints", "a file in the way");
  EXPECT_TRUE(SmallRun(folder).save(1).has_value());
}

TEST(ReplaceFile, SaysWhyItFailedAndLeavesNothing) {
  const TempFolder folder;
  fs::create_directory(folder / "plan.json");
  try {
    replace_file(folder / "plan.json", "text");
    FAIL() << "over a directory";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::CheckpointIo);
    EXPECT_NE(std::string_view(error.what()).find("plan.json: Is a directory"), std::string_view::npos) << error.what();
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace plimsoll
