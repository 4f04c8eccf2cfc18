//! Helpers for the tests of several modules: small encoders, data sets and features, and the fixtures of
//! `scripts/parity/`.

use crate::encoder::{Encoder, POOLED, Tap};
use crate::error::Error;
use crate::features::{Extraction, Features, Labels, Matrix, Origin};
use crate::progress::Event;
use crate::protocols::{Bench, Pipeline};
use crate::task::Splits;
use backbones::{Backbone, BackboneConfig, Init, ResNetConfig, Stem};
use burn::tensor::Device;
use data::{Dataset, Filter, Label, LoaderConfig, Metadata, Record, Transform};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::sync::Arc;
use training::Normalize;

pub(crate) const NORMALIZE: Normalize = Normalize {
    mean: [0.5; 3],
    std: [0.25; 3],
};

/// A small network for small images.
pub(crate) fn backbone(seed: u64, device: &Device) -> Backbone {
    BackboneConfig::Resnet(ResNetConfig {
        depth: 18,
        width: 4,
        stem: Stem::Small,
        zero_init_residual: false,
        stride_in_1x1: false,
    })
    .init(&Init::new(seed, device))
}

pub(crate) const DATA: LoaderConfig = LoaderConfig {
    batch_images: 8,
    workers: 0,
    max_bad_fraction: 0.5,
};

pub(crate) fn resize(side: u32) -> Vec<Transform> {
    vec![Transform::ResizeExact {
        width_px: side,
        height_px: side,
        filter: Filter::Bilinear,
    }]
}

/// Features of all readable records after pooling.
pub(crate) fn extract(
    encoder: &Encoder,
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    data: &LoaderConfig,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Features, Error> {
    let extraction = Extraction {
        encoder,
        dataset,
        transforms,
        taps: &[Tap::Pooled],
        data,
        device,
    };
    extraction.features(progress)
}

/// Features of the given rows, all of one encoder.
pub(crate) fn features(width: usize, values: Vec<f32>, labels: Vec<i64>) -> Features {
    let rows = values.len() / width;
    Features {
        taps: BTreeMap::from([(POOLED.to_string(), Matrix::new(rows, width, values))]),
        labels: Some(Labels::Classes(labels)),
        class_names: vec![],
        keys: (0..rows).map(|row| format!("record-{row}")).collect(),
        pixel_hashes: None,
        bad_records: 0,
        listing: data::Listing::default(),
        seen: None,
        origin: Origin::default(),
    }
}

/// Features whose records have sets of classes.
pub(crate) fn with_sets(width: usize, values: Vec<f32>, sets: &[&[usize]], classes: usize) -> Features {
    let mut multi_hot = vec![0; sets.len() * classes];
    for (row, set) in sets.iter().enumerate() {
        set.iter().for_each(|class| multi_hot[row * classes + class] = 1);
    }
    Features {
        labels: Some(Labels::Sets { classes, multi_hot }),
        ..features(width, values, vec![0; sets.len()])
    }
}

/// Three overlapping clusters by formula.
pub(crate) fn clouds(rows: usize, shift: usize) -> Features {
    let label = |row: usize| (row % 3) as i64;
    let noise = |index: usize| (((index + shift) * 7919 % 1009) as f32 / 1009.0 - 0.5) * 3.0;
    let center = [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]];
    let values = (0..rows * 2)
        .map(|index| center[(index / 2) % 3][index % 2] + noise(index))
        .collect();
    features(2, values, (0..rows).map(label).collect())
}

/// A picture as an uncompressed BMP: red, green and blue, row by row from the top. Its width is a multiple of 4.
pub(crate) fn bitmap(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    let length = pixels.len() as u32;
    let header: [u32; 13] = [
        54 + length,
        0,
        54,
        40,
        width,
        height,
        1 | 24 << 16,
        0,
        length,
        0,
        0,
        0,
        0,
    ];
    header.iter().for_each(|word| file.extend(word.to_le_bytes()));
    for row in pixels.chunks_exact(3 * width as usize).rev() {
        row.chunks_exact(3)
            .for_each(|pixel| file.extend(pixel.iter().rev()));
    }
    file
}

/// Plain pictures, reddish or bluish by class.
pub(crate) fn tinted(records: usize, shift: u8) -> Arc<Dataset> {
    let picture = |class: usize, shade: u8| {
        let (red, blue) = if class == 0 { (200, 60) } else { (60, 200) };
        let pixel = |pixel: u8| [red + pixel / 8, shade, blue + pixel % 8];
        // Rows from the bottom up.
        let rows = (0..8)
            .rev()
            .flat_map(|row| (8 * row..8 * row + 8).flat_map(pixel));
        bitmap(8, 8, &rows.collect::<Vec<u8>>())
    };
    let record = |index: usize| Record {
        key: format!("tinted-{index}"),
        image: picture(index % 2, (index * 37 % 200) as u8 + shift),
        label: Some(Label::Class((index % 2) as u32)),
        metadata: Metadata::default(),
    };
    Arc::new(Dataset::from_records((0..records).map(record).collect(), vec![]))
}

/// A file of tensors that a script under `scripts/parity/` wrote.
pub(crate) struct Fixture(pub(crate) &'static [u8]);

impl Fixture {
    /// A tensor's values, converted from any type.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(self.0).unwrap();
        let view = file.tensor(name).unwrap();
        numbers(view.dtype(), view.data(), name)
    }

    /// A tensor of two dimensions, in f32.
    pub(crate) fn matrix(&self, name: &str) -> Matrix {
        matrix_of(self.0, name)
    }

    /// A set's rows with their labels: the tensors `name` and `name_labels`.
    pub(crate) fn features(&self, name: &str) -> Features {
        let rows = self.matrix(name);
        let labels = self.values(&format!("{name}_labels"));
        let labels = labels.into_iter().map(|label| label as i64).collect();
        features(rows.width, rows.values, labels)
    }

    /// A tensor of whole numbers from 0.
    pub(crate) fn indices(&self, name: &str) -> Vec<u32> {
        self.values(name).into_iter().map(|value| value as u32).collect()
    }
}

/// A tensor of two dimensions of a safetensors file, in f32.
pub(crate) fn matrix_of(bytes: &[u8], name: &str) -> Matrix {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values = match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
        dtype => numbers(dtype, view.data(), name)
            .into_iter()
            .map(|value| value as f32)
            .collect(),
    };
    Matrix::new(view.shape()[0], view.shape()[1], values)
}

fn numbers(dtype: Dtype, data: &[u8], name: &str) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytemuck::pod_collect_to_vec(data),
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(data)
            .into_iter()
            .map(f64::from)
            .collect(),
        Dtype::I16 => bytemuck::pod_collect_to_vec::<u8, i16>(data)
            .into_iter()
            .map(f64::from)
            .collect(),
        other => panic!("{name} is {other:?}"),
    }
}

/// ‖ours - reference‖ / ‖reference‖.
pub(crate) fn relative_error(ours: impl IntoIterator<Item = f64>, reference: &[f64]) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (ours, reference) in ours.into_iter().zip(reference) {
        error += (ours - reference).powi(2);
        norm += reference.powi(2);
    }
    (error / norm).sqrt()
}

/// A bench with an encoder, images, and stored features of the test split alone.
pub(crate) fn bench_on<'a>(
    pipeline: Pipeline<'a>,
    test: &'a Features,
    device: &'a Device,
    progress: &'a mut dyn FnMut(Event<'_>),
) -> Bench<'a> {
    Bench {
        // Its rows are never read.
        splits: Splits { train: test, test },
        pipeline: Some(pipeline),
        device,
        progress,
    }
}
