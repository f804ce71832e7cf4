#!/bin/sh
# Measures at which sequence length O(n·d³) attention overtakes O(n²·d) on this machine.
#
#   sh bench/run.sh [--install] [options of crossover, such as --dims 64 --threads 1]
#
# --install first installs what is missing, as root or through sudo; without it nothing is installed, and if something is
# missing the line that installs it is printed. The table is printed; crossover.csv and, where matplotlib is there,
# crossover.png are left in build/crossover.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/tests/packages.sh"

mode=--check
if [ "${1-}" = --install ]; then
  mode=--install
  shift
fi

need_command g++ "${CXX:-c++}" g++ clang++
need_command cmake cmake
need_command make make
need_file libeigen3-dev include/eigen3/Eigen/Core
need_file libcli11-dev include/CLI/CLI.hpp
need_file nlohmann-json3-dev include/nlohmann/json.hpp
install_missing $mode

# A Python that has matplotlib: the first on the path need not be the one that the system's packages serve.
find_plotting_python() {
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import matplotlib' >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
}
python=$(find_plotting_python)
if [ -z "$python" ] && [ "$mode" = --install ]; then
  missing=' python3-matplotlib'
  # In a subshell: the plot is an extra, and failing to get it ends nothing.
  (install_missing --install) || true
  python=$(find_plotting_python)
fi

build=$root/build/release
cmake -S "$root" -B "$build"
cmake --build "$build" --target crossover --parallel "$(nproc 2>/dev/null || echo 2)"

results=$root/build/crossover
mkdir -p "$results"

# The caller may name another file for the numbers. What an earlier run left stays until this one has finished.
csv=
previous=
for argument in "$@"; do
  if [ "$previous" = --csv ]; then csv=$argument; fi
  case $argument in --csv=*) csv=${argument#--csv=} ;; esac
  previous=$argument
done
new=$csv
if [ -z "$csv" ]; then
  csv=$results/crossover.csv
  new=$results/unfinished.csv
  rm -f "$new"
  set -- --csv "$new" "$@"
fi
"$build/bench/crossover" "$@"

# --help, for one, measures nothing.
if [ ! -e "$new" ]; then exit 0; fi
if [ "$new" != "$csv" ]; then mv "$new" "$csv"; fi
rm -f "$results/crossover.png"
echo "Numbers: $csv"
if [ -z "$python" ]; then
  echo "No plot: Python's matplotlib is not installed (apt-get install python3-matplotlib)"
elif "$python" "$root/bench/plot.py" "$csv" "$results/crossover.png" && [ -e "$results/crossover.png" ]; then
  echo "Plot:    $results/crossover.png"
else
  echo "No plot: bench/plot.py failed"
fi
