//! `passer quickstart`: pretraining and evaluation on bundled images, by the same code as any run.
//!
//! Bundled: 6,000 training and 2,000 test images of Fashion-MNIST (MIT, `crates/cli/quickstart/`), unpacked
//! into shards first, so that all later steps are a user's own commands.

use crate::devices::DeviceArgument;
use crate::failure::Interrupted;
use crate::on_event::EventCommand;
use crate::output::shell_word;
use crate::progress::duration;
use crate::ranks::Ranks;
use crate::training_run::ResumeArguments;
use crate::{configs, devices, evaluate, pretrain};
use anyhow::{Context, ensure};
use backbones::Init;
use burn::tensor::Device;
use data::{Dataset, Label, Metadata, Record};
use evaluation::{Encoder, FeatureCache, Outcome, weights_hash};
use flate2::read::GzDecoder;
use objectives::ObjectiveConfig;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use weights::{EncoderInfo, ImportOptions, Naming};

const TRAIN_IMAGES: &[u8] = include_bytes!("../quickstart/train-images-idx3-ubyte.gz");
const TRAIN_LABELS: &[u8] = include_bytes!("../quickstart/train-labels-idx1-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("../quickstart/t10k-images-idx3-ubyte.gz");
const TEST_LABELS: &[u8] = include_bytes!("../quickstart/t10k-labels-idx1-ubyte.gz");
const PRETRAIN: &str = include_str!("../../../configs/pretrain/quickstart.toml");
const EVALUATE: &str = include_str!("../../../configs/evaluate/quickstart.toml");

/// Test images are also scored after they moved by up to this many pixels, as things in photographs lie anywhere.
const MOVED_PX: u32 = 5;

/// Fashion-MNIST's classes in the order of its labels.
const CLASSES: [&str; 10] = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder for data, run and results; an interrupted quick start continues from there
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// Seed of every random draw
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgument,
    /// Change a key of configs/pretrain/quickstart.toml, as in `--set training.epochs=1`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let out = &arguments.out;
    let device = arguments.device.open()?;
    let mut sets = arguments.sets.clone();
    sets.push(format!("seed={}", arguments.seed));
    let config = configs::parse(PRETRAIN, &sets, training::Config::<ObjectiveConfig>::validate)
        .context("config `configs/pretrain/quickstart.toml` is not valid")?;
    let protocols = configs::parse(EVALUATE, &[], evaluation::Config::validate)?;

    let open = |folder: PathBuf| Dataset::open(&folder.to_string_lossy()).map(Arc::new);
    let train = open(unpack(out, "train", "train", TRAIN_IMAGES, TRAIN_LABELS, 0)?)?;
    let test = open(unpack(out, "test", "test", TEST_IMAGES, TEST_LABELS, 0)?)?;
    let moved = open(unpack(
        out,
        "test-moved",
        "test",
        TEST_IMAGES,
        TEST_LABELS,
        MOVED_PX,
    )?)?;

    let run = out.join("run");
    // A finished run has nothing left to do and returns at once.
    let begun = run.exists();
    let summary = pretrain::pretrain(
        &config,
        Arc::clone(&train),
        (&run, ResumeArguments::if_begun(begun)),
        EventCommand::none(),
        &device,
        &Ranks::single(),
    )?;
    if summary.outcome == training::Outcome::Interrupted {
        eprintln!(
            "interrupted at step {} of {}; repeat the command to continue",
            summary.step, summary.steps
        );
        return Err(Interrupted.into());
    }

    let pretrained = evaluate::open(&run, &ImportOptions::default(), &device)?;
    let untrained = untrained(&config, out, &device)?;
    let pixels = Encoder::pixels(config.data.normalize);
    let scores = out.join("evaluation");
    let cache = Arc::new(FeatureCache::new(scores.join("features")));
    let mut rows = vec![];
    for (name, folder, encoder) in [
        ("pretrained", "pretrained", &pretrained),
        ("untrained", "untrained", &untrained),
        ("raw pixels", "pixels", &pixels),
    ] {
        let evaluate = |test: &Arc<Dataset>, folder: &str, report: Option<&str>| {
            let writing = evaluate::Writing {
                out: &scores.join(folder),
                shared_features: Some(Arc::clone(&cache)),
                report,
            };
            let (train, test) = (Arc::clone(&train), Arc::clone(test));
            evaluate::evaluate(&protocols, encoder, train, test, writing, &device)
        };
        let report = (name == "pretrained").then_some("Fashion-MNIST, 2,000 test images");
        let as_they_are = evaluate(&test, folder, report)?;
        rows.push((
            name,
            as_they_are,
            evaluate(&moved, &format!("{folder}-moved"), None)?,
        ));
    }
    let outcomes = rows
        .iter()
        .flat_map(|(_, still, moved)| still.iter().chain(moved));
    data::durable::write_json(&out.join("result.json"), &outcomes.collect::<Vec<_>>())?;
    print_table(&config, &rows, test.len());
    eprintln!(
        "\n{} on {}. Everything lies in `{}`; the recipe is configs/pretrain/quickstart.toml.\n\
         A map of the features, nearest neighbors and mistakes: {}",
        duration(started.elapsed().as_secs_f64()),
        devices::describe(&device),
        out.display(),
        scores.join("pretrained").join(evaluate::REPORT).display()
    );
    next_commands(out);
    Ok(())
}

/// The same network with its initial weights, also as a file, so that it can be evaluated like any other.
fn untrained(
    config: &training::Config<ObjectiveConfig>,
    out: &Path,
    device: &Device,
) -> anyhow::Result<Encoder> {
    let backbone = config
        .backbone
        .init(&Init::new(config.seed, device).at("student").at("backbone"));
    let info = EncoderInfo {
        architecture: config.backbone.clone(),
        method: "random".into(),
        fingerprint: String::new(),
        licenses: data::Licenses::default(),
        pixels: 28,
        mean: config.data.normalize.mean,
        std: config.data.normalize.std,
        steps: 0,
        extra: BTreeMap::new(),
    };
    training::write_encoder(&out.join("untrained.safetensors"), &backbone, &info, Naming::Timm)?;
    let name = format!("{} random", config.backbone.name());
    Ok(Encoder::new(
        name,
        weights_hash(&backbone),
        &backbone,
        config.data.normalize,
    ))
}

/// Writes a bundled split as shards of PNGs, unless an earlier quick start did; with each image moved by up to `moved_px`.
fn unpack(
    out: &Path,
    folder: &str,
    split: &str,
    images: &[u8],
    labels: &[u8],
    moved_px: u32,
) -> anyhow::Result<PathBuf> {
    let folder = out.join("data").join(folder);
    let done = folder.join("dataset.toml");
    if done.is_file() {
        return Ok(folder);
    }
    if folder.exists() {
        // Interrupted midway: it holds no data of the user.
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("`{}` cannot be made anew", folder.display()))?;
    }
    let records = records(split, images, labels, moved_px)?;
    let dataset = Dataset::from_records(records, CLASSES.map(String::from).to_vec());
    let options = data::shards::PackOptions {
        records_per_shard: 10_000,
        prefix: split.into(),
        subfolder: None,
        limit: None,
        shuffle_seed: None,
    };
    data::shards::pack_dataset(&dataset, &folder, &options, &|_, _| {})?;
    Ok(folder)
}

/// The bundled images as records: gzipped IDX in, PNGs with labels out.
fn records(split: &str, images: &[u8], labels: &[u8], moved_px: u32) -> anyhow::Result<Vec<Record>> {
    let plain = |gzip: &[u8]| -> anyhow::Result<Vec<u8>> {
        let mut plain = vec![];
        GzDecoder::new(gzip)
            .read_to_end(&mut plain)
            .context("the bundled images are damaged")?;
        Ok(plain)
    };
    let (images, labels) = (plain(images)?, plain(labels)?);
    // IDX: magic number, then each dimension, as big-endian u32.
    let size = |at: usize| u32::from_be_bytes([images[at], images[at + 1], images[at + 2], images[at + 3]]);
    ensure!(
        images.len() > 16 && size(0) == 0x0803 && labels.len() > 8,
        "the bundled images are damaged"
    );
    let (height, width) = (size(8), size(12));
    let pictures = images[16..].chunks_exact((height * width) as usize);
    let mut records = vec![];
    for (index, (pixels, label)) in pictures.zip(&labels[8..]).enumerate() {
        let key = format!("{split}-{index:05}");
        let pixels = moved(pixels, width, offset(&key, moved_px)?);
        let mut png = vec![];
        image::ImageEncoder::write_image(
            image::codecs::png::PngEncoder::new(&mut png),
            &pixels,
            width,
            height,
            image::ExtendedColorType::L8,
        )?;
        records.push(Record {
            key,
            image: png,
            label: Some(Label::Class(u32::from(*label))),
            metadata: Metadata {
                photographer: Some("Zalando SE".into()),
                license: Some("MIT".into()),
                source_url: Some("https://github.com/zalandoresearch/fashion-mnist".into()),
                ..Metadata::default()
            },
        });
    }
    Ok(records)
}

/// How far an image moves, right and down, px: each from `-most` to `most`, by the hash of its key.
fn offset(key: &str, most: u32) -> std::io::Result<(i32, i32)> {
    let hash = data::sha256_of(key.as_bytes())?.digest;
    let drawn = |at: usize| {
        let word = u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
        (word % (2 * most + 1)) as i32 - most as i32
    };
    Ok((drawn(0), drawn(4)))
}

/// An image moved right and down; black comes in, and what leaves is lost.
fn moved(pixels: &[u8], width: u32, (right, down): (i32, i32)) -> Vec<u8> {
    let (width, height) = (width as i32, pixels.len() as i32 / width as i32);
    let place = |x: i32, y: i32| {
        let (x, y) = (x - right, y - down);
        ((0..width).contains(&x) && (0..height).contains(&y)).then(|| (y * width + x) as usize)
    };
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    rows.map(|(x, y)| place(x, y).map_or(0, |place| pixels[place]))
        .collect()
}

/// One row per encoder; for each protocol the test images as they are, and moved; on stdout.
fn print_table(
    config: &training::Config<ObjectiveConfig>,
    rows: &[(&str, Vec<Outcome>, Vec<Outcome>)],
    test_records: usize,
) {
    let headline = |outcomes: &[Outcome]| -> Vec<(String, f64)> {
        outcomes
            .iter()
            .filter(|o| o.headline)
            .map(|o| (o.protocol.clone(), o.value))
            .collect()
    };
    println!(
        "\n{} with {}, {} epochs, seed {}: accuracy on {test_records} held-out images, as they are and moved by up to \
         {MOVED_PX} pixels\n",
        config.backbone.name(),
        config.objective.name(),
        config.training.epochs.unwrap_or_default(),
        config.seed
    );
    let Some((_, first, _)) = rows.first() else { return };
    print!("{:<14}", "features");
    for (protocol, _) in headline(first) {
        print!("{protocol:>16}{:>11}", "moved");
    }
    println!();
    let percent = |value: f64| data::percent(value, 2);
    for (name, still, moved) in rows {
        print!("{name:<14}");
        for ((_, value), (_, moved)) in headline(still).into_iter().zip(headline(moved)) {
            print!("{:>16}{:>11}", percent(value), percent(moved));
        }
        println!();
    }
}

fn next_commands(out: &Path) {
    eprintln!(
        "\nThese small, centered pictures of clothes are where raw pixels are strong; photographs are where they are not.\n\
         On your own photographs (PHOTOS is a folder; subfolders are classes, if you have them):\n\n\
         \x20 passer shards pack PHOTOS --out shards\n\
         \x20 passer views configs/pretrain/moco-v2-resnet18-cifar10.toml --data shards --out views.png\n\
         \x20 passer pretrain configs/pretrain/moco-v2-resnet50-pass.toml --smoke\n\
         \x20 passer pretrain configs/pretrain/moco-v2-resnet18-cifar10.toml --data shards --out runs/mine\n\
         \x20 passer evaluate run configs/evaluate/small-images.toml --encoder {} --train TRAIN --test TEST --out scores\n\n\
         `passer` is {}.",
        shell_word(&out.join("run").display().to_string()),
        std::env::current_exe().map_or_else(
            |_| "this program".to_owned(),
            |program| program.display().to_string()
        )
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn images_move_by_up_to_the_most_and_lose_what_leaves() {
        let image = [1, 2, 3, 4, 5, 6];
        assert_eq!(moved(&image, 3, (0, 0)), image);
        assert_eq!(moved(&image, 3, (1, 0)), [0, 1, 2, 0, 4, 5]);
        assert_eq!(moved(&image, 3, (-1, 1)), [0, 0, 0, 2, 3, 0]);
        assert_eq!(moved(&image, 3, (3, 0)), [0; 6]);

        let mut times = [[0; 11]; 2];
        for index in 0..2000 {
            let (right, down) = offset(&format!("test-{index:05}"), 5).unwrap();
            times[0][(right + 5) as usize] += 1;
            times[1][(down + 5) as usize] += 1;
        }
        // 182 each if they were equally frequent; five standard deviations.
        let frequent = |times: &[i32; 11]| times.iter().all(|times| (117..=247).contains(times));
        assert!(times.iter().all(frequent), "{times:?}");
        assert_eq!(offset("any", 0).unwrap(), (0, 0));
    }
}
