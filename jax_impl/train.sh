#!/bin/sh
# Train the JAX twin: sh train.sh [CFG] [section.option=value ...]. Paths are relative to the working directory.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=$(sh "$here/../build/setup_env.sh" --print-python)
exec "$python" "$here/train.py" "$@"
