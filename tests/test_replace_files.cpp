// examples/replace_files.hpp by itself: what happens between add and commit, and beside other replacements.
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "../examples/replace_files.hpp"
#include "catch.hpp"
#include "temporary_folder.hpp"

namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void add(files::FileReplacement& replacement, const std::string& path, const std::string& content) {
  replacement.add(path, path).write(content.data(), content.size());
}

std::size_t files_in(const TemporaryFolder& folder) {
  const std::filesystem::directory_iterator begin(folder.file("")), end;
  return static_cast<std::size_t>(std::distance(begin, end));
}

}  // namespace

TEST_CASE("replace_files: without a commit nothing has happened") {
  const TemporaryFolder folder;
  const std::string old = folder.file("old", "before"), fresh = folder.file("fresh");
  {
    files::FileReplacement replacement;
    add(replacement, old, "after");
    add(replacement, fresh, "after");
  }
  CHECK(contents(old) == "before");
  CHECK(files_in(folder) == 1);
}

TEST_CASE("replace_files: a commit replaces all, in several folders") {
  const TemporaryFolder folder, other;
  const std::string old = folder.file("old", "before"), fresh = other.file("fresh");
  files::FileReplacement replacement;
  add(replacement, old, "after");
  add(replacement, fresh, "");
  replacement.commit();
  CHECK(contents(old) == "after");
  CHECK(std::filesystem::exists(fresh));
  CHECK(files_in(folder) + files_in(other) == 2);
  replacement.commit();  // of nothing
}

TEST_CASE("replace_files: what a target becomes in the meantime stays, and the others are what they were") {
  const TemporaryFolder folder;
  const std::string old = folder.file("old", "before"), fresh = folder.file("fresh"), late = folder.file("late");
  files::FileReplacement replacement;
  add(replacement, old, "after");
  add(replacement, fresh, "after");
  add(replacement, late, "after");
  std::filesystem::create_directory(late);
  CHECK_THROWS_WITH(replacement.commit(), late + ": Is a directory");
  CHECK(contents(old) == "before");
  CHECK_FALSE(std::filesystem::exists(fresh));
  CHECK(files_in(folder) == 2);
}

// A file system that does not tell letters' case apart has names that differ and mean one file; here it is one name.
TEST_CASE("replace_files: two names of one file are noticed, whatever makes them so") {
  for (const bool exists : {false, true}) {
    const TemporaryFolder folder;
    const std::string path = folder.file("a");
    if (exists) folder.file("a", "before");
    files::FileReplacement replacement;
    add(replacement, path, "one");
    add(replacement, path, "two");
    CHECK_THROWS_WITH(replacement.commit(), path + ": is one file with another output");
    CHECK(contents(path) == (exists ? "before" : ""));
    CHECK(files_in(folder) == (exists ? 1 : 0));
  }
}

TEST_CASE("replace_files: replacements of the same files at the same time do not mix") {
  const TemporaryFolder folder, other;
  const std::vector<std::string> paths{folder.file("a"), other.file("b"), folder.file("c")};
  std::vector<pid_t> writers;
  for (int writer = 0; writer < 4; ++writer) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        for (int time = 0; time < 50; ++time) {
          files::FileReplacement replacement;
          for (std::size_t i = 0; i < paths.size(); ++i)  // each writer in an order of its own
            add(replacement, paths[(i + static_cast<std::size_t>(writer)) % paths.size()],
                std::to_string(writer) + ", " + std::to_string(time));
          replacement.commit();
        }
      } catch (const std::exception&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    writers.push_back(child);
  }
  for (const pid_t child : writers) {
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  CHECK(contents(paths[0]) == contents(paths[1]));
  CHECK(contents(paths[0]) == contents(paths[2]));
  CHECK(files_in(folder) + files_in(other) == 3);
}

TEST_CASE("replace_files: what a killed replacement has kept is found") {
  const TemporaryFolder folder;
  const std::string kept = folder.file("a.old-0123456789abcdef", "one");
  folder.file("b.old-0123456789abcdef", "two");
  folder.file("a.old-my own copy", "three");
  CHECK(files::kept_contents(folder.file("a")) == std::vector<std::string>{kept});
  CHECK(files::kept_contents(folder.file("c")).empty());
}
