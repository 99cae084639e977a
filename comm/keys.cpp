// The keys of the comm section.

#include "runtime/core/keys.hpp"
#include "comm/config.hpp"

namespace plimsoll {

KeyTable<CommConfig> comm_keys() {
  using C = CommConfig;
  return {
      .keys = {
          key("transport", &C::transport,
              "what carries collectives: mpi, or self for one rank; with device: cuda nccl, or staged through host "
              "memory over mpi; auto: there nccl where every rank has its library and a GPU of its own. local and fake "
              "are for tests"),
          bytes_key(
              "bucket", &C::bucket, above(0),
              "gradients sent together: matrices or, with zero, whole units of the model (a layer each) whose sums are "
              "divided; auto: what is done first over the links of comm.cluster or, where it names none, those that "
              "plan.profile measured, with zero within the budget; where it has none either 25 MiB, and with zero a "
              "unit at a time"),
          key("prefetch", &C::prefetch, between(0, static_cast<double>(kMostPrefetchUses)), "1",
              "parameters of zero: 3 are gathered as many uses ahead (those that are gathered together count as one); "
              "auto: what is fastest over the links of comm.cluster or plan.profile within the budget, at least 1; 1 "
              "where neither has any"),
          bytes_key(
              "gather", &C::gather, at_least(0),
              "parameters of zero: 3 whose uses follow one another (layers) are gathered together up to so much, 0: "
              "each unit by itself; auto: what is fastest over the links of comm.cluster or plan.profile within "
              "the budget, 0 where neither has any"),
          key("hierarchical", &C::hierarchical,
              "without zero, gradients are summed inside the nodes of comm.cluster before they are summed over nodes; "
              "auto: where that is faster over its links"),
          key("pipeline_chunks", &C::pipeline_chunks, between(1, static_cast<double>(kMostPipelineChunks)), "1",
              "rows of the product that a stage ends with are cut into as many, and sent while the next are made; "
              "auto: what is fastest over the links of comm.cluster, or 1 where that names none"),
          key("overlap", &C::overlap,
              "collectives run beside compute; false: one after the other, to see what that is worth"),
          key("collectives", &C::collectives, "who implements collectives over mpi: this program or the MPI library"),
          key("deadline", &C::deadline, at_least(1), "s",
              "a collective of a step or an evaluation that takes longer ends the run, and so does a rank that does "
              "not "
              "answer for as long anywhere else; auto: 5 median steps, at least 30 s"),
          key_or(
              "auto", std::string(), "cluster", &C::cluster, {}, "",
              "description of devices and links (`plimsoll probe` writes one) that `parallel: auto` plans for and by "
              "which sizes of messages are chosen; auto: a CPU core per rank"),
      }};
}

}  // namespace plimsoll
