#include "engine/io/checkpoint.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "engine/io/json.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kShardSuffix = ".safetensors";
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxNameBytes = 255;

// Whether the directory has an entry of this name; a symbolic link that leads nowhere is one.
bool has_entry(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

// The real path of `directory/name`, which must lie in the directory.
fs::path resolve_inside(const fs::path& directory, const std::string& name) {
  const fs::path path = directory / name;
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  ENGINE_CHECK(!error, ErrorKind::kModel, path.string(), ": cannot open: ", error.message());
  const fs::path root = fs::canonical(directory, error);
  ENGINE_CHECK(!error, ErrorKind::kModel, directory.string(), ": ", error.message());
  const auto parts = std::mismatch(root.begin(), root.end(), real.begin(), real.end());
  ENGINE_CHECK(parts.first == root.end(), ErrorKind::kModel, path.string(),
               ": expected a file in the checkpoint's directory, found a symbolic link to ",
               real.string(), "; copy the directory with its links followed (cp -rL)");
  return path;
}

// A shard's name must be a plain file name, so that it can name nothing outside of the directory.
void check_shard_name(const std::string& index, const std::string& tensor,
                      const std::string& shard) {
  const bool plain = !shard.empty() && shard.size() <= kMaxNameBytes &&
                     shard.find('/') == std::string::npos &&
                     shard.find('\\') == std::string::npos &&
                     shard.find('\0') == std::string::npos && !shard.starts_with('.');
  ENGINE_CHECK(plain, ErrorKind::kModel, index, ": tensor ", quote(tensor),
               ": expected the name of a file in the same directory, found ", quote(shard));
  ENGINE_CHECK(shard.ends_with(kShardSuffix), ErrorKind::kModel, index, ": tensor ", quote(tensor),
               ": expected a .safetensors shard, found ", quote(shard));
}

// The weight_map of an index: tensor name to shard name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json index = parse_json_file(path, kMaxIndexBytes);
  const Json* weight_map = index.find("weight_map");
  ENGINE_CHECK(weight_map != nullptr && weight_map->is_object() && !weight_map->members().empty(),
               ErrorKind::kModel, path.string(),
               ": expected weight_map, an object of tensor names and shards, found ",
               weight_map == nullptr     ? "none"
               : weight_map->is_object() ? "an empty object"
                                         : weight_map->describe());
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : weight_map->members()) {
    ENGINE_CHECK(shard.is_string(), ErrorKind::kModel, path.string(), ": tensor ", quote(tensor),
                 ": expected the name of a shard, found ", shard.describe());
    check_shard_name(path.string(), tensor, shard.string());
    shards.emplace(tensor, shard.string());
  }
  return shards;
}

// The name of a weight file that this engine does not read, if the directory has one.
std::optional<std::string> find_other_weights(const fs::path& directory) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::string extension = entry->path().extension().string();
    if (name.starts_with("consolidated.") || extension == ".bin" || extension == ".pt" ||
        extension == ".pth" || extension == ".gguf" || extension == kShardSuffix) {
      found.push_back(name);
    }
  }
  std::sort(found.begin(), found.end());
  return found.empty() ? std::nullopt : std::optional(found.front());
}

[[noreturn]] void fail_without_weights(const fs::path& directory) {
  const std::optional<std::string> other = find_other_weights(directory);
  fail(ErrorKind::kModel, directory.string(), ": expected ", kSingleFile, " or ", kIndexFile,
       ", found ", other ? quote(*other) : "neither",
       other ? ", which is not read: get the Hugging Face safetensors version of this checkpoint"
             : "");
}

}  // namespace

bool is_optional_tensor(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
}

Checkpoint Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  ENGINE_CHECK(fs::is_directory(status), ErrorKind::kModel, directory.string(),
               ": expected a checkpoint directory, found ",
               fs::exists(status) ? "a file" : error.message());
  Checkpoint checkpoint;
  if (has_entry(directory / kSingleFile)) {
    SafetensorsFile file(resolve_inside(directory, kSingleFile));
    std::vector<SafetensorsTensor> tensors = file.take_tensors();
    checkpoint.add_tensors(file.take_file(), std::move(tensors));
  } else if (has_entry(directory / kIndexFile)) {
    checkpoint.add_shards(directory);
  } else {
    fail_without_weights(directory);
  }
  checkpoint.sort_names();
  return checkpoint;
}

void Checkpoint::add_shards(const fs::path& directory) {
  const fs::path index_path = resolve_inside(directory, kIndexFile);
  const std::map<std::string, std::string> index = read_index(index_path);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index) {
    shards.insert(shard);
  }
  std::map<std::string, std::string> owner;  // tensor to the shard it was found in
  for (const std::string& shard : shards) {
    SafetensorsFile file(resolve_inside(directory, shard));
    std::vector<SafetensorsTensor> kept;
    for (SafetensorsTensor& tensor : file.take_tensors()) {
      const auto [twin, is_new] = owner.emplace(tensor.name, shard);
      ENGINE_CHECK(is_new, ErrorKind::kModel, file.file().path(), ": tensor ", quote(tensor.name),
                   " is also in ", twin->second);
      const auto place = index.find(tensor.name);
      if (place == index.end()) {
        ENGINE_CHECK(is_optional_tensor(tensor.name), ErrorKind::kModel, file.file().path(),
                     ": tensor ", quote(tensor.name), " is not in ", kIndexFile);
        continue;
      }
      ENGINE_CHECK(place->second == shard, ErrorKind::kModel, file.file().path(), ": tensor ",
                   quote(tensor.name), ": the index expects it in ", place->second);
      kept.push_back(std::move(tensor));
    }
    add_tensors(file.take_file(), std::move(kept));
  }
  for (const auto& [tensor, shard] : index) {
    ENGINE_CHECK(owner.contains(tensor) || is_optional_tensor(tensor), ErrorKind::kModel,
                 (directory / shard).string(), ": expected tensor ", quote(tensor),
                 ", which the index names, found none");
  }
}

void Checkpoint::add_tensors(File file, std::vector<SafetensorsTensor> tensors) {
  const auto file_index = static_cast<std::uint32_t>(files_.size());
  files_.push_back(std::move(file));
  for (SafetensorsTensor& tensor : tensors) {
    total_bytes_ = checked_add(total_bytes_, tensor.bytes, "the size of all tensors");
    tensors_.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), tensor.bytes,
                        file_index, tensor.offset});
  }
}

void Checkpoint::sort_names() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::uint32_t a, std::uint32_t b) { return tensors_[a].name < tensors_[b].name; });
}

const CheckpointTensor* Checkpoint::find(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](std::uint32_t index, std::string_view key) { return tensors_[index].name < key; });
  if (found == by_name_.end() || tensors_[*found].name != name) {
    return nullptr;
  }
  return &tensors_[*found];
}

const std::string& Checkpoint::path_of(const CheckpointTensor& tensor) const {
  return files_.at(tensor.file).path();
}

void Checkpoint::read(const CheckpointTensor& tensor, std::uint64_t offset, std::size_t bytes,
                      void* destination) const {
  ENGINE_REQUIRE(offset <= tensor.bytes && bytes <= tensor.bytes - offset, "tensor ",
                 quote(tensor.name), ": a read of ", bytes, " bytes at ", offset,
                 " is outside of its ", tensor.bytes);
  files_.at(tensor.file).read(tensor.offset + offset, bytes, destination);
}

}  // namespace engine
