// A library to be loaded before others (LD_PRELOAD): lets one call of the system's fail, or the program be killed in
// it, to see what is then left on the disk.
//
//   CSQ_FAIL_CALL=rename         which calls count; all unless given
//   CSQ_FAIL_AT=3                the third of them, from 1
//   CSQ_FAIL_HOW=28              with this errno, or: self  the calling process is killed
//                                                     main  the process that loaded this library, which may be another
//                                                     both
//   CSQ_FAIL_SEEN=FILE           is made when that call has come
//   CSQ_WITHOUT=links,unnamed    what the file system shall not have: hard links, files without a name
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

namespace {

struct Plan {
  pid_t main = ::getpid();
  std::string_view call, how, mark, without;
  int at = 0;
  std::atomic<int>* seen = nullptr;  // calls so far, of the process and its children together

  Plan() {
    const auto variable = [](const char* name) {
      const char* value = std::getenv(name);
      return std::string_view(value != nullptr ? value : "");
    };
    call = variable("CSQ_FAIL_CALL");
    how = variable("CSQ_FAIL_HOW");
    mark = variable("CSQ_FAIL_SEEN");
    without = variable("CSQ_WITHOUT");
    void* const shared = ::mmap(nullptr, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) std::abort();
    seen = new (shared) std::atomic<int>(0);
    at = std::atoi(variable("CSQ_FAIL_AT").data());
  }
};
Plan plan;

// Whether this call is to fail; errno is then set.
bool fails(std::string_view call) {
  if (!plan.call.empty() && plan.call != call) return false;
  if (++*plan.seen != plan.at) return false;
  ::close(::open(plan.mark.data(), O_WRONLY | O_CREAT, 0666));
  if (plan.how == "main" || plan.how == "both") ::kill(plan.main, SIGKILL);
  if (plan.how == "self" || plan.how == "both") ::kill(::getpid(), SIGKILL);
  errno = std::atoi(plan.how.data());
  return errno != 0;
}

// Errno is then set.
bool lacks(std::string_view what) {
  errno = EPERM;
  return plan.without.find(what) != std::string_view::npos;
}

template <class Function>
Function* real(const char* name) {
  Function* function = nullptr;
  void* const found = ::dlsym(RTLD_NEXT, name);
  static_assert(sizeof function == sizeof found);
  std::memcpy(&function, &found, sizeof found);
  return function;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if ((flags & O_TMPFILE) == O_TMPFILE && lacks("unnamed")) return -1;
  return real<int(const char*, int, ...)>("open")(path, flags, mode);
}
int rename(const char* from, const char* to) noexcept {
  return fails("rename") ? -1 : real<int(const char*, const char*)>("rename")(from, to);
}
int link(const char* from, const char* to) noexcept {
  return lacks("links") || fails("link") ? -1 : real<int(const char*, const char*)>("link")(from, to);
}
int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return fails("linkat")
             ? -1
             : real<int(int, const char*, int, const char*, int)>("linkat")(from_folder, from, to_folder, to, flags);
}
int unlink(const char* path) noexcept { return fails("unlink") ? -1 : real<int(const char*)>("unlink")(path); }
int fsync(int file) { return fails("fsync") ? -1 : real<int(int)>("fsync")(file); }
ssize_t write(int file, const void* from, size_t count) {
  return fails("write") ? -1 : real<ssize_t(int, const void*, size_t)>("write")(file, from, count);
}
pid_t fork() noexcept { return fails("fork") ? -1 : real<pid_t()>("fork")(); }

}  // extern "C"
