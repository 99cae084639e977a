// libnccl, opened when a run asks for it: a program that was built with its headers starts where it is not installed.

#include "comm/nccl_api.hpp"
#include "runtime/core/error.hpp"

#ifdef PLIMSOLL_HAVE_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>
#endif

namespace plimsoll {

#ifdef PLIMSOLL_HAVE_NCCL
namespace {

static_assert(kNcclSuccess == ncclSuccess && kNcclInvalidArgument == ncclInvalidArgument &&
              kNcclInvalidUsage == ncclInvalidUsage && kNcclRemoteError == ncclRemoteError &&
              kNcclInProgress == ncclInProgress);
static_assert(static_cast<int>(NcclType::u8) == ncclUint8 && static_cast<int>(NcclType::i32) == ncclInt32 &&
              static_cast<int>(NcclType::i64) == ncclInt64 && static_cast<int>(NcclType::f16) == ncclFloat16 &&
              static_cast<int>(NcclType::f32) == ncclFloat32 && static_cast<int>(NcclType::f64) == ncclFloat64 &&
              static_cast<int>(NcclType::bf16) == ncclBfloat16);
static_assert(static_cast<int>(NcclOp::Sum) == ncclSum && static_cast<int>(NcclOp::Max) == ncclMax);
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

ncclDataType_t native(NcclType type) { return static_cast<ncclDataType_t>(type); }
ncclRedOp_t native(NcclOp op) { return static_cast<ncclRedOp_t>(op); }
cudaStream_t native(void* stream) { return static_cast<cudaStream_t>(stream); }

class NcclLibrary final : public NcclApi {
 public:
  // Stays open: its threads run to the end of the process.
  NcclLibrary() : library_(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)) {
    std::string reason;
    if (library_ == nullptr) {
      reason = dlerror();
      library_ = dlopen(PLIMSOLL_NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);  // where the build saw it
    }
    require(library_ != nullptr, ErrorKind::Device, "comm.transport nccl: libnccl.so.2 cannot be loaded: {}", reason);
    load("ncclGetVersion", get_version_);
    load("ncclGetErrorString", get_error_string_);
    load("ncclGetLastError", get_last_error_);
    load("ncclGetUniqueId", get_unique_id_);
    load("ncclCommInitRankConfig", comm_init_rank_config_);
    load("ncclCommGetAsyncError", comm_get_async_error_);
    load("ncclCommRegister", comm_register_);
    load("ncclCommDeregister", comm_deregister_);
    load("ncclCommFinalize", comm_finalize_);
    load("ncclCommDestroy", comm_destroy_);
    load("ncclCommAbort", comm_abort_);
    load("ncclGroupStart", group_start_);
    load("ncclGroupEnd", group_end_);
    load("ncclAllReduce", all_reduce_);
    load("ncclReduce", reduce_);
    load("ncclReduceScatter", reduce_scatter_);
    load("ncclAllGather", all_gather_);
    load("ncclBroadcast", broadcast_);
    load("ncclSend", send_);
    load("ncclRecv", recv_);
  }

  std::string version() override {
    int code = 0;
    if (get_version_(&code) != ncclSuccess) return "unknown";
    return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
  }
  std::string error_text(int result, NcclComm comm) override {
    const char* last = get_last_error_(comm);
    const std::string text = get_error_string_(static_cast<ncclResult_t>(result));
    return last != nullptr && *last != '\0' ? fmt::format("{} ({})", text, last) : text;
  }
  int get_unique_id(NcclId& id) override {
    ncclUniqueId made;
    const ncclResult_t result = get_unique_id_(&made);
    std::memcpy(id.data(), made.internal, id.size());
    return result;
  }
  int comm_init_rank(NcclComm& comm, int ranks, const NcclId& id, int rank, const char* name,
                     int most_blocks) override {
    ncclUniqueId given;
    std::memcpy(given.internal, id.data(), id.size());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = name;
    if (most_blocks > 0) config.maxCTAs = most_blocks;
    return comm_init_rank_config_(&comm, ranks, given, rank, &config);
  }
  int comm_get_async_error(NcclComm comm, int& state) override {
    ncclResult_t found = ncclSuccess;
    const ncclResult_t result = comm_get_async_error_(comm, &found);
    state = found;
    return result;
  }
  int comm_register(NcclComm comm, void* memory, std::size_t bytes, void*& handle) override {
    return comm_register_(comm, memory, bytes, &handle);
  }
  int comm_deregister(NcclComm comm, void* handle) override { return comm_deregister_(comm, handle); }
  int comm_finalize(NcclComm comm) override { return comm_finalize_(comm); }
  int comm_destroy(NcclComm comm) override { return comm_destroy_(comm); }
  int comm_abort(NcclComm comm) override { return comm_abort_(comm); }
  int group_start() override { return group_start_(); }
  int group_end() override { return group_end_(); }
  int all_reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, NcclComm comm,
                 void* stream) override {
    return all_reduce_(in, out, count, native(type), native(op), comm, native(stream));
  }
  int reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, int root, NcclComm comm,
             void* stream) override {
    return reduce_(in, out, count, native(type), native(op), root, comm, native(stream));
  }
  int reduce_scatter(const void* in, void* out, std::size_t out_count, NcclType type, NcclOp op, NcclComm comm,
                     void* stream) override {
    return reduce_scatter_(in, out, out_count, native(type), native(op), comm, native(stream));
  }
  int all_gather(const void* in, void* out, std::size_t in_count, NcclType type, NcclComm comm, void* stream) override {
    return all_gather_(in, out, in_count, native(type), comm, native(stream));
  }
  int broadcast(const void* in, void* out, std::size_t count, NcclType type, int root, NcclComm comm,
                void* stream) override {
    return broadcast_(in, out, count, native(type), root, comm, native(stream));
  }
  int send(const void* in, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) override {
    return send_(in, count, native(type), peer, comm, native(stream));
  }
  int recv(void* out, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) override {
    return recv_(out, count, native(type), peer, comm, native(stream));
  }

 private:
  template <class Function>
  void load(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    require(function != nullptr, ErrorKind::Device,
            "comm.transport nccl: libnccl.so.2 has no {}: 2.19 or later is needed", name);
  }

  void* library_;
  decltype(&ncclGetVersion) get_version_ = nullptr;
  decltype(&ncclGetErrorString) get_error_string_ = nullptr;
  decltype(&ncclGetLastError) get_last_error_ = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id_ = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config_ = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error_ = nullptr;
  decltype(&ncclCommRegister) comm_register_ = nullptr;
  decltype(&ncclCommDeregister) comm_deregister_ = nullptr;
  decltype(&ncclCommFinalize) comm_finalize_ = nullptr;
  decltype(&ncclCommDestroy) comm_destroy_ = nullptr;
  decltype(&ncclCommAbort) comm_abort_ = nullptr;
  decltype(&ncclGroupStart) group_start_ = nullptr;
  decltype(&ncclGroupEnd) group_end_ = nullptr;
  decltype(&ncclAllReduce) all_reduce_ = nullptr;
  decltype(&ncclReduce) reduce_ = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter_ = nullptr;
  decltype(&ncclAllGather) all_gather_ = nullptr;
  decltype(&ncclBroadcast) broadcast_ = nullptr;
  decltype(&ncclSend) send_ = nullptr;
  decltype(&ncclRecv) recv_ = nullptr;
};

}  // namespace

bool nccl_is_built() { return true; }
std::shared_ptr<NcclApi> open_nccl() { return std::make_shared<NcclLibrary>(); }

#else

bool nccl_is_built() { return false; }
std::shared_ptr<NcclApi> open_nccl() {
  fail(ErrorKind::Config, "comm.transport nccl: this build has no NCCL (CMake did not find nccl.h)");
}

#endif

}  // namespace plimsoll
