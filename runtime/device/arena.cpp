#include "runtime/device/arena.hpp"

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;
using Words = std::vector<std::uint64_t>;

// Word `index` (little-endian): the finalizer of splitmix64 (Steele, Lea, Flood 2014) with 0x7F in the odd bytes.
std::uint64_t canary(std::uint64_t index) {
  std::uint64_t z = (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return (z & 0x00FF00FF00FF00FFULL) | 0x7F007F007F007F00ULL;
}

void write_canary(Words& words, std::int64_t chunk) {
  const auto first = static_cast<std::uint64_t>(chunk) * words.size();
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = canary(first + i);
}

}  // namespace

Arena::Arena(Device& device, std::int64_t bytes, ArenaPlace place)
    : device_(device),
      bytes_(bytes),
      place_(place),
      base_(static_cast<std::byte*>(place == ArenaPlace::Host ? device.allocate_host(bytes) : device.allocate(bytes))) {
}

Arena::~Arena() { place_ == ArenaPlace::Host ? device_.release_host(base_, bytes_) : device_.release(base_, bytes_); }

void Arena::fill_canary(int threads) {
  require(threads >= 1, ErrorKind::Internal, "the arena is touched by at least one thread, not {}", threads);
  const std::int64_t chunks = (bytes_ + kChunk - 1) / kChunk;
  const std::int64_t workers = std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(chunks, 1));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(workers));
  const auto touch = [&](std::int64_t worker) {
    try {  // the root of a thread: forwarded below
      Words words(kChunk / sizeof(std::uint64_t));
      for (std::int64_t c = chunks * worker / workers; c < chunks * (worker + 1) / workers; ++c) {
        write_canary(words, c);
        device_.copy_to_device(base_ + c * kChunk, words.data(), std::min(kChunk, bytes_ - c * kChunk));
      }
    } catch (...) {
      errors[static_cast<std::size_t>(worker)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (std::int64_t w = 1; w < workers; ++w) others.emplace_back(touch, w);
  touch(0);
  for (std::thread& thread : others) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

std::int64_t Arena::high_water() const {
  Words expected(kChunk / sizeof(std::uint64_t));
  Words found(expected.size());
  for (std::int64_t c = (bytes_ + kChunk - 1) / kChunk; c-- > 0;) {
    const std::int64_t size = std::min(kChunk, bytes_ - c * kChunk);
    write_canary(expected, c);
    device_.copy_to_host(found.data(), base_ + c * kChunk, size);
    const auto* a = reinterpret_cast<const std::byte*>(expected.data());
    const auto* b = reinterpret_cast<const std::byte*>(found.data());
    if (std::equal(a, a + size, b)) continue;
    std::int64_t end = size;
    while (a[end - 1] == b[end - 1]) --end;
    return c * kChunk + end;
  }
  return 0;
}

}  // namespace plimsoll
