#include "bench/html_report.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "bench/html.h"
#include "bench/report.h"
#include "bench/report_style.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr std::size_t kOpenBars = 16;  // a longer list of bars is folded

std::string element(const char* tag, const char* classes, const std::string& content) {
  return concat("<", tag, " class=\"", classes, "\">", content, "</", tag, ">");
}

// "target 990 (2.78 ×)".
std::string against(const BarGroup& group, const std::string& name, double actual, double other) {
  return concat(name, " ", figure(other), " (", figure(times_better(group, actual, other)), " ×)");
}

std::string mark(const BarGroup& group, const Bar& bar, const char* classes, double value,
                 const std::string& what) {
  return concat("<i class=\"mark ", classes,
                "\" style=\"left:", fixed(length_percent(group, bar, value)), "%\" title=\"",
                escape(what), "\"></i>");
}

std::string track(const BarGroup& group, const Bar& bar) {
  std::string out = "<div class=\"track\">";
  const auto length = [&](const char* classes, double value) {
    if (value <= 0) return;
    out += concat("<i class=\"", classes,
                  "\" style=\"width:", fixed(length_percent(group, bar, value)), "%\"></i>");
  };
  length("ceiling", bar.ceiling);
  length("actual", bar.actual);
  if (bar.target > 0) out += mark(group, bar, "target", bar.target, "target " + figure(bar.target));
  for (const Peer& peer : bar.peers) {
    out += mark(group, bar, "peer", peer.value, peer.program + " " + figure(peer.value));
  }
  return out + "</div>";
}

std::string bar_row(const BarGroup& group, const Bar& bar) {
  std::string notes;
  const auto note = [&](const char* classes, const std::string& text) {
    notes += element("span", classes, escape(text));
  };
  if (group.of_ceiling) {
    if (!bar.unit.empty()) note("more", with_unit(bar.actual, bar.unit));
  } else if (bar.ceiling > 0) {
    note("of-ceiling",
         concat(figure(100 * bar.actual / bar.ceiling), " % of the ceiling ", figure(bar.ceiling)));
  }
  if (bar.target > 0) note("of-target", against(group, "target", bar.actual, bar.target));
  for (const Peer& peer : bar.peers) {
    note("of-peer", against(group, peer.program, bar.actual, peer.value));
  }
  const std::string label = bar.label.empty() ? group.title : bar.label;
  const std::string value = group.of_ceiling ? figure(100 * bar.actual / bar.ceiling) + " %"
                                             : with_unit(bar.actual, bar.unit);
  return "<div class=\"bar\">" + element("div", "label", escape(label)) + track(group, bar) +
         element("div", "value", escape(value)) +
         (notes.empty() ? "" : element("div", "notes", notes)) + "</div>\n";
}

std::string bar_rows(const BarGroup& group, bool headlines_alone) {
  std::string out;
  for (const Bar& bar : group.bars) {
    if (!headlines_alone || bar.headline) out += bar_row(group, bar);
  }
  return out;
}

std::string chart(const BarGroup& group) {
  std::string title = group.title;
  const std::string& unit = group.bars.front().unit;
  if (!unit.empty()) title += concat(title.empty() ? "" : ", ", unit);
  if (group.lower_is_better) title += " (less is better)";
  std::string out = "<h3>" + escape(title) + "</h3>\n";
  if (group.bars.size() <= kOpenBars) return out + bar_rows(group, false);
  return out + bar_rows(group, true) +
         concat("<details><summary>All ", group.bars.size(), " bars</summary>\n") +
         bar_rows(group, false) + "</details>\n";
}

std::string table(std::span<const Result> results) {
  const Table cells = short_table(results);
  const auto line = [](const char* tag, const std::vector<std::string>& row) {
    std::string out = "<tr>";
    for (const std::string& cell : row) out += concat("<", tag, ">", escape(cell), "</", tag, ">");
    return out + "</tr>\n";
  };
  std::string out = concat("<details><summary>Table of ", cells.rows.size(),
                           " results</summary>\n<div class=\"scroll\"><table>\n<thead>");
  out += line("th", cells.header) + "</thead>\n<tbody>\n";
  for (const auto& row : cells.rows) out += line("td", row);
  return out + "</tbody>\n</table></div></details>\n";
}

std::string section_part(const Section& section, std::span<const Peer> peers) {
  std::string out = "<section>\n<h2>" + escape(section.experiment) + "</h2>\n";
  if (!section.summary.empty()) out += "<p class=\"summary\">" + escape(section.summary) + "</p>\n";
  for (const BarGroup& group : bar_groups(section, peers)) out += chart(group);
  return out + table(section.results) + "</section>\n";
}

// "1965 to 1980 MHz" of what the results' telemetry says; empty where it says nothing.
std::string range_of(std::span<const Section> sections, std::optional<double> Telemetry::*field,
                     const char* unit) {
  std::optional<double> least, most;
  for (const Section& section : sections) {
    for (const Result& result : section.results) {
      const std::optional<double> value = result.telemetry.*field;
      if (!value) continue;
      least = std::min(least.value_or(*value), *value);
      most = std::max(most.value_or(*value), *value);
    }
  }
  if (!least) return "";
  const std::string low = fixed(*least, 0), high = fixed(*most, 0);
  return (low == high ? low : low + " to " + high) + unit;
}

std::string facts_part(const RunFacts& facts, std::span<const Section> sections) {
  std::string out = "<dl>\n";
  const auto fact = [&](const char* name, const std::string& text) {
    if (text.empty()) return;
    out += concat("<div><dt>", name, "</dt><dd>", escape(text), "</dd></div>\n");
  };
  fact("Hardware", facts.hardware);
  fact("Backend", facts.backend);
  fact("Driver", facts.driver);
  fact("Clock", range_of(sections, &Telemetry::clock_mhz, " MHz"));
  fact("Power", range_of(sections, &Telemetry::power_w, " W"));
  fact("Temperature", range_of(sections, &Telemetry::temperature_c, " °C"));
  if (facts.roof.read_gb_per_s > 0) {
    fact("Read ceiling", with_unit(facts.roof.read_gb_per_s, "GB/s"));
  }
  if (facts.roof.product_tflops > 0) {
    fact("bf16 product ceiling", with_unit(facts.roof.product_tflops, "TFLOP/s"));
  }
  fact("Build", facts.build);
  fact("Commit", facts.commit);
  fact("Date", facts.date);
  out += "</dl>\n";
  if (!facts.command.empty()) {
    out += "<pre class=\"command\"><code>" + escape(facts.command) + "</code></pre>\n";
  }
  return out;
}

// What the marks mean, of those that the page has.
std::string legend(std::span<const Section> sections, std::span<const Peer> peers) {
  bool ceiling = false, target = false, peer = false;
  for (const Section& section : sections) {
    for (const Result& result : section.results) {
      ceiling = ceiling || result.ceiling > 0;
      target = target || result.target > 0;
      peer = peer || !peers_of(result, peers).empty();
    }
  }
  std::string out = "<p class=\"legend\">";
  const auto entry = [&](const char* classes, const char* what) {
    out += concat("<span><i class=\"swatch ", classes, "\"></i>", what, "</span>");
  };
  entry("actual", "engine");
  if (ceiling) entry("ceiling", "ceiling, measured in this run");
  if (target) entry("target", "target (A100-40GB)");
  if (peer) entry("peer", "another program on the same kind of card");
  return out + "</p>\n";
}

std::string headline_part(std::span<const Section> sections, std::span<const Peer> peers) {
  const BarGroup group = headlines(sections, peers);
  if (group.bars.empty()) return "";
  return "<section>\n<h2>At a glance</h2>\n<p class=\"summary\">Each figure as a " +
         escape(group.title) + ".</p>\n" + bar_rows(group, false) + "</section>\n";
}

std::string roofline_part(const RunFacts& facts, std::span<const Section> sections) {
  const std::vector<RooflinePoint> points = roofline_points(sections);
  const std::string drawing = roofline_drawing(facts.roof, points);
  if (drawing.empty()) return "";
  const RooflineFrame frame = roofline_frame(facts.roof, points);
  std::string out = concat(
      "<section>\n<h2>Roofline</h2>\n<figure><svg xmlns=\"http://www.w3.org/2000/svg\" "
      "class=\"picture\" viewBox=\"0 0 ",
      fixed(frame.width, 0), " ", fixed(frame.height, 0),
      "\" role=\"img\" aria-label=\"Roofline of the run\">\n", drawing, "</svg>\n");
  out += "<p class=\"legend picture\">";
  const std::vector<std::string> names = roofline_experiments(sections);
  for (std::size_t i = 0; i < names.size(); ++i) {
    out += concat("<span><svg class=\"dot\" viewBox=\"0 0 10 10\"><circle class=\"c", i % kColours,
                  "\" cx=\"5\" cy=\"5\" r=\"5\"/></svg>", escape(names[i]), "</span>");
  }
  return out +
         "</p>\n<figcaption>A point is one call. Across: its operations divided by the bytes that "
         "it must move at least (operands read once, results written once; a decode step reads its "
         "weights and its cache). Upwards: its operations divided by the time that its result "
         "reports. Operations are multiplications and additions of products and attention, for "
         "layer_norm 7 an element. The roof is the lesser of the bf16 product and of bytes at the "
         "rate of plain reads, both measured in this run; operands that stay in a cache can pass "
         "it. Reads and copies compute nothing and have no point.</figcaption></figure>\n"
         "</section>\n";
}

// The sources of the peers that the page shows, each once.
std::string sources_part(std::span<const Section> sections, std::span<const Peer> peers) {
  std::vector<std::string> lines;
  for (const Section& section : sections) {
    for (const Result& result : section.results) {
      for (const Peer& peer : peers_of(result, peers)) {
        const std::string line = peer.program + ": " + peer.source;
        if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
      }
    }
  }
  if (lines.empty()) return "";
  std::sort(lines.begin(), lines.end());
  std::string out = concat("<details><summary>Sources of ", lines.size(),
                           " figures of other programs</summary>\n<ul>\n");
  for (const std::string& line : lines) out += "<li>" + escape(line) + "</li>\n";
  return out + "</ul></details>\n";
}

std::string footer(std::span<const Section> sections, std::span<const Peer> peers) {
  return "<footer>\n<p>Lengths within a list of bars are on one scale. “2 ×” is two times as good: "
         "twice the rate, or half the time. Targets, where there are any, are those that PyTorch’s "
         "gpt-fast benchmark gives for an A100-40GB. Ceilings were measured in this run: a stream "
         "of plain reads, or a large bf16 product, whichever limits the figure.</p>\n" +
         sources_part(sections, peers) + "</footer>\n";
}

}  // namespace

std::string report_title(const RunFacts& facts) {
  return facts.hardware.empty() ? "engine_bench" : "engine_bench on " + facts.hardware;
}

std::string html_report(const RunFacts& facts, std::span<const Section> sections,
                        std::span<const Peer> peers) {
  const std::string title = report_title(facts);
  std::string page = concat(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>",
      escape(title), "</title>\n<style>\n", picture_style(), page_style(),
      "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>", escape(title), "</h1>\n");
  if (!facts.warning.empty()) page += "<p class=\"warning\">" + escape(facts.warning) + "</p>\n";
  page += facts_part(facts, sections) + legend(sections, peers) + "</header>\n";
  page += headline_part(sections, peers) + roofline_part(facts, sections);
  for (const Section& section : sections) page += section_part(section, peers);
  return page + footer(sections, peers) + "</main>\n</body>\n</html>\n";
}

}  // namespace engine::bench
