"""Fixtures of crates/evaluation: what scikit-learn and PyTorch say about the same features.

    python scripts/parity/evaluation.py        # writes crates/evaluation/fixtures/*.safetensors

Needs numpy, scikit-learn, torch, safetensors. The features are three-dimensional clouds of seven classes turned into 12
columns of very different scale, so that neither protocol is trivial and scaling matters. What is stored:

- knn: the neighbours that scikit-learn's brute-force cosine search finds, and the classes that DINO's and VISSL's
  weighted votes (written out below) make of them;
- logistic regression: scikit-learn's optimum (seven classes, and the first two alone), its objective and predictions;
- linear_cached: weights after PyTorch's SGD, from given weights and in a given order of the records.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

FIXTURES = Path(__file__).resolve().parents[2] / "crates/evaluation/fixtures"
CLASSES, WIDTH, TRAIN, TEST = 7, 12, 300, 150


def clouds(generator):
    """Features (float32) and labels of both sets."""
    centres = generator.normal(size=(CLASSES, 3))
    mixing = generator.normal(size=(3, WIDTH))
    scales = 10.0 ** generator.uniform(-1.5, 1.5, size=WIDTH)

    def draw(records):
        labels = generator.integers(CLASSES, size=records)
        points = (centres[labels] + 0.6 * generator.normal(size=(records, 3))) @ mixing
        points += 0.3 * generator.normal(size=(records, WIDTH)) + 0.5
        return (points * scales).astype(np.float32), labels

    return *draw(TRAIN), *draw(TEST)


def knn(train, train_labels, test, neighbors, temperature):
    """Predicted classes, best first, -1 where no class got a vote (eval_knn.py's vote; sums in float64)."""
    search = NearestNeighbors(n_neighbors=neighbors, algorithm="brute", metric="cosine")
    distances, rows = search.fit(train.astype(np.float64)).kneighbors(test.astype(np.float64))
    weights = np.exp((1.0 - distances) / temperature)
    votes = np.zeros((len(test), CLASSES))
    for query in range(len(test)):
        np.add.at(votes[query], train_labels[rows[query]], weights[query])
    order = np.argsort(-votes, axis=1, kind="stable")
    order[np.take_along_axis(votes, order, axis=1) == 0.0] = -1
    return rows, order[:, :5]


def logistic(train, labels, test, c):
    """Coefficients, intercepts, objective and predictions at the optimum, everything in float64."""
    model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
    model.fit(train.astype(np.float64), labels)
    log_probabilities = model.predict_log_proba(train.astype(np.float64))
    loss = -log_probabilities[np.arange(len(labels)), np.searchsorted(model.classes_, labels)].sum()
    objective = c * loss + 0.5 * (model.coef_**2).sum()
    return model.coef_, model.intercept_, np.array([objective]), model.predict(test.astype(np.float64))


def sgd(train, labels, generator, nesterov, weight_decay, milestones):
    """PyTorch's weights after some epochs from given weights in a given order; float32, as Passer trains."""
    epochs, batch, learning_rate = 6, 64, 0.5
    start = generator.normal(scale=0.01, size=(CLASSES, WIDTH)).astype(np.float32)
    order = np.stack([generator.permutation(len(train)) for _ in range(epochs)])
    layer = torch.nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov
    )
    if milestones:
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    features, labels = torch.from_numpy(train), torch.from_numpy(labels)
    for rows in torch.from_numpy(order):
        for chunk in rows.split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[chunk]), labels[chunk]).backward()
            optimizer.step()
        schedule.step()
    return start, order, layer.weight.detach().numpy(), layer.bias.detach().numpy()


def main():
    generator = np.random.default_rng(0)
    train, train_labels, test, test_labels = clouds(generator)
    stored = {"train": train, "train_labels": train_labels, "test": test, "test_labels": test_labels}

    for name, neighbors, temperature in [("dino_10", 10, 0.07), ("dino_20", 20, 0.07), ("vissl_200", 200, 0.1)]:
        rows, predicted = knn(train, train_labels, test, neighbors, temperature)
        if neighbors == 10:
            stored["neighbors_10"] = rows
        stored[f"knn_{name}"] = predicted
        print(name, "top-1", (predicted[:, 0] == test_labels).mean())

    scaler = StandardScaler().fit(train.astype(np.float64))
    scaled = [scaler.transform(rows.astype(np.float64)).astype(np.float32) for rows in (train, test)]
    pair_train, pair_test = train_labels < 2, test_labels < 2
    tasks = {
        "seven": (scaled[0], train_labels, scaled[1]),
        "pair": (scaled[0][pair_train], train_labels[pair_train], scaled[1][pair_test]),
    }
    for task, (rows, labels, queries) in tasks.items():
        for c in [0.01, 1.0, 100.0]:
            weights, bias, objective, predicted = logistic(rows, labels, queries, c)
            name = f"logistic_{task}_{c:g}"
            stored |= {
                f"{name}_weight": weights,
                f"{name}_bias": bias,
                f"{name}_objective": objective,
                f"{name}_predicted": predicted,
            }
            print(name, "objective", objective[0])

    runs = {"cosine": (False, 1e-3, None), "steps": (True, 0.0, [2, 4])}
    for name, (nesterov, weight_decay, milestones) in runs.items():
        start, order, weight, bias = sgd(scaled[0], train_labels, generator, nesterov, weight_decay, milestones)
        stored |= {
            f"sgd_{name}_start": start,
            f"sgd_{name}_order": order,
            f"sgd_{name}_weight": weight,
            f"sgd_{name}_bias": bias,
        }

    FIXTURES.mkdir(parents=True, exist_ok=True)
    path = FIXTURES / "parity.safetensors"
    # Integers are rows and classes here, all small.
    small = {name: array.astype(np.int16) if array.dtype == np.int64 else array for name, array in stored.items()}
    save_file({name: np.ascontiguousarray(array) for name, array in small.items()}, path)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
