"""Confidence intervals after Clopper and Pearson, by scipy's quantiles of the beta distribution; scipy's `binomtest` and, where it is
installed, statsmodels' `proportion_confint(method="beta")` must agree.

    python scripts/parity/intervals.py > crates/curation/testdata/intervals.json

`crates/curation/src/audit/interval.rs` compares to a relative 1e-9. Needs scipy; statsmodels is a second witness.
"""

import json
import sys

from scipy.stats import beta, binomtest

try:
    from statsmodels.stats.proportion import proportion_confint
except ImportError:
    proportion_confint = None


def main():
    cases = []
    for total in (1, 7, 40, 300, 1000, 20000, 1439588):
        for found in sorted({0, 1, 2, total // 100, total // 3, total - 1, total}):
            if not 0 <= found <= total:
                continue
            for confidence in (0.95, 0.99):
                tail = (1 - confidence) / 2
                low = beta.ppf(tail, found, total - found + 1) if found > 0 else 0.0
                high = beta.ppf(1 - tail, found + 1, total - found) if found < total else 1.0
                # scipy's own interval searches a root to 1e-12 or so, which is less than beta's quantile has.
                exact = binomtest(found, total).proportion_ci(confidence, method="exact")
                assert abs(exact.low - low) < 1e-11 and abs(exact.high - high) < 1e-11, (found, total, exact, low, high)
                if proportion_confint:
                    other = proportion_confint(found, total, alpha=1 - confidence, method="beta")
                    for ours, theirs in zip((low, high), other):
                        # statsmodels gives NaN where the share is 0 or 1 in some versions.
                        assert theirs != theirs or abs(ours - theirs) <= 1e-9 * max(ours, 1e-12), (found, total, ours, theirs)
                cases.append({"found": found, "all": total, "confidence": confidence, "low": float(low), "high": float(high)})
    if not proportion_confint:
        print("statsmodels is not installed: scipy is the only witness", file=sys.stderr)
    json.dump({"made_by": "scripts/parity/intervals.py", "cases": cases}, sys.stdout, indent=0)
    print()


if __name__ == "__main__":
    main()
