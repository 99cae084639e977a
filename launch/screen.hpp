#pragma once
// Where progress is shown: a terminal that a bar can redraw itself on, or a stream of plain lines.

namespace plimsoll {

struct Screen {
  bool terminal = false;
  int columns = 80;  // of the terminal now
};

// Standard output as a person sees it. mpirun gives rank 0 a pseudo-terminal whatever its own output is: under a
// launcher of Open MPI the standard output of the launcher counts, the nearest one among the ancestors (plain where
// none is to be seen). PLIMSOLL_PROGRESS=bar or =plain decides instead (auto: as without it). Error(Usage) for other
// values.
Screen find_screen();

}  // namespace plimsoll
