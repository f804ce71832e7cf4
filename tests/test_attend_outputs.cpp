// What attend leaves on the disk: all outputs of a call are new, or every one is what it was, after failures of every
// kind and after kills at every moment.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "../examples/npy.hpp"
#include "attend_process.hpp"
#include "catch.hpp"
#include "temporary_folder.hpp"

#ifdef CSQ_ATTEND

namespace {

// A folder with inputs and good old outputs of an earlier call.
struct Folder : TemporaryFolder {
  Folder() {
    for (const char* name : {"q.npy", "k.npy", "v.npy", "dout.npy"})
      npy::write<float>(file(name), std::vector<npy::Index>{30, 4}, std::vector<float>(120, 0.5f));
    file("o.npy", "old output");
    file("z.npy", "old normalizer");
  }

  Words words(const std::string& out, const std::string& normalizer) const {
    return Words{"--mechanism", "csq", "--threads", "1"} + input_words(file("")) +
           Words{"--out", file(out), "--normalizer", file(normalizer)};
  }
  // Two outputs that are there and two that are not.
  Words words() const {
    return words("o.npy", "z.npy") +
           Words{"--dout", file("dout.npy"), "--dq", file("dq.npy"), "--dshift", file("dshift.npy")};
  }

  // A process that was killed may have left another one at work, which holds the lock of the folder.
  void wait_for_replacement() const {
    const int folder = ::open(file("").c_str(), O_RDONLY | O_DIRECTORY);
    ::flock(folder, LOCK_EX);
    ::close(folder);
  }
};

using Listing = std::map<std::string, std::string>;

// Runs attend with words that must be refused, and the folder must be what it was.
std::string refusal(const TemporaryFolder& folder, const Words& words, const std::string& before = "") {
  const Listing old = listing(folder);
  const Finished run = run_attend(words, before);
  INFO(run.error);
  CHECK(run.exit_code == 2);
  CHECK(run.one_line_of_error());
  CHECK((listing(folder) == old));
  return run.error;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("attend: an output that cannot be replaced leaves the others what they were") {
  const Folder folder;
  std::filesystem::create_directory(folder.file("folder.npy"));
  CHECK(contains(refusal(folder, folder.words("o.npy", "folder.npy")),
                 "--normalizer: " + folder.file("folder.npy") + ": Is a directory"));
  CHECK(contains(refusal(folder, folder.words("folder.npy", "z.npy")), "Is a directory"));
  CHECK(contains(refusal(folder, folder.words("o.npy", "none/z.npy")), "No such file or directory"));
  CHECK(contains(refusal(folder, folder.words("o.npy", "o.npy/z.npy")), "Not a directory"));
  CHECK(contains(refusal(folder, folder.words("o.npy", std::string(300, 'z'))), "File name too long"));
  std::filesystem::create_symlink("loop.npy", folder.file("loop.npy"));
  CHECK(contains(refusal(folder, folder.words("o.npy", "loop.npy")), "symbolic links"));
  // A folder in which nobody may make a file.
  CHECK_FALSE(refusal(folder, folder.words("o.npy", "../../../proc/z.npy")).empty());
}

TEST_CASE("attend: outputs that are there are replaced, and nothing else is left") {
  const Folder folder;
  Listing expected = listing(folder);
  const std::string longest(255, 'z');
  REQUIRE(run_attend(folder.words()).exit_code == 0);
  REQUIRE(run_attend(folder.words("o.npy", longest)).exit_code == 0);
  REQUIRE(run_attend(folder.words("o.npy", longest)).exit_code == 0);
  const Listing found = listing(folder);
  CHECK(found.at("o.npy") != "old output");
  CHECK(found.at("z.npy") != "old normalizer");
  for (const auto& name : {std::string("dq.npy"), std::string("dshift.npy"), longest}) expected[name] = "";
  CHECK(found.size() == expected.size());
  for (const auto& [name, content] : expected) CHECK(found.contains(name));
}

TEST_CASE("attend: an output keeps its permissions, and a link to it stays a link") {
  const Folder folder;
  std::filesystem::permissions(folder.file("z.npy"), std::filesystem::perms(0640));
  std::filesystem::create_directory(folder.file("elsewhere"));
  std::filesystem::create_symlink("elsewhere/real.npy", folder.file("link.npy"));
  REQUIRE(run_attend(folder.words("link.npy", "z.npy")).exit_code == 0);  // a link to nothing yet
  REQUIRE(run_attend(folder.words("link.npy", "z.npy")).exit_code == 0);
  CHECK(std::filesystem::is_symlink(folder.file("link.npy")));
  CHECK(npy::read<float>(folder.file("elsewhere/real.npy")).shape == std::vector<npy::Index>{30, 4});
  CHECK(std::filesystem::status(folder.file("z.npy")).permissions() == std::filesystem::perms(0640));
}

TEST_CASE("attend: one file in two spellings is refused, as two outputs and as an input") {
  const Folder folder;
  std::filesystem::create_directory(folder.file("inner"));
  std::filesystem::create_directory_symlink(".", folder.file("here"));
  std::filesystem::create_symlink("o.npy", folder.file("link.npy"));
  std::filesystem::create_symlink("nothing.npy", folder.file("dangling.npy"));
  std::filesystem::create_hard_link(folder.file("o.npy"), folder.file("hard.npy"));
  struct Pair {
    const char *one, *other;
  };
  for (const Pair& pair :
       {Pair{"o.npy", "o.npy"}, Pair{"o.npy", "./o.npy"}, Pair{"new.npy", "./new.npy"}, Pair{"o.npy", "inner/../o.npy"},
        Pair{"new.npy", "inner//..//new.npy"}, Pair{"o.npy", "here/o.npy"}, Pair{"new.npy", "here/new.npy"},
        Pair{"o.npy", "link.npy"}, Pair{"nothing.npy", "dangling.npy"}, Pair{"o.npy", "hard.npy"}}) {
    INFO(pair.one << " and " << pair.other);
    CHECK(contains(refusal(folder, folder.words(pair.one, pair.other)), "is also --out"));
    CHECK(contains(refusal(folder, folder.words(pair.other, pair.one)), "is also --out"));
  }
  CHECK(contains(refusal(folder, folder.words("here/q.npy", "z.npy")), "is also --q"));
  // Seen from the folder itself.
  const std::string there = "cd '" + folder.file("") + "';";
  const Words inputs = Words{"--mechanism", "csq"} + input_words(folder.file(""));
  CHECK(contains(refusal(folder, inputs + Words{"--out", "a.npy", "--normalizer", "./a.npy"}, there), "is also --out"));
  CHECK(contains(refusal(folder, inputs + Words{"--out", "a.npy", "--normalizer", folder.file("a.npy")}, there),
                 "is also --out"));
}

TEST_CASE("attend: a disk that is full is said to be") {
  const Folder folder;
  for (const Words& words : {folder.words("o.npy", "../../../dev/full"), folder.words("../../../dev/full", "z.npy")})
    CHECK(contains(refusal(folder, words), "/dev/full: No space left on device"));
  npy::write<float>(folder.file("q.npy"), std::vector<npy::Index>{3000, 4}, std::vector<float>(12000, 0.5f));
  const std::string error = refusal(folder, folder.words("o.npy", "z.npy"), "ulimit -f 8;");
  CHECK(contains(error, "--out: " + folder.file("o.npy") + ": File too large"));

  // A device is no file that could be lost, and may be several outputs.
  CHECK(run_attend(folder.words("../../../dev/null", "../../../dev/null")).exit_code == 0);
  CHECK(std::filesystem::is_character_file("/dev/null"));
  const Finished unheard = run_attend(folder.words("o.npy", "z.npy"), "exec >/dev/full;");
  CHECK(unheard.exit_code == 2);
  CHECK(contains(unheard.error, "standard output, after the outputs were written: No space left on device"));
}

#ifdef CSQ_FAILING_CALLS

namespace {

// What a file system may lack, and attend then does another way.
const std::vector<std::string> lacking{"nothing", "unnamed", "links", "links,unnamed"};

// A run in which the `at`-th of these calls fails, or kills; seen: whether there was one.
struct FailingRun {
  Finished run;
  bool seen = false;

  FailingRun(const Folder& folder, const std::string& without, const std::string& how, int at,
             const std::string& call = "") {
    const TemporaryFolder elsewhere;
    run = run_attend(folder.words(), "CSQ_FAIL_CALL=" + call + " CSQ_FAIL_AT=" + std::to_string(at) + " CSQ_FAIL_HOW=" +
                                         how + " CSQ_WITHOUT=" + without + " CSQ_FAIL_SEEN='" + elsewhere.file("seen") +
                                         "' ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD='" CSQ_FAILING_CALLS "'");
    folder.wait_for_replacement();
    seen = std::filesystem::exists(elsewhere.file("seen"));
  }
};

enum class State { old, fresh, mixed };

// Of the outputs of Folder::words().
State state_of(const Listing& found) {
  const auto holds = [&](const char* name, const char* content) {
    return found.contains(name) && found.at(name) == content;
  };
  const int old = holds("o.npy", "old output") + holds("z.npy", "old normalizer") + !found.contains("dq.npy") +
                  !found.contains("dshift.npy");
  const int there = int(found.contains("o.npy")) + int(found.contains("z.npy"));
  return old == 4 ? State::old : old == 0 && there == 2 ? State::fresh : State::mixed;
}

std::vector<std::string> kept(const Listing& found) {
  std::vector<std::string> names;
  for (const auto& [name, content] : found)
    if (contains(name, ".old-")) names.push_back(name);
  return names;
}

}  // namespace

TEST_CASE("attend: whichever call fails, all outputs are new or all are what they were") {
  for (const std::string& without : lacking)
    for (const char* call : {"write", "fsync", "linkat", "link", "rename", "fork"}) {
      const int error = ENOSPC;
      int at = 1;
      for (; at < 100; ++at) {
        const Folder folder;
        const Listing before = listing(folder);
        const auto [run, seen] = FailingRun(folder, without, std::to_string(error), at, call);
        if (!seen) break;
        INFO("without " << without << ", " << call << " " << at << ": " << run.exit_code << ", " << run.error);
        const Listing after = listing(folder);
        if (run.exit_code == 0) {  // it could be done without
          CHECK(state_of(after) == State::fresh);
          CHECK(after.size() == before.size() + 2);
        } else {
          CHECK(run.exit_code == 2);
          CHECK(run.one_line_of_error());
          CHECK(contains(run.error, std::strerror(error)));
          CHECK((after == before));
        }
      }
      INFO("without " << without << ", " << call);
      const bool unused = (contains(without, "unnamed") && std::string(call) == "linkat") ||
                          (contains(without, "links") && std::string(call) == "link");
      CHECK((at > 1) != unused);
    }
}

TEST_CASE("attend: killed at any moment, all outputs are new or all are what they were") {
  for (const std::string& without : lacking)
    for (const char* who : {"self", "main"}) {
      int at = 1, fresh = 0;
      for (; at < 200; ++at) {
        const Folder folder;
        const Listing before = listing(folder);
        const auto [run, seen] = FailingRun(folder, without, who, at);
        if (!seen) break;
        INFO("without " << without << ", " << who << " " << at << ": " << run.exit_code << ", " << run.error);
        const Listing after = listing(folder);
        CHECK(kept(after).empty());
        CHECK(state_of(after) != State::mixed);
        fresh += state_of(after) == State::fresh;
        // What the program says, if it lives, is so.
        if (run.exit_code == 0) CHECK(state_of(after) == State::fresh);
        if (run.exit_code == 2) CHECK((after == before));
        if (run.exit_code == 2) CHECK(run.one_line_of_error());
      }
      CHECK(fresh > 3);
      CHECK(at - fresh > 10);
    }
}

TEST_CASE("attend: if everything is killed at once no old content is lost, and the next call says where it is") {
  for (const std::string& without : lacking) {
    int mixed = 0;
    for (int at = 1; at < 200; ++at) {
      const Folder folder;
      const auto [run, seen] = FailingRun(folder, without, "both", at);
      if (!seen) break;
      INFO("without " << without << ", both " << at << ": " << run.exit_code);
      const Listing found = listing(folder);
      mixed += state_of(found) == State::mixed;
      if (state_of(found) != State::fresh)
        for (const char* old : {"old output", "old normalizer"})
          CHECK(std::any_of(found.begin(), found.end(), [&](const auto& file) { return file.second == old; }));
      const Finished next = run_attend(folder.words());
      CHECK(next.exit_code == 0);
      const Listing after = listing(folder);
      CHECK(state_of(after) == State::fresh);
      for (const std::string& name : kept(found)) {
        CHECK(contains(next.error, name));
        CHECK((after.contains(name) && after.at(name) == found.at(name)));
      }
    }
    CHECK(mixed > 0);
  }
}

#endif
#endif
