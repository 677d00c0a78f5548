// engine_bench: the engine's speed on this machine, against targets and ceilings.
#include <sys/utsname.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/compare.h"
#include "bench/options.h"
#include "bench/registry.h"
#include "bench/report.h"
#include "bench/result_file.h"
#include "bench/run_context.h"
#include "engine/cli/device_choice.h"
#include "engine/cli/output.h"
#include "engine/cli/prompt.h"
#include "engine/cli/run_main.h"
#include "engine/version.h"
#include "kernels/backend.h"
#include "kernels/core/check.h"
#include "kernels/measure.h"

namespace engine::bench {
namespace {

std::string host_architecture() {
  utsname name{};
  return ::uname(&name) == 0 ? name.machine : "unknown";
}

std::string architecture(Device device) {
  if (device.kind == DeviceKind::kCpu) return host_architecture();
  std::string problem;
  for (const DeviceInfo& info : list_devices(&problem)) {
    if (info.device == device) return info.name;
  }
  return "unknown";
}

// What would make the figures worth little is said before they are made.
void warn(const DeviceChoice& choice, const BenchFlags& flags) {
  const std::string build = build_info().build_type;
  if (build != "Release" || build_info().sanitized) {
    print_note("WARNING: this is a " + build + " build" +
               (build_info().sanitized ? " with sanitizers" : "") +
               ": its times say nothing about the engine's speed");
  }
  if (flags.device == "auto" && choice.device.kind == DeviceKind::kCpu) {
    print_note("WARNING: NO GPU: " + choice.reason + "; every figure is the CPU's");
  }
}

std::string print(const Table& table, OutputFormat format) {
  if (format == OutputFormat::kMarkdown) return render_markdown(table);
  if (format == OutputFormat::kCsv) return render_csv(table);
  ENGINE_CHECK(format == OutputFormat::kTable, ErrorKind::kUsage,
               "-o json: expected for results, not for this table");
  return render_text(table);
}

int run_compare(const BenchFlags& flags) {
  ENGINE_CHECK(flags.words.size() == 3, ErrorKind::kUsage,
               "compare: expected two CSV files, found ", flags.words.size() - 1);
  const auto read = [](const std::string& file) { return parse_csv(read_text_file(file), file); };
  const Table a = read(flags.words[1]), b = read(flags.words[2]);
  write_stdout(print(compare(a, b), flags.format));
  return 0;
}

int run_experiments(const BenchFlags& flags, const SignalWatcher& signals) {
  const std::vector<Order> orders = plan_run(flags);
  std::optional<ResultFile> file;
  if (!flags.output.empty()) file.emplace(flags.output);
  const DeviceChoice choice = choose_device(flags.device);
  warn(choice, flags);
  RunContext context;
  context.device = choice.device;
  context.backend = {.threads = flags.threads, .interrupt = signals.interrupt()};
  context.arch = architecture(choice.device);
  context.commit = build_info().commit;
  {
    const auto backend = make_backend(choice.device, context.backend);
    const std::string driver = backend->measure()->driver();
    print_note(version_text() + "\ndevice: " + to_string(choice.device) + " (" +
               backend->description() + (driver.empty() ? "" : ", " + driver) + "), " +
               choice.reason);
  }
  Ceilings ceilings(context.device, context.backend);
  context.ceilings = &ceilings;
  std::vector<Result> results;
  const auto keep = [&] {
    if (results.empty()) return;
    if (file) file->append(results);
    write_stdout(render(results, flags.format));
  };
  try {
    for (const Order& order : orders) {
      for (Result& result : order.experiment->run(context, order.flags)) {
        results.push_back(std::move(result));
      }
    }
  } catch (const Interrupted&) {
    keep();
    return signals.exit_code();
  } catch (...) {  // one that failed takes nothing from those before it
    keep();
    throw;
  }
  keep();
  return 0;
}

int run(int argc, const char* const* argv, const SignalWatcher& signals) {
  const std::optional<BenchFlags> flags = parse_bench_flags(argc, argv);
  if (!flags) return 0;
  if (flags->version) {
    write_stdout(version_text() + "\nCPU ISA: " + cpu_isa_name() + "\n");
    return 0;
  }
  if (flags->list) {
    write_stdout(print(experiment_list(), flags->format));
    return 0;
  }
  if (flags->words.front() == "compare") return run_compare(*flags);
  return run_experiments(*flags, signals);
}

}  // namespace
}  // namespace engine::bench

int main(int argc, char** argv) { return engine::run_main(argc, argv, engine::bench::run); }
