#!/bin/sh
# From a bare machine to build/gpu/results.jsonl and gpu.png. Run in the repository's root; options are those of
# `python -m loadtest.gpu`. Run it again after a break or a fault: it goes on with what is not done.
# The machine's own torch and transformers are used; wheels come from build/gpu/parts (see README.md), if it is there.
set -eu
work=${WORK:-build/gpu}
venv=$work/venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv --system-site-packages "$venv"
fi
if [ -f "$work/parts/sums.txt" ] && [ ! -f "$venv/.wheels" ]; then
    python3 -m loadtest.gpu.parts unpack "$work/parts" "$work/wheels"
    "$venv/bin/python" -m pip install --quiet --no-index --no-deps "$work"/wheels/*.whl
    touch "$venv/.wheels"
fi
exec "$venv/bin/python" -m loadtest.gpu --work "$work" "$@"
