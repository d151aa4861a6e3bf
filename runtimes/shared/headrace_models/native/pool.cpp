#include "pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace headrace {
namespace {

// A barrier between busy threads takes less than this; one that takes longer waits for a thread that does not run, and
// then the core is better given away.
constexpr int64_t kSpinNanoseconds = 30000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void futex_wait(const void* word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void futex_wake(const void* word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0); }

// Wait until `done()`, first by spinning, then on the futex `word`, which changes with the condition.
template <class Done, class Word>
void await(Done done, Word value, const void* word, std::atomic<int>& sleepers) {
  for (int64_t start = 0;;) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return;
      pause();
    }
    if (!start) start = now();
    if (now() - start > kSpinNanoseconds) break;
  }
  sleepers.fetch_add(1);
  for (;;) {
    uint32_t seen = value();
    if (done()) break;
    futex_wait(word, seen);
  }
  sleepers.fetch_sub(1);
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of a counter is its first word");

uint64_t tagged(uint32_t epoch, uint32_t count) { return uint64_t(epoch) << 32 | count; }

}  // namespace

Pool::Pool(int threads, int most_phases) : phases_(new Phase[most_phases]) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
  stop_ = true;
  epoch_.fetch_add(1);
  futex_wake(&epoch_);
  for (auto& worker : workers_) worker.join();
}

void Pool::run(const std::vector<int>& items, Function function, void* context) {
  const uint32_t epoch = epoch_.load() + 1;
  function_ = function;
  context_ = context;
  for (size_t p = 0; p < items.size(); ++p) {
    phases_[p].undone.store(tagged(epoch, items[p]));
    phases_[p].unclaimed.store(tagged(epoch, items[p]), std::memory_order_release);
  }
  phase_count_.store(int(items.size()));
  epoch_.store(epoch);
  if (idle_.load()) futex_wake(&epoch_);
  work(epoch, 0);
}

void Pool::work(uint32_t epoch, int thread) {
  const int count = phase_count_.load();
  for (int p = 0; p < count; ++p) {
    Phase& phase = phases_[p];
    for (uint64_t left = phase.unclaimed.load(std::memory_order_acquire);;) {
      if (left >> 32 != epoch) return;
      if (uint32_t(left) == 0) break;
      if (!phase.unclaimed.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
      function_(context_, p, int(uint32_t(left) - 1), thread);
      if (uint32_t(phase.undone.fetch_sub(1)) == 1 && phase.sleepers.load()) futex_wake(&phase.undone);
      left = phase.unclaimed.load(std::memory_order_acquire);
    }
    auto done = [&] {
      uint64_t left = phase.undone.load();
      return uint32_t(left) == 0 || left >> 32 != epoch;
    };
    if (!done()) await(done, [&] { return uint32_t(phase.undone.load()); }, &phase.undone, phase.sleepers);
  }
}

void Pool::serve(int thread) {
  uint32_t seen = 0;
  while (!stop_) {
    await([&] { return epoch_.load() != seen; }, [&] { return seen; }, &epoch_, idle_);
    seen = epoch_.load();
    if (!stop_) work(seen, thread);
  }
}

}  // namespace headrace
