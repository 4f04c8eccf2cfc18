//! The model card of an exported folder: `README.md` with the metadata that Hugging Face's site reads.
//!
//! In: the folder, the encoder's own description, and what the caller knows of its run and its scores. Out: Markdown. A
//! fact that nobody stated is named as missing; none is guessed.

mod papers;
mod usage;

use std::fmt::Write as _;

use backbones::{BackboneConfig, Paper};
use data::markdown::escaped;

use crate::folder::{ExportFolder, Target};
use crate::onnx::Normalization;
use crate::origin::SawPeople;
use crate::preparation::Preparation;

pub use papers::method_of;

/// What the caller knows of an encoder beyond its file.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// SHA-256 of the encoder's file, hexadecimal.
    pub encoder_sha256: String,
    /// The weights' license, as Hugging Face abbreviates it: `cc-by-4.0`.
    pub license: Option<String>,
    /// The data's name.
    pub data: Option<String>,
    /// The run's resolved config, TOML.
    pub recipe: Option<String>,
    /// Facts about the run, by what they are: `steps`, `device`.
    pub run: Vec<(String, String)>,
    /// Its scores.
    pub scores: Vec<CardScore>,
    /// What to cite for the encoder's [method](method_of), if Passer trains it.
    pub method_papers: Vec<Paper>,
    /// A file in the folder that credits each image of the data.
    pub credits_file: Option<String>,
}

/// A score of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardScore {
    /// The protocol with its variant: `knn-dino (k 20)`.
    pub protocol: String,
    /// `top1`.
    pub metric: String,
    /// With its unit: `77.60 %`.
    pub value: String,
    /// With its sign, or empty: `+- 0.41`.
    pub uncertainty: String,
    /// Labeled records that the protocol learned from.
    pub train_records: usize,
    /// Records that the score is over.
    pub test_records: usize,
    /// First digits of the test set's fingerprint.
    pub test_fingerprint: String,
}

impl Card {
    /// The card.
    pub fn markdown(&self, folder: &ExportFolder, target: Target) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, folder, target);
        text
    }

    fn write(&self, out: &mut String, folder: &ExportFolder, target: Target) -> std::fmt::Result {
        let info = &folder.info;
        self.write_metadata(out, folder, target)?;
        let method = escaped(&info.method);
        writeln!(out, "# {}, {method}\n", info.architecture.name())?;
        let kind = match &info.architecture {
            BackboneConfig::Resnet(_) => "a residual network",
            BackboneConfig::Vit(_) => "a vision transformer",
        };
        let features = info.architecture.features();
        writeln!(
            out,
            "Features of images, {features} numbers per image, by {kind} without a classifier.\n"
        )?;
        writeln!(out, "## Use\n\n{}", usage::of(folder, target))?;
        self.write_network(out, folder, target)?;
        self.write_training(out, folder)?;
        self.write_data(out, folder)?;
        self.write_scores(out)?;
        writeln!(out, "## What to cite\n")?;
        let foreign = papers::of_foreign_method(method_of(&info.method));
        let of_method = self.method_papers.iter().chain(foreign);
        for paper in of_method.chain(info.architecture.papers()) {
            writeln!(out, "- {paper}, [arXiv:{}]({})", paper.arxiv, paper.url())?;
        }
        writeln!(
            out,
            "- Passer, the program that wrote this folder{}",
            if self.recipe.is_some() {
                " and trained the network"
            } else {
                ""
            }
        )?;
        match &self.credits_file {
            Some(file) => writeln!(
                out,
                "- the photographers, as each license requires: [{file}]({file})"
            ),
            None if info.licenses.is_empty() => Ok(()),
            None => writeln!(
                out,
                "- the photographers of the data, as their licenses require; their credits are not in this folder"
            ),
        }
    }

    /// The metadata: YAML, whose strings may have JSON's quotes.
    fn write_metadata(&self, out: &mut String, folder: &ExportFolder, target: Target) -> std::fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let info = &folder.info;
        writeln!(out, "---")?;
        if let Some(license) = &self.license {
            writeln!(out, "license: {}", quoted(license))?;
        }
        let library = match target {
            Target::Timm => "timm",
            Target::Transformers => "transformers",
            Target::Onnx(_) => "onnx",
        };
        writeln!(out, "library_name: {library}")?;
        writeln!(out, "pipeline_tag: image-feature-extraction")?;
        writeln!(out, "tags:")?;
        let family = match &info.architecture {
            BackboneConfig::Resnet(_) => "resnet",
            BackboneConfig::Vit(_) => "vision-transformer",
        };
        let mut tags = vec!["image-feature-extraction"];
        // Nothing says how another program's network was trained.
        if !info.extra.contains_key("layout") {
            tags.push("self-supervised-learning");
        }
        tags.extend(["passer", family, library]);
        if !tags.contains(&info.method.as_str()) {
            tags.push(&info.method);
        }
        for tag in tags {
            writeln!(out, "- {}", quoted(tag))?;
        }
        writeln!(out, "---\n")
    }

    fn write_network(&self, out: &mut String, folder: &ExportFolder, target: Target) -> std::fmt::Result {
        let info = &folder.info;
        let images = Preparation::of(info);
        writeln!(out, "## Network and images\n\n| | |\n|---|---|")?;
        let name = info.architecture.name();
        if name == folder.network {
            writeln!(out, "| network | {name} |")?;
        } else {
            writeln!(out, "| network | {name}; here: {} |", folder.network)?;
        }
        writeln!(out, "| features | {} |", info.architecture.features())?;
        writeln!(
            out,
            "| parameters | about {:.1} million |",
            info.architecture.parameter_count() / 1e6
        )?;
        writeln!(out, "| images | RGB, {} |", images.in_words())?;
        writeln!(
            out,
            "| normalization | mean {:?}, std {:?} of values from 0 to 1{} |",
            info.mean,
            info.std,
            match target {
                Target::Onnx(options) if options.normalization == Normalization::Inside =>
                    ", in the graph: give values from 0 to 1",
                _ => "",
            }
        )?;
        writeln!(
            out,
            "| SHA-256 of the encoder's file | {} |\n",
            self.encoder_sha256
        )
    }

    fn write_training(&self, out: &mut String, folder: &ExportFolder) -> std::fmt::Result {
        let info = &folder.info;
        writeln!(out, "## Training\n\n| | |\n|---|---|")?;
        let foreign = info.extra.contains_key("layout");
        if foreign {
            writeln!(
                out,
                "| method | not known to Passer: read from another program's file, layout {} |",
                escaped(&info.method)
            )?;
        } else {
            writeln!(out, "| method | {} |", escaped(&info.method))?;
            writeln!(out, "| optimizer steps | {} |", info.steps)?;
        }
        if let Some(origin) = info.origin() {
            writeln!(out, "| started from | {} |", escaped(&origin.describe()))?;
        }
        for (what, value) in &self.run {
            writeln!(out, "| {} | {} |", escaped(what), escaped(value))?;
        }
        for note in info.notes() {
            writeln!(out, "| note | {} |", escaped(&note))?;
        }
        writeln!(out)?;
        if let Some(recipe) = &self.recipe {
            // A longer fence than any within.
            let longest = recipe.split(|c| c != '`').map(str::len).max().unwrap_or(0);
            let fence = "`".repeat(longest.max(2) + 1);
            writeln!(
                out,
                "The whole recipe:\n\n{fence}toml\n{}\n{fence}\n",
                recipe.trim_end()
            )?;
        }
        Ok(())
    }

    fn write_data(&self, out: &mut String, folder: &ExportFolder) -> std::fmt::Result {
        const SHOWN: usize = 30;
        let info = &folder.info;
        writeln!(out, "## Data\n")?;
        if let Some(data) = &self.data {
            writeln!(out, "Data: {}.", escaped(data))?;
        }
        match info.fingerprint.as_str() {
            "" => writeln!(out, "The data that this network learned from are not stated.")?,
            fingerprint => writeln!(out, "Fingerprint of the data: {}.", escaped(fingerprint))?,
        }
        if let Some(origin) = info.origin() {
            let saw = match origin.saw_people {
                SawPeople::Yes => "saw people, so this network did",
                SawPeople::No => "saw no people, as was stated",
                SawPeople::Unknown => "may have seen people: nobody has said",
            };
            writeln!(
                out,
                "The encoder that training started from {saw}. Its data and licenses count for this network too."
            )?;
        }
        if info.extra.get("images").is_some_and(|text| !text.is_empty()) {
            writeln!(
                out,
                "The metadata of the encoder's file, and of `model.safetensors` where it is here, hold hashes of a sample of its \
                 images: they show nothing of a picture, but someone who has one can see whether it is among them."
            )?;
        }
        let counts = info.licenses.counts();
        if counts.is_empty() {
            writeln!(out, "Licenses of the images: not stated.\n")?;
        } else {
            writeln!(out, "\n| license of the images | images |\n|---|---|")?;
            for (license, images) in counts.iter().take(SHOWN) {
                writeln!(out, "| {} | {images} |", escaped(license))?;
            }
            if counts.len() > SHOWN {
                let rest = counts[SHOWN..].iter().map(|(_, images)| images).sum::<u64>();
                writeln!(out, "| {} more licenses | {rest} |", counts.len() - SHOWN)?;
            }
            writeln!(out)?;
        }
        if self.license.is_none() {
            writeln!(out, "The license of the weights is not stated.\n")?;
        }
        Ok(())
    }

    fn write_scores(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Scores\n")?;
        if self.scores.is_empty() {
            return writeln!(out, "None were given.\n");
        }
        writeln!(
            out,
            "| protocol | metric | score | | train records | test records | fingerprint of the test set |\n\
             |---|---|---|---|---|---|---|"
        )?;
        for score in &self.scores {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                escaped(&score.protocol),
                escaped(&score.metric),
                score.value,
                score.uncertainty,
                score.train_records,
                score.test_records,
                escaped(&score.test_fingerprint)
            )?;
        }
        writeln!(
            out,
            "\nThe protocols are those of Passer (its page `docs/protocols.md`), on the frozen network.\n"
        )
    }
}

#[cfg(test)]
mod tests;
