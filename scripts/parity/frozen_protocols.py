"""Fixtures of crates/evaluation: what scikit-learn and SciPy say about the same features, one file a protocol.

    python scripts/parity/frozen_protocols.py [NAME...]     # writes crates/evaluation/fixtures/NAME.safetensors; all without NAME

Needs numpy, scipy, scikit-learn, safetensors. References are float64 on float32 features.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.svm import LinearSVC

FIXTURES = Path(__file__).resolve().parents[2] / "crates/evaluation/fixtures"


def clouds(generator, rows, width, classes, noise):
    """Overlapping clouds of a few classes (float32), not centred, and their labels."""
    centres = generator.normal(size=(classes, width))
    labels = generator.integers(classes, size=rows)
    points = centres[labels] + noise * generator.normal(size=(rows, width)) + 0.5
    return points.astype(np.float32), labels


def hungarian_accuracy(classes, clusters):
    table = metrics.cluster.contingency_matrix(classes, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return table[rows, columns].sum() / len(classes)


def clustering():
    """Lloyd's iterations from given centres, and the scores of clusterings good, bad, trivial and lopsided."""
    generator = np.random.default_rng(1)
    points, labels = clouds(generator, 500, 8, 6, 1.0)
    stored = {"points": points}
    starts = {"six": points[:6], "forty": points[::12][:40], "empty": np.vstack([points[:5], 1e3 + points[5:8]])}
    for name, start in starts.items():
        search = KMeans(len(start), init=start.astype(np.float64), n_init=1, max_iter=300, tol=0.0)
        search.fit(points.astype(np.float64))
        print(name, "inertia", search.inertia_, "iterations", search.n_iter_)
        stored |= {
            f"{name}_start": start,
            f"{name}_centres": search.cluster_centers_,
            f"{name}_assignments": search.labels_,
            f"{name}_inertia": np.array([search.inertia_]),
            f"{name}_iterations": np.array([search.n_iter_]),
        }

    pairs = {
        "found": (labels, KMeans(6, n_init=3, random_state=0).fit_predict(points)),
        "fine": (labels, KMeans(40, n_init=1, random_state=0).fit_predict(points)),
        "coarse": (labels, KMeans(2, n_init=1, random_state=0).fit_predict(points)),
        "random": (labels, generator.integers(9, size=500)),
        "lopsided": (labels, (generator.random(500) < 0.01).astype(int)),
        "one_cluster": (labels, np.zeros(500, int)),
        "singletons": (labels[:60], np.arange(60)),
        "all_singletons": (np.arange(60), generator.permutation(60)),
        "trivial": (np.zeros(30, int), np.zeros(30, int)),
    }
    for name, (classes, clusters) in pairs.items():
        with warnings.catch_warnings():
            # scikit-learn warns of many labels for few records, which is the point here.
            warnings.simplefilter("ignore")
            scores = [
                metrics.normalized_mutual_info_score(classes, clusters),
                metrics.adjusted_mutual_info_score(classes, clusters),
                metrics.adjusted_rand_score(classes, clusters),
                hungarian_accuracy(classes, clusters),
            ]
        print(name, scores)
        stored |= {f"{name}_pair": np.stack([classes, clusters]), f"{name}_scores": np.array(scores)}
    return stored


def few_shot():
    """Episodes of five classes: predictions of nearest centroids, decision values of ridge regression."""
    generator = np.random.default_rng(2)
    stored = {}
    for name, width, shots in [("wide", 40, 3), ("tall", 6, 10)]:
        centres = generator.normal(size=(5, width))
        labels, query_labels = np.repeat(np.arange(5), shots), np.repeat(np.arange(5), 12)
        support = (centres[labels] + 1.5 * generator.normal(size=(len(labels), width)) + 1.0).astype(np.float32)
        queries = (centres[query_labels] + 1.5 * generator.normal(size=(60, width)) + 1.0).astype(np.float32)
        wide_support, wide_queries = support.astype(np.float64), queries.astype(np.float64)
        centroid = NearestCentroid().fit(wide_support, labels).predict(wide_queries)
        print(name, "nearest centroid", (centroid == query_labels).mean())
        stored |= {f"{name}_support": support, f"{name}_queries": queries, f"{name}_centroid": centroid}
        for penalty in [0.1, 10.0]:
            model = RidgeClassifier(alpha=penalty, solver="svd").fit(wide_support, labels)
            stored[f"{name}_ridge_{penalty:g}"] = model.decision_function(wide_queries)
            print(name, "ridge", penalty, model.score(wide_queries, query_labels))
    return stored


def interpolated_average_precision(labels, scores):
    """VISSL's: precision made to fall monotonously, then the area under it."""
    order = np.argsort(-scores, kind="stable")
    hits = labels[order] > 0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return (envelope * hits).sum() / hits.sum()


def svm():
    """One class against the rest: liblinear's optimum, average precisions, and cross-validation as VISSL calls it."""
    generator = np.random.default_rng(3)
    direction = generator.normal(size=10)

    def draw(rows):
        points = generator.normal(size=(rows, 10)) + 0.3
        labels = np.where(points @ direction + 2.0 * generator.normal(size=rows) > 4.0, 1, -1)
        return points.astype(np.float32), labels

    (train, train_labels), (test, test_labels) = draw(250), draw(150)
    print("svm", (train_labels > 0).mean(), "positive")
    wide_train, wide_test = train.astype(np.float64), test.astype(np.float64)
    stored = {"train": train, "train_labels": train_labels, "test": test, "test_labels": test_labels}
    held_out = []
    for cost in [0.01, 1.0, 100.0]:
        model = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, intercept_scaling=1.0, tol=1e-13, dual=False, max_iter=10_000)
        held_out.append(cross_val_score(model, wide_train, train_labels, cv=3, scoring="average_precision").mean())
        model.fit(wide_train, train_labels)
        weights = np.append(model.coef_[0], model.intercept_)
        lack = np.maximum(0.0, 1.0 - train_labels * (wide_train @ weights[:-1] + weights[-1]))
        objective = 0.5 * weights @ weights + cost * (np.where(train_labels > 0, 2.0, 1.0) * lack**2).sum()
        scores = model.decision_function(wide_test)
        precision = metrics.average_precision_score(test_labels > 0, scores)
        interpolated = interpolated_average_precision(test_labels, scores)
        print("svm C", cost, "objective", objective, "precision", precision, interpolated, "held out", held_out[-1])
        stored |= {
            f"weights_{cost:g}": weights,
            f"objective_{cost:g}": np.array([objective]),
            f"average_precision_{cost:g}": np.array([precision]),
            f"interpolated_{cost:g}": np.array([interpolated]),
        }
    stored["held_out_average_precisions"] = np.array(held_out)
    return stored


def retrieval():
    """Mean average precision and recall at 1, 5, 10 of cosine rankings: test in train, and test leaving one out."""
    generator = np.random.default_rng(4)
    points, labels = clouds(generator, 260, 8, 5, 1.2)
    train, test, train_labels, test_labels = points[:160], points[160:], labels[:160], labels[160:]
    stored = {"train": train, "train_labels": train_labels, "test": test, "test_labels": test_labels}

    def unit(rows):
        return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)

    galleries = {"train": (train, train_labels), "test": (test, test_labels)}
    for name, (gallery, gallery_labels) in galleries.items():
        cosines = unit(test) @ unit(gallery).T
        precisions, places = [], []
        for query, row in enumerate(cosines):
            kept = np.arange(len(row)) != query if name == "test" else np.ones(len(row), bool)
            right = gallery_labels[kept] == test_labels[query]
            precisions.append(metrics.average_precision_score(right, row[kept]))
            places.append(np.flatnonzero(right[np.argsort(-row[kept])])[0])
        recalls = [(np.array(places) < k).mean() for k in [1, 5, 10]]
        print("retrieval in", name, np.mean(precisions), recalls)
        stored[f"{name}_scores"] = np.array([np.mean(precisions), *recalls])
    return stored


def diagnostics():
    """RankMe, uniformity, deviation, principal components: the papers' formulas in NumPy."""
    generator = np.random.default_rng(5)
    stored = {}
    for name, rows, width in [("tall", 120, 16), ("wide", 10, 24)]:
        scales = 0.7 ** np.arange(width)
        points = generator.normal(size=(rows, width)) * scales @ generator.normal(size=(width, width)) + 0.2
        points = points.astype(np.float32)
        wide = points.astype(np.float64)
        singular = np.linalg.svd(wide, compute_uv=False)
        shares = singular / singular.sum() + 1e-7
        rankme = np.exp(-(shares * np.log(shares)).sum())
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        distances = ((unit[:, None] - unit[None]) ** 2).sum(-1)[np.triu_indices(rows, 1)]
        uniformity = np.log(np.exp(-2.0 * distances).mean())
        deviations = unit.std(axis=0)
        spectrum = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2 / (rows - 1)
        components = 1 + np.searchsorted(np.cumsum(spectrum), 0.99 * spectrum.sum())
        scores = [rankme, uniformity, np.sqrt(width) * deviations.mean(), float(components)]
        print("diagnostics", name, scores)
        stored |= {
            name: points,
            f"{name}_scores": np.array(scores),
            f"{name}_spectrum": spectrum,
            f"{name}_deviations": deviations,
        }
    return stored


PROTOCOLS = {"clustering": clustering, "diagnostics": diagnostics, "retrieval": retrieval, "svm": svm, "few_shot": few_shot}


def main():
    for name in sys.argv[1:] or PROTOCOLS:
        stored = PROTOCOLS[name]()
        # Integers are rows and classes here, all small.
        small = {
            key: np.ascontiguousarray(array.astype(np.int16) if array.dtype.kind == "i" else array)
            for key, array in stored.items()
        }
        path = FIXTURES / f"{name}.safetensors"
        save_file(small, path)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
