#include "bench/report_file.h"

#include <optional>
#include <string>
#include <utility>

#include "bench/pending_file.h"
#include "bench/report_picture.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

namespace fs = std::filesystem;

void prepare(const char* flag, const fs::path& path, const char* extension) {
  if (path.empty()) return;
  ENGINE_CHECK(path.extension() == extension, ErrorKind::kUsage, flag, ": expected FILE", extension,
               ", found ", path.string());
  prepare_path(flag, path);
  const PendingFile trial(path, "");
}

std::string subtitle_of(const RunFacts& facts) {
  std::string subtitle;
  for (const std::string& part : {facts.driver, "commit " + facts.commit, facts.date}) {
    if (!part.empty()) subtitle += (subtitle.empty() ? "" : ", ") + part;
  }
  return subtitle;
}

}  // namespace

ReportFile::ReportFile(fs::path page, fs::path picture)
    : page_(std::move(page)), picture_(std::move(picture)) {
  prepare("--report", page_, ".html");
  prepare("--picture", picture_, ".svg");
}

void ReportFile::write(const RunFacts& facts, std::span<const Section> sections,
                       std::span<const Peer> peers) const {
  std::optional<PendingFile> page, picture;
  if (!page_.empty()) page.emplace(page_, html_report(facts, sections, peers));
  if (!picture_.empty()) {
    picture.emplace(picture_, report_picture(report_title(facts), subtitle_of(facts), facts.roof,
                                             sections, peers));
  }
  if (page) page->commit();
  if (picture) picture->commit();
}

}  // namespace engine::bench
