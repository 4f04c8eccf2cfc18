//! `passer evaluate finetune` with a `[detection]` config: an encoder or a detector, and boxes in; a run directory with
//! `result.json` and `detector.safetensors` out.

use super::{Arguments, SMOKE_IMAGES, StageBar, end, passed};
use crate::configs::Kind;
use crate::failure::{Failure, Interrupted};
use crate::ranks::Ranks;
use crate::training_progress::TrainingProgress;
use crate::{batch, configs, devices, interrupt, provenance};
use ::detection::rcnn::ClassLayers;
use burn::tensor::Device;
use data::{Dataset, Metadata, Record};
use evaluation::Provenance;
use evaluation::finetune::detection::{
    Config, DetectionEvent, DetectionResult, Job, LoadedDetector, Start, run,
};
use std::path::Path;
use std::sync::Arc;
use training::{LoadedEncoder, Outcome, RunOptions};

/// What every rank reads and opens for itself.
struct Inputs {
    config: Config,
    device: Device,
    encoder: Option<LoadedEncoder>,
    detector: Option<LoadedDetector>,
    /// Training and test records; `None` in a smoke test.
    datasets: Option<[Dataset; 2]>,
}

fn inputs(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<Inputs> {
    let check = |config: &Config| {
        config.validate()?;
        // A run that was begun continues.
        match arguments.resume {
            true => Ok(()),
            false => config.validate_length(),
        }
    };
    let (path, sets, kind) = (&arguments.config, &arguments.sets, Kind::Detection);
    let config = match arguments.resume {
        true => configs::read_resumed(path, sets, kind, check)?,
        false => configs::read(path, sets, kind, check)?,
    };
    let device = arguments.devices.one().open_on(ranks)?;
    let encoder = match &arguments.encoder {
        Some(path) => Some(training::read_encoder(
            path,
            &arguments.weights.options()?,
            &device,
        )?),
        None => None,
    };
    let network = &config.detection.network;
    let detector = arguments.detector.as_ref();
    let detector = detector
        .map(|path| LoadedDetector::read(path, network))
        .transpose()?;
    let datasets = match (&arguments.train, &arguments.test) {
        (Some(train), Some(test)) if !arguments.smoke => Some([
            Dataset::open_with_objects(train)?,
            Dataset::open_with_objects(test)?,
        ]),
        _ => None,
    };
    Ok(Inputs {
        config,
        device,
        encoder,
        detector,
        datasets,
    })
}

pub(super) fn on_ranks(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<()> {
    let Inputs {
        mut config,
        device,
        encoder,
        detector,
        datasets,
    } = ranks.agree(inputs(arguments, ranks))?;
    ranks.check_devices(devices::address(&device))?;
    let start = match (&encoder, &detector) {
        (Some(encoder), _) => Start::Encoder(encoder),
        (None, Some(detector)) => Start::Detector(detector),
        (None, None) => Start::Scratch,
    };
    if ranks.is_first()
        && let Some(detector) = &detector
        && detector.class_layers == ClassLayers::Keep
    {
        eprintln!(
            "`{}` has another number of classes than `detection.network.classes` = {}: the layers of classes start anew",
            detector.path.display(),
            config.detection.network.classes
        );
    }
    if arguments.smoke {
        config.for_smoke_test(SMOKE_IMAGES);
        let records = |seed| synthetic(&config, seed);
        let datasets = [records(config.seed)?, records(config.seed + 1)?];
        let scratch = crate::smoke::Scratch::new();
        let out = arguments.out.as_deref().unwrap_or(scratch.path());
        let summary = finetune(&config, start, datasets, out, false, &device, ranks)?.summary;
        if ranks.is_first() {
            passed(&summary, config.data.batch_images);
        }
        return Ok(());
    }
    // clap requires all three unless --smoke.
    let (Some(datasets), Some(out)) = (datasets, &arguments.out) else {
        return Err(Failure::new("`--train`, `--test` and `--out` are needed").into());
    };
    let result = finetune(&config, start, datasets, out, arguments.resume, &device, ranks)?;
    if !ranks.is_first() {
        return match result.summary.outcome {
            Outcome::Interrupted => Err(Interrupted.into()),
            Outcome::Finished => Ok(()),
        };
    }
    let (summary, outcomes) = (&result.summary, result.outcomes.as_deref());
    end(arguments, summary, outcomes, config.data.batch_images, out)
}

/// Synthetic pictures with an object each: the left upper quarter.
fn synthetic(config: &Config, seed: u64) -> anyhow::Result<Dataset> {
    const PX: u32 = 160;
    let pictures = Dataset::synthetic(3 * SMOKE_IMAGES, PX, PX, 2, seed);
    let record = |position: usize| -> anyhow::Result<Record> {
        let record = pictures.read(position)?;
        let mut object = serde_json::json!({ "class": 0, "bbox": [0, 0, PX / 2, PX / 2] });
        if config.detection.network.masks.is_some() {
            let half = PX / 2;
            object["segmentation"] = serde_json::json!([[0, 0, half, 0, half, half, 0, half]]);
        }
        let listed = [
            ("width", PX.into()),
            ("height", PX.into()),
            ("objects", vec![object].into()),
        ];
        let other = listed.map(|(key, value): (&str, serde_json::Value)| (key.to_owned(), value));
        Ok(Record {
            label: None,
            metadata: Metadata {
                other: other.into_iter().collect(),
                ..Metadata::default()
            },
            ..record
        })
    };
    let records: Vec<Record> = (0..pictures.len()).map(record).collect::<Result<_, _>>()?;
    Ok(Dataset::from_records(records, vec![]).with_listed_objects()?)
}

/// Runs a config with a progress display.
fn finetune(
    config: &Config,
    start: Start<'_>,
    [train, test]: [Dataset; 2],
    out: &Path,
    resume: bool,
    device: &Device,
    ranks: &Ranks,
) -> anyhow::Result<DetectionResult> {
    let mut facts = provenance::facts(device);
    let file = match start {
        Start::Encoder(encoder) => Some(("encoder", &encoder.hash, &encoder.path)),
        Start::Detector(detector) => Some(("detector", &detector.file_hash, &detector.path)),
        Start::Scratch => None,
    };
    if let Some((kind, hash, path)) = file {
        facts.insert(kind.into(), hash.clone().into());
        facts.insert(format!("{kind}_path"), path.display().to_string().into());
    }
    let method = config.detection.protocol();
    let job = Job {
        start,
        train: Arc::new(train),
        test: Arc::new(test),
        options: RunOptions {
            out: out.to_path_buf(),
            resume,
            replicas: ranks.replicas(),
            stop: interrupt::flag()?,
            method: method.into(),
            provenance: facts,
            device: device.clone(),
        },
        provenance: Provenance {
            commit: provenance::COMMIT.into(),
            device: devices::describe(device),
        },
    };
    if ranks.is_first() {
        eprintln!(
            "{method}: {}{}",
            config.detection.network.describe(),
            ranks.of_each(config.data.batch_images)
        );
    }
    let mut shown = TrainingProgress::new(out);
    let mut stage = StageBar::default();
    let mut show = |event: DetectionEvent<'_>| match event {
        DetectionEvent::Training(event) => shown.show(&event),
        DetectionEvent::Evaluated(line) => {
            let percent =
                |value: Option<f64>| value.map_or("none".into(), |value| format!("{:.2} %", 100.0 * value));
            let mut note = format!(
                "{}: box AP {} AP50 {}",
                line.on,
                percent(line.box_ap),
                percent(line.box_ap50)
            );
            if line.mask_ap.is_some() {
                note += &format!(", mask AP {}", percent(line.mask_ap));
            }
            shown.note(line.step, &note);
        }
        DetectionEvent::Scoring(event) => {
            shown.finish();
            stage.show(event);
        }
    };
    let result = run(config, &job, &mut |event| {
        if ranks.is_first() {
            show(event);
        }
    });
    shown.finish();
    stage.finish();
    let training = &config.training;
    let divisors = [
        ("training.batch_norm_images", training.batch_norm_images),
        ("training.micro_batch_images", training.micro_batch_images),
    ];
    result.map_err(|error| batch::explained(error, &divisors))
}
