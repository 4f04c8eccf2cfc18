//! `passer weights`: list files of weights, convert and export them for other libraries. Also the arguments
//! that every verb with an encoder has, for facts that the file does not show.

mod detector;
mod export;

use crate::failure::{DoesNotLoad, Failure, make_folder_of};
use crate::hints;
use backbones::vit::Pooling;
use backbones::{BackboneConfig, Stem, VitConfig};
use burn::tensor::Device;
use data::terminal::escape;
use detection::rcnn::RcnnFile;
use detector::{convert_detector, detector_in};
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
    /// Write an encoder, or a Faster, Mask or Cascade R-CNN, as a file that torchvision or timm loads with `strict=True`, or
    /// that Passer alone reads
    Convert(ConvertArguments),
    /// Write an encoder as a folder that timm, Transformers or an ONNX runtime opens, with a model card
    Export(Box<export::Arguments>),
}

#[derive(clap::Args)]
pub(crate) struct InspectArguments {
    /// A .pth, .pt, .pth.tar, .pkl or .safetensors, a run directory, or a folder of Transformers or timm
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
    /// A .pth, .pt, .pth.tar, .pkl or .safetensors, a run directory, or a folder of Transformers or timm
    input: PathBuf,
    /// The encoder file to write, which must not exist
    #[arg(value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Whose names the file gets; those of ResNets are the same. `passer` is for networks that no library has. Folders for timm and Transformers, and ONNX files, are written
    /// by `passer weights export`
    #[arg(long, value_name = "LIBRARY")]
    to: ConvertTo,
    #[command(flatten)]
    weights: WeightsArguments,
}

/// Targets of a conversion, and those that are mistaken for one.
#[derive(Clone, Copy, clap::ValueEnum)]
enum ConvertTo {
    Torchvision,
    Timm,
    Passer,
    #[value(hide = true)]
    Transformers,
    #[value(hide = true)]
    Onnx,
}

impl ConvertTo {
    /// The other library whose names the file gets; none: Passer's own.
    fn library(self) -> Result<Option<Library>, Failure> {
        let name = match self {
            Self::Torchvision => return Ok(Some(Library::Torchvision)),
            Self::Timm => return Ok(Some(Library::Timm)),
            Self::Passer => return Ok(None),
            Self::Transformers => "transformers",
            Self::Onnx => "onnx",
        };
        Err(Failure::new(format!(
            "`--to` of `passer weights convert` must be torchvision, timm or passer, got {name}"
        ))
        .hint(format!(
            "write a folder: `passer weights export IN --to {name} --out DIR`"
        )))
    }
}

#[derive(Clone, Copy)]
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
        Verb::Export(arguments) => export::run(&arguments),
    }
}

fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    let options = arguments.weights.options()?;
    let mut inspection = training::inspect_weights(&arguments.file, &options, &Device::flex())?;
    // A detector is no encoder.
    let detector = match inspection.network {
        None => detector_in(&inspection.path)?,
        Some(_) => None,
    };
    if arguments.json {
        if !arguments.tensors {
            inspection.all.clear();
        }
        let listed = Listed {
            inspection: &inspection,
            hint: inspection.hint.as_ref().map(hints::of_weights),
            detector: detector.as_ref().map(|file| file.config.describe()),
        };
        print(&(serde_json::to_string_pretty(&listed)? + "\n"))?;
    } else {
        print(&show(&inspection, detector.as_ref(), arguments.tensors)?)?;
    }
    match (inspection.refusal, detector) {
        (None, _) | (_, Some(_)) => Ok(()),
        (Some(_), None) => Err(DoesNotLoad.into()),
    }
}

/// An inspection as JSON.
#[derive(serde::Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    hint: Option<String>,
    /// What a file of a detector holds, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    detector: Option<String>,
}

/// An inspection in words.
fn show(
    inspection: &Inspection,
    detector: Option<&RcnnFile>,
    tensors: bool,
) -> Result<String, std::fmt::Error> {
    const SHOWN: usize = 12;
    let mut text = String::new();
    let out = &mut text;
    writeln!(out, "file      {}", inspection.path.display())?;
    writeln!(out, "sha256    {}", inspection.sha256)?;
    let format = match inspection.format {
        Format::Zip => "PyTorch, zip",
        Format::Legacy => "PyTorch, legacy",
        Format::Safetensors => "safetensors",
        Format::Numpy => "a pickle of numpy's arrays",
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
    match (&inspection.network, detector) {
        (None, Some(file)) => detector::show(out, file)?,
        (None, None) => writeln!(out, "network   none")?,
        (Some(network), _) => {
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
            if let Some(origin) = &network.origin {
                writeln!(out, "started   from {}", escape(&origin.describe()))?;
            }
            if !network.fingerprint.is_empty() {
                let hashes = match network.sampled_images {
                    0 => String::new(),
                    count => format!(", hashes of {count} of its images"),
                };
                writeln!(
                    out,
                    "data      fingerprint {}{hashes}",
                    escape(&network.fingerprint)
                )?;
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
        Some(_) if detector.is_some() => writeln!(
            out,
            "loads     as a detector (`passer detect objects --weights FILE`), not as an encoder"
        )?,
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

/// How to make the library's network for a converted file, where the usual name makes another network or none;
/// without the note a user finds out at `load_state_dict`, or not at all.
fn making(architecture: &BackboneConfig, library: Library) -> Option<String> {
    match architecture {
        BackboneConfig::Resnet(config) => {
            let mut differs = vec![];
            if config.width != 64 {
                differs.push(format!("its width is {}, and theirs is 64", config.width));
            }
            if config.stem == Stem::Small {
                differs.push("its stem is 3×3, and theirs 7×7".to_owned());
            }
            (!differs.is_empty()).then(|| {
                format!(
                    "no constructor of torchvision or timm makes {}: {}; the file has their names, and only a class of your \
                     own with these shapes loads it",
                    config.name(),
                    differs.join(", ")
                )
            })
        }
        BackboneConfig::Vit(config) => {
            let usual = match config.width {
                192 => Some(("tiny", 12, 3)),
                384 => Some(("small", 12, 6)),
                768 => Some(("base", 12, 12)),
                1024 => Some(("large", 24, 16)),
                1280 => Some(("huge", 32, 16)),
                _ => None,
            };
            let called = |size| format!("vit_{size}_patch{}", config.patch_px);
            let epsilon = config
                .norm_epsilon
                .filter(|value| *value != VitConfig::USUAL_EPSILON);
            let why = match (usual, epsilon) {
                (Some((size, _, heads)), _) if heads != config.heads => format!(
                    "this network has {} heads, and {} has {heads}, into which the weights load as well and give wrong features",
                    config.heads,
                    called(size)
                ),
                (_, Some(epsilon)) => format!(
                    "the norms of this network have epsilon {epsilon:e}, and the usual ones {:e}, into which the weights load \
                     as well and give other features",
                    VitConfig::USUAL_EPSILON
                ),
                (Some((size, depth, _)), None)
                    if depth == config.depth
                        && config.pooling == Pooling::ClassToken
                        && has_name(size, config, library) =>
                {
                    return None;
                }
                _ => "no usual name makes this network".to_owned(),
            };
            Some(format!("{why}: make it with `{}`", call(config, library)))
        }
    }
}

/// Whether the library has a name for a ViT of this size, patch, image and parts (timm 1.0.31, torchvision 0.26).
fn has_name(size: &str, config: &VitConfig, library: Library) -> bool {
    let plain = config.layer_scale.is_none() && config.registers == 0;
    let (patch, image) = (config.patch_px, config.image_px);
    match library {
        Library::Torchvision => {
            plain && image == 224 && matches!((size, patch), ("base" | "large", 16 | 32) | ("huge", 14))
        }
        Library::Timm if plain => match (size, patch) {
            ("tiny", 16) | ("small" | "base" | "large", 16 | 32) => [224, 384].contains(&image),
            ("small" | "base", 8) | ("large" | "huge", 14) => image == 224,
            _ => false,
        },
        // DINOv2's.
        Library::Timm => {
            config.layer_scale.is_some()
                && [0, 4].contains(&config.registers)
                && (patch, image) == (14, 518)
                && matches!(size, "small" | "base" | "large")
        }
    }
}

/// The call that makes a ViT without its classifier in Python.
fn call(config: &VitConfig, library: Library) -> String {
    let mut more = String::new();
    if let Some(epsilon) = config.norm_epsilon {
        let _ = write!(
            more,
            ", norm_layer=functools.partial(torch.nn.LayerNorm, eps={epsilon:e})"
        );
    }
    match library {
        Library::Torchvision => format!(
            "torchvision.models.VisionTransformer(image_size={}, patch_size={}, num_layers={}, num_heads={}, hidden_dim={}, \
             mlp_dim={}{more})",
            config.image_px,
            config.patch_px,
            config.depth,
            config.heads,
            config.width,
            4 * config.width
        ),
        Library::Timm => {
            if config.layer_scale.is_some() {
                more += ", init_values=1.0";
            }
            if config.registers > 0 {
                let _ = write!(more, ", reg_tokens={}, no_embed_class=True", config.registers);
            }
            more += match config.pooling {
                Pooling::ClassToken => "",
                Pooling::Mean => ", global_pool=\"avg\", fc_norm=False",
                Pooling::MeanThenNorm => ", global_pool=\"avg\"",
            };
            format!(
                "timm.models.VisionTransformer(img_size={}, patch_size={}, embed_dim={}, depth={}, num_heads={}, \
                 num_classes=0{more})",
                config.image_px, config.patch_px, config.width, config.depth, config.heads
            )
        }
    }
}

fn convert(arguments: &ConvertArguments) -> anyhow::Result<()> {
    let library = arguments.to.library()?;
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
    if let Some(file) = detector_in(&arguments.input)? {
        return convert_detector(arguments, library, &file);
    }
    let loaded = training::read_encoder(&arguments.input, &arguments.weights.options()?, &Device::flex())?;
    let naming = match library {
        Some(Library::Torchvision) => Naming::Torchvision,
        Some(Library::Timm) => Naming::Timm,
        None => Naming::Passer,
    };
    make_folder_of(&arguments.out)?;
    training::write_encoder(&arguments.out, &loaded.backbone, &loaded.info, naming).map_err(full)?;
    if let Some(note) = library.and_then(|library| making(&loaded.info.architecture, library)) {
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
    fn a_network_without_a_usual_constructor_is_said_with_the_call_that_makes_it() {
        let resnet = |width, stem| {
            BackboneConfig::Resnet(backbones::ResNetConfig {
                depth: 18,
                width,
                stem,
                zero_init_residual: false,
                stride_in_1x1: false,
            })
        };
        let vit = |change: &dyn Fn(&mut VitConfig)| {
            let mut config = VitConfig {
                width: 384,
                depth: 12,
                heads: 6,
                patch_px: 16,
                image_px: 224,
                ..VitConfig::tiny_for_tests()
            };
            change(&mut config);
            BackboneConfig::Vit(config)
        };
        let timm = |network: &BackboneConfig| making(network, Library::Timm).unwrap_or_default();
        assert_eq!(making(&resnet(64, Stem::Imagenet), Library::Torchvision), None);
        assert_eq!(
            timm(&resnet(8, Stem::Small)),
            "no constructor of torchvision or timm makes resnet18-w8-small: its width is 8, and theirs is 64, its stem is 3×3, \
             and theirs 7×7; the file has their names, and only a class of your own with these shapes loads it"
        );
        assert_eq!(timm(&vit(&|_| {})), "");
        assert_eq!(
            timm(&vit(
                &|vit| (vit.patch_px, vit.image_px, vit.layer_scale) = (14, 518, Some(1.0))
            )),
            ""
        );
        // torchvision has no small one.
        assert_eq!(
            making(&vit(&|_| {}), Library::Torchvision).unwrap(),
            "no usual name makes this network: make it with `torchvision.models.VisionTransformer(image_size=224, \
             patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)`"
        );
        for (change, why, arguments) in [
            (
                &(|vit: &mut VitConfig| vit.heads = 12) as &dyn Fn(&mut VitConfig),
                "this network has 12 heads, and vit_small_patch16 has 6",
                "num_heads=12, num_classes=0)",
            ),
            (
                &|vit| vit.norm_epsilon = Some(1e-12),
                "have epsilon 1e-12, and the usual ones 1e-6",
                "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-12))",
            ),
            (
                &|vit| vit.pooling = Pooling::MeanThenNorm,
                "no usual name makes this network",
                "num_classes=0, global_pool=\"avg\")",
            ),
            (
                &|vit| (vit.registers, vit.image_px) = (2, 32),
                "no usual name",
                "reg_tokens=2, no_embed_class=True)",
            ),
        ] {
            let note = timm(&vit(change));
            assert!(note.contains(why) && note.contains(arguments), "{note}");
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
