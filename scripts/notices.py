"""Licenses and notices of the crates that a build of Passer contains, for archives and wheels that are handed out.

    python3 scripts/notices.py [--features cuda,cpp] [--target x86_64-unknown-linux-gnu] --out NOTICES.txt

Asks cargo which crates are linked into the program (no crates of tests and of build scripts), reads the license files in their
sources, and writes each text once with the crates that have it. A crate without such a file is listed with its license's name.
Needs Python and cargo, which may download the sources.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--features", default="")
parser.add_argument("--target", help="a Rust target; default: this machine's")
parser.add_argument("--out", type=pathlib.Path, required=True)
arguments = parser.parse_args()
root = pathlib.Path(__file__).resolve().parents[1]

host = subprocess.run(["rustc", "-vV"], cwd=root, check=True, capture_output=True, text=True).stdout
target = arguments.target or re.search(r"host: (\S+)", host)[1]
listed = subprocess.run(
    ["cargo", "tree", "--locked", "--package", "cli", "--features", arguments.features, "--target", target]
    + ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"],
    cwd=root, check=True, capture_output=True, text=True).stdout
linked = {tuple(line.split()[:2]) for line in listed.splitlines() if line.strip()}
metadata = json.loads(subprocess.run(
    ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, "--all-features"],
    cwd=root, check=True, capture_output=True, text=True).stdout)

NAMES = re.compile(r"(?i)(licen[sc]e|copying|copyright|notice|unlicense)([-_.].*)?$")
by_text, without = collections.defaultdict(set), []
for package in metadata["packages"]:
    crate = f"{package['name']} {package['version']}"
    if package["source"] is None or (package["name"], f"v{package['version']}") not in linked:
        continue
    folder = pathlib.Path(package["manifest_path"]).parent
    named = [folder / package["license_file"]] if package["license_file"] else []
    files = {file for file in [*named, *folder.iterdir()] if file.is_file() and (file in named or NAMES.match(file.name))}
    for file in files:
        by_text[file.read_text("utf-8", "replace").strip()].add(crate)
    if not files:
        without.append(f"{crate}: {package['license']}")

crates = set.union(set(), *by_text.values())
parts = [f"This program contains {len(crates) + len(without)} crates of others. Their licenses and notices follow."]
parts += [", ".join(sorted(crates)) + ":\n\n" + text for text, crates in sorted(by_text.items(), key=lambda item: (-len(item[1]), item[0]))]
if without:
    parts.append("Without a license file in their sources:\n\n" + "\n".join(sorted(without)))
arguments.out.write_text(("\n\n" + "-" * 80 + "\n\n").join(parts) + "\n", "utf-8")
print(f"{arguments.out}: {len(crates)} crates with {len(by_text)} texts, {len(without)} without a file")
