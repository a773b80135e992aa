// A team of threads that walk through a program together. The caller is thread 0.
// Waiting is a bounded spin (two threads meet in about 0.2 microseconds), then sleep (an idle team costs nothing, and
// an overloaded machine gets on).
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace hs {

class Team {
 public:
  using Job = void (*)(void* job, int thread);

  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }
  // Runs job(state, thread) once on every thread; returns when all are through.
  void run(Job job, void* state);
  // All threads of the running job meet here; `decide` (may be null) runs on thread 0 when all have come and
  // before any goes on, so that what it writes is seen by all.
  void barrier(int thread, void (*decide)(void*) = nullptr, void* state = nullptr);

 private:
  void arrive_and_wait(int thread);
  void wait_for_all();
  void release_all();
  void work(int thread);
  void sit_apart(int thread);

  const int threads_;
  int spins_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  std::atomic<uint32_t> arrival_sleepers_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<uint32_t> epoch_sleepers_{0};
  alignas(64) Job job_ = nullptr;
  void* state_ = nullptr;
  std::vector<std::atomic<int>> seats_;  // by thread, the CPU on which it last woke
  std::vector<std::thread> workers_;
};

// A team out of the process-wide store of idle ones (a process with ten programs has no more threads than it
// uses at once). A forked child starts with an empty store, since threads do not survive a fork.
class TeamLease {
 public:
  explicit TeamLease(int threads);
  ~TeamLease();
  TeamLease(const TeamLease&) = delete;
  TeamLease& operator=(const TeamLease&) = delete;
  Team& operator*() const { return *team_; }
  Team* operator->() const { return team_; }

 private:
  Team* team_;
};

}  // namespace hs
