"""An encoder that Passer has never seen: torchvision's ResNet-18 trained here by PyTorch on CIFAR-10 with labels, exported by `torch.save`,
evaluated by `passer evaluate run` (kNN, logistic regression, linear-cached) and by torch and scikit-learn on the features that torch
computes from the same files. The scores must be the same.

    python scripts/parity/foreign_encoder.py CIFAR_FOLDER --passer target/release/passer --out DIR [--epochs 2] [--threads 2]

CIFAR_FOLDER holds train/CLASS/*.jpg and test/CLASS/*.jpg. Needs numpy, pillow, scikit-learn, torch, torchvision. Images are resized to
64 px, bilinear. Both sides read lossless copies, made in DIR: Pillow and Passer decode JPEG to pixels that differ by a little, which moves
features of these enlarged pictures by 1e-2 and some records from one class to another.
"""

import argparse
import json
import pathlib
import subprocess
import time

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

SIDE = 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
K, TEMPERATURE, C, EPOCHS, SEEDS, BATCH, RATE = 20, 0.07, 0.01, 30, 5, 256, 0.1
CONFIG = f"""
test_transforms = [{{ resize_exact = {{ width_px = {SIDE}, height_px = {SIDE}, filter = "bilinear" }} }}]
normalize = {{ mean = {MEAN}, std = {STD} }}
[data]
batch_images = 64
workers = 1
max_bad_fraction = 0.0
[[protocols]]
[protocols.knn-dino]
neighbors = [{K}]
headline_neighbors = {K}
temperature = {TEMPERATURE}
[[protocols]]
[protocols.logistic-regression]
scaling = "standardize"
strength = {{ fixed = {C} }}
tolerance = 1e-6
max_iterations = 5000
[[protocols]]
[protocols.linear-cached]
scaling = "standardize"
batch_records = {BATCH}
epochs = {EPOCHS}
seeds = {list(range(SEEDS))}
optimizer = {{ sgd = {{ learning_rate_per_256 = {RATE}, momentum = 0.9, weight_decay = 0.0, nesterov = false }} }}
schedule = {{ cosine_per_epoch = {{}} }}
"""


def lossless(source, target):
    for path in sorted(source.glob("*/*/*.jpg")):
        copy = (target / path.relative_to(source)).with_suffix(".png")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).convert("RGB").save(copy)
    return target


def read(folder):
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pixels, labels = [], []
    for number, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            pixels.append(np.asarray(image))
            labels.append(number)
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    statistics = [torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD)]
    return (images - statistics[0]) / statistics[1], torch.tensor(labels)


def train(model, images, labels, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for epoch in range(epochs):
        for at in torch.randperm(len(images)).split(64):
            batch = images[at]
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            loss = torch.nn.functional.cross_entropy(model(batch), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)


def features(model, images):
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(64)]).numpy()


def probe(train_rows, train_labels, test_rows, test_labels, seed):
    torch.manual_seed(seed)
    rows, labels = torch.from_numpy(train_rows).float(), train_labels
    head = torch.nn.Linear(rows.shape[1], 10)
    torch.nn.init.normal_(head.weight, std=0.01)
    torch.nn.init.zeros_(head.bias)
    rate = RATE * BATCH / 256
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        for at in torch.randperm(len(rows)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(head(rows[at]), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (head(torch.from_numpy(test_rows).float()).argmax(1) == test_labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cifar", type=pathlib.Path)
    parser.add_argument("--passer", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    cifar = lossless(arguments.cifar, arguments.out / "pictures")
    (train_images, train_labels), (test_images, test_labels) = (read(cifar / part) for part in ("train", "test"))

    weights = arguments.out / "resnet18.pth"
    model = torchvision.models.resnet18(num_classes=10)
    if weights.exists():
        model.load_state_dict(torch.load(weights))
    else:
        start = time.perf_counter()
        train(model, train_images, train_labels, arguments.epochs)
        print(f"trained in {time.perf_counter() - start:.0f} s")
        torch.save(model.state_dict(), weights)
    model.fc = torch.nn.Identity()
    rows, test_rows = features(model, train_images), features(model, test_images)

    votes = lambda distances: np.exp((1 - distances) / TEMPERATURE)
    knn = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=votes).fit(rows, train_labels)
    theirs = {"knn-dino": [knn.score(test_rows, test_labels)]}
    mean, deviation = rows.astype(np.float64).mean(0), rows.astype(np.float64).std(0)
    deviation[deviation == 0] = 1
    scaled, test_scaled = (rows - mean) / deviation, (test_rows - mean) / deviation
    logistic = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(scaled, train_labels)
    theirs["logistic-regression"] = [logistic.score(test_scaled, test_labels)]
    theirs["linear-cached"] = [probe(scaled, train_labels, test_scaled, test_labels, seed) for seed in range(SEEDS)]

    config = arguments.out / "config.toml"
    config.write_text(CONFIG)
    scores = arguments.out / "scores"
    command = [arguments.passer, "evaluate", "run", config, "--encoder", weights, "--train", cifar / "train"]
    command += ["--test", cifar / "test", "--no-report", "--out", scores, "--device", "flex"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours = {outcome["protocol"]: outcome for outcome in json.loads((scores / "result.json").read_text()) if outcome["headline"]}

    records = len(test_labels)
    print(f"| protocol | Passer | torch and scikit-learn | of {records} test records |\n|---|---:|---:|---:|")
    worst = 0
    for name, values in theirs.items():
        off = abs(ours[name]["value"] - np.mean(values)) * records
        spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        print(f"| `{name}` | {100 * ours[name]['value']:.2f} % | {100 * np.mean(values):.2f}{spread} % | {off:.1f} apart |")
        # Seeds draw their own weights and orders on each side.
        allowed = 1 if len(values) == 1 else 1 + 3 * np.std(values, ddof=1) * np.sqrt(2 / SEEDS) * records
        worst = max(worst, off / allowed)
    assert worst <= 1, "the scores are not the same"


main()
