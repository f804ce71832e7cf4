#!/bin/sh
# Tests the paper's claims: runs jobs.txt, each job leaving results/NAME.csv, and writes RESULTS.md and its plots.
#
#   sh examples/paper/run.sh [--install] [--quick] [--jobs N] [--only NAME] [--again] [--programs DIR]
#
#   --install       first installs what is missing, as root or through sudo; without it nothing is installed, and if
#                   something is missing the line that installs it is printed
#   --quick         every program's own checks and those of the rules, in 3 minutes; leaves no results, fails if one fails
#   --jobs N        jobs side by side, one core each; as many as there are cores unless given
#   --only NAME     this job alone; NAME may be a pattern, such as 'kv_*'
#   --again         runs the jobs whose CSV exists too, and replaces it
#   --programs DIR  uses the programs of that folder instead of building them in build/paper
#
# It may be interrupted and run again: a job whose CSV exists is skipped, and an unfinished one leaves nothing. The first
# line of a CSV names the commit and the machine. 5 to 6 hours on 2 cores.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
. "$root/tests/packages.sh"

fail() {
  echo "run.sh: $* (--help tells more)" >&2
  exit 2
}

results=$here/results

mode=--check
quick=false
again=false
jobs=
only='*'
programs=
while [ $# -gt 0 ]; do
  case $1 in
    --install) mode=--install ;;
    --quick) quick=true ;;
    --again) again=true ;;
    --jobs | --only | --programs)
      if [ $# -lt 2 ]; then fail "$1 needs a value"; fi
      case $1 in
        --jobs) jobs=$2 ;;
        --only) only=$2 ;;
        --programs) programs=$2 ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done
# nproc heeds OMP_NUM_THREADS, which says nothing about the machine.
cores=$(unset OMP_NUM_THREADS && nproc 2>/dev/null || echo 2)
if [ -z "$jobs" ]; then jobs=$cores; fi
case $jobs in '' | *[!0-9]* | 0) fail "--jobs: '$jobs' is no number of jobs" ;; esac

# wanted_jobs: the lines of jobs.txt that are wanted and whose CSV is not there yet.
wanted_jobs() {
  sed 's/#.*//' "$here/jobs.txt" | while read -r name program options; do
    bare=${name%!}
    if [ -z "$name" ]; then continue; fi
    if [ -e "$results/$bare.csv" ] && [ "$again" = false ]; then continue; fi
    # Unquoted: a pattern.
    case $bare in $only) echo "$name $program $options" ;; esac
  done
}
reads_text=false
if [ "$quick" = false ] && [ -n "$(wanted_jobs | grep '^[^ ]* language ')" ]; then reads_text=true; fi

need_command python3 python3
if [ "$reads_text" = true ] && [ -z "${CSQ_TEXT-}" ]; then need_command bible-kjv bible; fi
if [ -z "$programs" ]; then
  need_command g++ "${CXX:-c++}" g++ clang++
  need_command cmake cmake
  need_command make make
  need_file libeigen3-dev include/eigen3/Eigen/Core
  need_file libcli11-dev include/CLI/CLI.hpp
fi
install_missing $mode

# A Python that has matplotlib, for the plots, or any: see bench/run.sh.
find_plotting_python() {
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import matplotlib' >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
}
python=$(find_plotting_python)
if [ -z "$python" ] && [ "$mode" = --install ] && [ "$quick" = false ]; then
  missing=' python3-matplotlib'
  (install_missing --install) || true # in a subshell: the plots are an extra
  python=$(find_plotting_python)
fi
if [ -z "$python" ]; then python=python3; fi

if [ -z "$programs" ]; then
  build=$root/build/paper
  cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCSQ_NATIVE=ON -DCSQ_BUILD_PAPER=ON \
    -DCSQ_BUILD_TESTS=OFF -DCSQ_BUILD_BENCH=OFF
  cmake --build "$build" --target paper --parallel "$cores"
  programs=$build/examples/paper
fi

# What language reads, unless CSQ_TEXT names another text: the King James Bible, a verse a line without its number.
if [ "$reads_text" = true ] && [ -z "${CSQ_TEXT-}" ]; then
  mkdir -p "$root/build"
  CSQ_TEXT=$root/build/king_james_bible.txt
  bible -f -l9999 Ge1:1-Rev22:21 >"$CSQ_TEXT.tmp"
  sed 's/^[^ ]* //' "$CSQ_TEXT.tmp" >"$CSQ_TEXT"
  rm "$CSQ_TEXT.tmp"
  if [ "$(wc -l <"$CSQ_TEXT")" -ne 31102 ]; then
    echo "run.sh: bible (Debian's bible-kjv) did not print the 31102 verses of the text" >&2
    exit 1
  fi
fi
export CSQ_TEXT="${CSQ_TEXT-}"

# One core a job: Eigen and csq take as many threads as they are given.
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

# state/NAME is a directory made by the worker that took the job; done/, running/ and failed/ say how far it is.
state=$(mktemp -d)
mkdir "$state/taken" "$state/done" "$state/running" "$state/failed" "$state/logs"
workers=
stop() {
  trap - INT TERM HUP
  for worker in $workers; do kill "$worker" 2>/dev/null || true; done
  wait
  rm -rf "$state"
  exit 130
}
trap stop INT TERM HUP

count() {
  ls "$state/$1" | wc -l
}

# progress WORDS…: one line on standard error with what runs and what is left.
progress() {
  running=$(ls "$state/running" | tr '\n' ' ')
  left=$(($(wc -l <"$state/list") - $(count done) - $(count failed) - $(count running)))
  echo "$(date +%H:%M:%S)  $*   running: ${running:-nothing }  left: $left" >&2
}

# origin: the line that a CSV begins with.
origin() {
  commit=unknown
  if git -C "$root" rev-parse HEAD >/dev/null 2>&1; then
    commit=$(git -C "$root" rev-parse --short=12 HEAD)
    # What the runs are made of; results of earlier jobs do not count.
    if [ -n "$(git -C "$root" status --porcelain -- CMakeLists.txt include examples bench \
      ':!examples/paper/results' ':!examples/paper/RESULTS.md')" ]; then
      commit=$commit-dirty
    fi
  fi
  processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
  echo "# commit $commit, ${processor:-unknown processor}, $cores cores"
}

# run_job NAME PROGRAM OPTIONS…: the program's CSV appears under results once it is whole. Its exit status is heeded, but
# a CSV that it left is kept: a theorem that fails belongs into the report.
run_job() {
  name=$1
  program=$2
  shift 2
  : >"$state/running/$name"
  progress "started $name"
  began=$(date +%s)
  if [ "$quick" = false ]; then set -- "$@" --csv "$state/$name.csv"; fi
  "$programs/$program" "$@" >"$state/logs/$name" 2>&1 &
  child=$!
  status=0
  wait "$child" || status=$?
  if [ "$program" = cost ] && [ -e "$state/$name.csv" ]; then
    # PyTorch's times beside ours in bfloat16; without PyTorch it adds none, and says so.
    python3 "$here/torch_softmax.py" "$state/$name.csv" >>"$state/logs/$name" 2>&1 || status=$?
  fi
  if [ -e "$state/$name.csv" ]; then
    { cat "$state/origin" "$state/$name.csv"; } >"$results/$name.csv.tmp"
    mv "$results/$name.csv.tmp" "$results/$name.csv"
  fi
  rm "$state/running/$name"
  if [ "$status" -eq 0 ]; then
    : >"$state/done/$name"
    progress "$name took $(($(date +%s) - began)) s"
  else
    : >"$state/failed/$name"
    progress "$name FAILED with exit status $status"
    sed 's/^/    /' "$state/logs/$name" | tail -n 20 >&2
  fi
}

# work LIST: takes the next job of a list until there is none.
work() {
  child=
  trap 'if [ -n "$child" ]; then kill "$child" 2>/dev/null; fi; exit 1' TERM
  while read -r name program options; do
    mkdir "$state/taken/$name" 2>/dev/null || continue
    # Unquoted: options are words.
    run_job "$name" "$program" $options
  done <"$1"
}

# work_side_by_side N LIST
work_side_by_side() {
  workers=
  i=0
  while [ "$i" -lt "$1" ]; do
    work "$2" </dev/null &
    workers="$workers $!"
    i=$((i + 1))
  done
  wait
  workers=
}

# The jobs that are wanted and not there yet: alone, those that have the machine for themselves; list, all.
: >"$state/alone"
: >"$state/shared"
if [ "$quick" = true ]; then
  for program in theorems real_heads cost kv_retrieval capacity kernel_swap depth language; do
    echo "$program $program --quick" >>"$state/shared"
  done
  echo "cost_bf16 cost --dtype bfloat16 --quick" >>"$state/shared"
else
  mkdir -p "$results"
  origin >"$state/origin"
  wanted_jobs | while read -r name program options; do
    case $name in *!) target=alone ;; *) target=shared ;; esac
    echo "${name%!} $program $options" >>"$state/$target"
  done
fi
cat "$state/alone" "$state/shared" >"$state/list"
echo "jobs to run: $(($(wc -l <"$state/list"))), $jobs side by side" >&2

work_side_by_side 1 "$state/alone"
work_side_by_side "$jobs" "$state/shared"

failed=$(ls "$state/failed")
rm -rf "$state"
if [ "$quick" = true ]; then
  python3 -m unittest discover -s "$here/test_claims" -t "$here" || failed="$failed test_claims"
else
  "$python" "$here/report.py" "$results" "$here/RESULTS.md" || failed="$failed report"
fi
if [ -n "$failed" ]; then
  echo "failed: $(echo $failed)" >&2
  exit 1
fi
