#!/bin/sh
# Every name in namespace csq, csq::detail left out, is on the list, and nothing else is on it.
#   sh tests/public_names.sh CLANG EIGEN_DIR [--write]
#
# The list is clang's own of what <csq/csq.hpp> declares, with the inline namespaces and private members (name_) taken
# out. --write replaces the list: a name is added or removed on purpose, and in CHANGELOG.md.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
list=$root/tests/public_names.txt
found=$(mktemp)
trap 'rm -f "$found"' EXIT

"$1" -std=c++20 -fsyntax-only -I "$root/include" -isystem "$2" \
  -Xclang -ast-list -Xclang -ast-dump-filter=csq:: -include csq/csq.hpp -x c++ /dev/null |
  sed -E 's/^csq::v[0-9_]+[a-z]*/csq/; s/^csq::clang[0-9]+_[A-Za-z0-9_]+/csq/' |
  LC_ALL=C grep -E '^csq::[A-Za-z]' | grep -v -e '^csq::detail' -e '_$' -e 'expr-type' | LC_ALL=C sort -u >"$found"
[ -s "$found" ] || { echo "public_names: $1 listed nothing" >&2; exit 1; }

if [ "${3-}" = --write ]; then
  { grep '^#' "$list"; cat "$found"; } >"$list.new"
  mv "$list.new" "$list"
  exit 0
fi
grep -v '^#' "$list" | diff - "$found" || {
  echo "public_names: namespace csq (>) and tests/public_names.txt (<) differ; --write makes the list anew" >&2
  exit 1
}
