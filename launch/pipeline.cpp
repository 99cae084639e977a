#include "launch/pipeline.hpp"

#include <deque>

#include "runtime/exec/memory_watch.hpp"

namespace plimsoll {

struct StageLinks::Buffer {
  View memory;
  std::unique_ptr<Event> full, empty;
  Letter* last = nullptr;  // of those that were in it
};

// A message of a program. The same one goes every time the program runs, through the same buffer.
struct StageLinks::Letter {
  Letter(Buffer* b, std::string text) : buffer(b), label(std::move(text)) {}
  Buffer* buffer;
  std::string label;
  const Group* group = nullptr;
  Stream* stream = nullptr;  // of its channel
  int peer = 0;              // in the group
  int part = 0;              // of the message
  bool sends = false;
  std::array<View, 2> copied;  // from, to: between the buffer and the slot of an action
  KernelArgs copy_args;
  Kernel copy = nullptr;
  std::atomic<bool> awaited = false;  // this rank can do nothing else
  Profile* profile = nullptr;         // null: nobody asks, or times_ does
  int row = -1;

  void carry() {
    const std::int64_t begin = Profile::now_ns();
    const CallSite site{label.c_str(), stream};
    if (sends) {
      group->send(buffer->memory, peer, site, &awaited);
    } else {
      group->receive(buffer->memory, peer, site, &awaited);
    }
    if (profile != nullptr) profile->record(row, begin, Profile::now_ns());
  }
};

// One direction to or from one neighbour. Part i of a list lies in buffer i mod (kMessageBuffers · parts).
struct StageLinks::Channel {
  MessageKind kind;
  bool sends;
  const Group* group;
  std::size_t parts;                                             // of a message
  std::vector<Buffer> buffers;                                   // of a part each
  std::map<std::string, std::deque<Letter>, std::less<>> lists;  // by program
  std::deque<Letter>* now = nullptr;
  std::size_t begun = 0, done = 0;  // of the list `now`; begun: of receives only
  std::unique_ptr<Stream> stream;
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

ProfileRow profile_row(const std::string& program, const StageMessage& m) {
  ProfileRow row;
  row.program = program;
  row.op = m.sends ? "send" : "receive";
  row.phase = "message";
  row.label = to_text(m);
  row.track = fmt::format("{} {}", row.op, message_name(m.kind));
  row.axis = message_axis(m.kind);
  row.bytes = m.bytes();
  row.micro_batch = m.micro_batch;
  return row;
}

}  // namespace

StageLinks::StageLinks(const Executor& buffers, const ExecutorContext& context, const Groups& groups,
                       const Programs& programs)
    : buffers_(&buffers),
      times_(context.times),
      compute_(context.compute),
      copy_(context.kernels->find(op_id<CopyTo>, Phase::Forward, value_type(buffers))) {
  for (const MessageKind kind : {MessageKind::Output, MessageKind::Gradient}) {
    const auto group = groups.find(message_axis(kind));
    require(group != groups.end(), ErrorKind::Internal, "a pipeline needs the group of axis '{}'", message_axis(kind));
    in_[index(kind)] = open(buffers, context, kind, false, group->second);
    out_[index(kind)] = open(buffers, context, kind, true, group->second);
  }
  for (const Program& program : programs.list()) {
    const std::vector<StageMessage> messages =
        stage_messages(*program.graph, *programs.schedule, programs.stage, program.schedule != nullptr);
    for (const auto* channels : {&in_, &out_}) {
      for (const auto& channel : *channels) {
        if (channel) list(*channel, context, program.name, messages);
      }
    }
  }
}

StageLinks::~StageLinks() = default;

std::unique_ptr<StageLinks::Channel> StageLinks::open(const Executor& buffers, const ExecutorContext& context,
                                                      MessageKind kind, bool sends, const Group* group) {
  const std::string buffer = fmt::format("pipeline.{}.{}", sends ? "send" : "receive", message_name(kind));
  if (!buffers.graph().named.contains(buffer)) return nullptr;
  auto channel = std::make_unique<Channel>();
  channel->kind = kind;
  channel->sends = sends;
  channel->group = group;
  channel->parts = kind == MessageKind::Output ? static_cast<std::size_t>(buffers.graph().message_parts) : 1;
  channel->buffers = std::vector<Buffer>(static_cast<std::size_t>(kMessageBuffers) * channel->parts);
  channel->stream = context.device->make_stream(StreamKind::Communication);
  const View all = buffers.view(buffer);
  for (std::size_t i = 0; i < channel->buffers.size(); ++i) {
    Buffer& b = channel->buffers[i];
    b.memory.spec = {{all.spec.elements() / std::ssize(channel->buffers)}, all.spec.dtype};
    b.memory.data = all.as<std::byte>() + static_cast<std::int64_t>(i) * b.memory.spec.bytes();
    b.full = context.device->make_event();
    b.empty = context.device->make_event();
  }
  return channel;
}

void StageLinks::list(Channel& channel, const ExecutorContext& context, const std::string& program,
                      std::span<const StageMessage> messages) {
  std::deque<Letter>& letters = channel.lists[program];
  for (const StageMessage& m : messages) {
    if (m.kind != channel.kind || m.sends != channel.sends) continue;
    Letter& letter = letters.emplace_back(&channel.buffers[letters.size() % channel.buffers.size()], to_text(m));
    letter.group = channel.group;
    letter.stream = channel.stream.get();
    letter.peer = m.peer;
    letter.sends = m.sends;
    letter.part = m.part;
    letter.copy = copy_;
    letter.copy_args.value = letter.copied.data();
    letter.copy_args.stream = compute_;
    if (!channel.stream->only_launches()) letter.profile = context.profile;
    if (context.profile != nullptr) letter.row = context.profile->add_row(profile_row(program, m));
  }
}

// The letter keeps what the task needs until the program runs again.
void StageLinks::copy(Letter& letter, const View& from, const View& to) {
  const TensorSpec& spec = letter.buffer->memory.spec;
  if (buffers_->watch() != nullptr) buffers_->watch()->touched(letter.buffer->memory);
  letter.copied = {View{from.data, spec}, View{to.data, spec}};
  compute_->launch({[](void* l) {
                      const auto* mine = static_cast<const Letter*>(l);
                      mine->copy(mine->copy_args);
                    },
                    &letter});
}

void StageLinks::begin(std::string_view program) {
  for (auto* channels : {&in_, &out_}) {
    for (const auto& channel : *channels) {
      if (!channel) continue;
      require(channel->now == nullptr || channel->done == channel->now->size(), ErrorKind::Internal,
              "messages of the program before '{}' are left", program);
      channel->now = &channel->lists.find(program)->second;
      channel->begun = channel->done = 0;
      if (!channel->sends) receive_ahead(*channel);
    }
  }
}

void StageLinks::launch(Channel& channel, Letter& letter) {
  letter.awaited = false;
  letter.buffer->last = &letter;
  const bool on_clock = letter.row >= 0 && letter.profile == nullptr;
  StreamTimes::Span* span = on_clock ? &times_->begin(letter.row, *channel.stream) : nullptr;
  channel.stream->launch({[](void* l) { static_cast<Letter*>(l)->carry(); }, &letter});
  if (span != nullptr) StreamTimes::end(*span);
}

void StageLinks::receive_ahead(Channel& channel) {
  while (channel.begun < channel.now->size() && channel.begun - channel.done < channel.buffers.size()) {
    Letter& letter = (*channel.now)[channel.begun++];
    channel.stream->wait(*letter.buffer->empty);
    launch(channel, letter);
    channel.stream->record(*letter.buffer->full);
  }
}

void StageLinks::await(MessageKind kind) {
  Channel& channel = *in_[index(kind)];
  for (std::size_t i = channel.done; i < channel.done + channel.parts; ++i) {
    Letter& letter = (*channel.now)[i];
    letter.awaited = true;
    compute_->wait(*letter.buffer->full);
  }
}

void StageLinks::take(MessageKind kind, const View& to) {
  await(kind);
  Channel& channel = *in_[index(kind)];
  for (std::size_t i = 0; i < channel.parts; ++i) {
    Letter& letter = (*channel.now)[channel.done++];
    Buffer& b = *letter.buffer;
    copy(letter, b.memory, {to.as<std::byte>() + static_cast<std::int64_t>(i) * b.memory.spec.bytes(), b.memory.spec});
    compute_->record(*b.empty);
  }
  receive_ahead(channel);
}

void StageLinks::put(MessageKind kind, const View& from) {
  for (std::size_t i = 0; i < out_[index(kind)]->parts; ++i) put_part(kind, from);
}

void StageLinks::put_part(MessageKind kind, const View& whole) {
  Channel& channel = *out_[index(kind)];
  Letter& letter = (*channel.now)[channel.done++];
  Buffer& b = *letter.buffer;
  const View from{whole.as<std::byte>() + letter.part * b.memory.spec.bytes(), b.memory.spec};
  if (b.last != nullptr) b.last->awaited = true;
  compute_->wait(*b.empty);
  copy(letter, from, b.memory);
  compute_->record(*b.full);
  channel.stream->wait(*b.full);
  launch(channel, letter);
  channel.stream->record(*b.empty);
}

void StageLinks::finish() {
  for (const auto& channel : out_) {
    if (!channel) continue;
    for (const Buffer& b : channel->buffers) {
      if (b.last != nullptr) b.last->awaited = true;
    }
    channel->stream->synchronize();
  }
}

}  // namespace plimsoll
