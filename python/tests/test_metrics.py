"""`read_metrics` on whole, growing and broken logs."""

import math
import warnings

import pytest

from passer_vision import DamagedLinesWarning, PasserError, UnfinishedLineWarning, read_metrics

LINES = (
    '{"step":1,"epoch":0,"loss":0.5,"learning_rate":0.1,"signals":{"kl":0.25,"std":null},"images_per_second":9.0}\n'
    '{"step":2,"epoch":0,"loss":null,"learning_rate":0.1,"signals":{"kl":0.125,"std":null},"images_per_second":8.0}\n'
)


def test_a_run_directory_gives_a_dict_per_line(old):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = read_metrics(old / "dino")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["loss"] == 0.8764684
    assert lines[0]["signals"] == {"embedding_std": 0.0029303061, "kl": 0.27981585, "teacher_entropy": 0.59665257}
    assert read_metrics(old / "dino/metrics.jsonl") == lines


def test_half_a_line_at_the_end_is_left_out_and_said(tmp_path):
    log = tmp_path / "metrics.jsonl"
    first = LINES.index("\n") + 1
    for end in range(first + 1, len(LINES) - 1):
        log.write_text(LINES[:end])
        with pytest.warns(UnfinishedLineWarning, match="unfinished line, which is left out; 1 lines are whole") as said:
            assert [line["step"] for line in read_metrics(tmp_path)] == [1]
        assert said[0].filename == __file__
    # All but the line break: it is whole.
    log.write_text(LINES[:-1])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert read_metrics(tmp_path)[1]["loss"] is None
    log.write_text("")
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("damaged", [LINES[:40], "\0" * 30, "[1, 2]", '{"loss":1.0}', '{"step":"2"}', '{"step":true}'])
def test_damaged_lines_are_left_out_and_said(tmp_path, damaged):
    (tmp_path / "metrics.jsonl").write_text(damaged + "\n" + LINES)
    with pytest.warns(DamagedLinesWarning, match=r"1 damaged lines are left out \(lines 1\); 2 are whole") as said:
        assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert said[0].filename == __file__
    (tmp_path / "metrics.jsonl").write_text(damaged + "\n")
    with pytest.raises(PasserError, match="a JSON object with a `step` per line"):
        read_metrics(tmp_path)


def test_a_log_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no log"):
        read_metrics(tmp_path / "nowhere")


def test_a_table_has_signals_as_columns_and_steps_as_index(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "metrics.jsonl").write_text(LINES)
    frame = read_metrics(tmp_path, as_frame=True)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.index.name == "step" and frame.index.tolist() == [1, 2]
    assert list(frame.columns) == ["epoch", "loss", "learning_rate", "signals/kl", "signals/std", "images_per_second"]
    assert frame["signals/kl"].tolist() == [0.25, 0.125]
    assert frame["loss"][1] == 0.5 and math.isnan(frame["loss"][2])
    assert frame["signals/std"].dtype == float
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_metrics(tmp_path, as_frame=True).empty
