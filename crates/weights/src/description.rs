//! Facts about a network that its tensors do not show, from the `config.json` beside them: Hugging Face
//! Transformers' and timm's. Text in, facts out.

use backbones::BackboneConfig;
use backbones::vit::Pooling;
use serde_json::{Map, Value};

/// The facts of a `config.json` and a `preprocessor_config.json`. What a description does not state is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Who wrote it, and what it calls the network.
    kind: Kind,
    /// Attention heads.
    pub heads: Option<usize>,
    /// Epsilon of a ViT's norms.
    pub norm_epsilon: Option<f64>,
    /// Which output of a ViT is the feature.
    pub pooling: Option<Pooling>,
    /// Whether a ResNet's bottlenecks stride in the first 1×1 convolution.
    pub stride_in_1x1: bool,
    /// Channel means of training, from 0 to 1.
    pub mean: Option<[f32; 3]>,
    /// Channel deviations of training.
    pub std: Option<[f32; 3]>,
    /// Sizes to compare with the tensors: what, and how many.
    sizes: Vec<(Size, u64)>,
    /// A network that Passer does not have: what differs, in words.
    unsupported: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Transformers, by `model_type`.
    Transformers(String),
    /// timm, by `architecture`.
    Timm(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Width,
    Depth,
    Patch,
    Registers,
}

/// Transformers' types of models, and the rows that read them.
const MODELS: &[(&str, &[&str])] = &[
    ("vit", &["transformers_vit"]),
    ("vit_msn", &["transformers_vit"]),
    ("vit_mae", &["transformers_vit", "transformers_vit_mae"]),
    ("dinov2", &["transformers_dinov2"]),
    ("dinov2_with_registers", &["transformers_dinov2_with_registers"]),
    ("resnet", &["transformers_resnet"]),
];

/// The rows that read timm's files.
const TIMM: &[&str] = &["vit", "vit_fc_norm", "resnet"];

/// timm's arguments of a network that Passer knows; any other may change its features without a trace in its
/// tensors.
const TIMM_ARGUMENTS: &[&str] = &[
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "global_pool",
    "embed_dim",
    "depth",
    "num_heads",
    "init_values",
    "class_token",
    "reg_tokens",
    "no_embed_class",
    "fc_norm",
    "dynamic_img_size",
    "strict_img_size",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "zero_init_last",
];

impl Description {
    /// The facts of the texts; `None` if `config.json` is of another program.
    ///
    /// # Errors
    /// A text that is not JSON, or a fact of another kind than both libraries write; names the file.
    pub fn read(config: &str, preprocessor: Option<&str>) -> Result<Option<Self>, String> {
        let config = object("config.json", config)?;
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
        // Transformers writes both where it wraps a network of timm's.
        let mut description = if let Some(architecture) = text("architecture") {
            timm(&config, architecture)?
        } else if let Some(model) = text("model_type") {
            transformers(&config, model)?
        } else {
            return Ok(None);
        };
        if let (Kind::Transformers(_), Some(preprocessor)) = (&description.kind, preprocessor) {
            let file = "preprocessor_config.json";
            let preprocessor = object(file, preprocessor)?;
            let off = |key: &str| preprocessor.get(key) == Some(&Value::Bool(false));
            if off("do_normalize") {
                (description.mean, description.std) = (Some([0.0; 3]), Some([1.0; 3]));
            } else {
                description.mean = channels(file, &preprocessor, "image_mean")?;
                description.std = channels(file, &preprocessor, "image_std")?;
            }
            if off("do_rescale") {
                return Err(format!(
                    "`{file}` has `do_rescale` false: pixels from 0 to 255 are not supported"
                ));
            }
        }
        if let Some(std) = description.std
            && std.iter().any(|std| *std <= 0.0)
        {
            return Err(format!("channel deviations must be above 0, got {std:?}"));
        }
        Ok(Some(description))
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            heads: None,
            norm_epsilon: None,
            pooling: None,
            stride_in_1x1: false,
            mean: None,
            std: None,
            sizes: vec![],
            unsupported: None,
        }
    }

    fn take_heads(&mut self, config: &Map<String, Value>, key: &str) -> Result<(), String> {
        let heads = count(config, key)?.map(usize::try_from).transpose();
        self.heads = heads.map_err(|error| error.to_string())?;
        Ok(())
    }

    fn take_sizes(&mut self, config: &Map<String, Value>, keys: [(&str, Size); 4]) -> Result<(), String> {
        for (key, size) in keys {
            self.sizes.extend(count(config, key)?.map(|said| (size, said)));
        }
        Ok(())
    }

    /// What the description calls the network: ``a `vit` of Transformers``.
    pub fn network(&self) -> String {
        match &self.kind {
            Kind::Transformers(model) => format!("a `{model}` of Transformers"),
            Kind::Timm(architecture) => format!("timm's `{architecture}`"),
        }
    }

    /// timm's name of the network.
    pub(crate) fn timm_architecture(&self) -> Option<&str> {
        match &self.kind {
            Kind::Timm(architecture) => Some(architecture.strip_prefix("tv_").unwrap_or(architecture)),
            Kind::Transformers(_) => None,
        }
    }

    /// Why Passer has no such network, or the row is of another; `None` if the two agree. `is_named`: the
    /// caller names the network, which settles what a name of timm's leaves open.
    pub(crate) fn differs(&self, layout: Option<&str>, is_named: bool) -> Option<String> {
        let (known, names) = match &self.kind {
            Kind::Transformers(model) => {
                let known = MODELS.iter().find(|(name, _)| name == model);
                (known.map(|(_, rows)| *rows), "Transformers")
            }
            Kind::Timm(_) => (Some(TIMM), "timm"),
        };
        let Some(rows) = known else {
            let read = MODELS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            return Some(format!(
                "`config.json` describes {}, which Passer does not have; of Transformers it reads {}",
                self.network(),
                read.join(", ")
            ));
        };
        if let Some(reason) = self.unsupported.as_ref().filter(|_| !is_named) {
            return Some(reason.clone());
        }
        let layout = layout?;
        (!rows.contains(&layout)).then(|| {
            format!(
                "`config.json` describes {}, and the tensors do not have {names}' names of it: they are those of the \
                 layout {layout}",
                self.network()
            )
        })
    }

    /// The first size that the tensors contradict.
    pub(crate) fn contradiction(&self, architecture: &BackboneConfig) -> Option<String> {
        let BackboneConfig::Vit(vit) = architecture else {
            return None;
        };
        self.sizes.iter().find_map(|&(size, said)| {
            let (what, seen) = match size {
                Size::Width => ("width", vit.width),
                Size::Depth => ("blocks", vit.depth),
                Size::Patch => ("patch, in pixels", vit.patch_px),
                Size::Registers => ("registers", vit.registers),
            };
            (said != seen as u64)
                .then(|| format!("`config.json` says {what}: {said}, and the tensors say {seen}"))
        })
    }
}

fn object(file: &str, text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format!("`{file}` is not a JSON object")),
        Err(error) => Err(format!("`{file}` is not JSON: {error}")),
    }
}

/// A whole number; a pair of equal numbers counts as one (`patch_size = [16, 16]`).
fn count(config: &Map<String, Value>, key: &str) -> Result<Option<u64>, String> {
    let wrong = |value: &Value| format!("`{key}` of `config.json` must be a whole number, got {value}");
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Array(pair)) => match pair.as_slice() {
            [first, second] if first == second => first.as_u64().map(Some).ok_or_else(|| wrong(value)),
            _ => Err(wrong(value)),
        },
        Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(value)),
    }
}

/// One number each for red, green and blue; one number stands for three.
fn channels(file: &str, config: &Map<String, Value>, key: &str) -> Result<Option<[f32; 3]>, String> {
    let Some(value) = config.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let numbers = match value {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
        number => number.as_f64().map(|number| vec![number; 3]),
    };
    match numbers.as_deref() {
        Some(&[red, green, blue])
            if [red, green, blue]
                .iter()
                .all(|number| (0.0..=1.0).contains(number)) =>
        {
            Ok(Some([red as f32, green as f32, blue as f32]))
        }
        _ => Err(format!(
            "`{key}` of `{file}` must be three numbers from 0 to 1, got {value}"
        )),
    }
}

fn transformers(config: &Map<String, Value>, model: String) -> Result<Description, String> {
    let resnet = model == "resnet";
    let activation = if resnet { "relu" } else { "gelu" };
    let mut description = Description::of(Kind::Transformers(model));
    let differs = |key: &str, usual: &Value| {
        config
            .get(key)
            .filter(|value| *value != usual && !value.is_null())
    };
    // What no name and no shape shows, and what each must be.
    let usual = [
        ("hidden_act", Value::from(activation)),
        ("downsample_in_first_stage", Value::Bool(false)),
        ("use_swiglu_ffn", Value::Bool(false)),
        ("qkv_bias", Value::Bool(true)),
        ("num_channels", Value::from(3)),
    ];
    let other = usual
        .iter()
        .find_map(|(key, usual)| Some((*key, usual, differs(key, usual)?)));
    if let Some((key, usual, value)) = other {
        description.unsupported = Some(format!(
            "`{key}` of `config.json` must be {usual}, got {value}: Passer has no such network"
        ));
    }
    if resnet {
        description.stride_in_1x1 = match config.get("downsample_in_bottleneck") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(value) => {
                return Err(format!(
                    "`downsample_in_bottleneck` of `config.json` must be true or false, got {value}"
                ));
            }
        };
        return Ok(description);
    }
    description.take_heads(config, "num_attention_heads")?;
    description.norm_epsilon = match config.get("layer_norm_eps") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_f64() {
            Some(epsilon) if epsilon > 0.0 && epsilon < 1.0 => Some(epsilon),
            _ => {
                return Err(format!(
                    "`layer_norm_eps` of `config.json` must be above 0 and below 1, got {value}"
                ));
            }
        },
    };
    description.take_sizes(
        config,
        [
            ("hidden_size", Size::Width),
            ("num_hidden_layers", Size::Depth),
            ("patch_size", Size::Patch),
            ("num_register_tokens", Size::Registers),
        ],
    )?;
    Ok(description)
}

fn timm(config: &Map<String, Value>, architecture: String) -> Result<Description, String> {
    let none = Map::new();
    let inside = |key: &str| config.get(key).and_then(Value::as_object).unwrap_or(&none);
    let arguments = inside("model_args");
    let mut description = Description::of(Kind::Timm(architecture.clone()));
    let is_usual = |key: &str, value: &Value| {
        TIMM_ARGUMENTS.contains(&key) || value.is_null() || (key == "qkv_bias" && *value == Value::Bool(true))
    };
    let unknown = arguments.iter().find(|(key, value)| !is_usual(key, value));
    description.unsupported = unknown.map(|(key, value)| {
        format!("`model_args` of `config.json` has `{key}` ({value}), whose network Passer does not have")
    });
    description.take_heads(arguments, "num_heads")?;
    description.take_sizes(
        arguments,
        [
            ("embed_dim", Size::Width),
            ("depth", Size::Depth),
            ("patch_size", Size::Patch),
            ("reg_tokens", Size::Registers),
        ],
    )?;
    let is_resnet = architecture.contains("resnet");
    let pool = arguments.get("global_pool").or_else(|| config.get("global_pool"));
    match pool.and_then(Value::as_str) {
        None => {}
        Some("avg" | "") if is_resnet => {}
        Some("token" | "") => description.pooling = Some(Pooling::ClassToken),
        // The norm behind the mean is timm's default, and shows in the names.
        Some("avg") => {
            let behind = arguments.get("fc_norm") != Some(&Value::Bool(false));
            description.pooling = Some(if behind {
                Pooling::MeanThenNorm
            } else {
                Pooling::Mean
            });
        }
        Some(other) => {
            description.unsupported = Some(format!(
                "`global_pool` of `config.json` must be `token` or `avg`, got `{other}`: Passer has no such network"
            ));
        }
    }
    let images = inside("pretrained_cfg");
    description.mean = channels("config.json", images, "mean")?;
    description.std = channels("config.json", images, "std")?;
    Ok(description)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Description {
        Description::read(config, None).unwrap().unwrap()
    }

    #[test]
    fn transformers_and_timm_say_what_tensors_do_not() {
        let vit = r#"{"model_type": "vit", "hidden_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4,
            "patch_size": [16, 16], "layer_norm_eps": 1e-12, "hidden_act": "gelu", "num_channels": 3}"#;
        let images = r#"{"image_mean": [0.5, 0.25, 0.5], "image_std": 0.5, "do_normalize": true}"#;
        let found = Description::read(vit, Some(images)).unwrap().unwrap();
        assert_eq!((found.heads, found.norm_epsilon), (Some(4), Some(1e-12)));
        assert_eq!((found.mean, found.std), (Some([0.5, 0.25, 0.5]), Some([0.5; 3])));
        assert_eq!(found.differs(Some("transformers_vit"), false), None);
        let raw = Description::read(vit, Some(r#"{"do_normalize": false}"#))
            .unwrap()
            .unwrap();
        assert_eq!((raw.mean, raw.std), (Some([0.0; 3]), Some([1.0; 3])));

        let timm = read(
            r#"{"architecture": "vit_small_patch16_224", "num_classes": 0, "global_pool": "avg",
                "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "model_args": {"fc_norm": false}}"#,
        );
        assert_eq!((timm.pooling, timm.mean), (Some(Pooling::Mean), Some([0.5; 3])));
        assert_eq!(timm.timm_architecture(), Some("vit_small_patch16_224"));
        let wrapped = read(r#"{"model_type": "timm_wrapper", "architecture": "resnet50"}"#);
        assert_eq!(wrapped.differs(Some("resnet"), false), None);
        assert_eq!(Description::read(r#"{"lr": 0.1}"#, None), Ok(None));
    }

    #[test]
    fn a_network_with_other_features_is_refused_with_its_key() {
        let differs =
            |config: &str, layout: &str| read(config).differs(Some(layout), false).unwrap_or_default();
        for (config, layout, expected) in [
            (
                r#"{"model_type": "dinov3_vit"}"#,
                "vit",
                "`dinov3_vit` of Transformers, which Passer does not have",
            ),
            (
                r#"{"model_type": "vit", "hidden_act": "quick_gelu"}"#,
                "transformers_vit",
                "`hidden_act`",
            ),
            (
                r#"{"model_type": "resnet", "downsample_in_first_stage": true}"#,
                "transformers_resnet",
                "`downsample_in_first_stage` of `config.json` must be false, got true",
            ),
            (
                r#"{"model_type": "dinov2", "use_swiglu_ffn": true}"#,
                "transformers_dinov2",
                "`use_swiglu_ffn`",
            ),
            (
                r#"{"model_type": "dinov2", "qkv_bias": false}"#,
                "transformers_dinov2",
                "`qkv_bias` of `config.json` must be true, got false: Passer has no such network",
            ),
            (
                r#"{"architecture": "vit_base_patch16_224", "model_args": {"qkv_bias": false}}"#,
                "vit",
                "`qkv_bias` (false)",
            ),
            (
                r#"{"model_type": "vit"}"#,
                "resnet",
                "they are those of the layout resnet",
            ),
            (
                r#"{"architecture": "resnet50", "global_pool": "max"}"#,
                "resnet",
                "got `max`",
            ),
            (
                r#"{"architecture": "resnet50", "model_args": {"aa_layer": "avg"}}"#,
                "resnet",
                "`aa_layer` (\"avg\")",
            ),
            (
                r#"{"architecture": "vit_base_patch16_224", "global_pool": "map"}"#,
                "vit",
                "got `map`",
            ),
        ] {
            let found = differs(config, layout);
            assert!(found.contains(expected), "{config}: {found}");
        }
        for config in [
            r#"{"model_type": "vit", "qkv_bias": true}"#,
            r#"{"architecture": "vit_base_patch16_224", "model_args": {"qkv_bias": true}}"#,
        ] {
            let layout = ["transformers_vit", "vit"][usize::from(config.contains("arch"))];
            assert_eq!(differs(config, layout), "");
        }
        // A user who names the network knows it.
        let gelu = r#"{"model_type": "vit", "hidden_act": "quick_gelu"}"#;
        assert_eq!(read(gelu).differs(Some("transformers_vit"), true), None);
        for (config, expected) in [
            ("{", "`config.json` is not JSON"),
            ("[]", "not a JSON object"),
            (
                r#"{"model_type": "vit", "num_attention_heads": "12"}"#,
                "must be a whole number, got \"12\"",
            ),
            (
                r#"{"model_type": "vit", "layer_norm_eps": 0}"#,
                "above 0 and below 1, got 0",
            ),
            (r#"{"model_type": "vit", "patch_size": [16, 8]}"#, "got [16,8]"),
            (
                r#"{"architecture": "resnet50", "pretrained_cfg": {"mean": [123.6, 116.3, 103.5]}}"#,
                "three numbers from 0 to 1",
            ),
        ] {
            let error = Description::read(config, None).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        }
    }
}
