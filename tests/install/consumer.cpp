// A project that uses the installed libraries: counts the parameters of a preset.
#include <cstdio>

#include "launch/config.hpp"
#include "runtime/model/config.hpp"

int main() {
  const plimsoll::Config config = plimsoll::parse_config("model: {preset: gpt2-124m}\ndata: {train: x}\n", "consumer");
  std::printf("%lld\n", static_cast<long long>(plimsoll::parameter_count(config.model)));
}
