//! `passer weights export`: an encoder as a folder that timm, Transformers or an ONNX runtime opens, with a model card.

use super::detector::detector_in;
use super::{WeightsArguments, full};
use crate::failure::Failure;
use crate::hints;
use crate::scores::words;
use data::terminal::escape;
use evaluation::{Outcome, read_results};
use std::path::{Path, PathBuf};
use weights::card::{Card, CardScore};
use weights::{Normalization, OnnxFloat, OnnxOptions, Target, WeightsError, export_folder};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A run directory, a .pth, .pt, .pth.tar or .safetensors, or a folder of Transformers or timm
    input: PathBuf,
    /// Who opens the folder. `timm` is opened by Transformers' `AutoModel` too, where timm is installed; `transformers` is its
    /// own ViT, DINOv2 or ResNet; `onnx` is one file with the outputs `embedding` and, of ViTs, `tokens`
    #[arg(long, value_name = "LIBRARY")]
    to: Library,
    /// The folder to write, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of the images, px, up to 16,384; default: that of its training. Position embeddings are interpolated to it
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    size_px: Option<u32>,
    /// ONNX: who normalizes the images. `outside`: the caller; `inside`: the graph, which takes values from 0 to 1 [default:
    /// outside]
    #[arg(long, value_name = "WHERE")]
    normalize: Option<Normalize>,
    /// ONNX: type of weights and computation; images and outputs are f32. f16 halves the file and keeps three digits [default:
    /// f32]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// License of the weights for the model card, as Hugging Face abbreviates it: `cc-by-4.0`, `mit`
    #[arg(long, value_name = "ID", help_heading = "Model card")]
    license: Option<String>,
    /// Name of the data that it was trained on
    #[arg(long, value_name = "NAME", help_heading = "Model card")]
    data_name: Option<String>,
    /// A `result.json`, or a folder in which they are looked for; those in a run directory are found by themselves; may be given
    /// again
    #[arg(long, value_name = "PATH", help_heading = "Model card")]
    results: Vec<PathBuf>,
    /// The credits of the data, copied into the folder: `CREDITS.txt` of a release
    #[arg(long, value_name = "FILE", help_heading = "Model card")]
    credits: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightsArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Library {
    Timm,
    Transformers,
    Onnx,
    /// Mistaken for one: it opens no folder.
    #[value(hide = true)]
    Torchvision,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Normalize {
    Outside,
    Inside,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
}

/// The file of credits in a folder.
const CREDITS: &str = "CREDITS.txt";
/// Folders below a run directory in which results are looked for.
const DEPTH: usize = 3;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let target = target(arguments)?;
    if arguments.out.exists() {
        let message = format!("`{}` exists", arguments.out.display());
        return Err(Failure::new(message)
            .hint("give another name, or remove what lies there")
            .into());
    }
    if detector_in(&arguments.input)?.is_some() {
        let message = format!("`{}` holds a detector, not an encoder", arguments.input.display());
        return Err(Failure::new(message)
            .hint("write it with torchvision's names: `passer weights convert IN OUT.safetensors --to torchvision`")
            .into());
    }
    let options = arguments.weights.options()?;
    let loaded = training::read_encoder(&arguments.input, &options, &burn::tensor::Device::flex())?;
    let folder = export_folder(
        &loaded.backbone,
        &loaded.info,
        target,
        arguments.size_px.map(|px| px as usize),
    )
    .map_err(|error| refused(&arguments.input, &error))?;

    let mut card = Card {
        encoder_sha256: loaded.file_hash.clone(),
        license: arguments.license.clone(),
        data: arguments.data_name.clone(),
        method_papers: objectives::papers(weights::card::method_of(&loaded.info.method)).to_vec(),
        credits_file: arguments.credits.as_ref().map(|_| CREDITS.to_owned()),
        ..Card::default()
    };
    if let Some(unfinished) = loaded.unfinished {
        card.run.push(("state".to_owned(), unfinished.to_string()));
    }
    if arguments.input.is_dir() {
        add_run(&mut card, &arguments.input)?;
    }
    card.scores = scores(arguments, &loaded.hash)?;
    let credits = arguments.credits.as_deref().map(read).transpose()?;

    let made = data::durable::Folder::create(&arguments.out).map_err(|error| full(error.into()))?;
    let text = card.markdown(&folder, target);
    let files = folder.files.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    let more = [
        ("README.md", Some(text.as_bytes())),
        (CREDITS, credits.as_deref()),
    ];
    let more = more.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
    for (name, bytes) in files.chain(more) {
        data::durable::write(&made.path().join(name), bytes).map_err(|error| full(error.into()))?;
    }
    made.finish().map_err(|error| full(error.into()))?;

    if card.license.is_none() {
        eprintln!("note: the model card states no license of the weights: pass `--license ID`");
    }
    eprintln!(
        "{} ({}) as {}, images of {} px, {}",
        folder.info.architecture.name(),
        escape(&folder.info.method),
        escape(&folder.network),
        folder.info.pixels,
        match card.scores.len() {
            0 => "no scores".to_owned(),
            count => crate::output::counted(count, "score"),
        }
    );
    println!("{}", arguments.out.display());
    Ok(())
}

fn target(arguments: &Arguments) -> anyhow::Result<Target> {
    if arguments.to != Library::Onnx {
        for (flag, given) in [
            ("--normalize", arguments.normalize.is_some()),
            ("--dtype", arguments.dtype.is_some()),
        ] {
            if given {
                let message = format!("`{flag}` is of ONNX files alone");
                return Err(Failure::new(message)
                    .hint("leave it out, or export with `--to onnx`")
                    .into());
            }
        }
    }
    Ok(match arguments.to {
        Library::Torchvision => {
            return Err(Failure::new("torchvision opens no folder")
                .hint("write a file with its names: `passer weights convert IN OUT.safetensors --to torchvision`")
                .into());
        }
        Library::Timm => Target::Timm,
        Library::Transformers => Target::Transformers,
        Library::Onnx => Target::Onnx(OnnxOptions {
            float: match arguments.dtype {
                Some(Dtype::F16) => OnnxFloat::F16,
                Some(Dtype::F32) | None => OnnxFloat::F32,
            },
            normalization: match arguments.normalize {
                Some(Normalize::Inside) => Normalization::Inside,
                Some(Normalize::Outside) | None => Normalization::Outside,
            },
        }),
    })
}

fn refused(input: &Path, error: &WeightsError) -> anyhow::Error {
    let failure = Failure::new(format!("encoder `{}`: {error}", input.display()));
    match error.hint() {
        Some(hint) => failure.hint(hints::of_weights(&hint)).into(),
        None => failure.into(),
    }
}

/// The recipe with the name of the encoder that it started from in place of its path: a card is published.
fn without_folders(recipe: &str) -> String {
    let Ok(mut table) = recipe.parse::<toml::Table>() else {
        return recipe.to_owned();
    };
    let Some(encoder) = table.get_mut("start").and_then(|start| start.get_mut("encoder")) else {
        return recipe.to_owned();
    };
    let name = encoder.as_str().map(Path::new).and_then(Path::file_name);
    let name = name.map_or(String::new(), |name| name.to_string_lossy().into_owned());
    *encoder = toml::Value::String(name);
    toml::to_string(&table).unwrap_or_default()
}

/// The recipe of a run directory, and facts about the run.
fn add_run(card: &mut Card, run: &Path) -> anyhow::Result<()> {
    let config = run.join("config.toml");
    if config.is_file() {
        card.recipe = Some(without_folders(&String::from_utf8_lossy(&read(&config)?)));
    }
    let facts = run.join("run.json");
    if facts.is_file() {
        let facts: serde_json::Value = serde_json::from_slice(&read(&facts)?)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", facts.display())))?;
        let known = [
            ("records", "images"),
            ("steps", "steps planned"),
            ("peak_learning_rate", "peak learning rate"),
            ("device", "device"),
            ("passer", "version of Passer"),
            ("commit", "commit"),
        ];
        for (key, what) in known {
            let value = match facts.get(key) {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(value @ serde_json::Value::Number(_)) => value.to_string(),
                _ => continue,
            };
            card.run.push((what.to_owned(), value));
        }
    }
    Ok(())
}

/// The scores of this encoder: those found in its run directory, and those given.
fn scores(arguments: &Arguments, hash: &str) -> anyhow::Result<Vec<CardScore>> {
    let mut scores = vec![];
    let mut others = 0;
    if arguments.input.is_dir() {
        add_scores(&arguments.input, hash, &mut scores, &mut others)?;
    }
    for path in &arguments.results {
        let before = others;
        let Some(found) = add_scores(path, hash, &mut scores, &mut others)? else {
            let message = format!("`{}` has no `result.json`", path.display());
            return Err(Failure::new(message)
                .hint("give the folder that `passer evaluate` wrote")
                .into());
        };
        if found == 0 {
            let message = format!(
                "`{}` has no score of this file, and {} of other encoders",
                path.display(),
                crate::output::counted(others - before, "score")
            );
            return Err(Failure::new(message)
                .hint("`encoder` in `result.json` is the SHA-256 of the encoder's file that was evaluated")
                .into());
        }
    }
    if others > 0 {
        eprintln!(
            "note: {} of other encoders, or of this network after fine-tuning, {} not in the model card",
            crate::output::counted(others, "score"),
            if others == 1 { "is" } else { "are" }
        );
    }
    Ok(scores)
}

/// Adds this encoder's scores in a file, or in a folder and below; returns how many it has, `None` without any file.
fn add_scores(
    path: &Path,
    hash: &str,
    scores: &mut Vec<CardScore>,
    others: &mut usize,
) -> anyhow::Result<Option<usize>> {
    let mut files = vec![];
    if path.is_dir() {
        find_results(path, DEPTH, &mut files)?;
    } else {
        files.push(path.to_path_buf());
    }
    let mut found = (!files.is_empty()).then_some(0);
    for file in &files {
        for outcome in read_results(file)? {
            if outcome.encoder != hash {
                *others += 1;
                continue;
            }
            found = found.map(|count| count + 1);
            let score = score(&outcome);
            // One file may be given twice.
            if !scores.contains(&score) {
                scores.push(score);
            }
        }
    }
    Ok(found)
}

fn score(outcome: &Outcome) -> CardScore {
    let [protocol, value, uncertainty] = words(outcome);
    CardScore {
        protocol,
        metric: outcome.metric.clone(),
        value,
        uncertainty,
        train_records: outcome.train_records,
        test_records: outcome.test_records,
        test_fingerprint: outcome.test_fingerprint.chars().take(16).collect(),
    }
}

/// Every `result.json` in a folder, in the order of paths.
fn find_results(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(data::FileError::new("read", folder))?;
    let mut paths = entries.into_iter().map(|entry| entry.path()).collect::<Vec<_>>();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.is_symlink() && depth > 0 {
            find_results(&path, depth - 1, found)?;
        } else if path.file_name().is_some_and(|name| name == "result.json") {
            found.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(path).map_err(data::FileError::new("read", path))?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recipe_names_no_folder() {
        let recipe = "seed = 0\n\n[start]\nencoder = \"/home/me/weights/a.pth\"\n";
        let named = "seed = 0\n\n[start]\nencoder = \"a.pth\"\n";
        assert_eq!(super::without_folders(recipe), named);
        assert_eq!(
            super::without_folders("seed = 0\n# as written"),
            "seed = 0\n# as written"
        );
    }
}
