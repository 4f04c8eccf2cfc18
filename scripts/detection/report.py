"""Precision and recall of the people filter (a face OR a person) against labels, as a Markdown table.

    passer detect faces   --weights mobilenet0.25_Final.pth --data photos-250.tar --out faces.jsonl
    passer detect persons --weights yolox_nano.onnx         --data photos-250.tar --out persons.jsonl
    python scripts/detection/report.py crates/detection/testdata/photos-250.csv faces.jsonl persons.jsonl

The labels are a CSV file with the columns key, person and face (yes, no or doubtful); a photo counts as showing people if `person` is
yes, and one that is doubtful counts for nothing. A photo is dropped if any detection scores above the threshold. Intervals are
Wilson's, 95 %. `--list` names the photos that are dropped wrongly or missed. Needs Python alone.
"""

import argparse
import csv
import json
import math


def tops(path):
    """{key: highest score, 0 where nothing was found}."""
    found = {}
    with open(path) as lines:
        for line in map(json.loads, lines):
            found[line["key"]] = max((d["score"] for d in line.get("detections", [])), default=0.0)
    return found


def share(part, whole):
    if whole == 0:
        return "-"
    z, p = 1.96, part / whole
    middle, spread = p + z * z / (2 * whole), z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    low, high = ((middle + sign * spread) / (1 + z * z / whole) for sign in (-1, 1))
    return f"{100 * p:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels")
    parser.add_argument("faces")
    parser.add_argument("persons")
    parser.add_argument("--thresholds", default="0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9")
    parser.add_argument("--at", type=float, default=0.5, help="the threshold of the first table; PASS's")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.labels, newline="") as file:
        labels = list(csv.DictReader(file))
    faces, persons = tops(arguments.faces), tops(arguments.persons)
    missing = [row["key"] for row in labels if row["key"] not in faces or row["key"] not in persons]
    if missing:
        raise SystemExit(f"{len(missing)} labeled photos have no detections: {', '.join(missing[:5])}")

    def row(truth, rule, threshold):
        """(true positives, false positives, missed, doubtful ones dropped)."""
        dropped = [r for r in labels if rule(r["key"]) > threshold]
        hits = sum(r[truth] == "yes" for r in dropped)
        wrong = sum(r[truth] == "no" for r in dropped)
        return hits, wrong, sum(r[truth] == "yes" for r in labels) - hits, len(dropped) - hits - wrong

    def line(name, truth, rule, threshold):
        hits, wrong, missed, doubtful = row(truth, rule, threshold)
        print(f"| {name} | {share(hits, hits + wrong)} | {share(hits, hits + missed)} | {hits} | {wrong} | {missed} | {doubtful} |")

    either = lambda key: max(faces[key], persons[key])
    head = "precision | recall | found | wrongly | missed | doubtful ones dropped |\n|" + "---|" * 7
    print(f"{len(labels)} photos; " + "; ".join(
        f"{truth}: " + ", ".join(f"{sum(r[truth] == v for r in labels)} {v}" for v in ("yes", "no", "doubtful"))
        for truth in ("person", "face")
    ))  # fmt: skip
    print(f"\n| at {arguments.at} | {head}")
    line("face stage, of photos with a face", "face", faces.__getitem__, arguments.at)
    line("face stage, of photos with a person", "person", faces.__getitem__, arguments.at)
    line("person stage, of photos with a person", "person", persons.__getitem__, arguments.at)
    line("both stages, of photos with a person", "person", either, arguments.at)
    print(f"\n| both stages, threshold | {head}")
    for threshold in map(float, arguments.thresholds.split(",")):
        line(f"{threshold:g}", "person", either, threshold)
    if arguments.list:
        for r in labels:
            dropped = either(r["key"]) > arguments.at
            if (r["person"], dropped) in (("yes", False), ("no", True), ("doubtful", True)):
                what = "missed" if not dropped else f"dropped, labeled {r['person']}"
                print(f"{r['key']}: {what}; face {faces[r['key']]:.2f}, person {persons[r['key']]:.2f}; {r['note']}")


if __name__ == "__main__":
    main()
