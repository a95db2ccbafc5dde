#!/usr/bin/env bash
# All checks and tests, from nothing but Python. Arguments go to pytest: scripts/test.sh -k parity
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/scripts/setup.sh"
inflate_setup "$root" dev
"$root/scripts/check.sh"
cd "$root"
python -m pytest -n 2 --dist loadfile "$@"
