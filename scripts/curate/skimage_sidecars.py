"""The photos `astronaut` and `camera` of scikit-image with sidecar JSON, licences as scikit-image states them.

    pip install --no-deps scikit-image
    python3 scripts/curate/skimage_sidecars.py photos
    passer curate run configs/curate/open-photos.toml --set source.folder.folder=photos --out curations/open

Copies both into the folder, keeps its other files, and writes `name.json` for each. Which licence a photo has is read in the
documentation of scikit-image's own function, and a version that says something else is an error. Both show a person: an
astronaut's portrait, and a man behind a camera. Standard library only; scikit-image is looked up and not imported.
"""

import ast
import importlib.util
import json
import pathlib
import shutil
import sys

PHOTOS = {
    "astronaut": {
        "says": ["released into the public domain", "NASA Great Images database"],
        "sidecar": {
            "photographer": "NASA",
            "title": "Eileen Collins",
            "licence": "public domain",
            "source_url": "https://flic.kr/p/r9qvLn",
        },
    },
    "camera": {
        "says": ["CC0 by the photographer (Lav Varshney)"],
        "sidecar": {
            "photographer": "Lav Varshney",
            "title": "camera",
            "licence": "CC0-1.0",
            "licence_url": "https://creativecommons.org/publicdomain/zero/1.0/",
            "source_url": "https://github.com/scikit-image/scikit-image/issues/3927",
        },
    },
}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    found = importlib.util.find_spec("skimage")
    if found is None:
        sys.exit("scikit-image is not installed: pip install --no-deps scikit-image")
    data = pathlib.Path(found.origin).parent / "data"
    functions = {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse((data / "_fetchers.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    for name, photo in PHOTOS.items():
        said = " ".join(functions.get(name, "").split())
        for words in photo["says"]:
            if words not in said:
                sys.exit(f"skimage.data.{name} does not say `{words}`: look up its licence before you publish it")
        shutil.copy(data / f"{name}.png", out / f"{name}.png")
        (out / f"{name}.json").write_text(json.dumps(photo["sidecar"], indent=1))


if __name__ == "__main__":
    main()
