#!/bin/sh
# Measures a build of Passer on this machine's GPU, beside PyTorch: see docs/devices.md.
#
#   scripts/gpu/run.sh BINARY [--out FOLDER] [--device cuda] [--minutes 14] [--parts NAME,NAME] [--small]
#
# Needs the binary (scripts/build-gpu.sh makes it) and a `python3` with torch, torchvision and timm; no network. PYTHON names another.
exec "${PYTHON:-python3}" "$(dirname "$0")/run.py" "$@"
