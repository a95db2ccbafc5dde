# Sourced by the other scripts: a virtual environment with everything they need, made once.
#
# It needs Python 3.10 or newer and nothing else. PYTHON chooses another interpreter, INFLATE_VENV
# another place. The environment is made up to date when what goes into it has changed; one made for
# development serves users too.

inflate_setup() {
  local root=$1 extras=$2
  local venv=${INFLATE_VENV:-$root/.venv}
  local python=${PYTHON:-python3}
  local wanted stamp stamps=("$venv/.inflate-$extras")
  [ "$extras" = docs ] || stamps+=("$venv/.inflate-dev")
  wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt")
  for stamp in "${stamps[@]}"; do
    if [ -x "$venv/bin/inflate" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
      . "$venv/bin/activate"
      return
    fi
  done
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $python is not Python 3.10 or newer; set PYTHON to one that is" >&2
    return 2
  }
  echo "setting up $venv (a few minutes the first time)" >&2
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" --editable "$root${extras:+[$extras]}"
  printf '%s\n' "$wanted" > "$venv/.inflate-$extras"
  . "$venv/bin/activate"
}
