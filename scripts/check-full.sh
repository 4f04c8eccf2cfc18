#!/usr/bin/env bash
# What is too slow for CI, by hand, before a release: the quick start's accuracy, a long curation killed at many moments, ranks
# killed at many moments, the pages in a browser, the allocator under Miri. About 30 minutes on two cores after a build.
#
# PASSER_FEATURES: Cargo features beside the default ones, as in check.sh, so that nothing is compiled twice.
# PASSER_TEST_DATA: the folder of real inputs, whose weights the curation's detectors then use.
# A check whose needs are missing is named at the end, and the script then ends with status 3.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

missing=()
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

step "build"
cargo build --release --locked --workspace --features "${PASSER_FEATURES:-}"
passer="${CARGO_TARGET_DIR:-target}/release/passer"

step "quick start: README's accuracies"
"$passer" quickstart --out "$out/quickstart"
# The range of README's three seeds, and a percent more on either side for another processor's rounding.
python3 - "$out/quickstart/evaluation" <<'PYTHON'
import json, sys
ranges = {
    "pretrained": {"knn-dino": (0.763, 0.800), "linear-cached": (0.804, 0.832)},
    "pretrained-moved": {"knn-dino": (0.717, 0.745), "linear-cached": (0.672, 0.700)},
}
for folder, ranges in ranges.items():
    results = json.load(open(f"{sys.argv[1]}/{folder}/result.json"))
    results = [result for result in results if result["headline"]]
    assert {result["protocol"] for result in results} == set(ranges), results
    for result in results:
        low, high = ranges[result["protocol"]]
        assert low <= result["value"] <= high, (folder, result["protocol"], result["value"], low, high)
        print(folder, result["protocol"], result["value"], "is from", low, "to", high)
PYTHON

step "a curation killed in every stage"
detectors=()
if [ -n "${PASSER_TEST_DATA:-}" ]; then
  detectors=(--faces "$PASSER_TEST_DATA/models/retinaface_mobilenet025.pth" --persons "$PASSER_TEST_DATA/models/yolox_nano.onnx")
else
  missing+=("detectors in the killed curation: PASSER_TEST_DATA")
fi
python3 scripts/curate/kill_test.py --passer "$passer" --rows 200000 --sample 500 --out "$out/kills" "${detectors[@]}"

step "20 kills of random ranks at random moments"
if command -v mpirun >/dev/null; then
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    cargo test --release --locked --workspace --features "mpi,${PASSER_FEATURES:-}" --test ranks -- --ignored --nocapture
else
  missing+=("kills of ranks: an MPI with its headers, such as Debian's libopenmpi-dev and openmpi-bin")
fi

step "pages in a browser"
if command -v chromium >/dev/null && command -v chromedriver >/dev/null && python3 -c 'import sklearn' 2>/dev/null && [ -n "${PASSER_TEST_DATA:-}" ]; then
  "$passer" evaluate run configs/evaluate/quickstart.toml --encoder "$out/quickstart/run" --out "$out/scores" \
    --train "$out/quickstart/data/train" --test "$out/quickstart/data/test"
  "$passer" report "$out/quickstart/run" --out "$out/run.html"
  python3 scripts/report/browser.py "$out/scores/report.html" "$out/run.html" --out "$out/shots"
  mkdir "$out/photos"
  tar -xf "$PASSER_TEST_DATA/photos-250.tar" -C "$out/photos"
  python3 scripts/review/browser.py --photos "$out/photos" --passer "$passer" --shots "$out/shots"
else
  missing+=("pages in a browser: chromium, chromium-driver, scikit-learn, PASSER_TEST_DATA")
fi

step "a run killed five times, read by TensorBoard"
if python3 -c 'import tensorboard' 2>/dev/null; then
  python3 scripts/parity/tensorboard_events.py --passer "$passer"
else
  missing+=("TensorBoard's reader: pip install tensorboard")
fi

step "the allocator under Miri"
if cargo +nightly miri --version >/dev/null 2>&1; then
  cargo +nightly miri test --locked -p allocator
else
  missing+=("the allocator under Miri: rustup toolchain install nightly --component miri")
fi

step "done"
if [ ${#missing[@]} -gt 0 ]; then
  printf 'not run: %s\n' "${missing[@]}"
  exit 3
fi
