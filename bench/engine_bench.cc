// engine_bench: the engine's speed on this machine, against targets and ceilings.
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/compare.h"
#include "bench/options.h"
#include "bench/peers.h"
#include "bench/registry.h"
#include "bench/report.h"
#include "bench/report_file.h"
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

// The card's name, or the processor's.
std::string hardware(const RunContext& context) {
  if (context.device.kind != DeviceKind::kCpu) return context.arch;
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return context.arch;
}

// The command line as a shell would read it.
std::string command_line(int argc, const char* const* argv) {
  std::string command = "engine_bench";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
    command += ' ';
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) {
      command += word;
      continue;
    }
    command += '\'';
    for (const char c : word) command += c == '\'' ? "'\\''" : std::string(1, c);
    command += '\'';
  }
  return command;
}

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

// What makes this build's figures worth little; empty: nothing.
std::string build_warning() {
  const std::string build = build_info().build_type;
  if (build == "Release" && !build_info().sanitized) return "";
  return "this is a " + build + " build" + (build_info().sanitized ? " with sanitizers" : "") +
         ": its times say nothing about the engine's speed";
}

// What would make the figures worth little is said before they are made.
void warn(const DeviceChoice& choice, const BenchFlags& flags) {
  if (const std::string warning = build_warning(); !warning.empty()) {
    print_note("WARNING: " + warning);
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

// What a run has found so far, and where it goes.
class Findings {
 public:
  // Opens what `flags` name, before anything is measured.
  Findings(const BenchFlags& flags, std::string command) : format_(flags.format) {
    if (!flags.output.empty()) file_.emplace(flags.output);
    if (!flags.report.empty() || !flags.picture.empty()) {
      report_.emplace(flags.report, flags.picture);
    }
    facts_.command = std::move(command);
    facts_.date = utc_now();
    facts_.warning = build_warning();
  }

  void describe(const RunContext& context, const std::string& backend, const std::string& driver) {
    facts_.hardware = hardware(context);
    facts_.backend = backend;
    facts_.driver = driver;
    facts_.build = concat(build_info().version, ", ", build_info().build_type);
    facts_.commit = context.commit;
  }
  // What a report draws as the roof; measured once.
  void measure_roof(Ceilings& ceilings) {
    if (report_) facts_.roof = {ceilings.read_gb_per_s(), ceilings.product_tflops()};
  }
  void add(const Experiment& experiment, std::vector<Result> results) {
    auto section = std::find_if(sections_.begin(), sections_.end(),
                                [&](const Section& s) { return s.experiment == experiment.name; });
    if (section == sections_.end()) {
      section = sections_.insert(section, {experiment.name, experiment.summary, {}});
    }
    section->results.insert(section->results.end(), results.begin(), results.end());
    std::move(results.begin(), results.end(), std::back_inserter(results_));
  }
  // Writes it all; `ended_early` says why there isn't more.
  void keep(const std::string& ended_early = "") {
    if (results_.empty()) return;
    if (file_) file_->append(results_);
    std::exception_ptr failure;  // a page that fails doesn't take the table with it
    try {
      if (report_) write_report(ended_early);
    } catch (...) {
      failure = std::current_exception();
    }
    write_stdout(render(results_, format_));
    if (failure) std::rethrow_exception(failure);
  }

 private:
  void write_report(const std::string& ended_early) {
    RunFacts facts = facts_;
    if (!ended_early.empty()) facts.warning += (facts.warning.empty() ? "" : "; ") + ended_early;
    report_->write(facts, sections_, built_in_peers());
  }

  OutputFormat format_;
  std::optional<ResultFile> file_;
  std::optional<ReportFile> report_;
  RunFacts facts_;
  std::vector<Section> sections_;
  std::vector<Result> results_;
};

int run_experiments(const BenchFlags& flags, const std::string& command,
                    const SignalWatcher& signals) {
  const std::vector<Order> orders = plan_run(flags);
  Findings findings(flags, command);
  const DeviceChoice choice = choose_device(flags.device);
  warn(choice, flags);
  RunContext context;
  context.device = choice.device;
  context.backend = {.threads = flags.threads, .interrupt = signals.interrupt()};
  context.arch = architecture(choice.device);
  context.commit = build_info().commit;
  Ceilings ceilings(context.device, context.backend);
  context.ceilings = &ceilings;
  {
    const auto backend = make_backend(choice.device, context.backend);
    const std::string driver = backend->measure()->driver();
    print_note(version_text() + "\ndevice: " + to_string(choice.device) + " (" +
               backend->description() + (driver.empty() ? "" : ", " + driver) + "), " +
               choice.reason);
    findings.describe(context, backend->description(), driver);
  }
  try {
    for (const Order& order : orders) {
      findings.add(*order.experiment, order.experiment->run(context, order.flags));
      findings.measure_roof(ceilings);
    }
  } catch (const Interrupted&) {
    findings.keep("the run was interrupted: these are the experiments that were finished");
    return signals.exit_code();
  } catch (const std::exception& error) {  // one that failed takes nothing from those before it
    findings.keep(concat("the run ended early: ", error.what()));
    throw;
  } catch (...) {
    findings.keep("the run ended early");
    throw;
  }
  findings.keep();
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
  return run_experiments(*flags, command_line(argc, argv), signals);
}

}  // namespace
}  // namespace engine::bench

int main(int argc, char** argv) { return engine::run_main(argc, argv, engine::bench::run); }
