#include "launch/screen.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

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

}  // namespace

Screen find_screen() {
  Screen screen;
  const std::string launcher = "/proc/" + std::to_string(getppid()) + "/fd/1";
  const bool under_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  screen.terminal = isatty(STDOUT_FILENO) != 0 && look_at(under_mpirun ? launcher : "/proc/self/fd/1", screen);
  const char* value = std::getenv("PLIMSOLL_PROGRESS");
  const std::string wanted = value != nullptr ? value : "auto";
  require(wanted == "auto" || wanted == "bar" || wanted == "plain", ErrorKind::Usage,
          "PLIMSOLL_PROGRESS is '{}': it must be auto, bar or plain", wanted);
  if (wanted != "auto") screen.terminal = wanted == "bar";
  return screen;
}

}  // namespace plimsoll
