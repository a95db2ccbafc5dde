#!/usr/bin/env bash
# The checks and the quick tests, from nothing but Python; --all adds the slow tests.
#
#   scripts/test.sh [--all] [PYTEST ARGUMENTS]     for example scripts/test.sh -k parity
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/scripts/setup.sh"
inflate_setup "$root" dev
"$root/scripts/check.sh"
cd "$root"
selected=(-m "not slow")
if [ "${1:-}" = --all ]; then
  selected=()
  shift
fi
python -m pytest -n 2 --dist loadfile ${selected[@]+"${selected[@]}"} "$@"
