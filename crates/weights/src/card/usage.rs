//! The code in a model card that opens the folder and computes features.

use backbones::BackboneConfig;
use backbones::vit::Pooling;

use crate::folder::{ExportFolder, Target};
use crate::onnx::Normalization;
use crate::preparation::Preparation;

/// Python in a fenced block, for a folder called `FOLDER`.
pub(super) fn of(folder: &ExportFolder, target: Target) -> String {
    let code = match target {
        Target::Timm => timm().to_owned(),
        Target::Transformers => transformers(folder),
        Target::Onnx(options) => onnx(folder, options.normalization == Normalization::Inside),
    };
    format!("```python\n{code}```\n")
}

fn timm() -> &'static str {
    "import timm, torch
from PIL import Image

model = timm.create_model(\"local-dir:FOLDER\", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    features = model(prepare(Image.open(\"photo.jpg\").convert(\"RGB\"))[None])
"
}

fn transformers(folder: &ExportFolder) -> String {
    let (arguments, features) = match &folder.info.architecture {
        BackboneConfig::Resnet(_) => ("", "output.pooler_output.flatten(1)"),
        BackboneConfig::Vit(config) => {
            // The pooler is a layer of its own, which these weights do not have.
            let arguments = match folder.network.as_str() {
                "ViTModel" => ", add_pooling_layer=False",
                _ => "",
            };
            let features = match config.pooling {
                Pooling::ClassToken => "output.last_hidden_state[:, 0]".to_owned(),
                _ => format!("output.last_hidden_state[:, {}:].mean(1)", 1 + config.registers),
            };
            return code(arguments, &features);
        }
    };
    code(arguments, features)
}

fn code(arguments: &str, features: &str) -> String {
    format!(
        "import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained(\"FOLDER\"{arguments}).eval()
prepare = AutoImageProcessor.from_pretrained(\"FOLDER\")
with torch.no_grad():
    output = model(**prepare(Image.open(\"photo.jpg\").convert(\"RGB\"), return_tensors=\"pt\"))
features = {features}
"
    )
}

fn onnx(folder: &ExportFolder, is_inside: bool) -> String {
    let info = &folder.info;
    let images = Preparation::of(info);
    let side = images.size_px;
    let resized = match images.shorter_px {
        None => format!("photo = photo.resize(({side}, {side}), Image.Resampling.BILINEAR)\n"),
        Some(shorter) => format!(
            // torchvision's rounding: down in the resize, halves to the even number in the crop.
            "short = min(photo.size)
photo = photo.resize([{shorter} * side // short for side in photo.size], Image.Resampling.BILINEAR)
left, top = [round((side - {side}) / 2) for side in photo.size]
photo = photo.crop((left, top, left + {side}, top + {side}))
"
        ),
    };
    let normalized = if is_inside {
        String::new()
    } else {
        format!(
            "images = (images - np.float32({:?})) / np.float32({:?})\n",
            info.mean, info.std
        )
    };
    let outputs = match &info.architecture {
        BackboneConfig::Resnet(_) => "[features] = network.run([\"embedding\"]",
        BackboneConfig::Vit(_) => "features, tokens = network.run([\"embedding\", \"tokens\"]",
    };
    format!(
        "import numpy as np, onnxruntime
from PIL import Image

photo = Image.open(\"photo.jpg\").convert(\"RGB\")
{resized}images = np.asarray(photo, np.float32)[None] / 255
{normalized}network = onnxruntime.InferenceSession(\"FOLDER/model.onnx\")
{outputs}, {{\"images\": images.transpose(0, 3, 1, 2)}})
"
    )
}
