#!/bin/sh
# Remove a run of the PyTorch twin, logs and checkpoints: sh reset.sh NAME
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
fail() {
    printf '%s\n' "$*" >&2
    exit 2
}
[ $# -eq 1 ] || fail "usage: sh reset.sh NAME (removes logs-NAME)"
case $1 in
    '' | */*) fail "error: '$1' is not a run name" ;;
esac
runs=${DIOSCURI_RUNS:-$here}
[ -d "$runs/logs-$1" ] || fail "error: there is no run '$1' in $runs"
python=$(sh "$here/../build/setup_env.sh" --print-python)
PYTHONPATH=$here/.. exec "$python" -P -c 'from pathlib import Path
from dioscuri.checkpoint.directory import remove
from dioscuri.errors import run_command
run_command(lambda words: remove(Path(words[0])))' "$runs/logs-$1"
