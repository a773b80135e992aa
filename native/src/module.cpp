// The Python face: homespun._native. Checks what Python gives, keeps the arrays alive that a program points into,
// and runs programs with the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <thread>

#include "placement.hpp"
#include "program.hpp"
#include "registry.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::c_contig, nb::device::cpu>;
using NumpyBytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

const hs::KernelInfo& kernel_info(const std::string& isa, const std::string& kernel) {
  const hs::KernelTable* table = hs::kernel_table(isa);
  if (table == nullptr) throw nb::value_error(("instruction set '" + isa + "' is not usable here; see isas()").c_str());
  const hs::KernelInfo* info = table->find(kernel);
  if (info == nullptr) throw nb::value_error(("there is no kernel '" + kernel + "' for " + isa).c_str());
  return *info;
}

// Ints by name, in the order of the schema.
std::vector<int64_t> ordered(const hs::KernelInfo& info, const std::map<std::string, int64_t>& ints) {
  std::vector<int64_t> values;
  for (const std::string& name : info.ints) {
    const auto found = ints.find(name);
    if (found == ints.end() && name.ends_with("_row")) {
      values.push_back(0);  // rows that lie one after the other
      continue;
    }
    if (found == ints.end())
      throw nb::value_error((std::string(info.kernel.name) + " needs the int '" + name + "'").c_str());
    values.push_back(found->second);
  }
  for (const auto& [name, value] : ints)
    if (std::find(info.ints.begin(), info.ints.end(), name) == info.ints.end())
      throw nb::value_error((std::string(info.kernel.name) + " has no int '" + name + "'").c_str());
  return values;
}

char type_code(nb::dlpack::dtype type) {
  if (type == nb::dtype<float>()) return 'f';
  if (type == nb::dtype<int8_t>()) return 'b';
  if (type == nb::dtype<uint8_t>()) return 'B';
  if (type == nb::dtype<int16_t>()) return 'h';
  if (type == nb::dtype<uint16_t>()) return 'H';
  if (type == nb::dtype<int32_t>()) return 'i';
  throw nb::type_error("arrays to pack must be float32, int8, uint8, int16, uint16 or int32");
}

NumpyBytes new_bytes(size_t count) {
  auto* data = static_cast<uint8_t*>(::operator new(std::max<size_t>(count, 64), std::align_val_t{64}));
  nb::capsule owner(data, [](void* p) noexcept { ::operator delete(p, std::align_val_t{64}); });
  return NumpyBytes(data, {count}, owner);
}

NumpyBytes pack(const std::string& kernel, const std::map<std::string, int64_t>& ints,
                const std::vector<AnyArray>& arrays, const std::string& isa) {
  const hs::KernelInfo& info = kernel_info(isa, kernel);
  if (info.kernel.pack == nullptr) throw nb::value_error((kernel + " has nothing to pack").c_str());
  const std::vector<int64_t> values = ordered(info, ints);
  std::vector<hs::PackInput> inputs;
  for (const AnyArray& array : arrays)
    inputs.push_back({array.data(), static_cast<int64_t>(array.size()), type_code(array.dtype())});
  const int64_t bytes = info.kernel.packed_bytes(values.data());
  NumpyBytes packed = new_bytes(static_cast<size_t>(bytes));
  const char* error;
  {
    const nb::gil_scoped_release release;
    error = info.kernel.pack(values.data(), inputs.data(), static_cast<int>(inputs.size()), packed.data());
  }
  if (error != nullptr) throw nb::value_error((kernel + ": pack " + error).c_str());
  return packed;
}

int64_t workspace_bytes(const std::string& kernel, const std::map<std::string, int64_t>& ints, int threads,
                        const std::string& isa) {
  const hs::KernelInfo& info = kernel_info(isa, kernel);
  const std::vector<int64_t> values = ordered(info, ints);
  return info.kernel.workspace_bytes == nullptr ? 0 : info.kernel.workspace_bytes(values.data(), threads);
}

nb::tuple as_tuple(const std::vector<std::string>& names) {
  nb::list list;
  for (const std::string& name : names) list.append(nb::str(name.c_str()));
  return nb::tuple(list);
}

nb::dict kernels() {
  nb::dict schema;
  if (hs::usable_isas().empty()) return schema;
  for (const hs::KernelInfo& info : hs::kernel_table(hs::usable_isas().front())->all())
    schema[info.kernel.name] = nb::make_tuple(as_tuple(info.operands), as_tuple(info.ints), as_tuple(info.floats));
  return schema;
}

nb::dict activations() {
  nb::dict codes;
#define HS_ADD(name) codes[#name] = static_cast<int64_t>(hs::Activation::name);
  HS_FOR_EACH_ACTIVATION(HS_ADD)
#undef HS_ADD
  return codes;
}

using InstructionTuple =
    std::tuple<std::string, std::vector<std::tuple<int64_t, int64_t>>, std::vector<int64_t>, std::vector<float>>;

class PythonProgram {
 public:
  PythonProgram(const std::vector<InstructionTuple>& instructions, size_t arena_bytes, Bytes constants,
                std::optional<Bytes> state, int64_t external_count, int threads, const std::string& isa,
                std::optional<std::vector<int64_t>> external_bytes)
      : constants_(std::move(constants)), state_(std::move(state)), external_bytes_(std::move(external_bytes)) {
    std::vector<hs::InstructionSpec> specs;
    for (const auto& [kernel, operands, ints, floats] : instructions) {
      hs::InstructionSpec& spec = specs.emplace_back(hs::InstructionSpec{kernel, {}, ints, floats});
      for (const auto& [space, offset] : operands) spec.operands.push_back({space, offset});
    }
    const auto memory = [](Bytes& array, const char* name) {
      if (array.size() > 0 && reinterpret_cast<uintptr_t>(array.data()) % 64 != 0)
        throw nb::value_error((std::string(name) + " must be 64-byte aligned; see aligned_bytes()").c_str());
      return hs::Memory{array.data(), array.size()};
    };
    if (external_bytes_ && static_cast<int64_t>(external_bytes_->size()) != external_count)
      throw nb::value_error("external_bytes must have one entry per external array");
    externals_.resize(static_cast<size_t>(std::max<int64_t>(external_count, 0)));
    try {
      program_.emplace(specs, arena_bytes, memory(constants_, "constants"),
                       state_ ? memory(*state_, "state") : hs::Memory{}, external_count, threads, isa);
    } catch (const std::invalid_argument& error) {
      throw nb::value_error(error.what());
    }
  }

  int64_t run(const std::vector<AnyArray>& externals, int64_t start, bool wait, int64_t end) {
    if (externals.size() != externals_.size())
      throw nb::value_error(("the program takes " + std::to_string(externals_.size()) + " external arrays, got " +
                             std::to_string(externals.size()))
                                .c_str());
    for (size_t i = 0; i < externals.size(); ++i) {
      externals_[i] = {static_cast<uint8_t*>(externals[i].data()), externals[i].nbytes()};
      if (external_bytes_ && externals_[i].bytes != static_cast<size_t>((*external_bytes_)[i]))
        throw nb::value_error(("external array " + std::to_string(i) + " must have " +
                               std::to_string((*external_bytes_)[i]) + " bytes, got " +
                               std::to_string(externals_[i].bytes))
                                  .c_str());
    }
    // Signal handlers written in Python run on the main thread only; without a look now and then, Ctrl-C or a
    // handler that calls resume() would have to wait for the end of the run.
    const hs::Program::Poll poll = [](void*) {
      const nb::gil_scoped_acquire acquire;
      return PyErr_CheckSignals() == 0;
    };
    int64_t next;
    try {
      const nb::gil_scoped_release release;
      next = program_->run(externals_, start, end < 0 ? program_->size() : end, wait, poll, nullptr);
    } catch (const std::invalid_argument& error) {
      throw nb::value_error(error.what());
    }
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    return next;
  }

  bool wait_paused(double timeout) {
    const nb::gil_scoped_release release;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout);
    while (program_->state() == hs::RunState::running) {
      if (std::chrono::steady_clock::now() >= deadline) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return true;
  }

  hs::Program& program() { return *program_; }

 private:
  Bytes constants_;
  std::optional<Bytes> state_;
  std::optional<std::vector<int64_t>> external_bytes_;
  std::vector<hs::Memory> externals_;
  std::optional<hs::Program> program_;
};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels and the program executor.";
  m.def("isas", [] { return hs::usable_isas(); }, "Instruction sets usable on this CPU, best first.");
  m.def("kernels", &kernels, "Schema: kernel name -> (operand names, int names, float names).");
  m.def("activations", &activations, "Activation name -> its code in the int 'activation'.");
  m.def("pack", &pack, "kernel"_a, "ints"_a, "arrays"_a, "isa"_a,
        "Constants (weights) of a kernel in the layout it reads. uint8 (bytes,), 64-byte aligned.");
  m.def("workspace_bytes", &workspace_bytes, "kernel"_a, "ints"_a, "threads"_a, "isa"_a,
        "Bytes that the operand 'workspace' of a kernel must have; 0 where it may be absent.");
  m.def(
      "place",
      [](const std::vector<std::tuple<int64_t, int64_t, int64_t>>& buffers, const std::vector<int64_t>& order) {
        std::vector<hs::Life> lives;
        for (const auto& [size, first, last] : buffers) lives.push_back({size, first, last});
        return hs::place(lives, order);
      },
      "buffers"_a, "order"_a,
      "Offsets of buffers (size, first call, last call), placed in an order, each into the tightest gap between those "
      "placed before that live at the same time.");
  m.def(
      "aligned_bytes",
      [](size_t count) {
        NumpyBytes bytes = new_bytes(count);
        std::memset(bytes.data(), 0, count);
        return bytes;
      },
      "count"_a, "Zeros, uint8 (count,), 64-byte aligned: memory for constants and state.");
  nb::class_<PythonProgram>(
      m, "Program",
      "Kernel calls over planned memory. An operand is (space, byte offset): space -1 none, 0 arena, 1 constants, "
      "2 state, 3 + i external array i.")
      .def(nb::init<const std::vector<InstructionTuple>&, size_t, Bytes, std::optional<Bytes>, int64_t, int,
                    const std::string&, std::optional<std::vector<int64_t>>>(),
           "instructions"_a, "arena_bytes"_a, "constants"_a, "state"_a.none(), "external_count"_a, "threads"_a, "isa"_a,
           "external_bytes"_a = nb::none())
      .def("run", &PythonProgram::run, "externals"_a, "start"_a = 0, "wait"_a = true, "end"_a = -1,
           "Runs from instruction `start` to before `end` (-1: all); returns the next one: `end`, less after abort() "
           "or, "
           "with wait=False, after pause(). Raises RuntimeError where a run is under way.")
      .def(
          "pause", [](PythonProgram& p) { p.program().pause(); },
          "Asks the run, or the next one, to stand still between two instructions.")
      .def("resume", [](PythonProgram& p) { p.program().resume(); })
      .def(
          "abort", [](PythonProgram& p) { p.program().abort(); }, "Ends the current run between two instructions.")
      .def("wait_paused", &PythonProgram::wait_paused, "timeout"_a,
           "Waits, at most `timeout` seconds, until no kernel runs; says whether that is so.")
      .def_prop_ro(
          "state",
          [](PythonProgram& p) {
            switch (p.program().state()) {
              case hs::RunState::running:
                return "running";
              case hs::RunState::paused:
                return "paused";
              default:
                return "idle";
            }
          },
          "'idle', 'running' or 'paused' (a run that stands still).")
      .def(
          "release_arena",
          [](PythonProgram& p, size_t begin, std::optional<size_t> end) {
            p.program().release_arena(begin, end.value_or(SIZE_MAX));
          },
          "begin"_a = 0, "end"_a = nb::none(),
          "Gives the arena's memory, or the whole pages between two offsets, back to the system; it returns, as zeros, "
          "when next used. Raises RuntimeError while a run is under way.")
      .def(
          "profile", [](PythonProgram& p, bool on) { p.program().profile(on); }, "on"_a)
      .def(
          "timings", [](PythonProgram& p) { return p.program().timings(); },
          "Seconds of each instruction in the last profiled run.")
      .def_prop_ro(
          "reached", [](PythonProgram& p) { return p.program().reached(); },
          "The instruction that the last run ended before, also where a signal handler ended it with an exception.")
      .def("__len__", [](PythonProgram& p) { return p.program().size(); })
      .def_prop_ro("threads", [](PythonProgram& p) { return p.program().threads(); })
      .def_prop_ro(
          "arena",
          [](nb::handle self) {
            hs::Arena& arena = nb::cast<PythonProgram&>(self).program().arena();
            return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(arena.data(), {arena.bytes()}, self);
          },
          "The arena's bytes, for a look while nothing runs.");
}
