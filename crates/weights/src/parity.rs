//! Features of networks as Transformers and timm save them, compared with those libraries' own
//! (`scripts/parity/hugging_face.py`).

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use backbones::Context;
use burn::tensor::{DType, Device, Tensor};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use crate::format::Entry;
use crate::onnx::tests::interpreter::{self, Value as Output};
use crate::{
    Checkpoint, Description, EncoderInfo, Hint, Import, ImportOptions, ONNX_EMBEDDING, OnnxOptions, Target,
    WeightsError, export_folder,
};

/// ‖ours − theirs‖ / ‖theirs‖ against their float64; their own float32 is at 2e-7.
const BOUND: f64 = 1e-5;

#[derive(Deserialize)]
struct Fixture {
    config: Value,
    preprocessor: Option<Value>,
    /// By the images' side.
    features: BTreeMap<String, Vec<Vec<f64>>>,
}

fn bytes(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/features")
        .join(name);
    let packed = std::fs::read(file).unwrap();
    if !name.ends_with(".gz") {
        return packed;
    }
    let mut bytes = vec![];
    GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn fixture(name: &str) -> Fixture {
    serde_json::from_slice(&bytes(&format!("{name}.json"))).unwrap()
}

fn images(side: &str) -> Tensor<4> {
    let bytes = bytes("images.safetensors.gz");
    let mut source = Cursor::new(&bytes);
    let file = Checkpoint::open(&mut source).unwrap();
    let Some(Entry::Tensor(images)) = file.root.at(side) else {
        panic!("{side}")
    };
    let data = images.read(&mut source).unwrap().convert_dtype(DType::F32);
    Tensor::from_data(data, &Device::flex())
}

type Loaded = (backbones::Backbone, EncoderInfo);

fn load(
    name: &str,
    config: Option<&Value>,
    preprocessor: Option<&Value>,
    options: &ImportOptions,
) -> Result<Loaded, WeightsError> {
    let bytes = bytes(&format!("{name}.safetensors.gz"));
    let mut source = Cursor::new(&bytes);
    let mut checkpoint = Checkpoint::open(&mut source)?;
    checkpoint.description = config.and_then(|config| {
        let preprocessor = preprocessor.map(Value::to_string);
        Description::read(&config.to_string(), preprocessor.as_deref()).unwrap()
    });
    Import::plan(&checkpoint, options, &Device::flex())?.load(&mut source)
}

fn error(loaded: &Loaded, fixture: &Fixture) -> f64 {
    let errors = fixture.features.iter().map(|(side, theirs)| {
        let ours = loaded.0.forward(images(side), &Context::evaluation()).into_data();
        let theirs = theirs.concat();
        let ours = ours.iter::<f64>().collect::<Vec<_>>();
        assert_eq!(ours.len(), theirs.len());
        let of = |difference: &dyn Fn(usize) -> f64| {
            (0..theirs.len())
                .map(|at| difference(at).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        of(&|at| ours[at] - theirs[at]) / of(&|at| theirs[at])
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn features_are_those_of_the_library_that_wrote_the_folder() {
    for (name, layout) in [
        ("vit", "transformers_vit"),
        ("vit_msn", "transformers_vit"),
        ("vit_mae", "transformers_vit_mae"),
        ("dinov2", "transformers_dinov2"),
        ("dinov2_with_registers", "transformers_dinov2_with_registers"),
        ("resnet18", "transformers_resnet"),
        ("resnet50", "transformers_resnet"),
        ("timm_vit_mean", "vit_fc_norm"),
    ] {
        let fixture = fixture(name);
        let options = ImportOptions::default();
        let loaded = load(
            name,
            Some(&fixture.config),
            fixture.preprocessor.as_ref(),
            &options,
        )
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(loaded.1.method, layout);
        let error = error(&loaded, &fixture);
        eprintln!("{name}: {error:.1e}");
        assert!(error < BOUND, "{name}: {error:e}");
    }
}

#[test]
fn the_description_gives_statistics_and_what_it_lacks_is_assumed_aloud() {
    let vit = fixture("vit");
    let plain = ImportOptions::default();
    let (_, info) = load("vit", Some(&vit.config), vit.preprocessor.as_ref(), &plain).unwrap();
    assert_eq!((info.mean, info.std), ([0.5; 3], [0.5; 3]));
    assert_eq!(info.notes(), Vec::<String>::new());
    let (_, info) = load("vit", Some(&vit.config), None, &plain).unwrap();
    assert_eq!(
        info.notes(),
        [
            "nothing beside the file states it, so the usual is assumed: ImageNet's channel statistics \
             (`preprocessor_config.json` states them)"
        ]
    );
    // Without `config.json` the user must know the heads; the epsilon is Transformers' own.
    let named = ImportOptions {
        backbone: Some("vit-w16-d2-h4-p4".to_owned()),
        ..plain.clone()
    };
    let alone = load("vit", None, None, &named).unwrap();
    assert!(
        matches!(alone.1.notes().as_slice(), [note] if note.contains("norms with epsilon 1e-12")),
        "{:?}",
        alone.1.notes()
    );
    assert!(error(&alone, &vit) < BOUND);
    let refused = load("vit", None, None, &plain).unwrap_err();
    assert_eq!(
        refused.hint(),
        Some(Hint::NameHeads("vit-w16-d2-hHEADS-p4".to_owned()))
    );
}

#[test]
fn a_description_that_the_tensors_or_the_user_contradict_is_an_error() {
    let refused = |name: &str, key: &str, value: Value, backbone: Option<&str>| {
        let mut config = fixture(name).config;
        config[key] = value;
        let options = ImportOptions {
            backbone: backbone.map(str::to_owned),
            ..ImportOptions::default()
        };
        load(name, Some(&config), None, &options).unwrap_err().to_string()
    };
    assert_eq!(
        refused("vit", "hidden_size", 32.into(), None),
        "`config.json` says width: 32, and the tensors say 16"
    );
    assert_eq!(
        refused("dinov2_with_registers", "num_register_tokens", 8.into(), None),
        "`config.json` says registers: 8, and the tensors say 4"
    );
    assert_eq!(
        refused("vit", "num_attention_heads", 2.into(), Some("vit-w16-d2-h4-p4")),
        "`config.json` says 2 heads, and the name given has 4"
    );
    assert!(
        refused("vit", "model_type", "dinov2".into(), None).contains("those of the layout transformers_vit")
    );
    assert!(
        refused("vit", "model_type", "beit".into(), None)
            .contains("a `beit` of Transformers, which Passer does not")
    );
    assert!(
        refused("vit", "num_attention_heads", 3.into(), None).contains("`backbone.vit.heads` must divide")
    );
    let disagree = refused(
        "timm_vit_mean",
        "model_args",
        serde_json::json!({ "fc_norm": false }),
        None,
    );
    assert!(disagree.contains("disagree on the pooling"), "{disagree}");
    let unknown = refused(
        "timm_vit_mean",
        "architecture",
        "vit_relpos_small_patch16_224".into(),
        None,
    );
    assert!(
        unknown.contains("timm's `vit_relpos_small_patch16_224`, which Passer does not know"),
        "{unknown}"
    );
}

/// What `scripts/parity/exports.py` saw of an ONNX file.
#[derive(Deserialize)]
struct Exported {
    /// The images' side.
    side: String,
    /// Of the file that `onnx.checker` accepted.
    sha256: String,
    /// onnxruntime's output.
    embedding: Vec<Vec<f64>>,
}

/// The files are to the byte those that `onnx.checker` accepted and onnxruntime ran, and onnxruntime's numbers are those of
/// the operators' definitions.
#[test]
fn onnx_files_are_those_that_onnxruntime_ran() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports.json");
    let exported: BTreeMap<String, Exported> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(exported.len(), 6);
    for (name, expected) in &exported {
        let fixture = fixture(name);
        let options = ImportOptions::default();
        let (backbone, info) = load(
            name,
            Some(&fixture.config),
            fixture.preprocessor.as_ref(),
            &options,
        )
        .unwrap();
        let size = expected.side.parse().unwrap();
        let target = Target::Onnx(OnnxOptions::default());
        let folder = export_folder(&backbone, &info, target, Some(size)).unwrap();
        let model = &folder.files["model.onnx"];
        let sha256 = data::sha256_of(&mut model.as_slice()).unwrap().hex();
        assert_eq!(
            sha256, expected.sha256,
            "{name}: the file changed; run scripts/parity/exports.py again"
        );
        let images = images(&expected.side).into_data();
        let images = Output::new(images.shape().to_vec(), images.iter::<f64>().collect());
        let ours = &interpreter::run(model, images)[ONNX_EMBEDDING];
        let theirs = expected.embedding.concat();
        assert_eq!(ours.values.len(), theirs.len());
        let norm = |of: &dyn Fn(usize) -> f64| (0..theirs.len()).map(|at| of(at).powi(2)).sum::<f64>().sqrt();
        let off = norm(&|at| ours.values[at] - theirs[at]) / norm(&|at| theirs[at]);
        assert!(off < BOUND, "{name}: {off:e}");
    }
}
