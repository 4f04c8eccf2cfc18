"""What scikit-learn's t-SNE says of 60 points: the joint similarities, the gradient at given places, and the divergence that its own
descent ends at. Writes crates/evaluation/fixtures/tsne.json.

    python scripts/parity/tsne.py crates/evaluation/fixtures
"""

import json
import pathlib
import sys

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import TSNE
from sklearn.manifold._t_sne import _joint_probabilities, _kl_divergence

ROWS, WIDTH = 60, 5


def main(folder):
    draws = np.random.default_rng(0)
    centres = 3.0 * draws.normal(size=(4, WIDTH))
    points = (centres[np.arange(ROWS) % 4] + draws.normal(size=(ROWS, WIDTH))).astype(np.float32)
    places = draws.normal(size=(ROWS, 2))
    perplexity = 8.0
    distances = squareform(pdist(points.astype(np.float64), "sqeuclidean"))
    similarities = _joint_probabilities(distances, perplexity, 0)
    # One degree of freedom: scikit-learn's for two dimensions.
    _, gradient = _kl_divergence(places.ravel().copy(), similarities, 1, ROWS, 2)
    # The perplexity that ours takes of 60 rows.
    own = (ROWS - 1) / 3.0
    fitted = TSNE(perplexity=own, init="pca", method="exact", random_state=0, learning_rate="auto").fit(points)
    joint = _joint_probabilities(distances, own, 0)
    divergence, _ = _kl_divergence(fitted.embedding_.astype(np.float64).ravel(), joint, 1, ROWS, 2)
    digits = lambda values: [float(f"{value:.8g}") for value in np.ravel(values)]
    content = {
        "width": WIDTH,
        "points": digits(points),
        "places": [digits(place) for place in places],
        "perplexity": perplexity,
        "similarities": digits(squareform(similarities)),
        "gradient": [digits(pair) for pair in gradient.reshape(ROWS, 2)],
        "divergence_after_tsne": float(divergence),
    }
    pathlib.Path(folder, "tsne.json").write_text(json.dumps(content))


main(sys.argv[1])
