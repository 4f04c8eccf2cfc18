#!/usr/bin/env bash
# Tests of the Python package, in a fresh environment in which a wheel is installed and Rust is not on the path.
#
#   scripts/check-python.sh dist/passer_vision-0.2.0-….whl [PACKAGE …]
#
# PACKAGE: installed too, as `torch torchvision timm pillow`: without them the tests of `load_encoder` are listed as skipped.
# Needs Python 3.10 or newer and its package index. PASSER_PROGRAM names another program than the wheel's.
set -euo pipefail
wheel=$(realpath "$1")
shift
cd "$(dirname "$0")/../python"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-index "$wheel"
"$folder/venv/bin/pip" install --quiet mypy pytest numpy pandas pyarrow safetensors "$@"

without_rust=(env -i PATH="$folder/venv/bin:/usr/bin:/bin" HOME="$folder" ${PASSER_PROGRAM:+PASSER_PROGRAM="$PASSER_PROGRAM"})
"${without_rust[@]}" mypy --cache-dir "$folder/mypy"
"${without_rust[@]}" pytest -q -p no:cacheprovider -rs
