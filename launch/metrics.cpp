#include "launch/metrics.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

void drop_later_lines(const std::string& path, std::int64_t step) {
  std::ifstream in(path);
  if (!in) return;
  const std::string temporary = path + ".tmp";
  std::ofstream out(temporary);
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.value("step", std::int64_t{0}) <= step) out << line << "\n";
  }
  out.close();
  require(out.good(), ErrorKind::CheckpointIo, "{}: cannot be written", temporary);
  std::filesystem::rename(temporary, path);
}

}  // namespace

MetricsFile::MetricsFile(const std::string& run_dir, std::int64_t resumed_step) : path_(run_dir + "/metrics.jsonl") {
  drop_later_lines(path_, resumed_step);
  file_.open(path_, std::ios::app);
  require(file_.good(), ErrorKind::CheckpointIo, "{}: cannot be written", path_);
}

void MetricsFile::write(const std::string& line) {
  file_ << line << std::endl;
  require(file_.good(), ErrorKind::CheckpointIo, "{}: cannot be written", path_);
}

void MetricsFile::append(const StepMetrics& m) {
  nlohmann::ordered_json json{{"step", m.step},
                              {"tokens", m.tokens},
                              {"loss", m.loss},
                              {"lr", m.lr},
                              {"grad_norm", m.grad_norm},
                              {"step_ms", m.step_ms},
                              {"tokens_per_s", m.tokens_per_s},
                              {"model_gflops", m.model_gflops},
                              {"mfu", m.mfu}};
  if (m.loss_scale) json["loss_scale"] = *m.loss_scale;
  write(json.dump());
}

void MetricsFile::append_validation(std::int64_t step, double loss) {
  write(nlohmann::ordered_json{{"step", step}, {"validation_loss", loss}}.dump());
}

}  // namespace plimsoll
