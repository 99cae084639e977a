#include "launch/pipeline.hpp"

namespace plimsoll {

// One direction to or from one neighbour. Message i lies in buffer i mod kMessageBuffers.
struct StageLinks::Channel {
  struct Buffer {
    View memory;
    const Group* group = nullptr;
    int peer = 0;
    std::array<View, 2> copied;  // from, to
    KernelArgs copy_args;
    Kernel copy = nullptr;
    std::unique_ptr<Event> full, empty;
  };
  std::array<Buffer, kMessageBuffers> buffers;
  std::int64_t expected = 0, begun = 0, done = 0;  // messages
  std::unique_ptr<Stream> stream;
  Buffer& at(std::int64_t message) { return buffers[static_cast<std::size_t>(message % kMessageBuffers)]; }
};

namespace {

std::size_t index(MessageKind kind) { return static_cast<std::size_t>(kind); }

DType value_type(const Executor& executor) {
  for (const char* name : {"pipeline.receive.output", "pipeline.send.output"}) {
    const auto found = executor.graph().named.find(name);
    if (found != executor.graph().named.end()) return executor.graph()[found->second].spec.dtype;
  }
  fail(ErrorKind::Internal, "a stage without messages");
}

}  // namespace

StageLinks::StageLinks(const Executor& buffers, const ExecutorContext& context, const Groups& groups,
                       const PipelineParallel& pipeline)
    : compute_(context.compute), copy_(context.kernels->find(op_id<CopyTo>, Phase::Forward, value_type(buffers))) {
  const auto group = [&](const char* axis) {
    const auto found = groups.find(axis);
    require(found != groups.end(), ErrorKind::Internal, "a pipeline needs the group of axis '{}'", axis);
    return found->second;
  };
  const int before = (pipeline.stage + pipeline.stages - 1) % pipeline.stages;
  const int behind = (pipeline.stage + 1) % pipeline.stages;
  in_[index(MessageKind::Output)] = open(buffers, context, "pipeline.receive.output", group("pipeline"), before, false);
  out_[index(MessageKind::Output)] = open(buffers, context, "pipeline.send.output", group("pipeline"), behind, true);
  in_[index(MessageKind::Gradient)] =
      open(buffers, context, "pipeline.receive.gradient", group("pipeline_back"), behind, false);
  out_[index(MessageKind::Gradient)] =
      open(buffers, context, "pipeline.send.gradient", group("pipeline_back"), before, true);
}

StageLinks::~StageLinks() = default;

std::unique_ptr<StageLinks::Channel> StageLinks::open(const Executor& buffers, const ExecutorContext& context,
                                                      const std::string& buffer, const Group* group, int peer,
                                                      bool sends) {
  if (!buffers.graph().named.contains(buffer)) return nullptr;
  auto channel = std::make_unique<Channel>();
  channel->stream = context.device->make_stream(StreamKind::Communication);
  const View all = buffers.view(buffer);
  for (std::size_t i = 0; i < channel->buffers.size(); ++i) {
    Channel::Buffer& b = channel->buffers[i];
    b.memory.spec = {{all.spec.elements() / kMessageBuffers}, all.spec.dtype};
    b.memory.data = all.as<std::byte>() + static_cast<std::int64_t>(i) * b.memory.spec.bytes();
    b.group = group;
    b.peer = peer;
    b.copy = copy_;
    b.copy_args.value = b.copied.data();
    b.copy_args.stream = compute_;
    (sends ? b.copied[1] : b.copied[0]) = b.memory;
    b.full = context.device->make_event();
    b.empty = context.device->make_event();
  }
  return channel;
}

void StageLinks::copy(Channel& channel, std::size_t at, const View& from, const View& to) {
  Channel::Buffer& b = channel.buffers[at];
  b.copied = {View{from.data, b.memory.spec}, View{to.data, b.memory.spec}};
  compute_->launch({[](void* buffer) {
                      const auto* mine = static_cast<const Channel::Buffer*>(buffer);
                      mine->copy(mine->copy_args);
                    },
                    &b});
}

void StageLinks::expect(MessageKind kind, std::int64_t count) {
  if (count == 0) return;
  Channel& channel = *in_[index(kind)];
  channel.expected += count;
  receive_ahead(channel);
}

void StageLinks::receive_ahead(Channel& channel) {
  for (; channel.expected > 0 && channel.begun - channel.done < kMessageBuffers; --channel.expected) {
    Channel::Buffer& b = channel.at(channel.begun++);
    channel.stream->wait(*b.empty);
    channel.stream->launch({[](void* buffer) {
                              const auto* mine = static_cast<const Channel::Buffer*>(buffer);
                              mine->group->receive(mine->memory, mine->peer);
                            },
                            &b});
    channel.stream->record(*b.full);
  }
}

void StageLinks::take(MessageKind kind, const View& to) {
  Channel& channel = *in_[index(kind)];
  const auto at = static_cast<std::size_t>(channel.done % kMessageBuffers);
  Channel::Buffer& b = channel.buffers[at];
  compute_->wait(*b.full);
  copy(channel, at, b.memory, to);
  compute_->record(*b.empty);
  ++channel.done;
  receive_ahead(channel);
}

void StageLinks::put(MessageKind kind, const View& from) {
  Channel& channel = *out_[index(kind)];
  const auto at = static_cast<std::size_t>(channel.begun % kMessageBuffers);
  Channel::Buffer& b = channel.buffers[at];
  compute_->wait(*b.empty);
  copy(channel, at, from, b.memory);
  compute_->record(*b.full);
  channel.stream->wait(*b.full);
  channel.stream->launch({[](void* buffer) {
                            const auto* mine = static_cast<const Channel::Buffer*>(buffer);
                            mine->group->send(mine->memory, mine->peer);
                          },
                          &b});
  channel.stream->record(*b.empty);
  ++channel.begun;
}

void StageLinks::finish() {
  for (const auto& channel : out_) {
    if (channel) channel->stream->synchronize();
  }
}

}  // namespace plimsoll
