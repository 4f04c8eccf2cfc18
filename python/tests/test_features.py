"""`read_features` beside the numbers that other readers find in the same files."""

import json

import pytest

import passer_vision
from passer_vision import PasserError, read_features

numpy = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors")
from safetensors.numpy import load_file, save_file  # noqa: E402


@pytest.fixture(scope="module")
def made(old, passer, tmp_path_factory):
    """The same features of eight images in every format, f32, and slices in f16."""
    out = tmp_path_factory.mktemp("features")
    common = ["features", "--encoder", old / "dino-encoder.safetensors", "--data", old / "test", "--device", "flex"]
    common += ["--batch-images", 2, "--taps", "pooled,tokens_1"]
    passer(*common, "--out", out / "one.safetensors")
    passer(*common, "--out", out / "half.safetensors", "--dtype", "f16")
    passer(*common, "--format", "npy", "--out", out / "npy")
    passer(*common, "--format", "parquet", "--out", out / "table.parquet")
    for number in (1, 2, 3):
        passer(*common, "--slice", f"{number}/3", "--out", out / "slices")
    return out


def test_one_file_has_the_numbers_that_safetensors_reads(made):
    expected = load_file(made / "one.safetensors")
    features = read_features(made / "one.safetensors")
    assert sorted(features.taps) == ["class_token_1", "patch_mean", "pooled"]
    for name, tap in features.taps.items():
        assert tap.dtype == numpy.float32 and tap.shape == (8, 8)
        assert numpy.array_equal(tap, expected[name])
    assert features.labels.tolist() == expected["labels"].tolist()
    text = expected["keys"].tobytes().decode()
    assert "".join(features.keys) == text and len(features.keys) == len(set(features.keys)) == 8
    assert len(features) == 8 and features.pooled is features.taps["pooled"]
    assert features.class_names == ["blue", "red"]
    assert features.metadata["origin"]["encoder_name"] == "vit-w8-d2-h2-p4-reg1 dino"


def test_one_file_is_mapped_from_the_disk_and_read_only(made):
    pooled = read_features(made / "one.safetensors").pooled
    assert isinstance(pooled, numpy.memmap)
    with pytest.raises(ValueError):
        pooled[0, 0] = 1


def test_half_precision_stays_half(made):
    half = read_features(made / "half.safetensors").pooled
    assert half.dtype == numpy.float16
    assert numpy.array_equal(half, read_features(made / "one.safetensors").pooled.astype("float16"))


@pytest.mark.parametrize("form", ["npy", "table.parquet", "slices"])
def test_every_format_has_the_same_numbers_keys_and_labels(made, form):
    if form == "table.parquet":
        pytest.importorskip("pyarrow")
    one, other = read_features(made / "one.safetensors"), read_features(made / form)
    assert sorted(other.taps) == sorted(one.taps)
    for name in one.taps:
        assert other.taps[name].dtype == numpy.float32
        assert numpy.array_equal(other.taps[name], one.taps[name])
    assert other.keys == one.keys
    assert other.labels.tolist() == one.labels.tolist()
    assert other.metadata == one.metadata


def test_a_file_of_version_0_1_is_read(old):
    features = read_features(old / "scores/features-test.safetensors")
    assert numpy.array_equal(features.pooled, load_file(old / "scores/features-test.safetensors")["pooled"])


def test_a_file_of_another_program_has_neither_keys_nor_metadata(tmp_path):
    rows, labels = numpy.arange(6, dtype="float32").reshape(3, 2), numpy.array([[0, 1], [2, 0], [1, 1]], "uint8")
    save_file({"pooled": rows, "labels": labels}, tmp_path / "x.safetensors")
    features = read_features(tmp_path / "x.safetensors")
    assert features.pooled.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert features.labels.dtype == numpy.uint8 and features.labels.tolist() == labels.tolist()
    assert features.keys is None and features.metadata == {} and features.class_names == []
    save_file({"pooled": rows}, tmp_path / "y.safetensors")
    assert read_features(tmp_path / "y.safetensors").labels is None


def test_a_table_has_sets_of_classes(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    columns = {
        "key": ["a", "b", "c"],
        "labels": arrow.array([[0, 1], [2, 0], [1, 1]], arrow.list_(arrow.int32())),
        "pooled": arrow.array([[0.5, 1], [2, 3], [4, 5]], arrow.list_(arrow.float32())),
    }
    table = arrow.table(columns).replace_schema_metadata({"passer_features": json.dumps({"bad_records": 2})})
    # Row groups of two rows.
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    features = read_features(tmp_path / "t.parquet")
    assert features.labels.tolist() == [[0, 1], [2, 0], [1, 1]] and features.labels.dtype == numpy.uint8
    assert features.pooled.tolist() == [[0.5, 1], [2, 3], [4, 5]]
    assert features.metadata["bad_records"] == 2


def test_slices_must_all_be_there_and_of_one_work(made, tmp_path):
    names = sorted(file.name for file in (made / "slices").iterdir() if file.suffix == ".safetensors")
    assert names[0] == "features-00001-of-00003.safetensors"
    with pytest.raises(PasserError, match="is slice 2 of 3") as error:
        read_features(made / "slices" / names[1])
    assert error.value.hint == "pass the folder of the slices"
    for name in (names[0], names[2]):
        (tmp_path / name).write_bytes((made / "slices" / name).read_bytes())
    with pytest.raises(PasserError, match="lacks 1 of 3 slices: 2") as error:
        read_features(tmp_path)
    assert "--slice N/3" in error.value.hint
    # The first slice by the name of the second.
    (tmp_path / names[1]).write_bytes((made / "slices" / names[0]).read_bytes())
    with pytest.raises(PasserError, match="is not slice 2 of 3"):
        read_features(tmp_path)


def test_files_that_are_cut_off_or_something_else_are_refused(made, old, tmp_path):
    whole = (made / "one.safetensors").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(PasserError, match="is not a whole safetensors file"):
            read_features(tmp_path / "cut.safetensors")
    (tmp_path / "text").write_text("no features at all, but a text")
    with pytest.raises(PasserError, match="is not a whole safetensors file"):
        read_features(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PasserError, match="neither slices"):
        read_features(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "nowhere")
    save_file({"pooled": numpy.zeros((3, 2), "f4"), "labels": numpy.zeros(2, "i8")}, tmp_path / "x.safetensors")
    with pytest.raises(PasserError, match="labels must have 3 rows, got 2"):
        read_features(tmp_path / "x.safetensors")
    save_file({"one": numpy.zeros((), "f4")}, tmp_path / "x.safetensors")
    with pytest.raises(PasserError, match=r"tap `one` must be \[records, width\], got \[\]"):
        read_features(tmp_path / "x.safetensors")
    with pytest.raises(PasserError, match="must be a features file, got an encoder's"):
        read_features(old / "dino-encoder.safetensors")


def test_a_cut_table_is_refused(made, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "cut.parquet").write_bytes((made / "table.parquet").read_bytes()[:-9])
    with pytest.raises(PasserError, match="is not a whole Parquet file"):
        read_features(tmp_path / "cut.parquet")


def test_a_missing_package_is_named_with_what_to_install(made, monkeypatch):
    monkeypatch.setitem(passer_vision._errors.importlib.sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(passer_vision._errors.importlib.sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'passer-vision\[parquet\]'"):
        read_features(made / "table.parquet")
