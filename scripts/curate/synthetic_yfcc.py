"""Writes a file in YFCC100M's layout, and beside it the counts that a curation must find.

    python3 scripts/curate/synthetic_yfcc.py --rows 10000000 --out yfcc.tsv
    passer curate run configs/curate/synthetic.toml --set 'source.yfcc100m.files=["yfcc.tsv"]' --out curations/synthetic
    python3 scripts/curate/check_truth.py yfcc.tsv.truth.json curations/synthetic/ledger.sqlite

The truth is counted while the rows are made, by what each row was made to be; nothing is read back. Standard library only.
Rows are hostile now and then: a tab in a title, bytes that are no UTF-8, a megabyte in a field, too few columns, path
characters in the key, HTML in a nickname, coordinates of the southern and western half and beyond the poles, a licence whose
name and address disagree, rows that come twice.
"""

import argparse
import collections
import json
import random

BY = ("Attribution License", "http://creativecommons.org/licenses/by/2.0/")
OTHERS = [
    ("Attribution-ShareAlike License", "http://creativecommons.org/licenses/by-sa/2.0/"),
    ("Attribution-NoDerivs License", "http://creativecommons.org/licenses/by-nd/2.0/"),
    ("Attribution-NonCommercial License", "http://creativecommons.org/licenses/by-nc/2.0/"),
    ("Attribution-NonCommercial-ShareAlike License", "http://creativecommons.org/licenses/by-nc-sa/2.0/"),
    ("Attribution-NonCommercial-NoDerivs License", "http://creativecommons.org/licenses/by-nc-nd/2.0/"),
    ("attribution license", "http://creativecommons.org/licenses/by/2.0"),
]
BAD_KEYS = ["../../etc/passwd", "a/b", "..", "a%00b", "c:\\x", "key with blank", "k.jpg"]
MIX = 0x9E3779B97F4A7C15


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--cap", type=int, default=80, help="photos a photographer keeps; as in the config")
    options = arguments.parse_args()
    draw = random.Random(options.seed).random
    photographers = max(1, options.rows // 170)  # YFCC100M: 581,099 for 99,206,564 photos
    source, licence = collections.Counter(), collections.Counter()
    by_photographer = collections.Counter()
    row = 0
    with open(options.out, "wb", buffering=1 << 20) as file:
        while row < options.rows:
            row += 1
            key = f"{row * MIX & (1 << 64) - 1:x}{row:08x}"
            who = int(photographers * draw() ** 4)  # a few have very many
            nickname = f"nick+{who}" if who % 50 else f"%3Cscript%3Ealert({who})%3C%2Fscript%3E"
            title, description, marker = f"Photo+{row}%09of+a+thing", "", "0"
            latitude = longitude = ""
            page = f"http://www.flickr.com/photos/{who}@N00/{row}/"
            if draw() < 0.4:
                latitude, longitude = f"{draw() * 200 - 100:.6f}", f"{draw() * 360 - 180:.6f}"
            u = draw()
            name, url = BY if u < 0.174 else OTHERS[int((u - 0.174) / 0.826 * len(OTHERS))]
            reason, why = None, None
            v = draw()
            if v < 0.008:
                marker, reason = "1", "video"
            elif v < 0.0090:
                title, reason = "raw\ttab", "malformed_row"
            elif v < 0.0095:
                key, reason = "", "no_key"
            elif v < 0.0100:
                key, reason = BAD_KEYS[row % len(BAD_KEYS)], "unsafe_key"
            elif v < 0.0105:
                nickname, reason = "bad%FFname", "broken_text"
            elif v < 0.0110:
                nickname, reason = None, "broken_text"
            elif v < 0.0150:
                name, url, why = BY[0], OTHERS[row % 5][1], "licence_disagrees"
            elif v < 0.0160:
                name, url, why = "", "", "no_licence"
            elif v < 0.0180 and name == BY[0]:
                page, why = "", "no_page_url"
            elif v < 0.0200 and name == BY[0]:
                nickname, why = "%20%09", "no_photographer"
            elif v > 1 - 1e-6:
                description = "d" * (1 << 20)
            elif v > 1 - 2e-6:
                title, reason = "t" * (1 << 20), "field_too_long"
            if reason is None and why is None and name != BY[0]:
                # The last one's address, of CC BY 2.0, is accepted, and its name is not.
                why = "licence_disagrees" if name == OTHERS[-1][0] else "licence_not_accepted"
            shown = b"\xff\xfe" if nickname is None else nickname.encode()
            fields = [
                str(row), str(6_000_000_000 + row), key, f"{who}@N00", None, "2011-09-10 21:13:32.0", "1316432672", "Nokia+N950",
                title, description, "helsinki,party", "", longitude, latitude, "16" if latitude else "", page,
                f"http://farm7.staticflickr.com/6167/{row}_5d22abd711.jpg", name, url, "6167", "7", "5d22abd711", "44e5acb0f2", "jpg", marker,
            ]
            text = b"\t".join(shown if field is None else field.encode() for field in fields) + b"\n"
            if draw() < 0.0005 and reason is None:
                # Too few columns.
                text, reason = text[: len(text) // 2].replace(b"\t", b" ", 1) + b"\n", "malformed_row"
            file.write(text)
            if reason is None and row < options.rows and draw() < 0.001:
                # Twice: the same, or with a licence that disagrees.
                row += 1
                if draw() < 0.5:
                    file.write(text)
                    source["repeated_row"] += 1
                else:
                    fields[17:19] = OTHERS[0] if (name, url) != OTHERS[0] else BY
                    file.write(b"\t".join(shown if field is None else field.encode() for field in fields) + b"\n")
                    source["rows_disagree"] += 2
                    continue
            if reason:
                source[reason] += 1
            elif why:
                licence[why] += 1
            else:
                by_photographer[who] += 1
    dropped_source, dropped_licence = sum(source.values()), sum(licence.values())
    accepted = sum(by_photographer.values())
    balanced = sum(min(options.cap, count) for count in by_photographer.values())
    truth = {
        "rows": options.rows,
        "photographers_accepted": len(by_photographer),
        "stages": {
            "source": {"kept": options.rows - dropped_source, "dropped": dropped_source, "reasons": dict(source)},
            "licence": {"kept": accepted, "dropped": dropped_licence, "reasons": dict(licence)},
            "balance": {
                "kept": balanced,
                "dropped": accepted - balanced,
                "reasons": {"over_photographer_limit": accepted - balanced} if accepted > balanced else {},
            },
        },
    }
    assert options.rows - dropped_source == accepted + dropped_licence
    with open(options.out + ".truth.json", "w") as file:
        json.dump(truth, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main()
