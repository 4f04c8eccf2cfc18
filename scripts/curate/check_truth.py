"""Compares a ledger with the truth of `synthetic_yfcc.py`, and prints a hash of all photos and decisions.

    python3 scripts/curate/check_truth.py yfcc.tsv.truth.json curations/synthetic/ledger.sqlite

Runs that were killed and went on must print the same hash as one that never stopped. Standard library only.
"""

import collections
import hashlib
import json
import sqlite3
import sys


def main():
    with open(sys.argv[1]) as file:
        truth = json.load(file)
    ledger = sqlite3.connect(f"file:{sys.argv[2]}?mode=ro", uri=True)
    found = collections.defaultdict(lambda: {"kept": 0, "dropped": 0, "reasons": {}})
    query = """SELECT s.name, d.kept, r.name, count(*) FROM decisions d JOIN stages s ON s.id = d.stage
               LEFT JOIN reasons r ON r.id = d.reason GROUP BY 1, 2, 3"""
    for stage, kept, reason, count in ledger.execute(query):
        if kept:
            found[stage]["kept"] += count
        else:
            found[stage]["dropped"] += count
            found[stage]["reasons"][reason] = count
    good = True
    for stage, expected in truth["stages"].items():
        same = found[stage] == expected
        good &= same
        print(f"{stage}: {'as made' if same else 'WRONG'}: {json.dumps(found[stage], sort_keys=True)}")
        if not same:
            print(f"  expected {json.dumps(expected, sort_keys=True)}")
    most = ledger.execute(
        """SELECT max(n) FROM (SELECT count(*) AS n FROM decisions d JOIN stages s ON s.id = d.stage JOIN photos p ON p.id = d.photo
           WHERE s.name = 'balance' AND d.kept GROUP BY p.photographer_id)"""
    ).fetchone()[0]
    print(f"most photos of one photographer: {most}")
    digest = hashlib.sha256()
    for query in (
        """SELECT p.id, p.key, p.photographer, p.photographer_id, p.title, p.date_taken, p.latitude, p.longitude, p.page_url, p.image_url,
           l.name, l.url FROM photos p LEFT JOIN licences l ON l.id = p.licence ORDER BY p.id""",
        """SELECT d.stage, d.photo, d.kept, r.name, d.score FROM decisions d LEFT JOIN reasons r ON r.id = d.reason
           ORDER BY d.stage, d.photo""",
    ):
        for row in ledger.execute(query):
            digest.update(repr(row).encode())
    print(f"hash {digest.hexdigest()}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
