#!/usr/bin/env bash
# Convert and verify the demo checkpoint, from nothing but Python: scripts/demo.sh [DIR]
#
# It ends with DIR/report.html, a page to look at in a browser.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if ! command -v inflate >/dev/null; then  # In no active environment.
  . "$root/scripts/setup.sh"
  inflate_setup "$root" report
fi
folder=${1:-inflate-demo}
inflate demo "$folder"
inflate verify -q "$folder/demo.ckpt" "$folder/demo.all.safetensors" --self-test --trainability \
  --report "$folder/report.html" --report "$folder/report.json" >/dev/null
echo "to look at: $folder/report.html"
