#include "pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace headrace {
namespace {

// A barrier between busy threads takes less than this; one that takes longer waits for a thread that does not run, and
// then the core is better given away.
constexpr int64_t kSpinNanoseconds = 30000;
constexpr int kBlockedShare = 4;  // of a step: a quarter
constexpr int kFirstInterval = 8, kLongestInterval = 256;  // steps between trials of all threads

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

// Wait until `done()`, first by spinning, then on the futex `word`, which changes with the condition. Returns how long it
// took after the spinning, in nanoseconds.
template <class Done, class Word>
int64_t await(Done done, Word value, const void* word, std::atomic<int>& sleepers) {
  int64_t start = 0, blocked;
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return 0;
      pause();
    }
    if (!start) start = now();
    blocked = now();
    if (blocked - start > kSpinNanoseconds) break;
  }
  sleepers.fetch_add(1);
  for (;;) {
    uint32_t seen = value();
    if (done()) break;
    futex_wait(word, seen);
  }
  sleepers.fetch_sub(1);
  return now() - blocked;
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of a counter is its first word");

uint64_t tagged(uint32_t epoch, uint32_t count) { return uint64_t(epoch) << 32 | count; }

}  // namespace

Pool::Pool(int threads, int most_phases) : phases_(new Phase[most_phases]), active_(threads) {
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
  const int64_t start = now();
  if (active_ < threads() && --steps_to_trial_ <= 0) active_ = threads();
  function_ = function;
  context_ = context;
  for (size_t p = 0; p < items.size(); ++p) {
    phases_[p].undone.store(tagged(epoch, items[p]));
    phases_[p].unclaimed.store(tagged(epoch, items[p]), std::memory_order_release);
  }
  phase_count_.store(int(items.size()));
  epoch_.store(epoch);
  if (active_ > 1 && idle_.load()) futex_wake(&epoch_);
  const int64_t blocked = work(epoch, 0);
  if (active_ > 1) adapt(blocked, now() - start);
}

void Pool::adapt(int64_t blocked, int64_t elapsed) {
  if (blocked * kBlockedShare < elapsed) {
    if (active_ == threads()) trial_interval_ = 0;
    return;
  }
  active_ = active_ / 2;
  trial_interval_ = trial_interval_ ? std::min(2 * trial_interval_, kLongestInterval) : kFirstInterval;
  steps_to_trial_ = trial_interval_;
}

int64_t Pool::work(uint32_t epoch, int thread) {
  const int count = phase_count_.load();
  int64_t blocked = 0;
  for (int p = 0; p < count; ++p) {
    Phase& phase = phases_[p];
    for (uint64_t left = phase.unclaimed.load(std::memory_order_acquire);;) {
      if (left >> 32 != epoch) return blocked;
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
    if (!done()) blocked += await(done, [&] { return uint32_t(phase.undone.load()); }, &phase.undone, phase.sleepers);
  }
  return blocked;
}

void Pool::serve(int thread) {
  uint32_t seen = 0;
  while (!stop_) {
    await([&] { return epoch_.load() != seen; }, [&] { return seen; }, &epoch_, idle_);
    seen = epoch_.load();
    if (!stop_ && thread < active_) work(seen, thread);
  }
}

}  // namespace headrace
