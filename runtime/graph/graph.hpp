#pragma once
// A step of one rank as data: values (memory) and nodes (work) in execution order. Forward nodes first, then the
// backward of one micro-batch, then what happens once a step. Planners read it, the executor runs it, the dumps show
// it.

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/device/device.hpp"
#include "runtime/graph/value.hpp"
#include "runtime/ops/registry.hpp"

namespace plimsoll {

// Which micro-batches of a step a backward node runs in: the first of several, a middle one, the last, or the only one.
enum class Variant : std::uint8_t { First = 1, Middle = 2, Last = 4, Only = 8 };
inline constexpr std::uint8_t kEveryVariant = 15;
inline constexpr std::uint8_t kFinalVariants = 4 | 8;

// Whether a gradient is added to what is there: never; from the second micro-batch on; always.
enum class Accumulate : std::uint8_t { Never, AfterFirst, Always };

using SlotValues = std::array<ValueId, kMaxSlots>;

struct Node {
  OpId op = 0;
  Phase phase = Phase::Forward;
  Attrs attrs;
  SlotSpecs specs;     // of all slots of the op, also where a backward node does not see the value
  SlotValues value{};  // by slot; kNoValue where absent or not read in this phase
  SlotValues grad{};
  std::array<Accumulate, kMaxSlots> accumulate{};  // of grad[slot]; of value[slot] for a terminal op's outputs
  int layer = -1;
  std::string label;  // "attention.qkv"
  StreamKind stream = StreamKind::Compute;
  std::uint8_t when = kEveryVariant;
  int chunk = 0;       // of this rank's pieces of the model (runtime/plan/schedule.hpp)
  bool late = false;   // backward: runs in the second half, where weight gradients are an action of their own
  bool again = false;  // in backward: a forward node that runs a second time (runtime/graph/recompute.hpp)

  Node() {
    value.fill(kNoValue);
    grad.fill(kNoValue);
  }
};

// What a node does, in words: the name of its phase, or "recompute".
std::string_view work_name(const Node& node);

// A rectangle of a checkpoint tensor inside a parameter, both seen as matrices [rows, columns] (a vector is one
// column). Name and layout of the tensor are those of Hugging Face; its initial values are drawn from the stream of
// that name.
struct ParameterPart {
  std::string name;
  Shape shape;                             // of the whole tensor
  std::int64_t row = 0, column = 0;        // where the rectangle begins in the tensor …
  std::int64_t rows = 0, columns = 0;      // … its size …
  std::int64_t at_row = 0, at_column = 0;  // … and where it begins in the parameter
  bool owned = true;  // false: a copy; another rank saves these elements and counts them in the norm
};

struct Initializer {
  enum class Kind : std::uint8_t { Zeros, Ones, Normal } kind = Kind::Normal;
  double std = 0.02;
};

struct Parameter {
  ValueId value = kNoValue;
  ValueId gradient = kNoValue;  // set by autodiff
  std::vector<ParameterPart> parts;
  Initializer init;
  bool decays() const { return parts.front().shape.rank() >= 2; }  // weight decay acts on matrices only
};

// Where a piece of a pipeline meets its neighbours: what comes in, what goes out, and their gradients. kNoValue at the
// ends of the model.
struct PieceEnds {
  ValueId input = kNoValue, output = kNoValue, output_grad = kNoValue, input_grad = kNoValue;
};

struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;
  // Sections of `nodes`: forward, then backward from here (forward nodes may be among them: recomputation), then the
  // update.
  std::size_t backward_begin = SIZE_MAX, update_begin = SIZE_MAX;
  std::vector<Parameter> parameters;                  // in model order
  std::map<std::string, ValueId, std::less<>> named;  // "tokens", "targets", "loss", "logits", "gradients" …
  std::vector<PieceEnds> pieces;                      // by chunk; empty: the whole model
  int message_parts = 1;  // of each output that goes to the next piece; one is sent as soon as its rows are made

  enum class Section : std::uint8_t { Forward, Backward, Update };
  Section section(std::size_t node) const {
    return node >= update_begin ? Section::Update : node >= backward_begin ? Section::Backward : Section::Forward;
  }
  ValueId add_value(Value v) {
    values.push_back(std::move(v));
    return static_cast<ValueId>(values.size() - 1);
  }
  const Value& operator[](ValueId id) const { return values[static_cast<std::size_t>(id)]; }
  Value& operator[](ValueId id) { return values[static_cast<std::size_t>(id)]; }
  ValueId find(std::string_view name) const;  // of `named`; throws Error(Internal)
  // The value whose memory `id` lies in, and where.
  ValueId root(ValueId id) const;
  std::int64_t offset_in_root(ValueId id) const;
};

// Adds a forward node; creates and returns its Output and Stat values by slot. `inputs` pairs slot and value.
struct SlotInput {
  int slot;
  ValueId value;
};
SlotValues add_node(Graph& graph, OpId op, Attrs attrs, std::initializer_list<SlotInput> inputs, std::string label,
                    int layer);
template <class Op>
SlotValues add_node(Graph& graph, typename Op::Attrs attrs, std::initializer_list<SlotInput> inputs, std::string label,
                    int layer) {
  return add_node(graph, op_id<Op>, Attrs(std::in_place_index<op_id<Op>>, std::move(attrs)), inputs, std::move(label),
                  layer);
}

// The mesh axis of a collective; empty: the node is none.
std::string_view axis_of(const Node& node);
// Where the nodes of an axis's collectives run. All on one stream, so that they are in the same order on every rank.
StreamKind stream_of(std::string_view axis);

// The persistent value in which the all-reduces of a stream, which run one after another, receive.
ValueId reduction_scratch(Graph& graph, std::string_view axis, std::int64_t bytes);

// What a node does to memory, derived from the op's declaration: the one place that knows.
struct MemoryAccess {
  ValueId value;
  bool reads, writes;
  bool adds;  // reads only where its Accumulate says so: a first micro-batch overwrites
};
void for_each_access(const Graph& graph, const Node& node, const std::function<void(const MemoryAccess&)>& visit);

// A value that is not persistent and that others than the nodes touch: it is written before the nodes of (chunk,
// section) run, or read after them (of the first half, where backward has two).
struct OutsideUse {
  ValueId value;
  int chunk;
  Graph::Section section;
  bool writes;
};
std::vector<OutsideUse> outside_uses(const Graph& graph);

// Lets outputs of forward nodes lie over inputs that nothing reads later, where the op's declaration allows it.
void share_forward_memory(Graph& graph);
// Sets Value::memory of values that are not persistent: Activations when a backward node reads what a forward node
// wrote.
void classify_memory(Graph& graph);

// FLOPs of one execution of all nodes of the given phases, from the op declarations; without what is recomputed.
std::int64_t count_flops(const Graph& graph, std::initializer_list<Phase> phases);

// Checks structure: shapes match the declarations, every read follows a write, persistent memory only where declared,
// parts of a value inside it, nothing empty but flat buffers (a rank may have no shard of a unit), host memory only for
// copies. Returns the first violation, naming node and value.
std::optional<std::string> verify(const Graph& graph);

std::string dump_text(const Graph& graph);      // a line per node
std::string dump_graphviz(const Graph& graph);  // dot

}  // namespace plimsoll
