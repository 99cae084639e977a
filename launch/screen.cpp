#include "launch/screen.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// The terminal behind a descriptor of a process; false when there is none.
bool look_at(const std::string& path, Screen& screen) {
  const int file = open(path.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return false;
  const bool terminal = isatty(file) != 0;
  winsize size{};
  if (terminal && ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) screen.columns = size.ws_col;
  close(file);
  return terminal;
}

// What starts ranks and shows their output.
constexpr std::array<std::string_view, 6> kLaunchers{"mpirun", "mpiexec", "orterun", "prterun", "orted", "prted"};

struct Process {
  std::string name;
  int parent = 0;
};

Process read_process(int id) {
  std::ifstream file("/proc/" + std::to_string(id) + "/stat");  // "12 (name) S 3 …"; a name may have any character
  std::string line;
  std::getline(file, line);
  const std::size_t open = line.find('('), close = line.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close + 4 > line.size()) return {};
  return {line.substr(open + 1, close - open - 1), std::atoi(line.c_str() + close + 4)};
}

// The standard output of the launcher that is the nearest ancestor: shells, timeout and the like may stand between.
// Empty where none is to be seen.
std::string launcher_output() {
  for (int id = getppid(); id > 0;) {
    const Process process = read_process(id);
    if (std::find(kLaunchers.begin(), kLaunchers.end(), process.name) != kLaunchers.end())
      return "/proc/" + std::to_string(id) + "/fd/1";
    id = process.parent;
  }
  return {};
}

}  // namespace

Screen find_screen() {
  Screen screen;
  const bool under_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  screen.terminal = isatty(STDOUT_FILENO) != 0 && look_at(under_mpirun ? launcher_output() : "/proc/self/fd/1", screen);
  const char* value = std::getenv("PLIMSOLL_PROGRESS");
  const std::string wanted = value != nullptr ? value : "auto";
  require(wanted == "auto" || wanted == "bar" || wanted == "plain", ErrorKind::Usage,
          "PLIMSOLL_PROGRESS is '{}': it must be auto, bar or plain", wanted);
  if (wanted != "auto") screen.terminal = wanted == "bar";
  return screen;
}

}  // namespace plimsoll
