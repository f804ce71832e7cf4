#!/bin/sh
# Measures at which sequence length O(n·d³) attention overtakes O(n²·d) on this machine; with --decode, what one token
# costs when decoding, against the context; with --machines, what attention over the ranks of MPI costs.
#
#   sh bench/run.sh [--install] [options of crossover, such as --dims 64 --threads 1]
#   sh bench/run.sh --decode [--install] [options of decode, such as --max-context 65536]
#   sh bench/run.sh --machines [--install] [options of machines, such as --ranks 1,2,4 --tokens 16384]
#   sh bench/run.sh [--decode|--machines] --help
#
# --install first installs what is missing, as root or through sudo; without it nothing is installed, and if something is
# missing the line that installs it is printed. The table is printed; crossover.csv and, where matplotlib is there,
# crossover.png are left in build/crossover (decode.csv and decode.png in build/decode, and so on), or where --csv says.
# Ctrl-C ends the measurement and keeps what is finished (of machines in machines.csv.unfinished).
#
# What is built goes to build; to CSQ_BUILD_DIR where that is set; and where the project's folder cannot be written, to
# a cache or temporary folder, which is said.
set -eu

usage() {
  cat <<'END'
sh bench/run.sh [--install] [options]: from which sequence length is O(n*d^3) attention faster than O(n^2*d) here?

  --decode           another question: what does one token cost when decoding, against the context? --decode --help
                     lists its options
  --machines         another one: what does attention over the ranks of MPI cost? --machines --help lists its options
  --install          first install what is missing (apt-get)
  --quick            a rough answer in seconds: 3 repeats, head sizes 16, 32, 64
  --dims D,D,...     head sizes d of queries and keys; 16,32,64,128 unless given
  --value-dim D,...  sizes dv of the values, each with each head size; dv = d unless given. A summary costs n*d^2*dv/2,
                     so small keys with large values cross far earlier than d = dv: d = 16, dv = 64 at 249 tokens by
                     the count, d = dv = 64 at 2179
  --heads H          query heads; 8 unless given, or those of --q
  --kv-heads H       key heads of every row; unless given, as many as query heads, and a causal row with an eighth, or
                     those of --k
  --causal           causal rows only
  --gate all|csq     gates on both sides, or on CSQ alone against plain softmax; causal rows only
  --dtype T          of arrays, on both sides: float unless given, bfloat16 or float16
  --backward         forward and backward together
  --max-n N          longest sequence that is tried; 32768
  --sizes N,N,...    sizes that every row measures besides its search; 8192 unless given
  --threads T        0 = all; at most one a processor
  --q --k --v FILE   your own tensors, .npy, [heads, tokens, dim] or [tokens, dim]
  --csv FILE         every measured size, the plot beside it; build/crossover/crossover.csv unless given
  --json FILE        the same with the machine and the crossovers
  --repeats R        per size; unless given, as the time allows
  --budget S         seconds to search for; 180 unless given, 400 with --backward

CSQ_BUILD_DIR=FOLDER builds there instead of in build.
END
}

usage_of_decode() {
  cat <<'END'
sh bench/run.sh --decode [--install] [options]: what does one token cost when decoding, against the context?

  --install          first install what is missing (apt-get)
  --quick            a rough answer in half a minute: head sizes 32 and 64, contexts to 16384, 3 repeats
  --dims D,D,...     head sizes d of queries, keys and values; 32,64,128 unless given
  --heads H          query heads; 8 unless given
  --kv-heads H,H,... key heads, each a table; as many as query heads and a quarter unless given
  --max-context N    longest context in tokens; 1048576 unless given
  --memory GB        what a softmax cache may take, longer contexts are left out; a quarter of the machine's memory
                     unless given
  --dtype T          of tokens and caches: float unless given, bfloat16 or float16
  --threads T        0 = all; 1 unless given
  --csv FILE         every measured context, the plot beside it; build/decode/decode.csv unless given
  --json FILE        the same with the machine and the crossovers
  --repeats R        samples of each number; 5 unless given

CSQ_BUILD_DIR=FOLDER builds there instead of in build.
END
}

usage_of_machines() {
  cat <<'END'
sh bench/run.sh --machines [--install] [options]: what does causal attention over the ranks of MPI cost, what do they
send, and what would more of them do, by a model that is checked here?

  --install          first install what is missing (apt-get), Open MPI included
  --quick            a rough answer in half a minute: head size 32, 2048 to 8192 tokens, 3 repeats
  --tokens N,N,...   of the whole sequence; 4096,16384,32768 unless given
  --ranks R,R,...    that share it, processes of this machine; 1,2,4,8 unless given; 1 always is
  --dims D,D,...     head sizes d of queries, keys and values; 32,64 unless given
  --heads H          query heads; 2 unless given
  --kv-heads H       key heads; as many as query heads unless given
  --backward         forward and backward together
  --csv FILE         every measured and every modelled time, the plot beside it; build/machines/machines.csv unless
                     given. Ctrl-C ends the run: what was finished is in FILE.unfinished
  --json FILE        the same with the machine and the model's numbers
  --repeats R        of each call; 5 unless given

On several machines: mpirun -n R --hostfile FILE build/release/bench/machines [options].
CSQ_BUILD_DIR=FOLDER builds there instead of in build.
END
}

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/tests/packages.sh"

# What this script itself has to know; everything else is the program's.
program=crossover
target=crossover
plotter=plot.py
usage=usage
mode=--check
help=
csv=
ranks=
previous=
left=$#
while [ "$left" -gt 0 ]; do
  argument=$1
  shift
  left=$((left - 1))
  case $argument in
    -h | --help) help=yes ;;
    --decode)
      program=decode
      target=bench_decode
      plotter=plot_decode.py
      usage=usage_of_decode
      ;;
    --machines)
      program=machines
      target=machines
      plotter=plot_machines.py
      usage=usage_of_machines
      ;;
    --install) mode=--install ;;
    *)
      case $argument in
        --csv=*) csv=${argument#--csv=} ;;
        --ranks=*) ranks=${argument#--ranks=} ;;
      esac
      case $previous in
        --csv) csv=$argument ;;
        --ranks) ranks=$argument ;;
      esac
      set -- "$@" "$argument"
      ;;
  esac
  previous=$argument
done
if [ -n "$help" ]; then
  $usage
  exit 0
fi

need_command g++ "${CXX:-c++}" g++ clang++
need_command cmake cmake
need_command make make
need_file libeigen3-dev include/eigen3/Eigen/Core
need_file libcli11-dev include/CLI/CLI.hpp
need_file nlohmann-json3-dev include/nlohmann/json.hpp
if [ "$program" = machines ]; then
  need_file libopenmpi-dev include/mpi.h 'lib/*/openmpi/include/mpi.h' 'include/*/mpi.h'
  need_command openmpi-bin mpirun
fi
install_missing $mode

# A process a rank, as many as the largest number of --ranks. As root too, as in containers, and with more ranks than
# cores: Open MPI refuses both unless it is told (4 and 5).
launcher=
if [ "$program" = machines ]; then
  processes=$(printf '%s\n' "${ranks:-8}" | tr ',' '\n' | sort -n | tail -n 1)
  case $processes in *[!0-9]* | '' | 0) processes=8 ;; esac # which machines says
  launcher="mpirun -n $processes"
  export OMP_NUM_THREADS=1
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
fi

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

# Makes the folder if need be; true if files can be made in it.
writable() {
  mkdir -p "$1" 2>/dev/null && touch "$1/.writable" 2>/dev/null && rm -f "$1/.writable"
}
if [ -n "${CSQ_BUILD_DIR-}" ]; then
  build=$CSQ_BUILD_DIR
  if ! writable "$build"; then
    echo "CSQ_BUILD_DIR: $build cannot be written" >&2
    exit 2
  fi
else
  build=$root/build
  if ! writable "$build"; then
    # One for each checkout.
    build=${XDG_CACHE_HOME:-${HOME-}/.cache}/csq/$(printf '%s' "$root" | cksum | cut -d ' ' -f 1)
    if ! writable "$build"; then build=$(mktemp -d "${TMPDIR:-/tmp}/csq.XXXXXX"); fi
    echo "$root/build cannot be written: what is built goes to $build (CSQ_BUILD_DIR=FOLDER names another)"
  fi
fi

cmake -S "$root" -B "$build/release"
cmake --build "$build/release" --target "$target" --parallel "$(nproc 2>/dev/null || echo 2)"

mkdir -p "$build/$program"
if [ -z "$csv" ]; then
  csv=$build/$program/$program.csv
  set -- --csv "$csv" "$@"
fi
started=$build/$program/started
touch "$started"

# Whoever interrupts this script interrupts the program, which keeps what is finished; a second time ends it at once.
running=
stop() {
  if [ -n "$running" ]; then kill -TERM "$running" 2>/dev/null || true; fi
}
trap stop INT TERM HUP
# Unquoted: several words, or none.
$launcher "$build/release/bench/$program" "$@" &
running=$!
status=0
wait "$running" || status=$?
# A signal ends the wait, but not the program.
while kill -0 "$running" 2>/dev/null; do
  status=0
  wait "$running" || status=$?
done
trap - INT TERM HUP

# A run that failed, or that was interrupted before anything was finished, leaves the old numbers and their plot.
fresh=$(find -L "$csv" -prune -type f -newer "$started" 2>/dev/null || true)
rm -f "$started"
if [ -z "$fresh" ]; then exit "$status"; fi
plot=${csv%.csv}.png
rm -f "$plot"
if [ -z "$python" ]; then
  echo "No plot: Python's matplotlib is not installed (apt-get install python3-matplotlib)"
elif "$python" "$root/bench/$plotter" "$csv" "$plot" && [ -e "$plot" ]; then
  echo "Plot:    $plot"
else
  echo "No plot: bench/$plotter failed"
fi
echo "Numbers: $csv"
exit "$status"
