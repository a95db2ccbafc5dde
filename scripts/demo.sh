#!/usr/bin/env bash
# Convert and verify the demo checkpoint, from nothing but Python: scripts/demo.sh [DIR]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/scripts/setup.sh"
inflate_setup "$root" ""
inflate demo "${1:-inflate-demo}"
