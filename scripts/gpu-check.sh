#!/bin/sh
# Checks the library on a machine with an NVIDIA GPU, and prints one table.
#
#   scripts/gpu-check.sh              builds and checks here
#   scripts/gpu-check.sh --pack DIR   builds here and puts all that the check needs into DIR (about 60 MB)
#   DIR/gpu-check.sh --run            checks, on a machine that needs the driver alone
#
# WORKER_ORCD_GOLDENS names the golden models, WORKER_ORCD_SPEED_MODELS a folder of GGUF files whose speeds are
# measured. Where compute-sanitizer is found, it watches a few small models.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

# The newest executable that cargo reports for a test.
executable() {
    cargo test --no-run --test "$1" 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p' | tail -1
}

pack() {
    mkdir -p "$1"
    to=$(cd "$1" && pwd)
    cd "$here/.."
    for name in gpu engine; do
        file=$(executable $name)
        [ -n "$file" ] || { echo "the test $name does not build" >&2; exit 1; }
        strip -o "$to/test-$name" "$file"
    done
    cargo build
    strip -o "$to/libworker_orcd.so" target/debug/libworker_orcd.so
    for source in tests/c/*.c; do
        cc -std=c11 -O1 -I include -o "$to/c-$(basename "$source" .c)" "$source" \
            -L "$to" -lworker_orcd -pthread -ldl -lm "-Wl,-rpath,\$ORIGIN"
    done
    mkdir -p "$to/goldens"
    cp -r "${WORKER_ORCD_GOLDENS:-../shared/models/tiny}/." "$to/goldens/"
    cp "$here/gpu-check.sh" "$to/"
}

failures=0

# check NAME COMMAND..: a line of the table; what a failure printed.
check() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$log" 2>&1; then result=ok; else result="FAILED ($?)"; failures=$((failures + 1)); fi
    printf '%-34s %-12s %4d s\n' "$name" "$result" $(($(date +%s) - start))
    [ "$result" = ok ] || tail -25 "$log"
}

run() {
    cd "$1"
    log=$(mktemp)
    WORKER_ORCD_GOLDENS=${WORKER_ORCD_GOLDENS:-$1/goldens}
    export WORKER_ORCD_GOLDENS WORKER_ORCD_TEST_DEVICE=cuda WORKER_ORCD_DEVICE=cuda
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
    for test in golden_models company window far_rows nothing stubs; do
        check "device: $test" ./test-gpu --test-threads=1 "$test"
    done
    check "device, generic kernels: goldens" env WORKER_ORCD_CUDA_SAFE=1 ./test-gpu golden_models
    check "engine" ./test-engine --test-threads=1
    for program in ./c-*; do
        argument=
        case $program in ./c-unload) argument=$1/libworker_orcd.so ;; esac
        check "contract: ${program#./c-}" "$program" $argument
    done
    if command -v compute-sanitizer >/dev/null; then
        few=$(mktemp -d)
        cp goldens/llama-256-q4_k.* goldens/gptoss-256-mxfp4_moe.* goldens/gemma3-256-q4_0.* "$few/"
        for tool in memcheck initcheck synccheck; do
            check "sanitizer: $tool" env WORKER_ORCD_GOLDENS="$few" \
                compute-sanitizer --report-api-errors no --error-exitcode 9 --tool $tool ./test-gpu golden_models
        done
        rm -rf "$few"
    fi
    rm -f "$log"
    if [ -n "${WORKER_ORCD_SPEED_MODELS:-}" ]; then
        ./test-gpu speeds --nocapture | grep -v -e '^$' -e '^running' -e '^test '
    fi
    echo "$failures failed"
    [ "$failures" = 0 ]
}

case ${1:-} in
--pack) pack "$2" ;;
--run) run "$here" ;;
"")
    pack "$here/../target/gpu-check"
    run "$(cd "$here/../target/gpu-check" && pwd)"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
