#!/usr/bin/env bash
# Build the site of docs/ into DIR, strictly: scripts/docs.sh [DIR]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/scripts/setup.sh"
inflate_setup "$root" docs
mkdir -p "${1:-$root/site}"
site=$(cd "${1:-$root/site}" && pwd)
cd "$root"
NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet --site-dir "$site"
echo "to look at: $site/index.html"
