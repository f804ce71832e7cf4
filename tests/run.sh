#!/bin/sh
# Builds everything and runs every test, with g++ and then with clang++.   sh tests/run.sh [--install]
#
# --install first installs what is missing, as root or through sudo; without it nothing is installed, and if something is
# missing the line that installs it is printed.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/tests/packages.sh"

mode=--check
case ${1-} in
  '') ;;
  --install) mode=--install ;;
  *)
    echo "usage: sh tests/run.sh [--install]" >&2
    exit 2
    ;;
esac

need_command g++ g++
need_command clang clang++
need_command cmake cmake
need_command make make
need_file libeigen3-dev include/eigen3/Eigen/Core
need_file catch2 include/catch2/catch.hpp include/catch2/catch_all.hpp
need_file libbenchmark-dev include/benchmark/benchmark.h
need_file libcli11-dev include/CLI/CLI.hpp
need_file nlohmann-json3-dev include/nlohmann/json.hpp
need_file libomp-dev lib/libomp.so 'lib/llvm-*/lib/libomp.so' 'lib/*/libomp.so'
install_missing $mode

jobs=$(nproc 2>/dev/null || echo 2)
cd "$root"
for preset in release clang; do
  echo "== $preset"
  # g++ by name: the default compiler may be another, and both are wanted.
  if [ "$preset" = release ]; then compiler=g++; else compiler=clang++; fi
  cmake --preset "$preset" -DCMAKE_CXX_COMPILER="$compiler"
  cmake --build --preset "$preset" --parallel "$jobs"
  ctest --preset "$preset" --parallel "$jobs"
done
