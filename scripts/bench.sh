#!/bin/sh
# usage: bench.sh [MODEL ...]
# Compares speeds with llama.cpp, built natively for this machine (about ten minutes, once, in .venv).
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- .models/SmolLM2-135M-Instruct.Q4_1.gguf
scripts/get-model.sh "$@"
if ! .venv/bin/python -c 'import llama_cpp' 2>/dev/null; then
    python3 -m venv .venv || {
        echo "python3 cannot make a virtual environment; on Debian: apt install python3-venv" >&2
        exit 1
    }
    echo "Building llama.cpp for the comparison (about ten minutes, once) ..."
    CMAKE_ARGS=-DGGML_NATIVE=ON .venv/bin/pip install --disable-pip-version-check --verbose llama-cpp-python
fi
exec .venv/bin/python tests/bench/compare.py target/release/libworker_orcd.so "$@"
