// bench/run.sh from outside, with a cmake, compiler and Python that only pretend: what it builds and where, where its
// files go, what it prints last.
#include <algorithm>
#include <filesystem>
#include <sstream>

#include "../catch.hpp"
#include "program.hpp"

#ifndef CSQ_MACHINES  // without MPI
#define CSQ_MACHINES "/nonexistent"
#define CSQ_NO_MACHINES
#endif

namespace {

namespace fs = std::filesystem;

bool holds(const std::string& text, const std::string& piece) { return text.find(piece) != std::string::npos; }

class Checkout {
 public:
  // A checkout of its own of what run.sh needs.
  Checkout() {
    const fs::path project = CSQ_PROJECT;
    for (const char* folder :
         {"bench", "tests", "bin", "prefix/include/eigen3/Eigen", "prefix/include/CLI", "prefix/include/nlohmann"})
      fs::create_directories(folder_.file(folder));
    fs::copy_file(project / "bench/run.sh", script());
    fs::copy_file(project / "tests/packages.sh", folder_.file("tests/packages.sh"));
    for (const char* header : {"eigen3/Eigen/Core", "CLI/CLI.hpp", "nlohmann/json.hpp", "mpi.h"})
      folder_.file(std::string("prefix/include/") + header, "");
    // Writes down that it was called, and "builds" the programs where it is told to configure.
    command("cmake", "echo \"$@\" >>'" + folder_.file("built") +
                         "'\nif [ \"$3\" = -B ]; then mkdir -p \"$4/bench\" && ln -sf " CSQ_CROSSOVER
                         " \"$4/bench/crossover\" && ln -sf " CSQ_DECODE " \"$4/bench/decode\" && ln -sf " CSQ_MACHINES
                         " \"$4/bench/machines\"; fi");
    // One rank alone, which is what a program is that nobody has launched.
    command("mpirun", "echo \"$1 $2\" >>'" + folder_.file("launched") + "'\nshift 2\nexec \"$@\"");
    command("python3", "case $1 in -c) ;; *) echo \"$2\" >\"$3\" ;; esac");
    command("make", "");
    command("c++", "");
  }

  const TemporaryFolder& folder() const { return folder_; }
  std::string file(const std::string& name) const { return folder_.file(name); }
  std::string script() const { return folder_.file("bench/run.sh"); }
  bool built() const { return fs::exists(folder_.file("built")); }

  Environment environment(const Environment& more = {}) const {
    Environment all{{"PATH", folder_.file("bin") + ":" + std::getenv("PATH")},
                    {"CMAKE_PREFIX_PATH", folder_.file("prefix")},
                    {"CSQ_BUILD_DIR", ""}};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // A measurement of a few seconds.
  Finished measure(const Words& more = {}, const Environment& variables = {}) const {
    Words words{"sh",      script(), "--threads", "1",  "--heads",  "1", "--causal",  "--dims", "16",
                "--max-n", "128",    "--sizes",   "64", "--budget", "1", "--repeats", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run(folder_, words, environment(variables));
  }

 private:
  void command(const std::string& name, const std::string& body) const {
    const std::string path = folder_.file("bin/" + name, "#!/bin/sh\n" + body + "\n");
    fs::permissions(path, fs::perms::owner_all);
  }

  TemporaryFolder folder_;
};

std::string last_line(const std::string& text) {
  std::string last;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) last = line;
  return last;
}

// The last line names a file that is there.
void check_last_line(const std::string& output, const std::string& path) {
  INFO(output);
  CHECK(last_line(output) == "Numbers: " + path);
  CHECK(fs::is_regular_file(path));
}

}  // namespace

TEST_CASE("--help builds nothing and names every option") {
  const Checkout checkout;
  const auto check_options = [&](const char* program, const Words& before, int least) {
    const std::string own = run(checkout.folder(), {program, "--help"}).output;
    for (const Words& words : {Words{"--help"}, Words{"-h"}, Words{"--install", "--quick", "--help"}}) {
      Words all{"sh", checkout.script()};
      all.insert(all.end(), before.begin(), before.end());
      all.insert(all.end(), words.begin(), words.end());
      const Finished finished = run(checkout.folder(), all, checkout.environment());
      CHECK(finished.exit_code == 0);
      CHECK(finished.error.empty());
      int options = 0;
      std::istringstream lines(own);
      for (std::string line; std::getline(lines, line);) {
        if (line.rfind("  --", 0) != 0) continue;
        const std::string option = line.substr(2, line.find(' ', 2) - 2);
        INFO(option);
        CHECK(holds(finished.output, option + " "));
        ++options;
      }
      CHECK(options >= least);
      CHECK_FALSE(checkout.built());
    }
  };
  check_options(CSQ_CROSSOVER, {}, 16);
  check_options(CSQ_DECODE, {"--decode"}, 10);
#ifndef CSQ_NO_MACHINES
  check_options(CSQ_MACHINES, {"--machines"}, 10);
#endif
}

TEST_CASE("the plot goes where the CSV goes") {
  const Checkout checkout;
  SECTION("by itself, in the build folder") {
    const Finished finished = checkout.measure();
    CHECK(finished.exit_code == 0);
    CHECK(contents(checkout.file("build/crossover/crossover.png")) ==
          checkout.file("build/crossover/crossover.csv") + "\n");
    check_last_line(finished.output, checkout.file("build/crossover/crossover.csv"));
  }
  SECTION("where --csv says") {
    const Finished finished = checkout.measure({"--csv", checkout.file("my numbers.csv")});
    CHECK(finished.exit_code == 0);
    CHECK(contents(checkout.file("my numbers.png")) == checkout.file("my numbers.csv") + "\n");
    check_last_line(finished.output, checkout.file("my numbers.csv"));
  }
  SECTION("without .csv") {
    const Finished finished = checkout.measure({"--csv=" + checkout.file("numbers")});
    CHECK(contents(checkout.file("numbers.png")) == checkout.file("numbers") + "\n");
    check_last_line(finished.output, checkout.file("numbers"));
  }
}

TEST_CASE("--decode builds and runs decode, and has files and a plot of its own") {
  const Checkout checkout;
  Words words{"sh", checkout.script(), "--decode", "--dims",        "16",  "--kv-heads", "8", "--heads",
              "8",  "--repeats",       "1",        "--max-context", "1024"};
  const Finished finished = run(checkout.folder(), words, checkout.environment());
  INFO(finished.error);
  CHECK(finished.exit_code == 0);
  CHECK(holds(contents(checkout.file("built")), "--target bench_decode"));
  CHECK(holds(finished.output, "csq decode: what does one token cost"));
  CHECK(contents(checkout.file("build/decode/decode.png")) == checkout.file("build/decode/decode.csv") + "\n");
  check_last_line(finished.output, checkout.file("build/decode/decode.csv"));

  words.insert(words.end(), {"--csv", checkout.file("mine.csv")});
  const Finished elsewhere = run(checkout.folder(), words, checkout.environment());
  CHECK(contents(checkout.file("mine.png")) == checkout.file("mine.csv") + "\n");
  check_last_line(elsewhere.output, checkout.file("mine.csv"));
}

#ifndef CSQ_NO_MACHINES
TEST_CASE("--machines launches a process for each of the most ranks that are asked for") {
  const Checkout checkout;
  Words words{"sh", checkout.script(), "--machines", "--dims", "8", "--tokens", "64", "--repeats", "1"};
  const Finished finished = run(checkout.folder(), words, checkout.environment());
  INFO(finished.error);
  CHECK(finished.exit_code == 0);
  CHECK(holds(contents(checkout.file("built")), "--target machines"));
  CHECK(contents(checkout.file("launched")) == "-n 8\n");
  CHECK(holds(finished.output, "csq machines: what does causal attention over ranks cost"));
  CHECK(contents(checkout.file("build/machines/machines.png")) == checkout.file("build/machines/machines.csv") + "\n");
  check_last_line(finished.output, checkout.file("build/machines/machines.csv"));

  words.insert(words.end(), {"--ranks", "1,16,4"});
  const Finished refused = run(checkout.folder(), words, checkout.environment());
  CHECK(refused.exit_code == 2);
  CHECK(contents(checkout.file("launched")) == "-n 8\n-n 16\n");
}
#endif

TEST_CASE("a wrong argument leaves the old numbers and their plot") {
  const Checkout checkout;
  const std::string csv = checkout.folder().file("old.csv", "old\n"), plot = checkout.folder().file("old.png", "drawn");
  const Finished finished = checkout.measure({"--csv", csv, "--budget", "-3"});
  CHECK(finished.exit_code == 2);
  CHECK(std::count(finished.error.begin(), finished.error.end(), '\n') == 1);
  CHECK_FALSE(holds(finished.output, "Numbers"));
  CHECK(contents(csv) == "old\n");
  CHECK(contents(plot) == "drawn");
}

TEST_CASE("a checkout that cannot be written is built elsewhere, which is said") {
  const Checkout checkout;
  // A file in the folder's place: even the superuser cannot make a folder there.
  checkout.folder().file("build", "");
  fs::create_directory(checkout.file("tmp"));
  SECTION("in the cache, the same folder again and again") {
    std::string before;
    for (int time = 0; time < 2; ++time) {
      const Finished finished = checkout.measure({}, {{"XDG_CACHE_HOME", checkout.file("cache")}});
      CHECK(finished.exit_code == 0);
      CHECK(holds(finished.output, "cannot be written: what is built goes to " + checkout.file("cache/csq/")));
      const std::string line = last_line(finished.output);
      CHECK(holds(line, "Numbers: " + checkout.file("cache/csq/")));
      if (time > 0) CHECK(line == before);
      before = line;
    }
  }
  SECTION("in a temporary folder, where there is no cache") {
    checkout.folder().file("cache", "");
    const Finished finished =
        checkout.measure({}, {{"XDG_CACHE_HOME", checkout.file("cache")}, {"TMPDIR", checkout.file("tmp")}});
    CHECK(finished.exit_code == 0);
    CHECK(holds(finished.output, "cannot be written: what is built goes to " + checkout.file("tmp/csq.")));
    CHECK(holds(last_line(finished.output), "Numbers: " + checkout.file("tmp/csq.")));
  }
  SECTION("in CSQ_BUILD_DIR") {
    const Finished finished = checkout.measure({}, {{"CSQ_BUILD_DIR", checkout.file("tmp/mine")}});
    check_last_line(finished.output, checkout.file("tmp/mine/crossover/crossover.csv"));
    const Finished refused = checkout.measure({}, {{"CSQ_BUILD_DIR", checkout.file("build/mine")}});
    CHECK(refused.exit_code == 2);
    CHECK(refused.error == "CSQ_BUILD_DIR: " + checkout.file("build/mine") + " cannot be written\n");
  }
}

TEST_CASE("an interrupted script prints, keeps and plots the finished rows") {
  const Checkout checkout;
  const std::string csv = checkout.file("new.csv");
  Program program(checkout.folder(),
                  {"sh", checkout.script(), "--threads", "1", "--dims", "16,64", "--budget", "60", "--csv", csv},
                  checkout.environment());
  REQUIRE(program.wait_until([&] { return holds(program.error_so_far(), "3/"); }));
  program.signal(SIGINT);
  const Finished finished = program.finish();
  INFO(finished.error);
  CHECK(finished.exit_code >= 128);
  CHECK(holds(finished.output, "interrupted"));
  CHECK(holds(finished.output, "Crossover: tokens from which"));
  CHECK(contents(checkout.file("new.png")) == csv + "\n");
  check_last_line(finished.output, csv);
}
