// The roofline picture of a run (Williams, Waterman and Patterson, CACM 52(4), 2009): operations a
// byte across, operations a second upwards, both on logarithmic scales. Pure functions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench/bars.h"

namespace engine::bench {

// What the machine reads and multiplies at most, measured in the run: the roof is
// min(product, operations a byte · read).
struct Roof {
  double read_gb_per_s = 0;
  double product_tflops = 0;
};

// A result's place: flops ÷ bytes and flops ÷ seconds of its Work.
struct RooflinePoint {
  std::string title;  // shown where a pointer rests on it
  std::size_t colour = 0;
  double flops_per_byte = 0;
  double tflops = 0;
  bool headline = false;
};

// The points of the results whose work was counted; `colour` counts the sections that have any.
std::vector<RooflinePoint> roofline_points(std::span<const Section> sections);
// The experiments of those sections, by colour.
std::vector<std::string> roofline_experiments(std::span<const Section> sections);

// Where the roof stands above `flops_per_byte`, in TFLOP/s.
double roof_at(const Roof& roof, double flops_per_byte);

// Plain numbers of the drawing, in units of its view box.
struct RooflineFrame {
  double width = 640, height = 420;
  double left = 62, right = 14, top = 14, bottom = 52;
  double least_x, most_x, least_y, most_y;  // the ranges of the axes

  double x(double flops_per_byte) const;
  double y(double tflops) const;
};
RooflineFrame roofline_frame(const Roof& roof, std::span<const RooflinePoint> points);

// The drawing inside an <svg> of the frame's size: axes, roof, points. Its classes are those of
// picture_style(). Empty without a point or without a roof.
std::string roofline_drawing(const Roof& roof, std::span<const RooflinePoint> points);

// The colours of pictures, light and dark, and their text, as CSS.
std::string picture_style();

// The colours that picture_style() knows; further sections share them.
inline constexpr std::size_t kColours = 10;

}  // namespace engine::bench
