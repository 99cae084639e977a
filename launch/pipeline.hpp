#pragma once
// The messages of a pipeline's stage: what it receives is on its way while it computes, and so is what it sends. Four
// streams carry them, for outputs and for gradients, in and out; each has kMessageBuffers buffers of the plan, from and
// to which the compute stream copies. A message in parts has as many buffers for each.

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "comm/group.hpp"
#include "launch/programs.hpp"
#include "parallel/pipeline.hpp"
#include "runtime/exec/executor.hpp"
#include "runtime/exec/messages.hpp"

namespace plimsoll {

class StageLinks {
 public:
  // `buffers`: an executor whose graph went through add_message_buffers(). Groups "pipeline" and "pipeline_back". The
  // messages of all programs that have pieces are listed here once, and carried in the order of their lists.
  using Groups = std::map<std::string, const Group*, std::less<>>;
  // A watch of `buffers` sees them used.
  StageLinks(const Executor& buffers, const ExecutorContext& context, const Groups& groups, const Programs& programs);
  ~StageLinks();
  StageLinks(const StageLinks&) = delete;
  StageLinks& operator=(const StageLinks&) = delete;

  // The messages of `program` follow: of one step of training, or of one micro-batch through another program. As many
  // as there are buffers for are received ahead.
  void begin(std::string_view program);
  // On the compute stream, in the order of the list: waits for all of the next message; takes it to `to`; sends a
  // message from `from`, or its next part.
  void await(MessageKind kind);
  void take(MessageKind kind, const View& to);
  void put(MessageKind kind, const View& from);
  void put_part(MessageKind kind, const View& from);
  // Blocks until all messages have been sent.
  void finish();

 private:
  struct Buffer;
  struct Letter;
  struct Channel;
  std::unique_ptr<Channel> open(const Executor& buffers, const ExecutorContext& context, MessageKind kind, bool sends,
                                const Group* group);
  void list(Channel& channel, const ExecutorContext& context, const std::string& program,
            std::span<const StageMessage> messages);
  void launch(Channel& channel, Letter& letter);
  void receive_ahead(Channel& channel);
  void copy(Letter& letter, const View& from, const View& to);

  const Executor* buffers_;
  StreamTimes* times_;
  Stream* compute_;
  Kernel copy_;
  std::array<std::unique_ptr<Channel>, 2> in_, out_;  // by MessageKind; null: none of this kind
};

}  // namespace plimsoll
