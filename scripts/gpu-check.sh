#!/bin/sh
# Checks the library on a machine with an NVIDIA GPU, and prints one table.
#
#   scripts/gpu-check.sh              builds and checks here
#   scripts/gpu-check.sh --pack DIR   builds here and puts all that the check needs into DIR (about 90 MB)
#   DIR/gpu-check.sh --run [quick]    checks, on a machine that needs the driver alone; quick: one minute, without the code of
#                                     older cards and the sanitizers
#
# WORKER_ORCD_GOLDENS names the golden models, WORKER_ORCD_SPEED_MODELS a folder of GGUF files whose speeds are
# measured; with WORKER_ORCD_SOAK_SECONDS each also answers many at once, and goes through a soak of so long. Where
# compute-sanitizer is found, it watches a few small models.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

# The newest executable that cargo reports for a test.
executable() {
    cargo test --no-run --test "$1" 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p' | tail -1
}

# The program $1 of all that follows; for Hopper and, compiled by the driver, for every other card.
program() {
    program=$1
    shift
    nvcc=$(for nvcc in "${WORKER_ORCD_NVCC:-}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc .cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc; do
        [ ! -x "$nvcc" ] || { echo "$nvcc" && break; }
    done)
    "$nvcc" -std=c++17 -O3 -cudart static -L "$(dirname "$nvcc")/../lib" -Xlinker -s -o "$program" \
        -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=compute_80 "$@"
}

# The check of the products as $1, with more flags.
products() {
    program "$@" tests/gpu/products.cu tests/gpu/timings.cu kernels/repack.cu kernels/prepare.cu kernels/product_small.cu \
        kernels/product_row.cu kernels/product_row_kinds.cu kernels/product_rows.cu kernels/product_panels.cu kernels/product_batch.cu kernels/product_split.cu kernels/product_many_*.cu \
        kernels/product_prefill*.cu
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
    products "$to/products"
    products "$to/products-watched" -DEVERY_LANE_ARRIVES
    program "$to/chosen" tests/gpu/chosen.cu kernels/prepare.cu kernels/experts.cu kernels/ffn.cu kernels/route_*.cu kernels/product_row.cu \
        kernels/product_many_*.cu kernels/product_experts.cu
    program "$to/attend" tests/gpu/attend.cu kernels/attend_prefill.cu
    program "$to/decode" tests/gpu/decode.cu kernels/attend_decode.cu
    cargo build
    strip -o "$to/libworker_orcd.so" target/debug/libworker_orcd.so
    for source in tests/c/*.c; do
        cc -std=c11 -O1 -I include -o "$to/c-$(basename "$source" .c)" "$source" \
            -L "$to" -lworker_orcd -pthread -ldl -lm "-Wl,-rpath,\$ORIGIN"
    done
    for name in speed crowd; do
        cc -std=c11 -O2 -I include -o "$to/$name" "tests/bench/$name.c" -L "$to" -lworker_orcd -pthread "-Wl,-rpath,\$ORIGIN"
    done
    mkdir -p "$to/goldens"
    cp -r "${WORKER_ORCD_GOLDENS:-../shared/models/tiny}/." "$to/goldens/"
    cp "$here/gpu-check.sh" "$to/"
}

failures=0

# Each type's products under the tool "$@", four side by side: the tool watches on the host.
watched() {
    for type in F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 fused; do
        echo "$type"
    done | xargs -P 4 -I TYPE "$@" ./products-watched tiny TYPE
}

# check NAME COMMAND..: a line of the table; what a failure printed.
check() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$log" 2>&1; then result=ok; else result="FAILED ($?)"; failures=$((failures + 1)); fi
    printf '%-34s %-12s %4d s\n' "$name" "$result" $(($(date +%s) - start))
    [ "$result" = ok ] || tail -25 "$log"
}

# Speeds, and the sum of it all.
finish() {
    rm -f "$log"
    if [ -n "${WORKER_ORCD_SPEED_MODELS:-}" ]; then
        ./test-gpu speeds --nocapture | grep -v -e '^$' -e '^running' -e '^test '
    fi
    if [ -n "${WORKER_ORCD_SPEED_MODELS:-}" ] && [ -n "${WORKER_ORCD_SOAK_SECONDS:-}" ]; then
        for model in "$WORKER_ORCD_SPEED_MODELS"/*.gguf; do
            ./speed "$model" -r 3 -p 512,4096 -d 64 -s 1,8,32,64 -i 4096
            ./crowd "$model" -a 64 -x 2048 -k "$WORKER_ORCD_SOAK_SECONDS" || failures=$((failures + 1))
        done
    fi
    echo "$failures failed"
    [ "$failures" = 0 ]
}

run() {
    cd "$1"
    log=$(mktemp)
    WORKER_ORCD_GOLDENS=${WORKER_ORCD_GOLDENS:-$1/goldens}
    export WORKER_ORCD_GOLDENS WORKER_ORCD_TEST_DEVICE=cuda WORKER_ORCD_DEVICE=cuda
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
    check "products" ./products check
    check "experts" ./chosen check
    check "a prompt's attention" ./attend check
    check "attention in decoding" ./decode check
    for test in steps golden_models company window far_rows nothing two_models stubs; do
        check "device: $test" ./test-gpu --test-threads=1 "$test"
    done
    check "kernels of the file's layout: goldens" env WORKER_ORCD_CUDA_SAFE=1 ./test-gpu golden_models
    check "engine" ./test-engine --test-threads=1
    for program in ./c-*; do
        argument=
        case $program in ./c-unload) argument=$1/libworker_orcd.so ;; esac
        check "contract: ${program#./c-}" "$program" $argument
    done
    [ -z "${2:-}" ] || { finish; return; }
    # The code of older cards, which the driver compiles for this one, and their shared memory.
    for bytes in 101376 166912; do
        check "$bytes bytes shared: steps" env WORKER_ORCD_CUDA_SHARED=$bytes ./test-gpu --test-threads=1 steps
    done
    older="env CUDA_FORCE_PTX_JIT=1 WORKER_ORCD_CUDA_SHARED=101376"
    check "code of sm_80: products" $older ./products check
    check "code of sm_80: attention in decoding" $older ./decode check
    for test in steps golden_models company; do
        check "code of sm_80: $test" $older ./test-gpu --test-threads=1 "$test"
    done
    if command -v compute-sanitizer >/dev/null; then
        few=$(mktemp -d)
        cp goldens/llama-256-q4_k.* goldens/gptoss-256-mxfp4_moe.* goldens/gemma3-256-q4_0.* "$few/"
        for tool in memcheck initcheck synccheck; do
            # Barriers of a block at the most: the tool's own guess is too low.
            barriers=
            [ $tool != synccheck ] || barriers="--num-cuda-barriers 1024"
            watch="compute-sanitizer --report-api-errors no --error-exitcode 9 --tool $tool $barriers"
            check "$tool: goldens" env WORKER_ORCD_GOLDENS="$few" $watch ./test-gpu golden_models
            check "$tool: steps" $watch ./test-gpu --test-threads=1 steps_see
            check "$tool: products" $watch ./products tiny
            check "$tool: a prompt's attention" $watch ./attend check
            check "$tool: attention in decoding" $watch ./decode check
        done
        rm -rf "$few"
        watch="compute-sanitizer --error-exitcode 9 --tool racecheck"
        check "racecheck: products" watched $watch
        check "racecheck: attention in decoding" $watch ./decode check
        check "racecheck: products, code of sm_80" watched $older $watch
    fi
    finish
}

case ${1:-} in
--pack) pack "$2" ;;
--run) run "$here" "${2:-}" ;;
"")
    pack "$here/../target/gpu-check"
    run "$(cd "$here/../target/gpu-check" && pwd)"
    ;;
*)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
