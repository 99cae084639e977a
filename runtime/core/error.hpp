#pragma once
// Every failure of the program is one `Error` of one kind; its kind is its exit code. The table below is the only place
// where a kind, its number and its meaning are written down.

#include <fmt/format.h>

#include <array>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace plimsoll {

enum class ErrorKind : int {
  Usage = 64,
  BadData = 65,
  MissingInput = 66,
  Device = 69,
  Internal = 70,
  OutOfMemory = 71,
  CheckpointIo = 74,
  PeerLost = 75,
  RanksDisagree = 76,
  Config = 78,
  NoCheckpoint = 79,
  Numerical = 80,
  Preempted = 85,
};

struct ExitCode {
  ErrorKind kind;
  std::string_view name;     // stable: written to exit_reason files and FATAL lines
  std::string_view meaning;  // for people
};

inline constexpr std::array kExitCodes{
    ExitCode{ErrorKind::Usage, "usage", "wrong command line"},
    ExitCode{ErrorKind::BadData, "bad_data", "an input file is malformed"},
    ExitCode{ErrorKind::MissingInput, "missing_input", "an input file is missing"},
    ExitCode{ErrorKind::Device, "device", "a device, NCCL or MPI could not be initialised"},
    ExitCode{ErrorKind::Internal, "internal", "a defect of the program"},
    ExitCode{ErrorKind::OutOfMemory, "out_of_memory", "the run does not fit its memory budget"},
    ExitCode{ErrorKind::CheckpointIo, "checkpoint_io", "a checkpoint could not be written"},
    ExitCode{ErrorKind::PeerLost, "peer_lost", "another rank died or hangs"},
    ExitCode{ErrorKind::RanksDisagree, "ranks_disagree", "ranks run different builds, configs or plans"},
    ExitCode{ErrorKind::Config, "config", "the configuration cannot be honoured"},
    ExitCode{ErrorKind::NoCheckpoint, "no_checkpoint", "no checkpoint could be loaded"},
    ExitCode{ErrorKind::Numerical, "numerical", "loss or gradients are not finite"},
    ExitCode{ErrorKind::Preempted, "preempted", "asked to stop; state was saved"},
};

// The row of the table above for `kind`.
const ExitCode& exit_code(ErrorKind kind);

// The one exception type. what() is the text for the user: it names the file, line, key, tensor or rank.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& text, std::source_location where = std::source_location::current())
      : std::runtime_error(text), kind_(kind), where_(where) {}
  ErrorKind kind() const { return kind_; }
  const std::source_location& where() const { return where_; }

 private:
  ErrorKind kind_;
  std::source_location where_;
};

// A format string that remembers who wrote it, so that fail() and require() report the caller's place.
template <class... Args>
struct LocatedFormat {
  fmt::format_string<Args...> text;
  std::source_location where;
  template <class S>
  consteval LocatedFormat(const S& s, std::source_location w = std::source_location::current()) : text(s), where(w) {}
};

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, LocatedFormat<std::type_identity_t<Args>...> text, Args&&... args) {
  throw Error(kind, fmt::format(text.text, std::forward<Args>(args)...), text.where);
}

// Throws Error(kind) with the formatted text unless `condition` holds.
template <class... Args>
void require(bool condition, ErrorKind kind, LocatedFormat<std::type_identity_t<Args>...> text, Args&&... args) {
  if (!condition) throw Error(kind, fmt::format(text.text, std::forward<Args>(args)...), text.where);
}

}  // namespace plimsoll
