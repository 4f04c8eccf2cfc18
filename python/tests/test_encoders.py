"""`load_encoder` beside the program's own features and the original networks. Without torch these tests are skipped."""

import sys

import pytest

from passer_vision import PasserError, load_encoder, read_features


def test_the_programs_message_is_the_exception(old):
    pytest.importorskip("timm")
    with pytest.raises(PasserError) as error:
        load_encoder(old / "moco-encoder.safetensors", "timm")
    assert "timm has no ResNet with a 3×3 stem" in error.value.message
    assert error.value.hint == "ONNX has every network: `--to onnx`"
    assert str(error.value).endswith("\nhint: ONNX has every network: `--to onnx`")
    with pytest.raises(PasserError, match="moco.toml"):
        load_encoder(old / "moco.toml", "timm")


def test_torchvision_refuses_what_it_lacks(old):
    pytest.importorskip("torchvision")
    with pytest.raises(PasserError, match="torchvision has no such ResNet-18: its width is 1, its stem `small`"):
        load_encoder(old / "moco-encoder.safetensors", "torchvision")
    with pytest.raises(PasserError, match="torchvision's ViT has no registers"):
        load_encoder(old / "dino-encoder.safetensors", "torchvision")


def test_wrong_arguments_and_missing_libraries_are_named(old, monkeypatch):
    encoder = old / "dino-encoder.safetensors"
    with pytest.raises(ValueError, match="must be 'timm' or 'torchvision', got 'keras'"):
        load_encoder(encoder, "keras")
    with pytest.raises(FileNotFoundError, match="there is no encoder"):
        load_encoder(old / "nowhere")
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ImportError, match=rf"needs {library}: pip install 'passer-vision\[{library}\]'"):
            load_encoder(encoder, library)


def test_timm_has_the_features_of_the_program(old, passer, tmp_path):
    """On images of the encoder's size, so that no resize comes between."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    import numpy

    encoder, photos = old / "dino-encoder.safetensors", tmp_path / "photos"
    photos.mkdir()
    pixels = numpy.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), "uint8")
    for number, picture in enumerate(pixels):
        image.fromarray(picture).save(photos / f"{number}.png")
    passer("features", "--encoder", encoder, "--data", photos, "--out", tmp_path / "f.safetensors", "--device", "flex")
    expected = read_features(tmp_path / "f.safetensors")
    assert expected.keys == ["0", "1", "2"]
    model = load_encoder(encoder, "timm")
    assert not model.training
    about = timm.data.resolve_model_data_config(model)
    assert list(about["mean"]) == [0.5, 0.5, 0.5] and list(about["input_size"]) == [3, 16, 16]
    prepare = timm.data.create_transform(**about, is_training=False)
    with torch.no_grad():
        features = model(torch.stack([prepare(image.fromarray(picture)) for picture in pixels])).numpy()
    error = numpy.linalg.norm(features - expected.pooled) / numpy.linalg.norm(expected.pooled)
    assert error < 1e-5, error


def test_torchvision_has_the_original_networks_features(tmp_path):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    vit = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=128)
    cases = {
        "resnet18": (torchvision.models.resnet18(), []),
        "resnet50": (torchvision.models.resnet50(), []),
        "vit": (vit, ["--backbone", "vit-w32-d2-h2-p16"]),
    }
    for name, (original, options) in cases.items():
        with torch.no_grad():
            for tensor in original.parameters():
                tensor.add_(torch.randn_like(tensor) * 0.02)
        torch.save(original.state_dict(), tmp_path / f"{name}.pth")
        setattr(original, "heads" if name == "vit" else "fc", torch.nn.Identity())
        model = load_encoder(tmp_path / f"{name}.pth", "torchvision", options=options)
        assert not model.training and model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
        with torch.no_grad():
            assert torch.equal(model(images), original.eval()(images)), name
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)


def test_timm_has_the_original_networks_features(tmp_path):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    torch.manual_seed(0)
    original = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    torch.save(original.state_dict(), tmp_path / "x.pth")
    model = load_encoder(tmp_path / "x.pth")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), original(images))
