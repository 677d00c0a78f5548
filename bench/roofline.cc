#include "bench/roofline.h"

#include <algorithm>
#include <cmath>

#include "bench/html.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

bool is_counted(const Work& work) { return work.flops > 0 && work.bytes > 0 && work.seconds > 0; }

bool has_points(const Section& section) {
  return std::any_of(section.results.begin(), section.results.end(),
                     [](const Result& result) { return is_counted(result.work); });
}

std::string title_of(const Section& section, const Result& result) {
  std::string title = section.experiment + ", " + result.metric + ", " + result.dtype;
  for (const auto& [name, value] : result.config) {
    if (const auto* text = std::get_if<std::string>(&value)) title += ", " + *text;
    if (const auto* count = std::get_if<std::int64_t>(&value)) {
      title += concat(", ", name, " ", *count);
    }
  }
  return concat(title, ": ", figure(result.work.flops / result.work.seconds * 1e-12),
                " TFLOP/s at ", figure(result.work.flops / result.work.bytes), " FLOP a byte");
}

std::string text(double x, double y, const char* classes, const std::string& content,
                 const std::string& more = "") {
  return concat("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" class=\"", classes, "\"",
                more, ">", escape(content), "</text>\n");
}

std::string line(double x1, double y1, double x2, double y2, const char* classes) {
  return concat("<line x1=\"", fixed(x1, 1), "\" y1=\"", fixed(y1, 1), "\" x2=\"", fixed(x2, 1),
                "\" y2=\"", fixed(y2, 1), "\" class=\"", classes, "\"/>\n");
}

// "0.01", "1", "1000".
std::string decade(int exponent) { return fixed(std::pow(10.0, exponent), std::max(0, -exponent)); }

// The powers of ten from `least` to `most`.
std::vector<int> decades(double least, double most) {
  std::vector<int> all;
  for (int e = static_cast<int>(std::ceil(std::log10(least) - 1e-9));
       e <= static_cast<int>(std::floor(std::log10(most) + 1e-9)); ++e) {
    all.push_back(e);
  }
  return all;
}

std::string axes(const RooflineFrame& frame) {
  const double bottom = frame.height - frame.bottom, right = frame.width - frame.right;
  std::string out;
  for (const int e : decades(frame.least_x, frame.most_x)) {
    const double x = frame.x(std::pow(10.0, e));
    out += line(x, frame.top, x, bottom, "grid");
    out += text(x, bottom + 18, "tick middle", decade(e));
  }
  for (const int e : decades(frame.least_y, frame.most_y)) {
    const double y = frame.y(std::pow(10.0, e));
    out += line(frame.left, y, right, y, "grid");
    out += text(frame.left - 7, y + 4, "tick end", decade(e));
  }
  out += text(0.5 * (frame.left + right), frame.height - 10, "axis middle",
              "operations per byte moved (FLOP/byte)");
  const double middle = 0.5 * (frame.top + bottom);
  out += text(14, middle, "axis middle", "TFLOP/s",
              concat(" transform=\"rotate(-90 14 ", fixed(middle, 1), ")\""));
  return out;
}

std::string roof_lines(const Roof& roof, const RooflineFrame& frame) {
  const double ridge = 1e3 * roof.product_tflops / roof.read_gb_per_s;
  const double start = frame.least_x, top = frame.y(roof.product_tflops);
  std::string out =
      concat("<polyline class=\"roof\" points=\"", fixed(frame.x(start)), ",",
             fixed(frame.y(roof_at(roof, start))), " ", fixed(frame.x(ridge)), ",", fixed(top), " ",
             fixed(frame.width - frame.right), ",", fixed(top), "\"/>\n");
  out += text(frame.width - frame.right - 4, top - 8, "rooftext end",
              "bf16 product " + figure(roof.product_tflops) + " TFLOP/s");
  // Along the slope, where few kernels are: most do one or two operations a byte, or hundreds.
  const double at = start * std::pow(ridge / start, 0.62);
  const double x = frame.x(at), y = frame.y(roof_at(roof, at));
  const double rise = frame.y(roof_at(roof, start)) - top, run = frame.x(ridge) - frame.x(start);
  const double degrees = -std::atan2(rise, run) * 180 / M_PI;
  out += text(
      x, y - 9, "rooftext middle", "read " + figure(roof.read_gb_per_s) + " GB/s",
      concat(" transform=\"rotate(", fixed(degrees, 1), " ", fixed(x, 1), " ", fixed(y, 1), ")\""));
  return out;
}

std::string circle(const RooflineFrame& frame, const RooflinePoint& point) {
  return concat("<circle class=\"point c", point.colour % kColours, "\" cx=\"",
                fixed(frame.x(point.flops_per_byte)), "\" cy=\"", fixed(frame.y(point.tflops)),
                "\" r=\"", point.headline ? "6" : "4", "\"><title>", escape(point.title),
                "</title></circle>\n");
}

}  // namespace

std::vector<RooflinePoint> roofline_points(std::span<const Section> sections) {
  std::vector<RooflinePoint> points;
  std::size_t colour = 0;
  for (const Section& section : sections) {
    if (!has_points(section)) continue;
    for (const Result& result : section.results) {
      const Work& work = result.work;
      if (!is_counted(work)) continue;
      points.push_back({.title = title_of(section, result),
                        .colour = colour,
                        .flops_per_byte = work.flops / work.bytes,
                        .tflops = work.flops / work.seconds * 1e-12,
                        .headline = result.headline});
    }
    ++colour;
  }
  return points;
}

std::vector<std::string> roofline_experiments(std::span<const Section> sections) {
  std::vector<std::string> names;
  for (const Section& section : sections) {
    if (has_points(section)) names.push_back(section.experiment);
  }
  return names;
}

double roof_at(const Roof& roof, double flops_per_byte) {
  return std::min(roof.product_tflops, 1e-3 * flops_per_byte * roof.read_gb_per_s);
}

double RooflineFrame::x(double flops_per_byte) const {
  return left +
         (width - left - right) * std::log(flops_per_byte / least_x) / std::log(most_x / least_x);
}

double RooflineFrame::y(double tflops) const {
  return height - bottom -
         (height - top - bottom) * std::log(tflops / least_y) / std::log(most_y / least_y);
}

RooflineFrame roofline_frame(const Roof& roof, std::span<const RooflinePoint> points) {
  ENGINE_REQUIRE(roof.read_gb_per_s > 0 && roof.product_tflops > 0, "a roofline without a roof");
  const double ridge = 1e3 * roof.product_tflops / roof.read_gb_per_s;
  double least_x = ridge, most_x = ridge, least_y = roof.product_tflops;
  double most_y = roof.product_tflops;
  for (const RooflinePoint& point : points) {
    least_x = std::min(least_x, point.flops_per_byte);
    most_x = std::max(most_x, point.flops_per_byte);
    least_y = std::min(least_y, point.tflops);
    most_y = std::max(most_y, point.tflops);
  }
  RooflineFrame frame{};
  frame.least_x = least_x / 2;
  frame.most_x = most_x * 2;
  frame.least_y = std::min(least_y, roof_at(roof, frame.least_x)) / 1.5;
  frame.most_y = most_y * 2;
  return frame;
}

std::string roofline_drawing(const Roof& roof, std::span<const RooflinePoint> points) {
  if (points.empty() || roof.read_gb_per_s <= 0 || roof.product_tflops <= 0) return "";
  const RooflineFrame frame = roofline_frame(roof, points);
  std::string out = axes(frame) + roof_lines(roof, frame);
  // Headlines last, so that they lie on top.
  for (const bool headline : {false, true}) {
    for (const RooflinePoint& point : points) {
      if (point.headline == headline) out += circle(frame, point);
    }
  }
  return out;
}

std::string picture_style() {
  constexpr const char* kLight[kColours] = {"#2563eb", "#ea580c", "#0d9488", "#a21caf", "#ca8a04",
                                            "#475569", "#4d7c0f", "#6d28d9", "#be123c", "#0369a1"};
  constexpr const char* kDark[kColours] = {"#7aa7ff", "#ff9a62", "#4fd6c6", "#e58cf2", "#f2c94b",
                                           "#cbd5e1", "#a8d65c", "#b79bff", "#ff8098", "#5cc4f5"};
  const auto colours = [](const auto& list) {
    std::string css;
    for (std::size_t i = 0; i < kColours; ++i) {
      css += concat(".picture .c", i, "{fill:", list[i], "}");
    }
    return css;
  };
  return concat(
      ".picture{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
      ".picture text{font-size:13px;fill:#57606a}.picture .strong{fill:#1f2328;font-weight:600}"
      ".picture .big{font-size:19px}"
      ".picture .middle{text-anchor:middle}.picture .end{text-anchor:end}\n"
      ".picture .paper{fill:#fff}.picture .grid{stroke:#d8dee4;stroke-width:1}"
      ".picture .roof{fill:none;stroke:#1f2328;stroke-width:2;stroke-linejoin:round}"
      ".picture .rooftext{fill:#1f2328;font-weight:600}\n"
      ".picture .point{fill-opacity:.78;stroke:#fff;stroke-width:.8}"
      ".picture .track{fill:#d8dee4}.picture .actual{fill:#2563eb}"
      ".picture .target{fill:#d9480f}.picture .peer{fill:#0d9488}\n",
      colours(kLight),
      "\n@media (prefers-color-scheme:dark){\n"
      ".picture text{fill:#9ba5b0}.picture .strong,.picture .rooftext{fill:#e6edf3}"
      ".picture .paper{fill:#0f1419}.picture .grid{stroke:#2b333c}.picture .roof{stroke:#e6edf3}"
      ".picture .point{stroke:#0f1419}.picture .track{fill:#313a44}"
      ".picture .actual{fill:#6ea0ff}.picture .target{fill:#ff9a62}"
      ".picture .peer{fill:#4fd6c6}\n",
      colours(kDark), "}\n");
}

}  // namespace engine::bench
