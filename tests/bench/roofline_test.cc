// The roofline picture: where points and roof stand, and that it is a drawing.
#include "bench/roofline.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "bench/report_picture.h"
#include "tests/bench/example_run.h"
#include "tests/bench/markup.h"

namespace engine::bench {
namespace {

using test::attribute;
using test::markup_problem;
using test::start_tags;

constexpr Roof kRoof = {.read_gb_per_s = 4000, .product_tflops = 800};

// The tags of `text` of one class.
std::vector<std::string> of_class(const std::string& text, const std::string& name) {
  std::vector<std::string> found;
  for (const std::string& tag : start_tags(text)) {
    if ((attribute(tag, "class") + " ").starts_with(name + " ")) found.push_back(tag);
  }
  return found;
}

TEST_CASE("a point is flops over bytes across, and flops over seconds upwards") {
  std::vector<Section> sections = {
      {"empty", "", {example_row("e", "copy(GB/s)", 1)}}, example_gemv(), example_gemv()};
  sections[2].experiment = "gather_gemv";
  const std::vector<RooflinePoint> points = roofline_points(sections);
  REQUIRE(points.size() == 2);  // what nobody counted has no point
  CHECK(points[0].flops_per_byte == doctest::Approx(2));
  CHECK(points[0].tflops == doctest::Approx(2));  // 4 GFLOP in 2 ms
  CHECK(points[0].colour == 0);
  CHECK(points[1].colour == 1);
  CHECK(roofline_experiments(sections) == std::vector<std::string>{"gemv", "gather_gemv"});
  CHECK(points[0].title ==
        "gemv, memory_bandwidth_1024(GB/s), bfloat16: 2.00 TFLOP/s at 2.00 FLOP a byte");
}

TEST_CASE("the roof is the lesser of the reads' rate and the product") {
  CHECK(roof_at(kRoof, 1) == doctest::Approx(4));
  CHECK(roof_at(kRoof, 200) == doctest::Approx(800));
  CHECK(roof_at(kRoof, 1e6) == 800);
}

TEST_CASE("the axes are logarithmic and hold every point and the ridge") {
  const std::vector<RooflinePoint> points = {
      {.title = "low", .flops_per_byte = 0.5, .tflops = 0.01},
      {.title = "high", .flops_per_byte = 5000, .tflops = 900}};  // above the roof, from a cache
  const RooflineFrame frame = roofline_frame(kRoof, points);
  for (const RooflinePoint& point : points) {
    CHECK(frame.x(point.flops_per_byte) > frame.left);
    CHECK(frame.x(point.flops_per_byte) < frame.width - frame.right);
    CHECK(frame.y(point.tflops) > frame.top);
    CHECK(frame.y(point.tflops) < frame.height - frame.bottom);
  }
  CHECK(frame.x(frame.least_x) == doctest::Approx(frame.left));
  CHECK(frame.x(frame.most_x) == doctest::Approx(frame.width - frame.right));
  CHECK(frame.x(10) - frame.x(1) == doctest::Approx(frame.x(1000) - frame.x(100)));
  CHECK(frame.y(1) - frame.y(10) == doctest::Approx(frame.y(10) - frame.y(100)));
  CHECK(frame.y(10) < frame.y(1));  // upwards

  const std::string drawing = roofline_drawing(kRoof, points);
  CHECK(markup_problem("<svg>" + drawing + "</svg>") == "");
  const std::vector<std::string> circles = of_class(drawing, "point");
  REQUIRE(circles.size() == 2);
  CHECK(std::stod(attribute(circles[1], "cx")) == doctest::Approx(frame.x(5000)).epsilon(1e-4));
  CHECK(std::stod(attribute(circles[1], "cy")) == doctest::Approx(frame.y(900)).epsilon(1e-4));
  const std::vector<std::string> roof = of_class(drawing, "roof");
  REQUIRE(roof.size() == 1);
  // Its ridge stands over 200 operations a byte.
  const std::string line = attribute(roof[0], "points");
  CHECK(std::stod(line.substr(line.find(' ') + 1)) == doctest::Approx(frame.x(200)).epsilon(1e-4));
}

TEST_CASE("without a point or a roof there is no drawing") {
  CHECK(roofline_drawing(kRoof, {}).empty());
  const std::vector<RooflinePoint> points = roofline_points(std::vector<Section>{example_gemv()});
  CHECK(roofline_drawing({}, points).empty());
  CHECK_FALSE(roofline_drawing(kRoof, points).empty());
}

TEST_CASE("the picture is an SVG that stands alone, with bars as long as their shares") {
  std::vector<Section> sections = {example_gemv()};
  sections[0].experiment = "<g> & \"gemv\"";
  const std::string picture =
      report_picture("a <card>", "commit & date", kRoof, sections, example_peers());
  CHECK(markup_problem(picture) == "");
  CHECK(picture.find("a &lt;card&gt;") != std::string::npos);
  CHECK(picture.find("&lt;g&gt; &amp; &quot;gemv&quot;, bfloat16") != std::string::npos);
  for (const char* outside : {"href", "url(", "@import", "<script", "<image"}) {
    CHECK_MESSAGE(picture.find(outside) == std::string::npos, outside);
  }
  // The first of each is the legend's.
  const std::vector<std::string> actual = of_class(picture, "actual");
  const std::vector<std::string> track = of_class(picture, "track");
  REQUIRE(actual.size() == 2);
  REQUIRE(track.size() == 2);
  CHECK(std::stod(attribute(actual[1], "width")) / std::stod(attribute(track[1], "width")) ==
        doctest::Approx(0.75).epsilon(1e-3));
  CHECK(of_class(picture, "target").size() == 2);
  CHECK(of_class(picture, "peer").size() == 2);
  CHECK(of_class(picture, "point").size() == 1);
  CHECK(markup_problem(report_picture("", "", {}, {}, {})) == "");
}

}  // namespace
}  // namespace engine::bench
