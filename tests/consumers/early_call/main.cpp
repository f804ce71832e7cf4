// A call before any ordinary constructor has run, the one that reads the processor's features included, chooses no
// worse kernels than a later one.
#include <csq/version.hpp>
#include <cstdio>

namespace {

const char* early = nullptr;

// Priorities below 101 are the implementation's own: this one comes before them all.
__attribute__((constructor(1))) void call_early() { early = csq::simd_name(); }

}  // namespace

int main() {
  std::printf("early: %s, best: %s\n", early, csq::simd_names().front().data());
  return csq::simd_names().front() == early ? 0 : 1;
}
