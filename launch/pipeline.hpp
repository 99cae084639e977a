#pragma once
// The messages of a pipeline's stage: what it receives is on its way while it computes, and so is what it sends. Four
// streams carry them, for outputs and for gradients, in and out; each has kMessageBuffers buffers of the plan, from and
// to which the compute stream copies.

#include <array>
#include <map>
#include <memory>
#include <string>

#include "comm/group.hpp"
#include "parallel/pipeline.hpp"
#include "runtime/exec/executor.hpp"

namespace plimsoll {

enum class MessageKind : std::uint8_t { Output, Gradient };

class StageLinks {
 public:
  // `buffers`: an executor whose graph went through add_message_buffers(). Groups "pipeline" and "pipeline_back".
  using Groups = std::map<std::string, const Group*, std::less<>>;
  StageLinks(const Executor& buffers, const ExecutorContext& context, const Groups& groups,
             const PipelineParallel& pipeline);
  ~StageLinks();
  StageLinks(const StageLinks&) = delete;
  StageLinks& operator=(const StageLinks&) = delete;

  // `count` more messages will be taken: as many as there are buffers for are received ahead.
  void expect(MessageKind kind, std::int64_t count);
  // On the compute stream: the next message to `to`, or a message from `from`. In the order of the schedule.
  void take(MessageKind kind, const View& to);
  void put(MessageKind kind, const View& from);
  // Blocks until all messages have been sent.
  void finish();

 private:
  struct Channel;
  std::unique_ptr<Channel> open(const Executor& buffers, const ExecutorContext& context, const std::string& buffer,
                                const Group* group, int peer, bool sends);
  void receive_ahead(Channel& channel);
  void copy(Channel& channel, std::size_t at, const View& from, const View& to);

  Stream* compute_;
  Kernel copy_;
  std::array<std::unique_ptr<Channel>, 2> in_, out_;  // by MessageKind; null: none of this kind
};

}  // namespace plimsoll
