#!/usr/bin/env bash
# Formatting, lints, tests and docs, in one build profile. Needs Rust and a C compiler; about 20 minutes cold on two cores.
#
# PASSER_FEATURES: Cargo features beside the default ones, for all that is built and run.
# PASSER_LINT_FEATURES: the same for what is only type-checked, lints and docs; by default those of PASSER_FEATURES.
# `.ci/run` sets both, and scripts/check-devices.sh reads them, so that nothing is compiled twice.
set -euo pipefail
cd "$(dirname "$0")/.."

features=(--features "${PASSER_FEATURES:-}")
lint_features=(--features "${PASSER_LINT_FEATURES:-${PASSER_FEATURES:-}}")

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

step "format"
cargo fmt --all --check

# Builds of some devices' libraries download LLVM; DOCS_RS leaves that out, and then they can be checked but not linked.
step "lints"
DOCS_RS=1 cargo clippy --release --locked --workspace --all-targets "${lint_features[@]}" -- -D warnings

step "docs"
DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --quiet "${lint_features[@]}"

# Not the examples, which lints have read: each would link the whole program once more.
step "tests"
cargo test --release --locked --workspace --tests "${features[@]}"

step "done"
