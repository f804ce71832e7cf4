#!/bin/sh
# Every check that a change must pass, stage by stage.   sh tests/run.sh [--install] [STAGE…]
#
#   format      clang-format finds nothing to change
#   tidy        clang-tidy (.clang-tidy says which checks) on a file that instantiates all of csq
#   release     everything with g++, and every test
#   clang       everything with clang++, and every test
#   asan-ubsan  unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, and a minute of random calls
#   tsan        tests with threads under ThreadSanitizer
#   aarch64     64-bit Arm: the quickstart and the unit tests, cross-compiled, under qemu; clang reads the headers for it
#   s390x       big-endian: the quickstart, and states of streams and summaries that cross over both ways, under qemu
#
# --install first installs what is missing, as root or through sudo; without it nothing is installed, and if something is
# missing the line that installs it is printed.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/tests/packages.sh"

mode=--check
if [ "${1-}" = --install ]; then
  mode=--install
  shift
fi
all_stages='format tidy release clang asan-ubsan tsan aarch64 s390x'
[ $# -gt 0 ] || set -- $all_stages
for stage in "$@"; do
  case " $all_stages " in
    *" $stage "*) ;;
    *)
      echo "usage: sh tests/run.sh [--install] [STAGE...]; stages: $all_stages" >&2
      exit 2
      ;;
  esac
done

need_command g++ g++
need_command clang clang++
need_command clang-format clang-format clang-format-14
need_command clang-tidy clang-tidy clang-tidy-14
need_file libclang-rt-14-dev 'lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a' 'lib/clang/*/lib/*/libclang_rt.fuzzer*.a'
need_command g++-aarch64-linux-gnu aarch64-linux-gnu-g++
need_command g++-s390x-linux-gnu s390x-linux-gnu-g++
need_command qemu-user qemu-aarch64 qemu-aarch64-static
need_command qemu-user qemu-s390x qemu-s390x-static
need_command cmake cmake
need_command make make
need_file libeigen3-dev include/eigen3/Eigen/Core
need_file catch2 include/catch2/catch.hpp include/catch2/catch_all.hpp
need_file libbenchmark-dev include/benchmark/benchmark.h
need_file libcli11-dev include/CLI/CLI.hpp
need_file nlohmann-json3-dev include/nlohmann/json.hpp
need_file libopenmpi-dev include/mpi.h 'lib/*/openmpi/include/mpi.h' 'include/*/mpi.h'
need_command openmpi-bin mpirun
need_file libomp-dev lib/libomp.so 'lib/llvm-*/lib/libomp.so' 'lib/*/libomp.so'
install_missing $mode

jobs=$(nproc 2>/dev/null || echo 2)
cd "$root"

# use_preset PRESET [OPTION…]: configures, builds and tests; the tests of $labels alone, where they are set.
use_preset() {
  preset=$1
  shift
  cmake --preset "$preset" "$@"
  cmake --build --preset "$preset" --parallel "$jobs"
  ctest --preset "$preset" --parallel "$jobs" ${labels:+-L "$labels"}
}

run_stage() {
  labels=
  case $1 in
    format)
      find include tests bench examples -name '*.[ch]pp' -exec clang-format --dry-run --Werror {} +
      ;;
    tidy)
      clang-tidy --quiet tests/headers/every_mechanism.cpp -- \
        -std=c++20 -O2 -Iinclude -isystem "$(eigen_folder)"
      ;;
    # g++ by name: the default compiler may be another, and both are wanted.
    release) use_preset release -DCMAKE_CXX_COMPILER=g++ -DCSQ_TESTS_TOGETHER=ON ;;
    clang) use_preset clang -DCMAKE_CXX_COMPILER=clang++ -DCSQ_TESTS_TOGETHER=ON ;;
    # The unit tests alone.
    asan-ubsan | tsan)
      labels='unit|fuzz'
      use_preset "$1" -DCMAKE_CXX_COMPILER=clang++ -DCSQ_BUILD_BENCH=OFF -DCSQ_BUILD_EXAMPLES=OFF
      ;;
    aarch64) use_preset aarch64 ;;
    s390x) cross_endian ;;
  esac
}

# Two programs, for this machine and for one whose bytes stand the other way round.
cross_endian() {
  here=build/s390x/here
  there=build/s390x/there
  qemu=$(command -v qemu-s390x || command -v qemu-s390x-static)
  mkdir -p $here $there
  for program in tests/endian/states examples/quickstart; do
    name=$(basename $program)
    g++ -std=c++20 -O2 -Iinclude -isystem "$(eigen_folder)" $program.cpp -o $here/$name
    s390x-linux-gnu-g++ -std=c++20 -O2 -static -Iinclude -isystem "$(eigen_folder)" $program.cpp -o $there/$name
  done
  $here/quickstart >$here/quickstart.txt
  "$qemu" $there/quickstart | diff $here/quickstart.txt -
  $here/states write $here
  "$qemu" $there/states write $there
  echo 'states of this machine on s390x:'
  "$qemu" $there/states check $here
  echo 'states of s390x on this machine:'
  $here/states check $there
}

eigen_folder() {
  for folder in /usr/local/include/eigen3 /usr/include/eigen3; do
    if [ -d "$folder" ]; then
      echo "$folder"
      return
    fi
  done
}

# The last line says what failed.
stage=
finish() {
  status=$?
  if [ $status -ne 0 ]; then echo "tests/run.sh: FAILED in stage $stage" >&2; fi
  exit $status
}
trap finish EXIT

times=
for stage in "$@"; do
  printf '\n== %s\n' "$stage"
  start=$(date +%s)
  run_stage "$stage"
  seconds=$(($(date +%s) - start))
  printf '== %s: %s s\n' "$stage" "$seconds"
  times="$times  $stage $seconds s"
done
printf '\ntests/run.sh: all passed:%s\n' "$times"
