#pragma once
// The calls of NCCL that we make, as an interface: the library's own (comm/nccl_library.cpp) or, in tests, one that
// records. Results are ncclResult_t as numbers, types and operations those of nccl.h; comm/nccl_library.cpp checks
// that.

#include <array>
#include <cstddef>
#include <memory>
#include <string>

struct ncclComm;

namespace plimsoll {

using NcclComm = ncclComm*;
using NcclId = std::array<char, 128>;

inline constexpr int kNcclSuccess = 0, kNcclInvalidArgument = 4, kNcclInvalidUsage = 5, kNcclRemoteError = 6,
                     kNcclInProgress = 7;
enum class NcclType : int { u8 = 1, i32 = 2, i64 = 4, f16 = 6, f32 = 7, f64 = 8, bf16 = 9 };
enum class NcclOp : int { Sum = 0, Max = 2 };

// Counts are elements. `stream`: a cudaStream_t. With communicators that do not block, a call may return
// kNcclInProgress: async_error() says when it was accepted.
class NcclApi {
 public:
  virtual ~NcclApi() = default;
  virtual std::string version() = 0;  // "2.28.9"
  virtual std::string error_text(int result, NcclComm comm) = 0;
  virtual int get_unique_id(NcclId& id) = 0;
  // Not blocking (config.blocking = 0). `most_blocks`: config.maxCTAs; 0: the library's.
  virtual int comm_init_rank(NcclComm& comm, int ranks, const NcclId& id, int rank, const char* name,
                             int most_blocks) = 0;
  virtual int comm_get_async_error(NcclComm comm, int& state) = 0;
  virtual int comm_register(NcclComm comm, void* memory, std::size_t bytes, void*& handle) = 0;
  virtual int comm_deregister(NcclComm comm, void* handle) = 0;
  virtual int comm_finalize(NcclComm comm) = 0;
  virtual int comm_destroy(NcclComm comm) = 0;
  virtual int comm_abort(NcclComm comm) = 0;
  virtual int group_start() = 0;
  virtual int group_end() = 0;
  virtual int all_reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, NcclComm comm,
                         void* stream) = 0;
  virtual int reduce(const void* in, void* out, std::size_t count, NcclType type, NcclOp op, int root, NcclComm comm,
                     void* stream) = 0;
  virtual int reduce_scatter(const void* in, void* out, std::size_t out_count, NcclType type, NcclOp op, NcclComm comm,
                             void* stream) = 0;
  virtual int all_gather(const void* in, void* out, std::size_t in_count, NcclType type, NcclComm comm,
                         void* stream) = 0;
  // `in` is of the root alone; it may be `out`.
  virtual int broadcast(const void* in, void* out, std::size_t count, NcclType type, int root, NcclComm comm,
                        void* stream) = 0;
  virtual int send(const void* in, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) = 0;
  virtual int recv(void* out, std::size_t count, NcclType type, int peer, NcclComm comm, void* stream) = 0;
};

// Whether this program was built with NCCL's headers.
bool nccl_is_built();
// Opens libnccl. Error(Config): this build has no NCCL; Error(Device): the library is not on this machine, or lacks a
// call.
std::shared_ptr<NcclApi> open_nccl();

}  // namespace plimsoll
