"""`read_result` on files of this and of earlier versions."""

import json

import pytest

from passer_vision import ListingNote, PasserError, Score, read_result


def test_a_file_of_version_0_1_has_its_scores(old):
    scores = read_result(old / "scores")
    assert read_result(old / "scores/result.json") == scores and len(scores) == 6
    first = scores[0]
    assert isinstance(first, Score)
    assert (first.protocol, first.metric, first.value, first.headline) == ("knn-dino", "top1", 0.875, False)
    assert (first.train_records, first.test_records, first.classes, first.encoder_step) == (16, 8, 2, 12)
    assert first.settings["neighbors"] == 1 and first.spread is None and first.overlap is None
    entries = json.loads((old / "scores/result.json").read_text())
    assert [score.value for score in scores] == [entry["value"] for entry in entries]
    [spread] = {(tuple(score.spread.seeds), tuple(score.spread.values)) for score in scores[-1:]}
    assert list(spread[1]) == entries[-1]["spread"]["values"]
    assert [score.headline for score in scores] == [entry["headline"] for entry in entries]
    assert all(score.more == {} for score in scores)


def test_a_file_of_this_program_has_no_unknown_keys(old, passer, tmp_path):
    passer("evaluate", "run", old / "evaluate.toml", "--encoder", old / "moco-encoder.safetensors", "--device", "flex",
           "--train", old / "train", "--test", old / "test", "--out", tmp_path / "scores")
    scores = read_result(tmp_path / "scores")
    assert all(score.more == {} for score in scores)
    [headline] = [score for score in scores if score.headline and score.protocol == "knn-dino"]
    assert headline.value == next(score.value for score in read_result(old / "scores") if score.headline)
    assert headline.overlap.compared == "images" and headline.overlap.test_records == 8
    assert headline.overlap.pretraining == "training_set"


def test_keys_of_later_versions_are_kept_and_missing_ones_named(old, tmp_path):
    entry = json.loads((old / "scores/result.json").read_text())[0]
    entry |= {"later": 3, "test_listing": [{"reason": "unsupported_format", "kind": ".heic", "count": 2, "example": "a.heic", "new": 1}]}
    (tmp_path / "result.json").write_text(json.dumps([entry]))
    [score] = read_result(tmp_path)
    assert score.more == {"later": 3}
    assert score.test_listing == [ListingNote(reason="unsupported_format", kind=".heic", count=2, example="a.heic")]
    del entry["metric"]
    (tmp_path / "result.json").write_text(json.dumps([entry]))
    with pytest.raises(PasserError, match="score 1 is not one of a `result.json`: it lacks 'metric'"):
        read_result(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_something_else_is_refused(text, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(PasserError, match="result.json"):
        read_result(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_result(tmp_path / "nowhere")
