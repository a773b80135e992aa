// Checks a program once, when it is made, and runs it as often as wanted without checks or allocation.
#include "program.hpp"

#include <chrono>
#include <stdexcept>
#include <thread>

#include "threads.hpp"

namespace hs {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(10);
constexpr auto kPausedSleep = std::chrono::milliseconds(1);

std::string count_error(const std::string& where, const char* what, const std::vector<std::string>& names,
                        size_t given) {
  std::string text = where + " needs " + std::to_string(names.size()) + " " + what + " (";
  for (const std::string& name : names) text += (&name == names.data() ? "" : ", ") + name;
  return text + "), got " + std::to_string(given);
}

}  // namespace

Program::Program(const std::vector<InstructionSpec>& instructions, size_t arena_bytes, Memory constants, Memory state,
                 int64_t external_count, int threads, const std::string& isa)
    : external_count_(external_count), threads_(threads), arena_(arena_bytes), constants_(constants), state_(state) {
  const KernelTable* table = kernel_table(isa);
  if (table == nullptr) throw std::invalid_argument("instruction set '" + isa + "' is not usable here; see isas()");
  if (threads < 1 || threads > 256) throw std::invalid_argument("threads must be 1 to 256");
  if (external_count < 0) throw std::invalid_argument("external_count must not be negative");
  for (size_t i = 0; i < instructions.size(); ++i) {
    const InstructionSpec& spec = instructions[i];
    const std::string where = "instruction " + std::to_string(i) + " (" + spec.kernel + ")";
    const KernelInfo* info = table->find(spec.kernel);
    if (info == nullptr) throw std::invalid_argument(where + ": there is no such kernel for " + isa);
    if (spec.operands.size() != info->operands.size())
      throw std::invalid_argument(count_error(where, "operands", info->operands, spec.operands.size()));
    if (spec.ints.size() != info->ints.size())
      throw std::invalid_argument(count_error(where, "ints", info->ints, spec.ints.size()));
    if (spec.floats.size() != info->floats.size())
      throw std::invalid_argument(count_error(where, "floats", info->floats, spec.floats.size()));
    steps_.push_back({info->kernel.run, info->kernel.name, static_cast<int64_t>(operands_.size()),
                      static_cast<int64_t>(ints_.size()), static_cast<int64_t>(floats_.size())});
    names_.push_back(spec.kernel);
    for (size_t k = 0; k < spec.operands.size(); ++k) {
      const auto position = static_cast<int64_t>(operands_.size());
      operands_.push_back(resolve(spec.operands[k], position, where + ", operand '" + info->operands[k] + "'"));
    }
    ints_.insert(ints_.end(), spec.ints.begin(), spec.ints.end());
    floats_.insert(floats_.end(), spec.floats.begin(), spec.floats.end());
  }
  timings_.assign(steps_.size(), 0.0);
}

void* Program::resolve(const Operand& operand, int64_t position, const std::string& where) {
  const auto inside = [&](Memory memory, const char* space) -> void* {
    if (operand.offset < 0 || operand.offset % 2 != 0 || static_cast<size_t>(operand.offset) >= memory.bytes + 1)
      throw std::invalid_argument(where + ": offset " + std::to_string(operand.offset) +
                                  " is not an even number within the " + std::to_string(memory.bytes) + " bytes of " +
                                  space);
    return memory.data + operand.offset;
  };
  switch (operand.space) {
    case kNone:
      return nullptr;
    case kArena:
      return inside({arena_.data(), arena_.bytes()}, "the arena");
    case kConstants:
      return inside(constants_, "the constants");
    case kState:
      return inside(state_, "the state");
    default:
      break;
  }
  const int64_t array = operand.space - kExternal;
  if (array < 0 || array >= external_count_ || operand.offset < 0)
    throw std::invalid_argument(where + ": no such space " + std::to_string(operand.space));
  external_operands_.push_back({position, array, operand.offset});
  return nullptr;
}

struct Program::Run {
  Program* program;
  Team* team;
  int64_t next;  // instruction that all threads do next; `end` or `stop` ends the run
  int64_t end;
  bool stop;
  bool wait_when_paused;
  Poll poll;
  void* poll_state;
  Clock::time_point polled;
  bool profiled;
  Clock::time_point instruction_began;
};

// Runs on thread 0 while the others stand at the barrier: the only place where a run can pause or end early.
void Program::decide(void* state) {
  Run& run = *static_cast<Run*>(state);
  Program& program = *run.program;
  if (run.profiled) {
    const auto now = Clock::now();
    program.timings_[static_cast<size_t>(run.next)] =
        std::chrono::duration<double>(now - run.instruction_began).count();
    run.instruction_began = now;
  }
  ++run.next;
  if (run.next >= run.end) return;
  const auto must_end = [&] {
    if (program.abort_.load(std::memory_order_relaxed)) return true;
    if (run.poll == nullptr) return false;
    const auto now = Clock::now();
    if (now - run.polled < kPollInterval) return false;
    run.polled = now;
    return !run.poll(run.poll_state);
  };
  run.stop = must_end();
  if (run.stop || !program.pause_.load(std::memory_order_relaxed)) return;
  if (!run.wait_when_paused) {
    run.stop = true;
    return;
  }
  program.run_state_.store(RunState::paused);
  while (program.pause_.load() && !(run.stop = must_end())) std::this_thread::sleep_for(kPausedSleep);
  program.run_state_.store(RunState::running);
  run.instruction_began = Clock::now();
}

void Program::work(void* state, int thread) {
  Run& run = *static_cast<Run*>(state);
  Program& program = *run.program;
  Context context{};
  context.thread = thread;
  context.threads = program.threads_;
  context.barrier = [](void* team, int who) { static_cast<Team*>(team)->barrier(who); };
  context.team = run.team;
  while (!run.stop && run.next < run.end) {
    const Step& step = program.steps_[static_cast<size_t>(run.next)];
    context.operands = program.operands_.data() + step.first_operand;
    context.ints = program.ints_.data() + step.first_int;
    context.floats = program.floats_.data() + step.first_float;
    step.run(context);
    run.team->barrier(thread, &Program::decide, &run);
  }
}

int64_t Program::run(const std::vector<Memory>& externals, int64_t start, int64_t end, bool wait_when_paused, Poll poll,
                     void* poll_state) {
  if (static_cast<int64_t>(externals.size()) != external_count_)
    throw std::invalid_argument("the program takes " + std::to_string(external_count_) + " external arrays, got " +
                                std::to_string(externals.size()));
  if (start < 0 || end < start || end > size()) throw std::invalid_argument("start or end lies outside the program");
  for (const External& external : external_operands_) {
    const Memory& array = externals[static_cast<size_t>(external.array)];
    if (static_cast<size_t>(external.offset) > array.bytes)
      throw std::invalid_argument("external array " + std::to_string(external.array) + " is too small");
  }
  RunState expected = RunState::idle;
  if (!run_state_.compare_exchange_strong(expected, RunState::running))
    throw std::logic_error("the program is already running");
  struct Idle {
    std::atomic<RunState>& state;
    ~Idle() { state.store(RunState::idle); }
  } const idle{run_state_};
  abort_.store(false);
  for (const External& external : external_operands_)
    operands_[static_cast<size_t>(external.operand)] =
        externals[static_cast<size_t>(external.array)].data + external.offset;

  const TeamLease team(threads_);
  Run run{this, &*team, start - 1, end, false, wait_when_paused, poll, poll_state, Clock::now(), false, Clock::now()};
  decide(&run);  // a program that was paused before it started waits here
  run.profiled = profile_.load();
  run.instruction_began = Clock::now();
  if (!run.stop && run.next < end) team->run(&Program::work, &run);
  reached_ = run.next;
  return run.next;
}

void Program::release_arena(size_t begin, size_t end) {
  RunState expected = RunState::idle;
  if (!run_state_.compare_exchange_strong(expected, RunState::running))
    throw std::logic_error("a run is under way: abort it, or wait for its end, before releasing the arena");
  arena_.release(begin, end);
  run_state_.store(RunState::idle);
}

}  // namespace hs
