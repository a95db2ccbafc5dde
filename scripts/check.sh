#!/usr/bin/env bash
# The checks that run nothing: style, types, layers, words. Needs the environment of test.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
mypy
lint-imports
python scripts/prose.py
