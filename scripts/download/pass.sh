#!/usr/bin/env bash
# Fetches version 3 of PASS (1,439,588 photographs, 180 GB) from Zenodo, record 6615455: ten tars and their metadata.
#
#   scripts/download/pass.sh FOLDER
#
# Existing files are kept, and an interrupted download resumes. A file gets its name only after its size and SHA-256 match.
# Nothing is fetched if the disk cannot hold the missing files.
# PASS_URL replaces the address of the files, PASS_MANIFEST names a file with lines of bytes, SHA-256 and name; both are for
# mirrors and tests. Needs curl and coreutils. PASS is licensed CC BY 4.0 as a collection, its photos CC BY 2.0.
set -euo pipefail

url="${PASS_URL:-https://zenodo.org/record/6615455/files}"
# Zenodo's sizes; SHA-256 as the loaders of TensorFlow Datasets and Hugging Face have them.
manifest() {
    if [ -n "${PASS_MANIFEST:-}" ]; then
        cat -- "$PASS_MANIFEST"
        return
    fi
    cat <<'END'
18704343040 5ff59cbf372a05d82c22afa8191eb229959730fd371b84a0ec784e7f91b1d285 PASS.0.tar
18675681280 d7b3a1d82c9695f31e9d8ebb71f450afef39e3353c608971fc74780f59e909fd PASS.1.tar
18743080960 b62021816caac550580fcace7e74e8cb7358663006a7e28707c602859aa51243 PASS.2.tar
18694615040 2af47eab3a026ca5a747cccf3d6ababbd5a9b028d99d6f76e92a01d2f2b64276 PASS.3.tar
18673643520 0170c73cc846e07fbf2bbece0ea62a893b0d440b937dcac965e5b25f4e75006d PASS.4.tar
18715811840 79ccc5167fa0e7950fc6dca1eec3c9b8db1d31313a83c8a19d2f9b9a88d1eeaf PASS.5.tar
18728970240 adabc1ab18be4587a4c1882633015845681e9d8551075406e8d83a025819eef6 PASS.6.tar
18703380480 8661044c3a46f1e2f5c2fa96b9deb48c6b2d218ac9753b139073186920c15ab7 PASS.7.tar
18695772160 0dba1ac815c001d9a83787321e1929b03cebcccc1a8f12725eec866e80480a1f PASS.8.tar
11152302080 9a7ab254638f4bf21267aa0165452572ae52d82aabb451a65e56a2d51a17e982 PASS.9.tar
  152590171 8b6fde80b48326bda9da0a7c48f92146a58a847f76a1dc40603b7e4f73f5e798 pass_metadata.csv
END
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

[ $# -eq 1 ] || { say "usage: $0 FOLDER"; exit 2; }
for tool in curl sha256sum stat df; do
    command -v "$tool" >/dev/null || fail "this needs \`$tool\`"
done
folder="$1"
mkdir -p -- "$folder"
cd -- "$folder"

# Two downloads would write into the same files. The lock is released when this process ends, however it ends.
exec 9>.pass-download.lock
if command -v flock >/dev/null; then
    flock -n 9 || fail "another download is running in \`$folder\`"
fi

size() { stat -c %s -- "$1" 2>/dev/null || echo 0; }
# A verified file is not hashed again while its size and time are unchanged.
stamp() { printf '%s %s' "$1" "$(stat -c '%s %Y' -- "$2")"; }
checked() { [ -f "$3" ] && [ -f ".$3.checked" ] && [ "$(size "$3")" = "$1" ] && [ "$(cat ".$3.checked")" = "$(stamp "$2" "$3")" ]; }
matches() { [ "$(size "$3")" = "$1" ] && [ "$(sha256sum <"$3" | cut -d ' ' -f 1)" = "$2" ]; }

lines=()
missing=0
while read -r bytes sha name; do
    [[ "$bytes" =~ ^[0-9]+$ && "$sha" =~ ^[0-9a-f]{64}$ && "$name" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "the manifest has the line \`$bytes $sha $name\`"
    lines+=("$bytes $sha $name")
    if [ ! -f "$name" ] || [ "$(size "$name")" != "$bytes" ]; then
        # A partial file that is too long is fetched again.
        part=$(size "$name.part")
        [ "$part" -le "$bytes" ] || part=0
        missing=$((missing + bytes - part))
    fi
done < <(manifest)
[ "${#lines[@]}" -gt 0 ] || fail "the manifest is empty"

free=$(df --output=avail -B 1 . | tail -n 1 | tr -d ' ')
say "$((missing / 1000000)) MB to fetch, $((free / 1000000)) MB free in \`$folder\`"
[ "$missing" -le "$free" ] || fail "the disk has $((free / 1000000)) MB left, $((missing / 1000000)) MB are needed: nothing was fetched"

fetch() { # bytes sha name
    local bytes="$1" name="$3" try
    for try in 1 2 3 4 5 6 7 8; do
        local have
        have=$(size "$name.part")
        [ "$have" -le "$bytes" ] || { rm -f -- "$name.part"; have=0; }
        if [ "$have" -lt "$bytes" ]; then
            local status=0
            # Stops when nothing arrives for a minute; never longer than the expected file.
            curl --fail --location --silent --show-error --continue-at - --max-filesize "$bytes" \
                --connect-timeout 30 --speed-limit 1000 --speed-time 60 --output "$name.part" -- "$url/$name" || status=$?
            # 33: the server cannot resume in the middle. 36: curl cannot.
            if [ "$status" = 33 ] || [ "$status" = 36 ]; then
                rm -f -- "$name.part"
            fi
        fi
        have=$(size "$name.part")
        if [ "$have" = "$bytes" ]; then
            matches "$1" "$2" "$name.part" && return 0
            say "$name: its content is not what it should be; fetching it again"
            rm -f -- "$name.part"
        else
            say "$name: $have of $bytes bytes, try $try"
            sleep "${PASS_PAUSE:-$((try * 5))}"
        fi
    done
    return 1
}

for line in "${lines[@]}"; do
    read -r bytes sha name <<<"$line"
    if checked "$bytes" "$sha" "$name"; then
        say "$name: present, verified"
        continue
    fi
    if [ -f "$name" ]; then
        if matches "$bytes" "$sha" "$name"; then
            stamp "$sha" "$name" >".$name.checked"
            say "$name: present, verified"
            continue
        fi
        say "$name: not what it should be; fetched anew"
        rm -f -- "$name"
    fi
    fetch "$bytes" "$sha" "$name" || fail "$name cannot be fetched from $url; the same command resumes"
    mv -- "$name.part" "$name"
    stamp "$sha" "$name" >".$name.checked"
    say "$name: fetched, verified"
done
say "complete: \`passer shards inspect $folder\` opens it (configs/datasets/pass.toml)"
