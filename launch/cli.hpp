#pragma once
// The command line: one subcommand per verb.

#include <string>

namespace plimsoll {

class MpiSession;

// What main() needs to report a failure: filled in as far as the program came.
struct CommandContext {
  std::string run_dir;  // of `train`, once the configuration is read
};

// Parses argv and runs the command; returns the exit code. Throws Error. `mpi` is started by the commands that need it.
int run_command(int argc, char** argv, MpiSession& mpi, CommandContext& context);

// The help of the program and of every verb, for the test that freezes names.
std::string command_line_help();

}  // namespace plimsoll
