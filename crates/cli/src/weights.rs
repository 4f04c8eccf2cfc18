//! `passer weights`: list files of weights and convert them to other libraries' layouts. Also the arguments
//! that every verb with an encoder has, for facts that the file does not show.

use crate::failure::{DoesNotLoad, Failure, make_folder_of};
use crate::hints;
use backbones::BackboneConfig;
use burn::tensor::Device;
use data::terminal::escape;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use training::Inspection;
use weights::format::Format;
use weights::{ImportOptions, Naming, Role};

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// List what a file of weights holds and what would be loaded from it; nothing in it is executed
    Inspect(InspectArguments),
    /// Write an encoder file that torchvision or timm loads with `strict=True`
    Convert(ConvertArguments),
}

#[derive(clap::Args)]
pub(crate) struct InspectArguments {
    /// A .pth, .pt, .pth.tar or .safetensors, or a run directory
    file: PathBuf,
    #[command(flatten)]
    weights: WeightsArguments,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct ConvertArguments {
    /// A .pth, .pt, .pth.tar or .safetensors, or a run directory
    input: PathBuf,
    /// The encoder file to write, which must not exist
    #[arg(value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Whose names the file gets; those of ResNets are the same
    #[arg(long, value_name = "LIBRARY")]
    to: Library,
    #[command(flatten)]
    weights: WeightsArguments,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Library {
    Torchvision,
    Timm,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PartArgument {
    Student,
    Teacher,
}

/// What the user knows of a file of weights beyond what it shows.
#[derive(clap::Args)]
#[command(next_help_heading = "Weights of other programs")]
pub(crate) struct WeightsArguments {
    /// The network, where its tensors do not show it: resnet50, vit_small_patch16, vit-w384-d12-h12-p16 (h: heads)
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,
    /// Which of a file's two networks; left out: the one that the method's paper evaluates, the student where the layout is
    /// of many methods (docs/weights.md)
    #[arg(long, value_name = "PART")]
    part: Option<PartArgument>,
    /// Parameters that the file may lack, as in `norm.*`; they keep initial values; may be given again
    #[arg(long, value_name = "PATTERN")]
    allow_missing: Vec<String>,
    /// Tensors that the file may have and the network has not; may be given again
    #[arg(long, value_name = "PATTERN")]
    allow_unexpected: Vec<String>,
    /// Channel means that it was trained with, from 0 to 1, as in `0.5,0.5,0.5`; left out: the layout's, mostly ImageNet's
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    mean: Option<Channels>,
    /// Channel deviations that it was trained with
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    std: Option<Channels>,
}

/// One number each for red, green and blue.
#[derive(Clone, Copy)]
struct Channels([f32; 3]);

fn channels(text: &str) -> Result<Channels, String> {
    let numbers = text.split(',').map(|number| number.trim().parse::<f32>());
    let numbers = numbers
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    match <[f32; 3]>::try_from(numbers) {
        Ok(numbers) if numbers.iter().any(|number| *number > 1.0) => Err(
            "means and deviations are on a scale from 0 to 1, got numbers above 1; divide those of a scale to 255 by 255"
                .to_owned(),
        ),
        Ok(numbers) if numbers.iter().all(|number| number.is_finite()) => Ok(Channels(numbers)),
        _ => Err("must be three numbers, as in 0.5,0.5,0.5".to_owned()),
    }
}

impl WeightsArguments {
    /// The options of the library call.
    pub(crate) fn options(&self) -> anyhow::Result<ImportOptions> {
        if self
            .std
            .is_some_and(|Channels(std)| std.iter().any(|&std| std <= 0.0))
        {
            return Err(Failure::new("`--std` must be above 0").into());
        }
        Ok(ImportOptions {
            backbone: self.backbone.clone(),
            role: self.part.map(|part| match part {
                PartArgument::Student => Role::Student,
                PartArgument::Teacher => Role::Teacher,
            }),
            allow_missing: self.allow_missing.clone(),
            allow_unexpected: self.allow_unexpected.clone(),
            mean: self.mean.map(|Channels(mean)| mean),
            std: self.std.map(|Channels(std)| std),
        })
    }
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Inspect(arguments) => inspect(&arguments),
        Verb::Convert(arguments) => convert(&arguments),
    }
}

fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    let options = arguments.weights.options()?;
    let mut inspection = training::inspect_weights(&arguments.file, &options, &Device::flex())?;
    if arguments.json {
        if !arguments.tensors {
            inspection.all.clear();
        }
        let listed = Listed {
            inspection: &inspection,
            hint: inspection.hint.as_ref().map(hints::of_weights),
        };
        print(&(serde_json::to_string_pretty(&listed)? + "\n"))?;
    } else {
        print(&show(&inspection, arguments.tensors)?)?;
    }
    match inspection.refusal {
        None => Ok(()),
        Some(_) => Err(DoesNotLoad.into()),
    }
}

/// An inspection as JSON.
#[derive(serde::Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    hint: Option<String>,
}

/// An inspection in words.
fn show(inspection: &Inspection, tensors: bool) -> Result<String, std::fmt::Error> {
    const SHOWN: usize = 12;
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "file      {}", inspection.path.display())?;
    writeln!(out, "sha256    {}", inspection.sha256)?;
    let format = match inspection.format {
        Format::Zip => "PyTorch, zip",
        Format::Legacy => "PyTorch, legacy",
        Format::Safetensors => "safetensors",
    };
    writeln!(out, "format    {format}")?;
    let counts = inspection
        .dtypes
        .iter()
        .map(|(dtype, count)| format!("{} {dtype} of {} numbers", count.tensors, count.elements));
    writeln!(
        out,
        "tensors   {} ({})",
        inspection.tensors,
        counts.collect::<Vec<_>>().join(", ")
    )?;
    writeln!(out, "contents  {} entries", inspection.contents.len())?;
    for content in inspection.contents.iter().take(SHOWN) {
        writeln!(out, "  {:<40} {}", escape(&content.key), escape(&content.content))?;
    }
    if inspection.contents.len() > SHOWN {
        writeln!(
            out,
            "  and {} more; `--tensors` lists every tensor",
            inspection.contents.len() - SHOWN
        )?;
    }
    match &inspection.network {
        None => writeln!(out, "network   none")?,
        Some(network) => {
            let part = match (network.part, network.parts.len()) {
                (Some(part), 2..) => format!(", the {part} (--part {})", network.parts.join("|")),
                (Some(part), _) => format!(", the {part}"),
                (None, _) => String::new(),
            };
            let at = match network.at.as_str() {
                "" => String::new(),
                at => format!(" in `{at}`"),
            };
            writeln!(out, "layout    {}{part}", network.layout)?;
            writeln!(
                out,
                "network   {}{}: {} parameters, {} features",
                network.name, at, network.parameters, network.features
            )?;
            writeln!(out, "images    mean {:?}, std {:?}", network.mean, network.std)?;
            if !network.fingerprint.is_empty() {
                writeln!(out, "data      fingerprint {}", escape(&network.fingerprint))?;
            }
            if !network.licenses.is_empty() {
                writeln!(out, "licenses  {}", escape(&network.licenses.to_string()))?;
            }
            if !network.dropped.is_empty() {
                writeln!(
                    out,
                    "heads and the rest that a frozen encoder has no use for, not loaded: {}",
                    shortened(&network.dropped)
                )?;
            }
        }
    }
    for note in &inspection.notes {
        writeln!(out, "note      {}", escape(note))?;
    }
    match &inspection.refusal {
        None => writeln!(out, "loads     yes")?,
        Some(refusal) => {
            writeln!(out, "loads     no: {}", escape(refusal))?;
            if let Some(hint) = &inspection.hint {
                writeln!(out, "hint: {}", hints::of_weights(hint))?;
            }
        }
    }
    if tensors {
        for tensor in &inspection.all {
            writeln!(
                out,
                "{:<8} {:<20} {}",
                tensor.dtype,
                format!("{:?}", tensor.shape),
                escape(&tensor.name)
            )?;
        }
    }
    Ok(text)
}

/// Prints a result. A reader that closes the pipe, such as `head`, causes no error.
fn print(text: &str) -> std::io::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Names on one line: those of one module together, the first six. `encoder_q.fc.0.weight` belongs to
/// `encoder_q.fc.*`, because `encoder_q.*` would be the whole network.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let module = |name: &str| {
        let mut parts: Vec<&str> = name.split('.').collect();
        parts.pop();
        while parts.last().is_some_and(|part| part.parse::<usize>().is_ok()) {
            parts.pop();
        }
        parts.join(".")
    };
    // A network that is skipped as a whole is listed by the first part of its names.
    let mut roots = BTreeMap::<&str, BTreeSet<String>>::new();
    for name in names {
        let root = name.split('.').next().unwrap_or(name);
        roots.entry(root).or_default().insert(module(name));
    }
    let mut groups = BTreeMap::<String, (usize, &String)>::new();
    for name in names {
        let root = name.split('.').next().unwrap_or(name);
        let whole = roots.get(root).is_some_and(|modules| modules.len() > 4);
        let group = match (name.contains('.'), whole) {
            (false, _) => name.clone(),
            (true, true) => format!("{root}.*"),
            (true, false) => format!("{}.*", module(name)),
        };
        groups.entry(group).or_insert((0, name)).0 += 1;
    }
    // A single tensor by its name: DINOv2's `backbone.mask_token` is not listed as `backbone.*`.
    let group = |(group, (count, first)): (&String, &(usize, &String))| match count {
        1 => escape(first),
        count => format!("{} ({count})", escape(group)),
    };
    let shown = groups.iter().take(SHOWN).map(group).collect::<Vec<_>>();
    match groups.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A full disk's error without the advice to resume, which only a run needs.
fn full(error: training::Error) -> anyhow::Error {
    match &error {
        training::Error::File(file) if file.is_disk_full() => Failure::new(error.to_string())
            .hint("free some space, or name a file on another disk; nothing was left behind")
            .into(),
        _ => error.into(),
    }
}

/// A warning where another library's network of the usual name has a different number of heads: it loads the
/// weights with `strict=True` all the same, and its features are then wrong.
fn other_heads(architecture: &BackboneConfig, library: Library) -> Option<String> {
    let BackboneConfig::Vit(config) = architecture else {
        return None;
    };
    let (size, heads) = match config.width {
        192 => ("tiny", 3),
        384 => ("small", 6),
        768 => ("base", 12),
        1024 => ("large", 16),
        1280 => ("huge", 16),
        _ => return None,
    };
    if config.heads == heads {
        return None;
    }
    let usual = format!("vit_{size}_patch{}", config.patch_px);
    let cure = match library {
        Library::Timm => format!(
            "timm.create_model(\"{usual}_{}\", num_heads={}, num_classes=0)",
            config.image_px, config.heads
        ),
        Library::Torchvision => format!(
            "torchvision.models.VisionTransformer(..., num_heads={})",
            config.heads
        ),
    };
    Some(format!(
        "this network has {} heads, and {usual} has {heads}, into which the weights load as well and give wrong features: \
         make it with `{cure}`",
        config.heads
    ))
}

fn convert(arguments: &ConvertArguments) -> anyhow::Result<()> {
    if arguments.out.extension().is_none_or(|kind| kind != "safetensors") {
        let message = format!(
            "the name of `{}` must end in `.safetensors`",
            arguments.out.display()
        );
        let hint = format!(
            "call it `{}`",
            arguments.out.with_extension("safetensors").display()
        );
        return Err(Failure::new(message).hint(hint).into());
    }
    // Weights that took days are not overwritten.
    if arguments.out.exists() {
        let message = format!("`{}` exists", arguments.out.display());
        return Err(Failure::new(message)
            .hint("give another name, or remove what lies there")
            .into());
    }
    let loaded = training::read_encoder(&arguments.input, &arguments.weights.options()?, &Device::flex())?;
    let naming = match arguments.to {
        Library::Torchvision => Naming::Torchvision,
        Library::Timm => Naming::Timm,
    };
    make_folder_of(&arguments.out)?;
    training::write_encoder(&arguments.out, &loaded.backbone, &loaded.info, naming).map_err(full)?;
    if let Some(note) = other_heads(&loaded.info.architecture, arguments.to) {
        eprintln!("note: {note}");
    }
    eprintln!(
        "{} ({}), from a file with SHA-256 {}",
        loaded.info.architecture.name(),
        escape(&loaded.info.method),
        loaded.file_hash
    );
    println!("{}", arguments.out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn channels_are_on_a_scale_to_one() {
        assert_eq!(channels("0.5, 0,1").unwrap().0, [0.5, 0.0, 1.0]);
        let error = channels("123.675,116.28,103.53").err().unwrap();
        assert!(error.contains("by 255"), "{error}");
        for wrong in ["0.5,0.5", "0.5,0.5,x", "nan,0,0"] {
            assert!(channels(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_name_is_no_module() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let dinov2 = names(&["backbone.mask_token", "dino_head.a.w", "dino_head.a.b"]);
        assert_eq!(shortened(&dinov2), "backbone.mask_token, dino_head.a.* (2)");
    }

    #[test]
    fn a_full_disk_is_no_reason_to_resume() {
        let full_disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let file = data::FileError::new("write", std::path::Path::new("out.safetensors"))(full_disk);
        let error = full(file.into());
        assert!(error.is::<Failure>() && error.to_string().contains("out.safetensors"));
    }
}
