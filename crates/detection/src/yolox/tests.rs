//! Tests of the networks: from a checkpoint against PyTorch, from ONNX operations by hand.

use std::collections::BTreeMap;
use std::io::Cursor;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use weights::Checkpoint;
use weights::format::{OnnxAttribute, OnnxGraph, OnnxInput, OnnxNode, OnnxTensor, OnnxValues};

use super::{from_checkpoint, from_onnx};
use crate::error::{DetectionError, Hint};
use crate::parity::{file_of, formula};
use crate::{Detector, Photo, Yolox, YoloxConfig};

/// What `scripts/parity/yolox.py` wrote.
#[derive(Deserialize)]
struct Fixture {
    depthwise: Network,
    plain: Network,
}

#[derive(Deserialize)]
struct Network {
    shapes: BTreeMap<String, Vec<usize>>,
    /// `[84, 8]`: 64 + 16 + 4 places, boxes, objectness and three classes.
    output: Vec<f32>,
}

impl Network {
    fn file(&self, rename: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let gain = |name: &str| if name.contains("_preds") { 0.1 } else { 1.0 };
        let tensors = self
            .shapes
            .iter()
            .filter_map(|(name, shape)| Some((rename(name)?, shape, formula(name, shape, gain(name)))));
        file_of(tensors)
    }
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../fixtures/yolox_formula.json")).unwrap()
}

/// The script's picture, twice.
fn pictures(device: &Device) -> Tensor<4> {
    let value = |at: usize| {
        let (channel, y, x) = (at / 4096 % 3, at / 64 % 64, at % 64);
        ((7 * x + 5 * y + 40 * channel + x * y % 11) % 256) as f32 / 16.0
    };
    let values = (0..2 * 3 * 4096).map(value).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, [2, 3, 64, 64]), device)
}

#[test]
fn networks_of_checkpoints_are_those_of_pytorch() {
    let device = Device::flex();
    let fixture = fixture();
    for (what, network) in [("depthwise", &fixture.depthwise), ("plain", &fixture.plain)] {
        let mut source = Cursor::new(network.file(|name| Some(format!("model.{name}"))));
        let checkpoint = Checkpoint::open(&mut source).unwrap();
        // safetensors have no dictionaries: their names begin with the root's, as `module.` may.
        assert!(from_checkpoint::of_side(&checkpoint, &mut source, &device, Some(64)).is_err());
        let mut source = Cursor::new(network.file(|name| Some(format!("module.{name}"))));
        let checkpoint = Checkpoint::open(&mut source).unwrap();
        let graph = from_checkpoint::of_side(&checkpoint, &mut source, &device, Some(64)).unwrap();
        assert_eq!((graph.input, graph.outputs), ([64, 64], [84, 8]));
        let found = graph.forward(pictures(&device));
        assert_eq!(found.dims(), [2, 84, 8]);
        let found = found.into_data().iter::<f32>().collect::<Vec<_>>();
        for image in found.chunks_exact(84 * 8) {
            let square = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
            };
            // Boxes and probabilities apart: boxes are larger by far.
            for columns in [0..4, 4..8] {
                let of = |values: &[f32]| {
                    let rows = values
                        .chunks_exact(8)
                        .flat_map(|row| row[columns.clone()].to_vec());
                    rows.collect::<Vec<_>>()
                };
                let (ours, theirs) = (of(image), of(&network.output));
                let difference = square(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
                let error = difference / square(&mut theirs.iter().copied());
                eprintln!("{what} {columns:?}: {error:.1e}");
                assert!(error < 1e-5, "{what} {columns:?}: {error}");
            }
        }
    }
}

#[test]
fn another_checkpoint_is_an_error_that_lists_the_difference() {
    let network = fixture().depthwise;
    let read = |bytes: Vec<u8>| {
        Yolox::read(&mut Cursor::new(bytes), YoloxConfig::persons(), &Device::flex())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let name = "backbone.C3_p4.conv2.bn.running_var";
    let error = read(network.file(|found| (found != name).then(|| found.to_owned())));
    assert_eq!(
        error,
        format!("the weights are not those of YOLOX: 1 missing: {name}")
    );
    let other = read(network.file(|found| Some(found.replace("backbone.backbone", "backbone.darknet"))));
    assert!(
        other.contains("175 missing: backbone.backbone.stem.conv.conv.weight, "),
        "{other}"
    );
    let classes = YoloxConfig {
        classes: Some(vec![3]),
        ..YoloxConfig::persons()
    };
    let whole = network.file(|name| Some(name.to_owned()));
    let error = Yolox::read(&mut Cursor::new(whole), classes, &Device::flex()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`classes` must be below 3, the network's number of classes, got 3"
    );
}

/// A network of one prediction a place as an export would write it, over images of 32 x 32 px: every second
/// pixel, pooled down to strides of 8, 16 and 32, each channel a value of the box.
fn small() -> OnnxGraph {
    let mut graph = OnnxGraph {
        inputs: vec![OnnxInput {
            name: "images".to_owned(),
            shape: Some(vec![Some(1), Some(3), Some(32), Some(32)]),
        }],
        outputs: vec!["output".to_owned()],
        ..Default::default()
    };
    let mut constant = |name: &str, shape: &[usize], values: OnnxValues| {
        graph.constants.insert(
            name.to_owned(),
            OnnxTensor {
                shape: shape.to_vec(),
                values,
            },
        );
    };
    for (name, value) in [("zero", 0), ("end", i64::MAX), ("two", 2), ("three", 3)] {
        constant(name, &[1], OnnxValues::I64(vec![value]));
    }
    // Copies of a channel's pixel at stride 4, then 2, 2, 2: six outputs, the k-th of channel k mod 3, times k + 1.
    let mut pick = vec![0.0; 18];
    for output in 0..6 {
        pick[output * 3 + output % 3] = (output + 1) as f32 / 16.0;
    }
    constant("pick", &[6, 3, 1, 1], OnnxValues::F32(pick));
    constant("one", &[6, 1, 1, 1], OnnxValues::F32(vec![1.0; 6]));
    constant("half", &[6], OnnxValues::F32(vec![0.5; 6]));
    constant("shape", &[3], OnnxValues::I64(vec![1, 6, -1]));
    constant("scales", &[4], OnnxValues::F32(vec![1.0, 1.0, 2.0, 2.0]));
    let ints = |values: &[i64]| OnnxAttribute::Ints(values.to_vec());
    let mut node = |operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, OnnxAttribute)]| {
        graph.nodes.push(OnnxNode {
            operator: operator.to_owned(),
            name: String::new(),
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        });
    };
    node("Slice", &["images", "zero", "end", "two", "two"], "rows", &[]);
    node("Slice", &["rows", "zero", "end", "three", "two"], "halved", &[]);
    let stride = |stride: i64| {
        [
            ("strides", ints(&[stride, stride])),
            ("kernel_shape", ints(&[1, 1])),
            ("pads", ints(&[0; 4])),
        ]
    };
    node("Conv", &["halved", "pick"], "fine", &stride(4));
    let depthwise = [("group", OnnxAttribute::Int(6)), ("strides", ints(&[2, 2]))];
    node("Conv", &["fine", "one", "half"], "middle", &depthwise);
    node("Conv", &["middle", "one", "half"], "coarse", &depthwise);
    let nearest = [
        ("mode", OnnxAttribute::Text("nearest".to_owned())),
        (
            "coordinate_transformation_mode",
            OnnxAttribute::Text("asymmetric".to_owned()),
        ),
        ("nearest_mode", OnnxAttribute::Text("floor".to_owned())),
    ];
    node("Resize", &["coarse", "", "scales"], "up", &nearest);
    node("Sigmoid", &["up"], "gate", &[]);
    node("Mul", &["gate", "up"], "gated", &[]);
    node("Add", &["gated", "middle"], "sum", &[]);
    for (map, flat) in [("fine", "a"), ("sum", "b"), ("coarse", "c")] {
        node("Reshape", &[map, "shape"], flat, &[]);
    }
    node(
        "Concat",
        &["a", "b", "c"],
        "all",
        &[("axis", OnnxAttribute::Int(-1))],
    );
    node("Transpose", &["all"], "output", &[("perm", ints(&[0, 2, 1]))]);
    graph
}

#[test]
fn operations_of_onnx_compute_what_their_standard_says() {
    let device = Device::flex();
    let graph = from_onnx::graph(&small(), &device).unwrap();
    assert_eq!((graph.input, graph.outputs), ([32, 32], [16 + 4 + 1, 6]));
    // The pixel at row y and column x of channel c is 100 c + y + x / 100.
    let value = |at: usize| {
        let (channel, y, x) = (at / 1024, at / 32 % 32, at % 32);
        (100 * channel + y) as f32 + x as f32 / 100.0
    };
    let images = (0..3 * 1024).map(value).collect::<Vec<_>>();
    let images = Tensor::from_data(TensorData::new(images, [1, 3, 32, 32]), &device);
    let found = graph
        .forward(images)
        .into_data()
        .iter::<f32>()
        .collect::<Vec<_>>();
    let pixel = |channel: usize, y: usize, x: usize| value(channel * 1024 + y * 32 + x);
    for (place, row) in found.chunks_exact(6).enumerate() {
        for (output, found) in row.iter().enumerate() {
            let at = |y: usize, x: usize| (output + 1) as f32 / 16.0 * pixel(output % 3, y, x);
            let coarse = at(0, 0) + 1.0;
            let expected = match place {
                0..16 => at(place / 4 * 8, place % 4 * 8),
                16..20 => {
                    let (y, x) = ((place - 16) / 2, (place - 16) % 2);
                    at(16 * y, 16 * x) + 0.5 + coarse / (1.0 + (-coarse).exp())
                }
                _ => coarse,
            };
            assert!(
                (found - expected).abs() < 1e-4,
                "{place} {output}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn other_operations_and_sizes_are_named() {
    let device = Device::flex();
    let fault = |change: &dyn Fn(&mut OnnxGraph)| {
        let mut graph = small();
        change(&mut graph);
        match from_onnx::graph(&graph, &device).unwrap_err() {
            from_onnx::Fault::Input(reason) => format!("input: {reason}"),
            from_onnx::Fault::Operation(reason) => reason,
        }
    };
    let open = fault(&|graph| graph.inputs[0].shape = Some(vec![None, Some(3), None, Some(32)]));
    assert_eq!(
        open,
        "input: its input must be [1, 3, height, width] of a fixed size, got [?, 3, ?, 32]"
    );
    let unknown = fault(&|graph| graph.nodes[9].operator = "Exp".to_owned());
    assert_eq!(unknown, "its operation `Exp` (`a`): no operation of YOLOX");
    let dilated = fault(&|graph| {
        let dilations = OnnxAttribute::Ints(vec![2, 2]);
        graph.nodes[2]
            .attributes
            .insert("dilations".to_owned(), dilations);
    });
    assert!(
        dilated.starts_with("its operation `Conv` (`fine`): only square kernels"),
        "{dilated}"
    );
    let groups = fault(&|graph| {
        graph.nodes[3]
            .attributes
            .insert("group".to_owned(), OnnxAttribute::Int(2));
    });
    assert!(groups.ends_with("2 groups over 6 outputs"), "{groups}");
    let lost = fault(&|graph| graph.nodes[7].inputs[1] = "nowhere".to_owned());
    assert!(lost.ends_with("nothing computes `nowhere`"), "{lost}");
    let linear = fault(&|graph| {
        let mode = OnnxAttribute::Text("linear".to_owned());
        graph.nodes[5].attributes.insert("mode".to_owned(), mode);
    });
    assert!(linear.ends_with("the mode `linear`"), "{linear}");
    let wide = fault(&|graph| {
        let scales = OnnxValues::F32(vec![1.0, 1.0, 1e9, 1e9]);
        graph.constants.get_mut("scales").unwrap().values = scales;
    });
    assert!(wide.contains("Resize") && wide.contains("large"), "{wide}");
    // A decoded export has the same shape of output: its operations give it away.
    let decoded = fault(&|graph| graph.nodes[8].inputs = vec!["gated".to_owned(), "half".to_owned()]);
    assert!(decoded.contains("`Add`"), "{decoded}");
    let error = DetectionError::ForeignOnnx { reason: decoded };
    assert_eq!(error.hint(), Some(Hint::BuildWithOnnx));
}

#[test]
fn photos_of_any_size_fit_into_the_input() {
    let network = fixture().depthwise;
    let bytes = network.file(|name| Some(name.to_owned()));
    let detector = |side_by_side| {
        let config = YoloxConfig {
            candidate_score: 0.2,
            side_by_side,
            batch_images: 2,
            ..YoloxConfig::persons()
        };
        Yolox::read(&mut Cursor::new(&bytes), config, &Device::flex()).unwrap()
    };
    let pixels = (0..3 * 500 * 300)
        .map(|at| (at * 7 % 256) as u8)
        .collect::<Vec<_>>();
    let photo = |width, height| Photo {
        width,
        height,
        pixels: &pixels[..3 * width as usize * height as usize],
    };
    let photos = [photo(500, 300), photo(1, 1), photo(20, 300)];
    let one_by_one = detector(true).detect(&photos).unwrap();
    assert_eq!(one_by_one.len(), 3);
    assert!(one_by_one.iter().any(|found| !found.is_empty()));
    let together = detector(false).detect(&photos).unwrap();
    for (one, two) in one_by_one.iter().zip(&together) {
        assert_eq!(one.len(), two.len());
        for (a, b) in one.iter().zip(two) {
            assert!((a.score - b.score).abs() < 1e-5);
        }
    }
}
