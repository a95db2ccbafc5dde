#!/usr/bin/env bash
# Convert a manifest in CI: install, convert, write reports; the exit code is that of inflate batch.
#
#   scripts/ci_convert.sh MANIFEST [OPTIONS OF inflate batch]
#
# INFLATE_REPORTS    folder for index.html, batch.json, junit.xml, summary.md (inflate-reports)
# INFLATE_PACKAGE    package for pip (this checkout, or else inflate-video[remote,report])
# INFLATE_VENV       environment to install into (.inflate-venv)
# INFLATE_INSTALLED  1 if PYTHON has it already: nothing is installed
# PYTHON             the interpreter (python3)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -ge 1 ] || { echo "error: no manifest; usage: $0 MANIFEST [OPTIONS]" >&2; exit 2; }
python=${PYTHON:-python3}
reports=${INFLATE_REPORTS:-inflate-reports}

if [ "${INFLATE_INSTALLED:-0}" != 1 ]; then
  venv=${INFLATE_VENV:-.inflate-venv}
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  install=("${INFLATE_PACKAGE:-inflate-video[remote,report]}")
  # A checkout installs itself, with the versions of its tests.
  if [ -z "${INFLATE_PACKAGE:-}" ] && grep -qs '^name = "inflate-video"' "$root/pyproject.toml"; then
    install=(--constraint "$root/constraints.txt" "$root[remote,report]")
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${install[@]}"
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
