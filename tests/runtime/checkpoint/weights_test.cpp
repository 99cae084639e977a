#include "runtime/checkpoint/weights.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>

#include "runtime/checkpoint/safetensors_writer.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using test::TempFolder;

const float kOne = 1.0F;

TensorSource scalar(const std::string& name) { return {name, {{1}, DType::f32}, &kOne}; }

void write_index(const TempFolder& folder, std::string_view weight_map) {
  test::write_text(folder / "model.safetensors.index.json",
                   fmt::format(R"({{"metadata":{{}},"weight_map":{}}})", weight_map));
}

// Opens the folder, expects `kind`, and returns the message.
std::string failure(const TempFolder& folder, ErrorKind kind) {
  const auto start = std::chrono::steady_clock::now();
  try {
    HuggingFaceWeights::open(folder.path());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    return error.what();
  }
  ADD_FAILURE() << "opened";
  return "";
}

TEST(HuggingFaceWeights, PrefixesMayBeMissingAndBuffersAreNoParameters) {
  const TempFolder folder;
  const std::vector<TensorSource> sources{scalar("h.0.attn.bias"),     scalar("h.0.attn.masked_bias"),
                                          scalar("wte.weight"),        scalar("h.0.attn.c_attn.bias"),
                                          scalar("model.norm.weight"), scalar("extra")};
  write_safetensors(folder / "model.safetensors", sources);
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder.path());
  EXPECT_EQ(weights.stored_name("transformer.wte.weight"), "wte.weight");
  EXPECT_EQ(weights.stored_name("wte.weight"), "wte.weight");
  EXPECT_EQ(weights.stored_name("norm.weight"), "model.norm.weight");
  EXPECT_FALSE(weights.contains("transformer.wpe.weight"));
  EXPECT_EQ(weights.parameter_elements(), 4);
  const std::vector<std::string> wanted{"transformer.wte.weight", "transformer.h.0.attn.c_attn.bias",
                                        "model.norm.weight"};
  EXPECT_EQ(weights.unread(wanted), std::vector<std::string>{"extra"});
  try {
    weights.spec("transformer.wpe.weight");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::BadData);
    EXPECT_NE(std::string(error.what()).find("transformer.wpe.weight"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(folder.path().string()), std::string::npos);
  }
}

TEST(HuggingFaceWeights, ShardsAreReadThroughTheIndex) {
  const TempFolder folder;
  write_safetensors(folder / "1.safetensors", std::vector<TensorSource>{scalar("a")});
  write_safetensors(folder / "2.safetensors", std::vector<TensorSource>{scalar("b")});
  write_index(folder, R"({"a":"1.safetensors","b":"2.safetensors"})");
  const HuggingFaceWeights weights = HuggingFaceWeights::open(folder.path());
  float value = 0;
  weights.read_into("b", {&value, {{1}, DType::f32}});
  EXPECT_EQ(value, 1.0F);
  write_index(folder, R"({"a":"2.safetensors"})");
  EXPECT_NE(failure(folder, ErrorKind::BadData).find("has no tensor 'a'"), std::string::npos);
}

// snapshots/<commit>/NAME is a link to ../../blobs/<hash>.
TEST(HuggingFaceWeights, TheCacheOfTheHubIsAFolderOfLinks) {
  const TempFolder cache;
  const std::filesystem::path snapshot = cache / "snapshots/1";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(cache / "blobs");
  write_index(cache, R"({"a":"1.safetensors","b":"2.safetensors"})");
  std::filesystem::rename(cache / "model.safetensors.index.json", cache / "blobs/index");
  write_safetensors(cache / "blobs/a", std::vector<TensorSource>{scalar("a")});
  write_safetensors(cache / "blobs/b", std::vector<TensorSource>{scalar("b")});
  std::filesystem::create_symlink("../../blobs/index", snapshot / "model.safetensors.index.json");
  std::filesystem::create_symlink("../../blobs/a", snapshot / "1.safetensors");
  std::filesystem::create_symlink("../../blobs/b", snapshot / "2.safetensors");
  const HuggingFaceWeights weights = HuggingFaceWeights::open(snapshot);
  float value = 0;
  weights.read_into("b", {&value, {{1}, DType::f32}});
  EXPECT_EQ(value, 1.0F);
  std::filesystem::remove(cache / "blobs/b");
  EXPECT_NO_THROW(weights.spec("b"));  // an open file stays
  try {
    HuggingFaceWeights::open(snapshot);
    FAIL() << "a link to nothing was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::MissingInput) << error.what();
    EXPECT_NE(std::string(error.what()).find("2.safetensors"), std::string::npos);
  }
}

TEST(HuggingFaceWeights, MissingFilesAreNamed) {
  const TempFolder folder;
  EXPECT_NE(failure(folder, ErrorKind::MissingInput).find("neither"), std::string::npos);
  test::write_text(folder / "pytorch_model.bin", "x");
  EXPECT_NE(failure(folder, ErrorKind::MissingInput).find("pytorch_model.bin"), std::string::npos);
  write_index(folder, R"({"a":"1.safetensors"})");
  EXPECT_NE(failure(folder, ErrorKind::MissingInput).find("1.safetensors"), std::string::npos);
}

TEST(HuggingFaceWeights, AnIndexMayNameRegularFilesOfItsFolderOnly) {
  const TempFolder outside;
  write_safetensors(outside / "x.safetensors", std::vector<TensorSource>{scalar("a")});
  const TempFolder folder;
  const std::string beside = "../" + outside.path().filename().string() + "/x.safetensors";
  for (const std::string& name : {beside, (outside / "x.safetensors").string(), std::string("./x"), std::string(".."),
                                  std::string("."), std::string(""), std::string("sub/x"), std::string("x\\u0000y")}) {
    write_index(folder, fmt::format(R"({{"a":"{}"}})", name));
    EXPECT_NE(failure(folder, ErrorKind::BadData).find("same folder"), std::string::npos) << name;
  }
  ASSERT_EQ(::mkfifo((folder / "fifo.safetensors").c_str(), 0600), 0);
  write_index(folder, R"({"a":"fifo.safetensors"})");
  EXPECT_NE(failure(folder, ErrorKind::BadData).find("FIFO"), std::string::npos);
  std::filesystem::create_directory(folder / "folder.safetensors");
  write_index(folder, R"({"a":"folder.safetensors"})");
  EXPECT_NE(failure(folder, ErrorKind::BadData).find("directory"), std::string::npos);
}

TEST(HuggingFaceWeights, AMalformedIndexIsRefused) {
  const TempFolder folder;
  const std::string deep(100'000, '[');
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string("{}"), deep,
                                  std::string(R"({"weight_map":[]})"), std::string(R"({"weight_map":{"a":1}})"),
                                  std::string(R"({"weight_map":{"a":"x","a":"y"}})"),
                                  std::string(R"({"weight_map":{}} x)"), std::string("{\"weight_map\":{}}\0x", 19)}) {
    test::write_text(folder / "model.safetensors.index.json", text);
    failure(folder, ErrorKind::BadData);
  }
  test::write_text(folder / "model.safetensors.index.json", "");
  std::filesystem::resize_file(folder / "model.safetensors.index.json", std::uintmax_t{1} << 40);
  EXPECT_NE(failure(folder, ErrorKind::BadData).find("more than"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
