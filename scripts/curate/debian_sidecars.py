"""Sidecar JSON for the photos of a Debian package, from its machine-readable copyright file.

    apt-get install lomiri-wallpapers-16.04
    python3 scripts/curate/debian_sidecars.py lomiri-wallpapers-16.04 16.04 photos
    passer curate run configs/curate/folder.toml --set source.folder.folder=photos --out curations/lomiri

Copies the photos of the paragraphs whose path begins with the second argument, and writes `name.json` beside each.
Standard library only.
"""

import json
import pathlib
import re
import shutil
import sys

URLS = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}


def main():
    package, prefix, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    text = pathlib.Path(f"/usr/share/doc/{package}/copyright").read_text()
    installed = {p.name: p for p in pathlib.Path("/usr/share/backgrounds").rglob("*.jpg")}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Files|Copyright|License): (.*)$", paragraph, re.M))
        if not fields.get("Files", "").startswith(prefix + "/"):
            continue
        name = pathlib.Path(fields["Files"]).name
        # `Aitzol Berasategi, 2018`, `2018. Sander Klootwijk`
        who = re.sub(r"^[\d, .-]+|[\d, .-]+$", "", fields["Copyright"]).replace('"', "")
        shutil.copy(installed[name], out / name)
        sidecar = {
            "photographer": who,
            "title": name.rsplit(".", 1)[0].split("_by_")[0],
            "licence": fields["License"],
            "licence_url": URLS[fields["License"]],
            "source_url": "https://gitlab.com/ubports/development/core/lomiri-wallpapers",
        }
        (out / name).with_suffix(".json").write_text(json.dumps(sidecar, indent=1))


if __name__ == "__main__":
    main()
