#!/usr/bin/env bash
# Convert a manifest in CI: install, convert, write reports; the exit code is that of inflate batch.
#
#   examples/ci/inflate.sh MANIFEST [OPTIONS OF inflate batch]
#
# The script installs the checkout that it lies in. pip reads PIP_EXTRA_INDEX_URL: set it to an index
# of CPU builds of torch where the machine has no GPU.
#
# INFLATE_REPORTS    folder for index.html, batch.json, junit.xml, summary.md (inflate-reports)
# INFLATE_EXTRAS     extras to install (remote,report)
# INFLATE_VENV       environment to install into (.inflate-venv)
# INFLATE_INSTALLED  1 if PYTHON has inflate already: nothing is installed
# PYTHON             the interpreter (python3)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ $# -ge 1 ] || { echo "error: no manifest; usage: $0 MANIFEST [OPTIONS]" >&2; exit 2; }
python=${PYTHON:-python3}
reports=${INFLATE_REPORTS:-inflate-reports}

if [ "${INFLATE_INSTALLED:-0}" != 1 ]; then
  venv=${INFLATE_VENV:-.inflate-venv}
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" "$root[${INFLATE_EXTRAS:-remote,report}]"
  python=$venv/bin/python
fi

options=(--report-dir "$reports")
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || options+=(--github-summary)
code=0
"$python" -m inflate batch "$@" "${options[@]}" || code=$?
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  printf 'reports=%s\nexit-code=%s\n' "$reports" "$code" >> "$GITHUB_OUTPUT"
fi
exit "$code"
