//! `passer config new`: a method, a network and the size of one's own data in, a complete, commented pretraining config out.
//!
//! It is the nearest shipped config, scaled by the rules of [`scale`], each with its reason as a comment.

mod memory;
mod scale;
mod write;

use crate::configs::shipped::{SHIPPED, stem};
use crate::configs::{self, Kind};
use crate::failure::Failure;
use anyhow::Context;
use backbones::{BackboneConfig, VitConfig};
use objectives::{METHODS, ObjectiveConfig};
use scale::Size;
use std::io::Write;
use std::path::{Path, PathBuf};

type Config = training::Config<ObjectiveConfig>;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The method, as in the names of configs: moco-v2, simclr, byol, dino, mae …
    method: String,
    /// The network by its usual name: resnet18, resnet50, resnet18-w16-small, vit_small_patch16 …
    backbone: String,
    /// Images to train on
    #[arg(long, value_name = "N", required_unless_present = "data", value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// The images to train on; they are counted where --images is absent. They need no labels
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Side of the crops; without it 224, or 32 for networks for small images
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(8..))]
    image_px: Option<u32>,
    /// Images per step; without it that of the shipped config, at most 256 and an eighth of the images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    batch_images: Option<u32>,
    /// Memory of the device in GB (10^9 bytes): the largest batch up to the recipe's whose estimate fits, in micro-batches where the
    /// method allows them
    #[arg(long, value_name = "GB", value_parser = memory::gigabytes)]
    memory_gb: Option<f64>,
    /// Passes over the images; without it those of the shipped config, more for fewer images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    epochs: Option<u32>,
    /// The file to write, which must not exist; without it standard output
    #[arg(long, value_name = "FILE.toml")]
    out: Option<PathBuf>,
}

/// A shipped pretraining config.
struct Shipped {
    /// Its path below `configs/`.
    name: &'static str,
    config: Config,
}

impl Shipped {
    /// Side of its largest views.
    fn px(&self) -> u32 {
        scale::px(&self.config)
    }

    fn is_small(&self) -> bool {
        self.px() <= SMALL_PX
    }

    fn path(&self) -> String {
        format!("configs/{}", self.name)
    }
}

/// Side of images up to which recipes are those for small images: fewer layers before the first stage, no blur.
const SMALL_PX: u32 = 64;

/// Parameters up to which a network counts as small: its heads are as narrow as those of the small recipes.
const SMALL_PARAMETERS: f64 = 3e6;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let images = match (arguments.images, &arguments.data) {
        (Some(images), _) => images as usize,
        (None, Some(data)) => data::Dataset::open(data)?.len(),
        // clap requires one of them.
        (None, None) => return Err(Failure::new("`--images` or `--data` is needed").into()),
    };
    let text = made(arguments, images)?;
    let Some(out) = &arguments.out else {
        print!("{text}");
        return Ok(());
    };
    crate::failure::make_folder_of(out)?;
    let created = std::fs::OpenOptions::new().write(true).create_new(true).open(out);
    let mut file = match created {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::new(format!("`{}` exists already", out.display()))
                .hint("name another file with `--out`, or remove it")
                .into());
        }
        created => created.with_context(|| format!("cannot write `{}`", out.display()))?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write `{}`", out.display()))?;
    println!("{}", out.display());
    eprintln!(
        "next: passer pretrain {} --smoke",
        crate::output::shell_word(&out.display().to_string())
    );
    Ok(())
}

/// The text of the config.
fn made(arguments: &Arguments, images: usize) -> anyhow::Result<String> {
    let shipped = shipped();
    let (method, prefix) = method(&arguments.method)?;
    let mut all: Vec<&Shipped> = shipped
        .iter()
        .filter(|one| one.config.objective.name() == method)
        .collect();
    if all.iter().any(|one| stem(one.name).starts_with(&prefix)) {
        all.retain(|one| stem(one.name).starts_with(&prefix));
    }
    let vit = usual_vit(&shipped).ok_or_else(|| Failure::new("no shipped config has a ViT"))?;
    let backbone = weights::architecture::backbone_named(&arguments.backbone, &vit).map_err(Failure::new)?;
    let is_vit = matches!(backbone, BackboneConfig::Vit(_));
    let of_small_images = match &backbone {
        BackboneConfig::Resnet(resnet) => resnet.stem == backbones::Stem::Small,
        BackboneConfig::Vit(vit) => vit.patch_px <= 4,
    };
    let px = arguments
        .image_px
        .unwrap_or(if of_small_images { 32 } else { 224 });
    let batch = arguments.batch_images.map_or(256, |batch| batch as usize);
    let fits = |one: &Shipped| matches!(one.config.backbone, BackboneConfig::Vit(_)) == is_vit;
    let nearest = |small: bool, same_family: bool| {
        let wanted = all
            .iter()
            .filter(|one| one.is_small() == small && fits(one) == same_family);
        wanted.min_by_key(|one| distance(one, &backbone, batch)).copied()
    };
    let needs_vit = all
        .iter()
        .all(|one| matches!(one.config.backbone, BackboneConfig::Vit(_)));
    // MoCo-v3 and DINO are published for both; a ResNet has no patches to hide.
    if !is_vit && needs_vit {
        return Err(Failure::new(format!(
            "{} trains vision transformers alone, got `{}`",
            arguments.method, arguments.backbone
        ))
        .hint("name a ViT, such as `vit_small_patch16`")
        .into());
    }
    let missing = || Failure::new(format!("no shipped config trains with `{}`", arguments.method));
    let same_family = nearest(false, true).is_some();
    let large = nearest(false, same_family).ok_or_else(missing)?;
    let small = nearest(true, true).or_else(|| nearest(true, false));
    let recipe = match small {
        Some(small) if backbone.parameter_count() < SMALL_PARAMETERS && fits(small) => small,
        _ => large,
    };
    // The optimizer of a network that no shipped config trains with this method.
    let borrowed = match same_family || recipe.is_small() {
        true => None,
        false => shipped
            .iter()
            .find(|one| stem(one.name) == "moco-v3-vit-small-imagenet"),
    };
    let views = match small {
        Some(small) if px <= SMALL_PX => small,
        _ => large,
    };
    let size = Size {
        images,
        px,
        batch: None,
        epochs: arguments.epochs.map(|epochs| epochs as usize),
    };
    let parts = scale::Parts {
        recipe: (&recipe.config, recipe.path()),
        length: (&large.config, large.path(), images_of(large.name)),
        views: (&views.config, views.path()),
        borrowed: borrowed.map(|one| (&one.config, one.path())),
    };
    let wanted = arguments.batch_images.map(|batch| batch as usize);
    let made = match arguments.memory_gb {
        Some(gigabytes) => memory::fitted(gigabytes, wanted, &parts, &backbone, &size)?,
        None => {
            let batch = wanted.map(|images| scale::Batch::new(images, "as asked for"));
            scale::scaled(&parts, backbone, &Size { batch, ..size })?
        }
    };
    let head = head(arguments, images, &made);
    let text = write::text(&head, &made.config, &made.reasons)?;
    check(&text, images)?;
    Ok(text)
}

/// The written text must be a config that the program takes without a warning.
fn check(text: &str, images: usize) -> anyhow::Result<()> {
    let whole = |config: &Config| {
        config.validate()?;
        config.validate_length()
    };
    let config: Config =
        configs::parse(text, &[], whole).context("no valid config comes of these numbers")?;
    let warnings = config.warnings(images).map_err(Failure::new)?;
    match warnings.as_slice() {
        [] => Ok(()),
        warnings => Err(Failure::new(format!(
            "no sound config comes of these numbers: {}",
            warnings.join("; ")
        ))
        .hint("give more images or epochs, or smaller batches with `--batch-images`")
        .into()),
    }
}

/// The shipped configs that recipes are taken from: the quick start's is made for three minutes.
fn shipped() -> Vec<Shipped> {
    let pretraining = SHIPPED.iter().filter(|(name, text)| {
        name.ends_with(".toml") && stem(name) != "quickstart" && Kind::of(text) == Some(Kind::Pretraining)
    });
    let parsed = pretraining.filter_map(|(name, text)| {
        let config = toml::from_str(text).ok()?;
        Some(Shipped { name, config })
    });
    parsed.collect()
}

/// The ViT whose unnamed settings are the usual ones: DINO's.
fn usual_vit(shipped: &[Shipped]) -> Option<VitConfig> {
    let usual = shipped
        .iter()
        .find(|one| stem(one.name) == "dino-vit-small-16-imagenet")?;
    match &usual.config.backbone {
        BackboneConfig::Vit(vit) => Some(vit.clone()),
        BackboneConfig::Resnet(_) => None,
    }
}

/// The name of a method in configs, and what the files of its shipped configs begin with.
fn method(typed: &str) -> Result<(&'static str, String), Failure> {
    let plain = typed.to_lowercase().replace('_', "-");
    let (name, prefix) = match plain.as_str() {
        "moco" | "moco-v2" => ("moco", "moco-v2"),
        "moco-v1" => ("moco", "moco-v1"),
        "moco-v2-cld" | "moco-cld" | "cld" => ("moco-cld", "moco-v2-cld"),
        other => (other, other),
    };
    let named = |method: &&&str| method.replace('_', "-") == name;
    match METHODS.iter().find(named) {
        Some(method) => Ok((*method, prefix.to_string())),
        None => {
            let names: Vec<String> = METHODS
                .iter()
                .map(|method| format!("`{}`", method.replace('_', "-")))
                .collect();
            Err(Failure::new(format!(
                "the method must be one of {}, got `{typed}`",
                names.join(", ")
            )))
        }
    }
}

/// How far a config is from what is wanted: first by its network, then by its batch; of two alike, PASS's is farther.
fn distance(one: &Shipped, backbone: &BackboneConfig, batch: usize) -> (u64, u64, bool, &'static str) {
    let apart = |a: f64, b: f64| ((a.max(1.0) / b.max(1.0)).ln().abs() * 10.0).round() as u64;
    (
        apart(one.config.backbone.parameter_count(), backbone.parameter_count()),
        apart(one.config.data.batch_images as f64, batch as f64),
        one.name.contains("-pass"),
        one.name,
    )
}

/// Images of the data set that a shipped config's name says.
fn images_of(name: &str) -> usize {
    match name {
        name if name.contains("-pass") => 1_439_588,
        name if name.contains("-imagenet") => 1_281_167,
        _ => 10_000,
    }
}

/// The comment at the top.
fn head(arguments: &Arguments, images: usize, made: &scale::Scaled) -> Vec<String> {
    let file = arguments.out.as_deref().unwrap_or(Path::new("FILE.toml"));
    let word = |path: &str| crate::output::shell_word(path);
    let data = arguments.data.as_deref().map_or("DATA".into(), word);
    let papers = objectives::papers(made.config.objective.name()).iter();
    let papers: Vec<String> = papers.map(|paper| format!("{} {}", paper, paper.url())).collect();
    let mut lines = vec![
        format!(
            "{} with {} at {} px, for {images} images of one's own. Made by `passer config new`.",
            arguments.method,
            made.config.backbone.name(),
            scale::px(&made.config)
        ),
        format!("Papers: {}", papers.join("; ")),
        format!(
            "Run:    passer pretrain {} --data {data} --out RUN",
            word(&file.display().to_string())
        ),
        format!(
            "Test:   passer pretrain {} --smoke",
            word(&file.display().to_string())
        ),
    ];
    lines.extend(made.notes.iter().map(|note| format!("From:   {note}")));
    lines.extend(made.memory.iter().map(|line| format!("Memory: {line}")));
    lines.push("Keys:   `passer config keys pretrain WORD` says what else a key may be.".into());
    lines
}

#[cfg(test)]
mod tests;
