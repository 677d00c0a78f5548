#include "tests/model/goldens.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "kernels/core/check.h"
#include "tests/support/npy_reader.h"
#include "tests/support/paths.h"

namespace engine::test {
namespace {

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::vector<Golden> load_goldens() {
  const std::filesystem::path root = source_dir() / "tests/model/data";
  const nlohmann::json manifest = nlohmann::json::parse(read_bytes(root / "manifest.json"));
  std::vector<Golden> goldens;
  for (const nlohmann::json& entry : manifest.at("cases")) {
    Golden golden;
    golden.name = entry.at("name");
    golden.directory = root / golden.name;
    golden.vocab = entry.at("vocab");
    golden.ids = nlohmann::json::parse(read_bytes(golden.directory / "input_ids.json"))
                     .get<std::vector<std::int32_t>>();
    golden.rows = entry.at("rows").get<std::vector<std::int64_t>>();
    golden.logits = read_npy(golden.directory / "logits.npy").values;
    if (entry.contains("greedy_ids")) {
      golden.greedy = entry.at("greedy_ids").get<std::vector<std::int32_t>>();
    }
    if (entry.contains("router_margins")) {
      golden.router_margins = entry.at("router_margins").get<std::vector<double>>();
      if (golden.router_margins.size() != golden.rows.size()) {
        throw std::runtime_error(golden.name + ": router margins are missing");
      }
    }
    const auto expected = golden.rows.size() * static_cast<std::size_t>(golden.vocab);
    if (golden.logits.size() != expected) {
      throw std::runtime_error(
          concat(golden.name, ": ", golden.logits.size(), " logits, expected ", expected));
    }
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

std::vector<float> Golden::stored_rows(std::span<const float> all) const {
  if (all.size() != ids.size() * static_cast<std::size_t>(vocab)) {
    throw std::runtime_error(concat(name, ": ", all.size(), " logits of a whole prompt"));
  }
  std::vector<float> wanted;
  for (const std::int64_t row : rows) {
    const auto begin = all.begin() + row * vocab;
    wanted.insert(wanted.end(), begin, begin + vocab);
  }
  return wanted;
}

double nmse(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) throw std::runtime_error("nmse of spans of unequal size");
  double error = 0, power = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    error += difference * difference;
    power += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return error / power;
}

}  // namespace engine::test
