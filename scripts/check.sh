#!/usr/bin/env bash
# Formatting, lints, tests and docs on the CPU backend, in one build profile. About 20 minutes cold on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --release --locked --workspace --all-targets -- -D warnings

step "tests"
cargo test --release --locked --workspace

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --quiet
