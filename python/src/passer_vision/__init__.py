"""Passer in Python: its encoders as torch modules; its features, logs and scores as arrays and plain objects.

>>> import passer_vision
>>> model = passer_vision.load_encoder("runs/mine", "timm")           # torch.nn.Module, in eval mode
>>> features = passer_vision.read_features("features.safetensors")    # arrays per tap, keys, labels
>>> lines = passer_vision.read_metrics("runs/mine")                   # the training log, a dict per line
>>> scores = passer_vision.read_result("scores/result.json")          # a Score per number

The program `passer` lies in the same wheel: ``python -m passer_vision`` runs it too. Importing this package imports nothing
but the standard library; each function imports what it needs when it is called and says what to install.
"""

from passer_vision._errors import DamagedLinesWarning, PasserError, UnfinishedLineWarning
from passer_vision._program import find_program
from passer_vision.encoders import Library, load_encoder
from passer_vision.features import Features, read_features
from passer_vision.metrics import read_metrics
from passer_vision.results import ListingNote, Overlap, Score, Spread, read_result

__all__ = [
    "DamagedLinesWarning",
    "Features",
    "Library",
    "ListingNote",
    "Overlap",
    "PasserError",
    "Score",
    "Spread",
    "UnfinishedLineWarning",
    "find_program",
    "load_encoder",
    "read_features",
    "read_metrics",
    "read_result",
]
