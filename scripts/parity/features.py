"""Checks that NumPy, pandas' reader and safetensors read the same features from the three formats of `passer features`.

    python scripts/parity/features.py PASSER ENCODER DATA [ARGUMENT …]     # arguments of `passer features`, as --dtype f16

Needs numpy, safetensors, pyarrow.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow.parquet
from safetensors.numpy import load_file


def main(passer: str, encoder: str, data: str, *more: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        outs = {"safetensors": scratch / "f.safetensors", "npy": scratch / "arrays", "parquet": scratch / "f.parquet"}
        for kind, out in outs.items():
            subprocess.run(
                [passer, "features", "--encoder", encoder, "--data", data, "--format", kind, "--out", out, *more], check=True)
        stored = load_file(outs["safetensors"])
        offsets = stored.pop("key_offsets")
        keys = stored.pop("keys").tobytes()
        keys = [keys[a:b].decode() for a, b in zip(offsets, offsets[1:])]
        table = pyarrow.parquet.read_table(outs["parquet"])
        assert (outs["npy"] / "keys.txt").read_text().splitlines() == keys
        assert table["key"].to_pylist() == keys
        about = json.loads(table.schema.metadata[b"passer_features"])
        assert about == json.loads((outs["npy"] / "about.json").read_text())
        for name, values in stored.items():
            array = np.load(outs["npy"] / f"{name}.npy", mmap_mode="r")
            assert array.dtype == values.dtype and array.shape == values.shape and (array == values).all(), name
            if name == "labels":
                column = table["label" if values.ndim == 1 else "labels"]
            else:
                column = table[name]
            in_table = np.array(column.to_pylist())
            assert in_table.shape == values.shape and (in_table == values).all(), name
            print(f"{name}: {values.dtype} {values.shape}, the same in all three")
        assert {path.stem for path in outs["npy"].glob("*.npy")} == set(stored)
        sizes = {kind: sum(p.stat().st_size for p in ([out] if out.is_file() else out.iterdir())) for kind, out in outs.items()}
        print(len(keys), "records; bytes:", sizes)


if __name__ == "__main__":
    main(*sys.argv[1:])
