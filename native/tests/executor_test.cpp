// Tests of the executor that need no Python, so that they run under sanitizers: the barrier, pausing and aborting from
// another thread, many programs at once, validation.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "program.hpp"
#include "threads.hpp"

namespace {

int failures = 0;

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                                    \
    }                                                                                \
  } while (false)

using hs::InstructionSpec;
using hs::Program;
constexpr auto kMoment = std::chrono::milliseconds(20);

// `steps` times x += 1 over `count` values at offset 0 of the arena; 1 lies behind them.
std::vector<InstructionSpec> counting(int64_t steps, int64_t count) {
  const int64_t one = (count * 4 + 63) / 64 * 64;
  std::vector<InstructionSpec> list{{"fill", {{hs::kArena, 0}}, {count}, {0.0f}},
                                    {"fill", {{hs::kArena, one}}, {1}, {1.0f}}};
  for (int64_t i = 0; i < steps; ++i)
    list.push_back({"binary",
                    {{hs::kArena, 0}, {hs::kArena, one}, {hs::kArena, 0}},
                    {0, 1, 1, 1, 1, count, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
                    {0.0f, 0.0f}});
  return list;
}

Program make(int64_t steps, int64_t count, int threads) {
  return {counting(steps, count), static_cast<size_t>(count * 4 + 128), {}, {}, 0, threads, hs::usable_isas().front()};
}

bool all_equal(Program& program, int64_t count, float value) {
  const auto* x = reinterpret_cast<const float*>(program.arena().data());
  for (int64_t i = 0; i < count; ++i)
    if (x[i] != value) return false;
  return true;
}

int64_t run(Program& program, int64_t start = 0, bool wait = true) {
  return program.run({}, start, program.size(), wait, nullptr, nullptr);
}

void barrier_keeps_threads_in_step() {
  for (int threads : {1, 2, 3, 5, 8}) {
    hs::Team team(threads);
    struct State {
      hs::Team& team;
      std::atomic<int> inside{0};
      int decisions = 0;
      bool in_step = true;
    } state{team};
    for (int repeat = 0; repeat < 20; ++repeat)
      team.run(
          [](void* p, int thread) {
            auto& s = *static_cast<State*>(p);
            for (int i = 1; i <= 50; ++i) {
              s.inside.fetch_add(1);
              s.team.barrier(
                  thread,
                  [](void* q) {
                    auto& t = *static_cast<State*>(q);
                    if (t.inside.load() != t.team.threads()) t.in_step = false;
                    t.inside.store(0);
                    ++t.decisions;
                  },
                  p);
            }
          },
          &state);
    CHECK(state.in_step);
    CHECK(state.decisions == 20 * 50);
  }
}

void programs_compute() {
  for (int threads : {1, 2, 4}) {
    Program program = make(100, 1000, threads);
    for (int i = 0; i < 3; ++i) CHECK(run(program) == program.size());
    CHECK(all_equal(program, 1000, 100.0f));
  }
}

void pause_stops_between_instructions_and_goes_on() {
  Program program = make(20000, 4096, 2);
  std::thread runner([&] { run(program); });
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    program.pause();
    while (program.state() == hs::RunState::running) std::this_thread::yield();
    if (program.state() != hs::RunState::paused) break;
    const float before = *reinterpret_cast<float*>(program.arena().data());
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    CHECK(*reinterpret_cast<float*>(program.arena().data()) == before);
    CHECK(all_equal(program, 4096, before));  // no instruction half done
    program.resume();
    while (program.state() == hs::RunState::paused) std::this_thread::yield();
  }
  program.resume();
  runner.join();
  CHECK(all_equal(program, 4096, 20000.0f));
}

void pause_before_a_run_holds_it() {
  Program program = make(10, 64, 2);
  program.pause();
  std::atomic<bool> done{false};
  std::thread runner([&] {
    run(program);
    done.store(true);
  });
  std::this_thread::sleep_for(kMoment);
  CHECK(!done.load());
  CHECK(program.state() == hs::RunState::paused);
  program.resume();
  runner.join();
  CHECK(all_equal(program, 64, 10.0f));
}

// Polls come from within the run, so what they do happens while it runs, however late other threads get the processor.
bool pause_from_poll(void* program) {
  static_cast<Program*>(program)->pause();
  return true;
}

bool wait_in_poll(void* flag) {
  while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::yield();
  return true;
}

void paused_run_can_return_and_be_continued() {
  Program program = make(50000, 4096, 2);
  int64_t next = 0;
  int returns = 0;
  while (next < program.size()) {
    next = program.run({}, next, program.size(), false, pause_from_poll, &program);
    program.resume();
    ++returns;
    CHECK(program.state() == hs::RunState::idle);
  }
  CHECK(returns > 1);
  CHECK(all_equal(program, 4096, 50000.0f));
}

void abort_ends_a_run_that_runs_or_is_paused() {
  for (const bool paused : {false, true}) {
    Program program = make(200000, 4096, 2);
    std::atomic<bool> aborted{false};
    int64_t next = -1;
    std::thread runner([&] {
      next = paused ? program.run({}, 0, program.size(), true, pause_from_poll, &program)
                    : program.run({}, 0, program.size(), true, wait_in_poll, &aborted);
    });
    const hs::RunState awaited = paused ? hs::RunState::paused : hs::RunState::running;
    while (program.state() != awaited) std::this_thread::yield();
    program.abort();
    aborted.store(true);
    runner.join();
    program.resume();
    CHECK(next < program.size());
    program.release_arena();
    CHECK(all_equal(program, 4096, 0.0f));
    CHECK(run(program, program.size() - 1) == program.size());  // and the program is usable
  }
}

void a_refusing_poll_ends_the_run() {
  Program program = make(1000000, 4096, 2);
  CHECK(program.run({}, 0, program.size(), true, [](void*) { return false; }, nullptr) < program.size());
}

void one_run_at_a_time_and_no_release_meanwhile() {
  Program program = make(10, 64, 1);
  program.pause();
  std::thread runner([&] { run(program); });
  while (program.state() != hs::RunState::paused) std::this_thread::yield();
  int refused = 0;
  try {
    run(program);
  } catch (const std::logic_error&) {
    ++refused;
  }
  try {
    program.release_arena();
  } catch (const std::logic_error&) {
    ++refused;
  }
  CHECK(refused == 2);
  program.resume();
  runner.join();
}

void many_programs_share_teams() {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&wrong, t] {
      for (int i = 0; i < 5; ++i) {
        Program program = make(50, 500, 1 + t % 3);
        run(program);
        if (!all_equal(program, 500, 50.0f)) ++wrong;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong.load() == 0);
}

void bad_programs_are_refused_by_name() {
  const auto refused = [](InstructionSpec spec) {
    try {
      const Program program({std::move(spec)}, 1024, {}, {}, 1, 1, hs::usable_isas().front());
    } catch (const std::invalid_argument& error) {
      return std::string(error.what()).find("instruction 0") == 0;
    }
    return false;
  };
  CHECK(refused({"nothing", {}, {}, {}}));
  CHECK(refused({"fill", {}, {1}, {0}}));
  CHECK(refused({"fill", {{hs::kArena, 0}}, {}, {0}}));
  CHECK(refused({"fill", {{hs::kArena, 0}}, {1}, {}}));
  CHECK(refused({"fill", {{hs::kArena, 3}}, {1}, {0}}));
  CHECK(refused({"fill", {{hs::kArena, 1 << 20}}, {1}, {0}}));
  CHECK(refused({"fill", {{hs::kArena, -64}}, {1}, {0}}));
  CHECK(refused({"fill", {{hs::kExternal + 1, 0}}, {1}, {0}}));
  CHECK(!refused({"fill", {{hs::kExternal, 0}}, {1}, {0}}));
}

}  // namespace

int main() {
#define RUN(test) std::printf("%s\n", #test), std::fflush(stdout), test()
  RUN(barrier_keeps_threads_in_step);
  RUN(programs_compute);
  RUN(pause_stops_between_instructions_and_goes_on);
  RUN(pause_before_a_run_holds_it);
  RUN(paused_run_can_return_and_be_continued);
  RUN(abort_ends_a_run_that_runs_or_is_paused);
  RUN(a_refusing_poll_ends_the_run);
  RUN(one_run_at_a_time_and_no_release_meanwhile);
  RUN(many_programs_share_teams);
  RUN(bad_programs_are_refused_by_name);
  std::printf("%s\n", failures == 0 ? "all passed" : "FAILED");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
