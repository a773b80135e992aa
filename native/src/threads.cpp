// The team's barrier and the store of idle teams.
#include "threads.hpp"

#include <algorithm>
#include <memory>
#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace hs {
namespace {

constexpr int kSpins = 3000;  // some 50 to 150 microseconds

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleep and wake go to the system directly where it is Linux: std::atomic's wait yields first, and on a machine with
// more to do than cores a yield gives the rest of the time slice to everybody else.
void sleep_while_equal(std::atomic<uint32_t>& value, uint32_t old) {
#if defined(__linux__)
  syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
  value.wait(old, std::memory_order_acquire);
#endif
}

void wake_all(std::atomic<uint32_t>& value) {
#if defined(__linux__)
  syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  value.notify_all();
#endif
}

// Waits until `value` differs from `old`; true if it had to sleep. `sleepers` tells the other side whether a wake is
// needed.
bool wait_for_change(std::atomic<uint32_t>& value, uint32_t old, std::atomic<uint32_t>& sleepers, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return false;
    pause_cpu();
  }
  // Announce the sleep, then look once more: both sides use sequentially consistent operations, so either this load
  // sees the change or the changer sees the sleeper.
  sleepers.fetch_add(1);
  while (value.load() == old) sleep_while_equal(value, old);
  sleepers.fetch_sub(1);
  return true;
}

}  // namespace

Team::Team(int threads) : threads_(std::max(1, threads)), spins_(kSpins), seats_(static_cast<size_t>(threads_)) {
  for (std::atomic<int>& seat : seats_) seat.store(-1);
  // With more threads than cores a spinning thread only keeps the one it waits for from running.
  if (static_cast<unsigned>(threads_) > std::max(1u, std::thread::hardware_concurrency())) spins_ = 0;
  for (int thread = 1; thread < threads_; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Team::~Team() {
  if (workers_.empty()) return;
  wait_for_all();
  job_ = nullptr;  // ends the workers
  release_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::wait_for_all() {
  const auto others = static_cast<uint32_t>(threads_ - 1);
  for (uint32_t seen; (seen = arrived_.load(std::memory_order_acquire)) != others;)
    wait_for_change(arrived_, seen, arrival_sleepers_, spins_);
  arrived_.store(0, std::memory_order_relaxed);
}

void Team::release_all() {
  epoch_.fetch_add(1);
  if (epoch_sleepers_.load() != 0) wake_all(epoch_);
}

// Threads that alternate between short work and sleep look to the system as if one CPU were enough for them: it was
// seen to leave both of a team on one CPU for minutes, at half the speed, beside an idle one. So a worker that wakes
// where a thread before it sits moves to another of the CPUs that it may use. It is not tied to it.
void Team::sit_apart([[maybe_unused]] int thread) {
#if defined(__linux__)
  const int here = sched_getcpu();
  seats_[static_cast<size_t>(thread)].store(here, std::memory_order_relaxed);
  const auto last = seats_.begin() + thread;
  if (std::find(seats_.begin(), last, here) == last) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t free = allowed;
  std::for_each(seats_.begin(), last, [&free](int seat) {
    if (seat >= 0 && seat < CPU_SETSIZE) CPU_CLR(static_cast<size_t>(seat), &free);
  });
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
  seats_[static_cast<size_t>(thread)].store(sched_getcpu(), std::memory_order_relaxed);
#endif
}

void Team::arrive_and_wait(int thread) {
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed);
  arrived_.fetch_add(1);
  if (arrival_sleepers_.load() != 0) wake_all(arrived_);
  if (wait_for_change(epoch_, epoch, epoch_sleepers_, spins_)) sit_apart(thread);
}

void Team::barrier(int thread, void (*decide)(void*), void* state) {
  if (thread != 0) {
    arrive_and_wait(thread);
    return;
  }
  if (threads_ > 1) wait_for_all();
  if (decide != nullptr) decide(state);
  if (threads_ > 1) release_all();
}

// Between two jobs the workers stand at a barrier, so "all have arrived" is also "the job is done".
void Team::work(int thread) {
  for (;;) {
    arrive_and_wait(thread);
    if (job_ == nullptr) return;
    job_(state_, thread);
  }
}

void Team::run(Job job, void* state) {
  if (threads_ == 1) {
    job(state, 0);
    return;
  }
  wait_for_all();
  sit_apart(0);
  job_ = job;
  state_ = state;
  release_all();
  job(state, 0);
  // Wait for the end of the job, and leave the count as a worker at the barrier expects to find it.
  const auto others = static_cast<uint32_t>(threads_ - 1);
  for (uint32_t seen; (seen = arrived_.load(std::memory_order_acquire)) != others;)
    wait_for_change(arrived_, seen, arrival_sleepers_, spins_);
}

namespace {

struct Store {
  std::mutex mutex;
  std::vector<std::unique_ptr<Team>> idle;
};

// Never destroyed: at exit of the process a static destructor would join threads that may no longer exist.
Store* store = new Store;

[[maybe_unused]] void start_afresh_in_child() { store = new Store; }

void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, start_afresh_in_child);
  (void)registered;
#endif
}

}  // namespace

TeamLease::TeamLease(int threads) {
  watch_forks();
  const std::lock_guard lock(store->mutex);
  auto& idle = store->idle;
  const auto fits = [threads](const auto& team) { return team->threads() == threads; };
  const auto found = std::find_if(idle.rbegin(), idle.rend(), fits);
  if (found == idle.rend()) {
    team_ = new Team(threads);
    return;
  }
  team_ = found->release();
  idle.erase(std::next(found).base());
}

TeamLease::~TeamLease() {
  const std::lock_guard lock(store->mutex);
  store->idle.emplace_back(team_);
}

}  // namespace hs
