#!/bin/sh
# Prepare a data set: sh download_and_preprocess.sh DATASET [options]; --help lists the data sets and the options.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=$(sh "$here/../build/setup_env.sh" --print-python)
PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m data_scripts.prepare "$@"
