// A program: a flat list of kernel calls over planned memory, and the executor that walks it.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "arena.hpp"
#include "kernel.hpp"
#include "registry.hpp"

namespace hs {

// Where operands live. An external array i has space kExternal + i.
enum Space : int64_t { kNone = -1, kArena = 0, kConstants = 1, kState = 2, kExternal = 3 };

struct Operand {
  int64_t space;
  int64_t offset;  // bytes, even
};

struct InstructionSpec {
  std::string kernel;
  std::vector<Operand> operands;
  std::vector<int64_t> ints;
  std::vector<float> floats;
};

struct Memory {
  uint8_t* data = nullptr;
  size_t bytes = 0;
};

enum class RunState : int { idle, running, paused };

class Program {
 public:
  // Throws std::invalid_argument, naming the instruction, where it does not fit the kernel's schema or its memory.
  Program(const std::vector<InstructionSpec>& instructions, size_t arena_bytes, Memory constants, Memory state,
          int64_t external_count, int threads, const std::string& isa);

  // Asked about every 10 ms by the calling thread, also while paused; false ends the run as abort() does.
  using Poll = bool (*)(void*);

  // Runs from instruction `start` to before `end`; returns the instruction to go on with: `end`, or less after abort()
  // or, with wait_when_paused false, after pause(). One run at a time (throws std::logic_error).
  int64_t run(const std::vector<Memory>& externals, int64_t start, int64_t end, bool wait_when_paused, Poll poll,
              void* poll_state);

  // The instruction to go on with after the last run, also where `poll` ended it with an exception.
  int64_t reached() const { return reached_; }
  int64_t size() const { return static_cast<int64_t>(steps_.size()); }
  int threads() const { return threads_; }
  int64_t external_count() const { return external_count_; }
  Arena& arena() { return arena_; }
  const std::string& kernel_name(int64_t step) const { return names_[static_cast<size_t>(step)]; }

  // Any thread, and signal handlers too. Takes effect between two instructions.
  void pause() { pause_.store(true); }
  void resume() { pause_.store(false); }
  void abort() { abort_.store(true); }
  bool pause_requested() const { return pause_.load(); }
  RunState state() const { return run_state_.load(); }
  // All of it, or the pages that lie whole in [begin, end). Throws std::logic_error while a run is under way, paused or
  // not.
  void release_arena(size_t begin = 0, size_t end = SIZE_MAX);

  void profile(bool on) { profile_.store(on); }
  // Seconds that each instruction took in the last profiled run.
  const std::vector<double>& timings() const { return timings_; }

 private:
  struct Step {
    void (*run)(const Context&);
    const char* name;
    int64_t first_operand, first_int, first_float;
  };
  struct External {
    int64_t operand, array, offset;
  };
  struct Run;

  void* resolve(const Operand& operand, int64_t position, const std::string& where);
  static void work(void* run, int thread);
  static void decide(void* run);

  int64_t external_count_;
  int threads_;
  Arena arena_;
  Memory constants_, state_;
  std::vector<Step> steps_;
  std::vector<std::string> names_;
  std::vector<void*> operands_;
  std::vector<External> external_operands_;
  std::vector<int64_t> ints_;
  std::vector<float> floats_;
  std::vector<double> timings_;
  int64_t reached_ = 0;

  std::atomic<bool> pause_{false}, abort_{false}, profile_{false};
  std::atomic<RunState> run_state_{RunState::idle};
};

}  // namespace hs
