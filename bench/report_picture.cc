#include "bench/report_picture.h"

#include <vector>

#include "bench/html.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr double kWidth = 820, kMargin = 20;
constexpr double kTrack = 380, kTrackWidth = 300, kRow = 24;  // of the bars

std::string text(double x, double y, const char* classes, const std::string& content) {
  return concat("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" class=\"", classes, "\">",
                escape(content), "</text>\n");
}

std::string box(double x, double y, double width, double height, const std::string& classes) {
  return concat("<rect x=\"", fixed(x), "\" y=\"", fixed(y), "\" width=\"", fixed(width),
                "\" height=\"", fixed(height), "\" rx=\"1.5\" class=\"", classes, "\"/>\n");
}

// "67 % · 94 tok/s": the share, then the best peer by name.
std::string note_of(const Bar& bar) {
  std::string note = fixed(bar.actual, 1) + " %";
  if (!bar.peers.empty()) {
    note += " (" + bar.peers[0].program + " " + fixed(bar.peers[0].value, 1) + ")";
  }
  return note;
}

std::string bars(const BarGroup& group, double top) {
  std::string out;
  const auto width = [&](double value) { return kTrackWidth * length_percent(group, value) / 100; };
  double y = top;
  for (const Bar& bar : group.bars) {
    out += text(kTrack - 10, y + 13, "end", bar.label);
    out += box(kTrack, y + 3, width(bar.ceiling), 12, "track");
    out += box(kTrack, y + 3, width(bar.actual), 12, "actual");
    if (bar.target > 0) out += box(kTrack + width(bar.target) - 1.5, y, 3, 18, "target");
    for (const Peer& peer : bar.peers) {
      out += box(kTrack + width(peer.value) - 1.5, y, 3, 18, "peer");
    }
    out += text(kTrack + kTrackWidth + 8, y + 13, "strong", note_of(bar));
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
  const auto entry = [&](const char* name, const std::string& what, double width) {
    out += box(x, y - 10, name == std::string("target") || name == std::string("peer") ? 3 : 14, 12,
               name);
    out += text(x + 20, y, "", what);
    x += width;
  };
  entry("actual", "engine", 90);
  entry("track", "ceiling measured in the same run", 245);
  if (targets) entry("target", "target (A100-40GB)", 160);
  if (peers) entry("peer", "other programs on this card", 200);
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
