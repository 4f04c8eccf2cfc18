#!/usr/bin/env bash
# Several ranks on this machine: every method's step against one device under `mpirun -n 2` and `-n 4`, then whole runs,
# stops, kills and refusals. Needs Open MPI with its headers (Debian: libopenmpi-dev openmpi-bin). About 4 minutes after
# scripts/check.sh with the same PASSER_FEATURES, as in `.ci/run`.
set -euo pipefail
cd "$(dirname "$0")/.."

features=(--features "mpi,${PASSER_FEATURES:-}")

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if ! command -v mpirun >/dev/null; then
  echo "no mpirun: install an MPI with its headers, such as Debian's libopenmpi-dev and openmpi-bin" >&2
  exit 1
fi
# A container's user is root, and there may be fewer cores than ranks.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
launch=(mpirun --oversubscribe --bind-to none -x RAYON_NUM_THREADS=1)

step "build"
tests="$(cargo test --release --locked --workspace "${features[@]}" --tests --no-run --message-format=json |
  sed -n 's/.*"name":"objectives".*"executable":"\([^"]*\)".*/\1/p')"

for ranks in 2 4; do
  step "every method on $ranks ranks"
  "${launch[@]}" -n "$ranks" "$tests" every_method_makes_the_same_step_on_ranks --test-threads=1
done

step "runs on ranks"
# One at a time: ranks share the machine's cores, and the tests look for their processes.
cargo test --release --locked --workspace "${features[@]}" --test ranks -- --test-threads=1

step "lints"
# These tests are no part of `--all-targets`: the manifest leaves them out of `cargo test`.
lint_features=(--features "mpi,${PASSER_LINT_FEATURES:-${PASSER_FEATURES:-}}")
DOCS_RS=1 cargo clippy --release --locked --workspace --test=ranks "${lint_features[@]}" -- -D warnings

step "done"
