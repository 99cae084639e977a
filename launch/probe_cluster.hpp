#pragma once
// What `plimsoll probe` measures: the links between the groups of a mesh and the rates of a rank, as a description that
// plans are made with (runtime/plan/cluster.hpp).

#include <functional>
#include <string>

#include "comm/probe.hpp"
#include "launch/backend.hpp"
#include "launch/groups.hpp"
#include "runtime/plan/cluster.hpp"

namespace plimsoll {

// Every operation over the groups of every axis that has several ranks, all groups of an axis at the same time, as in a
// step; the slowest group counts. Axes whose groups look alike are measured once. Collective over `control`, the group
// of all ranks; every rank returns the same. `told`, if it is not empty, hears of each table as it is finished.
std::vector<MeasuredLink> measure_links(const Group& control, const Mesh& mesh, const Groups& groups,
                                        const ProbeOptions& options,
                                        const std::function<void(const MeasuredLink&)>& told = {});

// MeasuredLink::slows of collectives: what they take from matrix products of the backend beside them, `threads` on the
// host. `on`: as for the links. Collective over `control`, with the groups that the links were measured on.
void measure_slowdowns(const Group& control, const Groups& groups, Backend& backend, int threads, const ProbePlace& on,
                       std::vector<MeasuredLink>& links);

// What the slowest rank reaches while all of them compute: matrix products and attention in every precision that the
// backend has kernels for, elementwise kernels, copies. `memory_bytes` and what lies outside the arena are of a rank;
// `peak` is that of the data sheet, and the rate of matrix products for want of one. The overhead of a kernel is not
// measured. `threads`: of the host. Collective over `control`.
DeviceDescription measure_device(const Group& control, Backend& backend, int threads);

// `inside` and `between` as the line that fits the messages of measured groups whose ranks are on one host, or not;
// `hosts`: of each rank, anything that is the same on one host. Where there was no such group, the line is that of the
// other kind. Returns what has to be said about it; empty where both were measured.
std::string fit_links(ClusterDescription& cluster, const Mesh& mesh, const std::vector<std::uint64_t>& hosts);

// How far measured links are from what was measured later at other sizes: by table, the medians of |predicted/measured
// - 1| over its sizes, and over the sizes of all tables. Tables are matched by operation, ranks and stride; none
// without both.
struct LinkErrors {
  std::vector<std::pair<MeasuredLink, double>> tables;  // of the later ones
  double median = 0;
};
LinkErrors link_errors(const std::vector<MeasuredLink>& links, const std::vector<MeasuredLink>& later);

// A line for people: "data: all_reduce over 2 ranks: …".
std::string to_text(const MeasuredLink& link);

}  // namespace plimsoll
