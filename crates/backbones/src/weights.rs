//! Weights in and out of memory, with torchvision's names and layout. Files are the caller's.
//!
//! An encoder file is a safetensors file that PyTorch loads without this program
//! (`load_state_dict(strict=True)` into torchvision's or timm's network, its classifier an `Identity`), with what is
//! needed to use it ([`EncoderInfo`], as JSON) under `passer` in its metadata.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::init::Init;
use crate::parameters::{Path, parameters};
use crate::{Backbone, BackboneConfig};

/// Where the metadata of an encoder file keeps its [`EncoderInfo`].
const METADATA_KEY: &str = "passer";

/// The count of batches that PyTorch keeps beside running statistics.
const BATCH_COUNT: &str = "num_batches_tracked";

/// What an encoder file says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderInfo {
    /// The network.
    pub architecture: BackboneConfig,
    /// How it was trained, as in the config: `moco_v2`; `random` for initial weights.
    pub method: String,
    /// Fingerprint of the data set that it saw; empty if none.
    pub fingerprint: String,
    /// Licences of the data set's images, in words.
    pub licences: String,
    /// Side of the square images in training, pixels.
    pub pixels: usize,
    /// What is subtracted from red, green and blue, on a scale from 0 to 1.
    pub mean: [f32; 3],
    /// What red, green and blue are then divided by.
    pub std: [f32; 3],
    /// Optimizer steps that made it; written as `num_batches_tracked`.
    pub steps: u64,
    /// Anything else worth knowing: commit, date, seed.
    pub extra: BTreeMap<String, String>,
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are damaged, or something else.
    #[error("not a safetensors file, or a damaged one: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A safetensors file of another program.
    #[error(
        "no \"{METADATA_KEY}\" in the file's metadata, expected an encoder file written by passer; hint: name the \
         network with --backbone to read another program's weights"
    )]
    NotAnEncoder,
    /// The metadata cannot be understood.
    #[error("the file's metadata is unreadable: {0}")]
    Metadata(serde_json::Error),
    /// The metadata names a network that does not exist.
    #[error("the file's network is impossible: {0}")]
    Architecture(String),
    /// A tensor that is not made of floating-point numbers.
    #[error("{name} holds {found}, expected f16, bf16, f32 or f64")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Names or shapes are not those of the network.
    #[error("the weights are not those of this network: {0}")]
    Mismatch(Box<Mismatch>),
}

/// How a set of tensors differs from what a network has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that the network has and the set lacks.
    pub missing: Vec<String>,
    /// Tensors that the set has and the network lacks, each with the nearest name that is missing.
    pub unexpected: Vec<(String, Option<String>)>,
    /// Tensors of another shape: name, the network's, the set's.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unexpected = self.unexpected.iter().map(|(name, near)| match near {
            Some(near) => format!("{name} (near {near})"),
            None => name.clone(),
        });
        let shapes = self
            .shapes
            .iter()
            .map(|(name, expected, got)| format!("{name} (expected {expected:?}, got {got:?})"));
        let parts = [
            ("missing", self.missing.clone()),
            ("unexpected", unexpected.collect()),
            ("of another shape", shapes.collect()),
        ];
        let mut separator = "";
        for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {what}: {}", names.len(), shortened(names))?;
            separator = "; ";
        }
        Ok(())
    }
}

/// The first names of a list, and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Every weight and running statistic by its torchvision or timm name, as f32 on the host.
pub fn state_dict(backbone: &Backbone) -> BTreeMap<String, TensorData> {
    let mut collect = Collect::default();
    // The network itself, not the enum around it, whose variant would be a part of each name.
    match backbone {
        Backbone::ResNet(network) => network.visit(&mut collect),
        Backbone::Vit(network) => network.visit(&mut collect),
    }
    collect.found
}

#[derive(Default)]
struct Collect {
    path: Path,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .insert(self.path.dotted(), to_f32(param.val().into_data()));
    }
}

/// The backbone with every weight and running statistic replaced.
///
/// Names and shapes must be exactly the network's (see [`state_dict`]); f16, bf16 and f64 become f32, and
/// `num_batches_tracked` is passed over. Gradients and device stay as they are.
///
/// # Errors
/// [`WeightsError::Mismatch`] and [`WeightsError::Type`].
pub fn load_state_dict(
    backbone: Backbone,
    mut tensors: BTreeMap<String, TensorData>,
) -> Result<Backbone, WeightsError> {
    tensors.retain(|name, _| name.rsplit('.').next() != Some(BATCH_COUNT));
    for (name, data) in &tensors {
        if !data.dtype().is_float() {
            return Err(WeightsError::Type {
                name: name.clone(),
                found: format!("{:?}", data.dtype()).to_lowercase(),
            });
        }
    }
    let wanted = match &backbone {
        Backbone::ResNet(network) => parameters(network),
        Backbone::Vit(network) => parameters(network),
    };
    let wanted = wanted
        .into_iter()
        .map(|p| (p.path, p.shape))
        .collect::<BTreeMap<_, _>>();
    let mismatch = compare(&wanted, &tensors);
    if !mismatch.is_empty() {
        return Err(WeightsError::Mismatch(Box::new(mismatch)));
    }
    let mut replace = Replace {
        path: Path::default(),
        tensors,
    };
    Ok(match backbone {
        Backbone::ResNet(network) => Backbone::ResNet(network.map(&mut replace)),
        Backbone::Vit(network) => Backbone::Vit(network.map(&mut replace)),
    })
}

fn compare(wanted: &BTreeMap<String, Vec<usize>>, tensors: &BTreeMap<String, TensorData>) -> Mismatch {
    let mut mismatch = Mismatch::default();
    for (name, shape) in wanted {
        match tensors.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(data) if data.shape().as_slice() != shape => {
                let got = data.shape().to_vec();
                mismatch.shapes.push((name.clone(), shape.clone(), got));
            }
            Some(_) => {}
        }
    }
    // A name of the set can stand for a missing one alone: what is there under its own name was not misspelt.
    let missing = mismatch.missing.iter().collect::<BTreeSet<_>>();
    for name in tensors.keys().filter(|name| !wanted.contains_key(*name)) {
        let near = missing
            .iter()
            .min_by_key(|candidate| strsim::levenshtein(candidate, name));
        mismatch
            .unexpected
            .push((name.clone(), near.map(|near| (*near).clone())));
    }
    mismatch
}

struct Replace {
    path: Path,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleMapper for Replace {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let data = self
            .tensors
            .remove(&self.path.dotted())
            .expect("names were compared");
        let (id, old, mapper) = param.consume();
        let mut tensor = Tensor::from_data(to_f32(data), &old.device());
        if old.is_require_grad() {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

fn to_f32(data: TensorData) -> TensorData {
    if data.dtype() == DType::F32 {
        return data;
    }
    let shape = data.shape().clone();
    TensorData::new(data.iter::<f32>().collect::<Vec<_>>(), shape)
}

/// The bytes of an encoder file. The same backbone and info give the same bytes.
pub fn encoder_to_safetensors(backbone: &Backbone, info: &EncoderInfo) -> Vec<u8> {
    let tensors = state_dict(backbone);
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX).to_le_bytes();
    let counts = tensors.keys().filter_map(|name| {
        let norm = name.strip_suffix("running_mean")?;
        let view = TensorView::new(Dtype::I64, vec![], &steps);
        Some((format!("{norm}{BATCH_COUNT}"), view.expect("8 bytes are an i64")))
    });
    let weights = tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        (name.clone(), view.expect("a tensor's bytes fit its shape"))
    });
    let plain =
        safetensors::serialize(weights.chain(counts), None).expect("names are unique and views are sound");
    let info = serde_json::to_string(info).expect("strings and finite numbers have a JSON form");
    // "format" is what other libraries ask for before they take the tensors for PyTorch's.
    let metadata = BTreeMap::from([("format", "pt".to_owned()), (METADATA_KEY, info)]);
    with_metadata(&plain, &metadata)
}

/// A safetensors file with metadata. The `safetensors` crate takes a `HashMap`, whose order, and so the file's hash,
/// would differ from run to run.
fn with_metadata(file: &[u8], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a header's length");
    let length = u64::from_le_bytes(*length) as usize;
    let (header, data) = rest.split_at(length);
    let metadata = serde_json::to_vec(metadata).expect("strings have a JSON form");

    let mut merged = br#"{"__metadata__":"#.to_vec();
    merged.extend(metadata);
    merged.push(b',');
    merged.extend(&header.trim_ascii()[1..]);
    // The format wants the data aligned to 8 bytes.
    merged.resize(merged.len().next_multiple_of(8), b' ');

    let mut bytes = Vec::with_capacity(8 + merged.len() + data.len());
    bytes.extend((merged.len() as u64).to_le_bytes());
    bytes.extend(merged);
    bytes.extend(data);
    bytes
}

/// The backbone of an encoder file on `device`, and what the file says about itself. On a plain device the backbone
/// is ready to evaluate; `Module::train` makes it trainable.
///
/// # Errors
/// Whatever [`WeightsError`] tells apart: damaged bytes, a file of another program, names and shapes that are not the
/// network's.
pub fn encoder_from_safetensors(
    bytes: &[u8],
    device: &Device,
) -> Result<(Backbone, EncoderInfo), WeightsError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let info = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(METADATA_KEY));
    let info = info.ok_or(WeightsError::NotAnEncoder)?;
    let info = serde_json::from_str::<EncoderInfo>(info).map_err(WeightsError::Metadata)?;
    info.architecture.validate().map_err(WeightsError::Architecture)?;
    let backbone = info.architecture.init(&Init::empty(device));
    Ok((load_state_dict(backbone, tensors_of(bytes)?)?, info))
}

/// The tensors of any safetensors file by name.
///
/// # Errors
/// Damaged bytes; a tensor of a type that Burn does not know.
pub fn tensors_of(bytes: &[u8]) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let file = SafeTensors::deserialize(bytes)?;
    let read = |(name, view): (&str, TensorView<'_>)| {
        let dtype = match view.dtype() {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            other => {
                return Err(WeightsError::Type {
                    name: name.to_owned(),
                    found: format!("{other:?}").to_lowercase(),
                });
            }
        };
        let shape = Shape::from(view.shape().to_vec());
        let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype);
        Ok((name.to_owned(), data))
    };
    file.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ResNetConfig, Stem};

    fn info(depth: u32) -> EncoderInfo {
        EncoderInfo {
            architecture: BackboneConfig::Resnet(ResNetConfig {
                depth,
                width: 4,
                stem: Stem::Small,
            }),
            method: "moco_v2".to_owned(),
            fingerprint: "00ff".to_owned(),
            licences: "CC-BY 2.0".to_owned(),
            pixels: 28,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            steps: 1234,
            extra: BTreeMap::from([("commit".to_owned(), "abc \"quoted\"".to_owned())]),
        }
    }

    fn network(depth: u32) -> Backbone {
        info(depth).architecture.init(&Init::new(7, &Device::flex()))
    }

    #[test]
    fn an_encoder_file_reads_back_exactly() {
        let backbone = network(50);
        let bytes = encoder_to_safetensors(&backbone, &info(50));
        assert_eq!(
            bytes,
            encoder_to_safetensors(&backbone, &info(50)),
            "same input, other bytes"
        );
        let (read, about) = encoder_from_safetensors(&bytes, &Device::flex()).unwrap();
        assert_eq!(about, info(50));
        assert_eq!(state_dict(&read), state_dict(&backbone));
    }

    #[test]
    fn names_and_counts_are_torchvisions() {
        let bytes = encoder_to_safetensors(&network(50), &info(50));
        let tensors = tensors_of(&bytes).unwrap();
        let bn = "layer1.0.downsample.1";
        for name in [
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "num_batches_tracked",
        ] {
            assert!(tensors.contains_key(&format!("{bn}.{name}")), "{name}");
        }
        assert!(tensors.contains_key("layer3.5.conv3.weight"));
        // ResNet-50 has 53 convolutions and as many norms, of five tensors each; its classifier is left out.
        assert_eq!(tensors.len(), 53 + 53 * 5);
        let count = &tensors["bn1.num_batches_tracked"];
        assert_eq!(
            (count.shape().len(), count.as_slice::<i64>().unwrap()),
            (0, &[1234][..])
        );
    }

    #[test]
    fn other_float_types_become_f32() {
        use burn::tensor::{bf16, f16};
        let backbone = network(18);
        let exact = state_dict(&backbone);
        let converted = |make: fn(Vec<f32>, Shape) -> TensorData, error: f32| {
            let convert = |(name, data): (&String, &TensorData)| {
                let values = data.iter::<f32>().collect();
                (name.clone(), make(values, data.shape().clone()))
            };
            let loaded = load_state_dict(network(18), exact.iter().map(convert).collect()).unwrap();
            for (name, data) in state_dict(&loaded) {
                assert_eq!(data.dtype(), DType::F32, "{name}");
                for (a, b) in data.iter::<f32>().zip(exact[&name].iter::<f32>()) {
                    assert!((a - b).abs() <= error * b.abs() + 1e-7, "{name}: {a} {b}");
                }
            }
        };
        converted(
            |v, s| TensorData::new(v.into_iter().map(f64::from).collect::<Vec<_>>(), s),
            0.0,
        );
        converted(
            |v, s| TensorData::new(v.into_iter().map(f16::from_f32).collect::<Vec<_>>(), s),
            1e-3,
        );
        converted(
            |v, s| TensorData::new(v.into_iter().map(bf16::from_f32).collect::<Vec<_>>(), s),
            8e-3,
        );
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        let mut tensors = state_dict(&network(18));
        let moved = tensors.remove("layer1.0.conv1.weight").unwrap();
        tensors.insert("layer1.0.conv_1.weight".to_owned(), moved);
        tensors.insert("bn1.bias".to_owned(), TensorData::new(vec![0.0f32; 3], [3]));
        let error = load_state_dict(network(18), tensors).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights are not those of this network: 1 missing: layer1.0.conv1.weight; 1 unexpected: \
             layer1.0.conv_1.weight (near layer1.0.conv1.weight); 1 of another shape: bn1.bias (expected [4], got [3])"
        );
        let error = load_state_dict(network(50), state_dict(&network(18))).unwrap_err();
        assert!(error.to_string().contains(" and "), "{error}");
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let read = |bytes: &[u8]| {
            encoder_from_safetensors(bytes, &Device::flex())
                .unwrap_err()
                .to_string()
        };
        let bytes = encoder_to_safetensors(&network(18), &info(18));
        assert!(read(&bytes[..bytes.len() - 1]).starts_with("not a safetensors file, or a damaged one"));
        assert!(read(b"").starts_with("not a safetensors file, or a damaged one"));
        let values = [0; 4];
        let view = TensorView::new(Dtype::F32, vec![1], &values).unwrap();
        let plain = safetensors::serialize([("a", view)], None).unwrap();
        assert!(read(&plain).starts_with("no \"passer\" in the file's metadata"));

        let mut wrong = info(18);
        wrong.architecture = info(34).architecture;
        let bytes = encoder_to_safetensors(&network(18), &wrong);
        assert!(read(&bytes).contains("missing"));
    }

    #[test]
    fn loading_keeps_gradients_and_device() {
        let device = Device::flex().autodiff();
        let fresh = info(18).architecture.init(&Init::empty(&device));
        let loaded = load_state_dict(fresh, state_dict(&network(18))).unwrap();
        assert!(
            parameters(&loaded)
                .iter()
                .all(|p| p.trained != p.running_statistic)
        );
    }
}
