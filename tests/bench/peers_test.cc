// Figures of other programs: their file, and the results that they belong to.
#include "bench/peers.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "tests/support/outcome.h"

namespace engine::bench {
namespace {

using test::outcome_of;

constexpr const char* kHeader = "name,metric,dtype,arch,config,value,program,source\n";

Result gemv_row() {
  Result result;
  result.name = "gemv";
  result.metric = "memory_bandwidth_1024(GB/s)";
  result.dtype = "int8";
  result.arch = "a card";
  result.actual = 200;
  result.columns = {{"size", std::string("1024")}, {"layers", std::int64_t{32}}, {"share", 0.9}};
  return result;
}

std::vector<Peer> peers_from(const std::string& rows) {
  return parse_peers(kHeader + rows, "peers.csv");
}

TEST_CASE("a peer belongs to the results that have its every column") {
  const Result row = gemv_row();
  const auto count = [&](const std::string& line) {
    return peers_of(row, peers_from(line + ",10,p,s\n")).size();
  };
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,a card,") == 1);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,a card,size=1024 layers=32 share=0.9") == 1);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,a card,layers=16") == 0);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,a card,share=0.5") == 0);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,a card,rows=1") == 0);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),int8,another card,") == 0);
  CHECK(count("gemv,memory_bandwidth_1024(GB/s),bfloat16,a card,") == 0);
  CHECK(count("gemv,memory_bandwidth_4096(GB/s),int8,a card,") == 0);
  CHECK(count("layer_norm,memory_bandwidth_1024(GB/s),int8,a card,") == 0);
}

TEST_CASE("of each program its best figure counts, the best program first") {
  const std::string gemv = "gemv,memory_bandwidth_1024(GB/s),int8,a card,,";
  const std::vector<Peer> rates = peers_of(
      gemv_row(), peers_from(gemv + "10,one,a\n" + gemv + "30,two,b\n" + gemv + "20,one,c\n"));
  REQUIRE(rates.size() == 2);
  CHECK(rates[0].program == "two");
  CHECK(rates[0].value == 30);
  CHECK(rates[1].program == "one");
  CHECK(rates[1].value == 20);
  CHECK(rates[1].source == "c");

  Result timed = gemv_row();
  timed.metric = "nn_mha_time (µs)";
  const std::string time = "gemv,nn_mha_time (µs),int8,a card,,";
  const std::vector<Peer> times =
      peers_of(timed, peers_from(time + "30,two,b\n" + time + "20,one,c\n" + time + "10,two,a\n"));
  REQUIRE(times.size() == 2);
  CHECK(times[0].program == "two");
  CHECK(times[0].value == 10);
  CHECK(times[1].value == 20);
}

TEST_CASE("a file of peers that isn't one is refused with its line") {
  const auto parse = [](const std::string& text) {
    return outcome_of([&] { parse_peers(text, "p.csv"); });
  };
  CHECK(parse("name,value\n").says("p.csv: expected the columns name, metric"));
  const std::string header = kHeader;
  CHECK(parse(header + "a,b,c,d,,fast,p,s\n").says("p.csv:2: expected a number above 0"));
  CHECK(parse(header + "a,b,c,d,,0,p,s\n").is(ErrorKind::kUsage));
  CHECK(parse(header + "a,b,c,d,,1,p,s\na,b,c,d,size,1,p,s\n").says("p.csv:3: expected column"));
  CHECK(parse(header + "a,b,c,d,=2,1,p,s\n").is(ErrorKind::kUsage));
  CHECK(parse(header).ok());
}

TEST_CASE("the peers that are built in have a unit, a card and a source, and come once") {
  const std::vector<Peer>& peers = built_in_peers();
  CHECK(peers.size() > 100);
  for (const Peer& peer : peers) {
    CAPTURE(peer.name);
    CAPTURE(peer.metric);
    CHECK_FALSE(unit_of(peer.metric).empty());
    CHECK(peer.arch == "NVIDIA H200");
    CHECK_FALSE(peer.program.empty());
    CHECK_FALSE(peer.source.empty());
    int same = 0;
    for (const Peer& other : peers) {
      same += other.name == peer.name && other.metric == peer.metric && other.dtype == peer.dtype &&
              other.config == peer.config && other.program == peer.program &&
              other.source == peer.source;
    }
    CHECK(same == 1);
  }
}

TEST_CASE("the experiment of LLaMA 2 7B finds the programs that were run on an H200") {
  Result row;
  row.name = "Llama-2-7b-chat-hf";
  row.metric = "token_per_sec";
  row.dtype = "int8";
  row.arch = "NVIDIA H200";
  row.columns = {{"layers", std::int64_t{32}},
                 {"weights", std::string("synthetic")},
                 {"prompt_tokens", std::int64_t{6}},
                 {"new_tokens", std::int64_t{200}}};
  const std::vector<Peer> peers = peers_of(row, built_in_peers());
  REQUIRE(peers.size() == 3);
  CHECK(peers[0].value == 375);
  CHECK(peers[1].value == 217);
  CHECK(peers[2].value == 187);
  row.columns[0].second = std::int64_t{2};  // another experiment
  CHECK(peers_of(row, built_in_peers()).empty());
}

}  // namespace
}  // namespace engine::bench
