// crossover beside programs that take its processors away: it says so, and gives no number.
#include <sched.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "../catch.hpp"
#include "program.hpp"

namespace {

// From here on this process and those that it starts share at most two processors: few busy loops then fill them.
int keep_to_two_processors() {
  cpu_set_t usable, two;
  REQUIRE(sched_getaffinity(0, sizeof usable, &usable) == 0);
  CPU_ZERO(&two);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&two) < 2; ++cpu)
    if (CPU_ISSET(cpu, &usable)) CPU_SET(cpu, &two);
  REQUIRE(sched_setaffinity(0, sizeof two, &two) == 0);
  return CPU_COUNT(&two);
}

class BusyLoop {
 public:
  BusyLoop() : id_(fork()) {
    if (id_ != 0) return;
    volatile unsigned turns = 0;
    for (;;) turns = turns + 1;
  }
  ~BusyLoop() {
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
  }
  BusyLoop(const BusyLoop&) = delete;
  BusyLoop& operator=(const BusyLoop&) = delete;

 private:
  pid_t id_;
};

}  // namespace

TEST_CASE("beside busy loops no crossover is given") {
  const int processors = keep_to_two_processors();
  std::vector<std::unique_ptr<BusyLoop>> loops;
  for (int i = 0; i < 2 * processors; ++i) loops.push_back(std::make_unique<BusyLoop>());
  const TemporaryFolder folder;
  const std::string json = folder.file("j");
  const Finished finished = run(folder, {CSQ_CROSSOVER, "--dims", "16", "--kv-heads", "8", "--max-n", "2048", "--sizes",
                                         "256", "--budget", "4", "--csv", folder.file("csv"), "--json", json});
  INFO(finished.output << finished.error);
  REQUIRE(finished.exit_code == 0);
  CHECK(finished.output.find("TOO BUSY TO JUDGE: ") != std::string::npos);
  const nlohmann::json row = nlohmann::json::parse(contents(json))["rows"][0];
  for (const char* rival : {"crossover_softmax", "crossover_csq_direct"}) {
    CHECK(row[rival]["kind"] == "too_busy");
    CHECK(row[rival].count("tokens") == 0);
  }
}
