# Sourced by tests/run.sh and bench/run.sh: finds what is missing and, with --install, installs it.
#
#   need_command PACKAGE COMMAND…       one of the commands is on the path
#   need_file PACKAGE PATH…             one of the paths is under a prefix that compilers and CMake search
#   install_missing --install|--check   apt-get, or the line that a person would type and exit status 1

missing=

need_command() {
  package=$1
  shift
  for command in "$@"; do
    if command -v "$command" >/dev/null 2>&1; then return; fi
  done
  missing="$missing $package"
}

need_file() {
  package=$1
  shift
  for prefix in $(printf '%s' "${CMAKE_PREFIX_PATH:-}" | tr ':;' '  ') /usr/local /usr; do
    for path in "$@"; do
      # Unquoted: a path may hold a pattern.
      for file in $prefix/$path; do
        if [ -e "$file" ]; then return; fi
      done
    done
  done
  missing="$missing $package"
}

install_missing() {
  if [ -z "$missing" ]; then return; fi
  root_command=
  if [ "$(id -u)" -ne 0 ]; then root_command='sudo '; fi
  line="${root_command}apt-get install --no-install-recommends -y$missing"
  if [ "$1" != --install ]; then
    printf 'Missing:%s\nInstall them with --install, or with:\n  %s\n' "$missing" "$line" >&2
    exit 1
  fi
  # An old list may still do, so a failed update is not the end.
  ${root_command}apt-get update || true
  DEBIAN_FRONTEND=noninteractive $line || {
    printf 'Could not install:%s\n' "$missing" >&2
    exit 1
  }
  missing=
}
