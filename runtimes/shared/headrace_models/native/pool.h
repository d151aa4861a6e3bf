// A pool of threads that executes one step after another. A step is a list of phases, a phase a number of items; all
// items of a phase are done before the next phase begins.
//
// Items are claimed one at a time, and a phase ends when its items are done, not when all threads have arrived: a thread
// that the kernel does not run delays the others only by the item that it holds. OpenMP's barriers wait for every
// thread; measured on shared cores, they cost 10x. When the caller still spends much of a step blocked on items of other
// threads, these have no cores of their own: the next steps then use half of the threads, and a later step tries all.
// (`make bench-llm`, a busy loop on one of two cores: 0.59 of the quiet rate, llama.cpp 0.30, transformers 0.27; without
// the halving it was 0.1 to 0.7.)
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace headrace {

class Pool {
 public:
  // `context`, the phase, an item of [0, items), and the thread's number in [0, threads).
  using Function = void (*)(void* context, int phase, int item, int thread);

  Pool(int threads, int most_phases);
  ~Pool();

  // Execute a step on the caller and the pool's threads. `items`: of each phase.
  void run(const std::vector<int>& items, Function function, void* context);

  int threads() const { return int(workers_.size()) + 1; }

 private:
  // Both hold the epoch of the step in the high half, so that a thread that is late by a step changes nothing.
  struct alignas(64) Phase {
    std::atomic<uint64_t> unclaimed{0};
    std::atomic<uint64_t> undone{0};
    std::atomic<int> sleepers{0};
  };

  // Returns how long the thread was blocked, in nanoseconds.
  int64_t work(uint32_t epoch, int thread);
  void adapt(int64_t blocked, int64_t elapsed);
  void serve(int thread);

  std::unique_ptr<Phase[]> phases_;
  std::atomic<int> phase_count_{0};
  Function function_ = nullptr;
  void* context_ = nullptr;
  std::atomic<uint32_t> epoch_{0};
  std::atomic<int> idle_{0};
  std::atomic<int> active_;  // threads of the current step
  int steps_to_trial_ = 0, trial_interval_ = 0;  // of all threads, while fewer are active
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace headrace
