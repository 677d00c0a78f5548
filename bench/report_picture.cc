#include "bench/report_picture.h"

#include <algorithm>
#include <vector>

#include "bench/html.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr double kWidth = 900, kMargin = 20;
constexpr double kTrack = 375, kTrackWidth = 330, kRow = 24;  // of the bars

std::string text(double x, double y, const char* classes, const std::string& content) {
  return concat("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" class=\"", classes, "\">",
                escape(content), "</text>\n");
}

std::string box(double x, double y, double width, double height, const std::string& classes) {
  return concat("<rect x=\"", fixed(x), "\" y=\"", fixed(y), "\" width=\"", fixed(width),
                "\" height=\"", fixed(height), "\" rx=\"1.5\" class=\"", classes, "\"/>\n");
}

// A bar's name, left of its track; one that is too long is condensed.
std::string label(double y, const std::string& name) {
  constexpr double kRoom = kTrack - 10 - kMargin, kCharacter = 7.2;  // a wide font's average
  const auto characters = std::count_if(name.begin(), name.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  });
  const bool condensed = static_cast<double>(characters) * kCharacter > kRoom;
  return concat(
      "<text x=\"", fixed(kTrack - 10, 1), "\" y=\"", fixed(y, 1), "\" class=\"end\"",
      condensed ? concat(" textLength=\"", fixed(kRoom, 0), "\" lengthAdjust=\"spacingAndGlyphs\"")
                : "",
      ">", escape(name), "</text>\n");
}

std::string bars(const BarGroup& group, double top) {
  std::string out;
  double y = top;
  for (const Bar& bar : group.bars) {
    const auto width = [&](double value) {
      return kTrackWidth * length_percent(group, bar, value) / 100;
    };
    out += label(y + 13, bar.label);
    out += box(kTrack, y + 2, width(bar.ceiling), 14, "track");
    out += box(kTrack, y + 5, width(bar.actual), 8, "actual");
    if (bar.target > 0) out += box(kTrack + width(bar.target) - 1.5, y, 3, 18, "target");
    for (const Peer& peer : bar.peers) {
      out += box(kTrack + width(peer.value) - 1.5, y, 3, 18, "peer");
    }
    out += text(kTrack + kTrackWidth + 8, y + 13, "strong",
                concat(figure(100 * bar.actual / bar.ceiling), " %",
                       bar.unit.empty() ? "" : ", " + with_unit(bar.actual, bar.unit)));
    y += kRow;
  }
  return out;
}

std::string bar_legend(const BarGroup& group, double y) {
  bool targets = false, peers = false;
  for (const Bar& bar : group.bars) {
    targets = targets || bar.target > 0;
    peers = peers || !bar.peers.empty();
  }
  double x = kMargin;
  std::string out;
  const auto entry = [&](const char* name, const std::string& what, double width, double room) {
    out += box(x, y - 11, width, 12, name);
    out += text(x + width + 7, y, "", what);
    x += room;
  };
  entry("actual", "engine", 14, 95);
  entry("track", "ceiling measured in the same run", 14, 265);
  if (targets) entry("target", "target (A100-40GB)", 3, 165);
  if (peers) entry("peer", "other programs on such a card", 3, 0);
  return out;
}

std::string colour_legend(const std::vector<std::string>& names, double x, double y) {
  std::string out;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double at = y + 21 * static_cast<double>(i);
    out += concat("<circle class=\"c", i % kColours, "\" cx=\"", fixed(x), "\" cy=\"",
                  fixed(at - 4), "\" r=\"5\"/>\n");
    out += text(x + 12, at, "", names[i]);
  }
  return out;
}

}  // namespace

std::string report_picture(const std::string& title, const std::string& subtitle, const Roof& roof,
                           std::span<const Section> sections, std::span<const Peer> peers) {
  double y = 34;
  std::string body = text(kMargin, y, "strong big", title);
  body += text(kMargin, y += 22, "", subtitle);
  const BarGroup group = headlines(sections, peers);
  if (!group.bars.empty()) {
    body += bar_legend(group, y += 34);
    body += bars(group, y += 14);
    y += kRow * static_cast<double>(group.bars.size());
  }
  const std::vector<RooflinePoint> points = roofline_points(sections);
  const std::string drawing = roofline_drawing(roof, points);
  if (!drawing.empty()) {
    y += 22;
    body += concat("<g transform=\"translate(0 ", fixed(y), ")\">\n", drawing, "</g>\n");
    const RooflineFrame frame = roofline_frame(roof, points);
    body += colour_legend(roofline_experiments(sections), frame.width + 14, y + frame.top + 24);
    y += frame.height;
  }
  const std::string size = concat(fixed(kWidth, 0), " ", fixed(y + 16, 0));
  return concat("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"picture\" viewBox=\"0 0 ", size,
                "\" role=\"img\">\n<title>", escape(title), "</title>\n<style>", picture_style(),
                "</style>\n", box(0, 0, kWidth, y + 16, "paper"), body, "</svg>\n");
}

}  // namespace engine::bench
