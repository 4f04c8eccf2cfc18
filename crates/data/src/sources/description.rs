//! Data-set descriptions: a TOML file that says where the records of a data set lie, how they are laid out, what the
//! classes are called, and what is usually measured on it.
//!
//! The short form is one part (`kind`, `path` …) at the top of the file. The long form has a part for each split, and is
//! asked for one of them: `flowers.toml#test`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::transforms::{Transform, ViewGroup};

/// Name of the description that `passer shards pack` leaves beside its shards, and that opening a folder looks for.
pub(crate) const FILE_NAME: &str = "dataset.toml";

/// How the records of a part are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// WebDataset shards: a folder of them, one `.tar`, or a brace pattern.
    Shards,
    /// Class folders.
    Folder,
    /// Images at any depth, without labels.
    Flat,
    /// The published PASS release, as tars or unpacked, without labels.
    Pass,
    /// CIFAR-10's binary files, `files` of the folder `path`.
    Cifar10,
    /// CIFAR-100's binary files, with the fine labels.
    Cifar100,
    /// MNIST's format: `path` has the images, `labels` the labels, gzipped or not.
    Idx,
    /// Pascal VOC: `path` holds `JPEGImages`, `Annotations` and `ImageSets/Main`; `list` names one of its lists.
    Voc,
    /// COCO's JSON: `path` is the folder of the images, `labels` the annotations.
    Coco,
    /// A table of paths and labels: `path` is the folder of the images, `labels` the table.
    Csv,
}

/// A column of a table: by its name in the first row, or by its number where there is no such row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Column {
    /// From 0; the table has no header.
    Number(usize),
    /// The table has a header.
    Name(String),
}

/// Where the records of one split are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// How `path` is read.
    pub(crate) kind: Kind,
    /// The data, relative to the folder of the description; `${NAME}` is the environment's.
    pub(crate) path: String,
    /// Binary files in `path`, for `cifar10` and `cifar100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<String>>,
    /// The file of labels, for `idx`, `coco` and `csv`; relative as `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<String>,
    /// For `voc`: the name of a list of `ImageSets/Main`; absent: every annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<String>,
    /// For `voc`: the folder of the images; absent: `JPEGImages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) images: Option<String>,
    /// For `voc`: the folder of the annotations; absent: `Annotations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<String>,
    /// For `csv`: the column of the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_column: Option<Column>,
    /// For `csv`: the column of the labels; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label_column: Option<Column>,
    /// For `csv`: what stands between the columns; absent: a comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) separator: Option<String>,
    /// For `csv`: what stands between the classes of a record that may have several; absent: each has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label_separator: Option<String>,
    /// For `csv`: keep the rows whose column of this name has this text, as where one table has all splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<BTreeMap<String, String>>,
    /// For `coco`: each record has exactly one class, as in iNaturalist's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) one_class: bool,
    /// Class names in the order of their numbers; in the long form, those of this split alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) classes: Option<Vec<String>>,
}

impl Part {
    /// A part with no more than kind and path.
    pub(crate) fn new(kind: Kind, path: &str) -> Part {
        Part {
            kind,
            path: path.to_string(),
            files: None,
            labels: None,
            list: None,
            images: None,
            annotations: None,
            image_column: None,
            label_column: None,
            separator: None,
            label_separator: None,
            only: None,
            one_class: false,
            classes: None,
        }
    }

    /// Refuses keys that this kind does not read, and missing ones that it needs.
    fn check(&self) -> Result<(), String> {
        use Kind::{Cifar10, Cifar100, Coco, Csv, Idx, Voc};
        let given: [(&str, bool, &[Kind]); 11] = [
            ("files", self.files.is_some(), &[Cifar10, Cifar100]),
            ("labels", self.labels.is_some(), &[Idx, Coco, Csv]),
            ("list", self.list.is_some(), &[Voc]),
            ("images", self.images.is_some(), &[Voc]),
            ("annotations", self.annotations.is_some(), &[Voc]),
            ("image_column", self.image_column.is_some(), &[Csv]),
            ("label_column", self.label_column.is_some(), &[Csv]),
            ("separator", self.separator.is_some(), &[Csv]),
            ("label_separator", self.label_separator.is_some(), &[Csv]),
            ("only", self.only.is_some(), &[Csv]),
            ("one_class", self.one_class, &[Coco]),
        ];
        let name = |kind: Kind| format!("{kind:?}").to_ascii_lowercase();
        if let Some((key, _, kinds)) = given
            .iter()
            .find(|(_, is_given, kinds)| *is_given && !kinds.contains(&self.kind))
        {
            let kinds: Vec<String> = kinds.iter().map(|kind| format!("`{}`", name(*kind))).collect();
            return Err(format!(
                "`{key}` is for {}, not for `{}`",
                kinds.join(", "),
                name(self.kind)
            ));
        }
        let needed: [(&str, bool, &[Kind]); 3] = [
            ("files", self.files.is_none(), &[Cifar10, Cifar100]),
            ("labels", self.labels.is_none(), &[Coco, Csv]),
            ("image_column", self.image_column.is_none(), &[Csv]),
        ];
        if let Some((key, ..)) = needed
            .iter()
            .find(|(_, is_absent, kinds)| *is_absent && kinds.contains(&self.kind))
        {
            return Err(format!("`{}` needs `{key}`", name(self.kind)));
        }
        if self
            .separator
            .as_ref()
            .is_some_and(|separator| separator.len() != 1)
        {
            return Err("`separator` must be one ASCII character".to_string());
        }
        let columns = [&self.image_column, &self.label_column];
        let by_name = columns
            .iter()
            .filter(|column| matches!(column, Some(Column::Name(_))))
            .count();
        let by_number = columns
            .iter()
            .filter(|column| matches!(column, Some(Column::Number(_))))
            .count();
        if by_number > 0 && (by_name > 0 || self.only.is_some()) {
            return Err(
                "columns must all be given by name (the table has a header) or all by number (it has none)"
                    .to_string(),
            );
        }
        Ok(())
    }
}

/// What a user has to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Where from; a page, where files can be had only behind a form.
    pub url: String,
    /// MD5 of the file as its publisher or torchvision gives it, hexadecimal.
    #[serde(default)]
    pub md5: Option<String>,
    /// SHA-256 of the file, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// What to do with it, and what could not be verified.
    #[serde(default)]
    pub note: Option<String>,
}

/// What a description says about a data set beside where its records are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// Its name, for people.
    pub name: Option<String>,
    /// Its page.
    pub home: Option<String>,
    /// The licence of its images, or what its page says of their use.
    pub licence: Option<String>,
    /// The number that it is usually quoted by: `top1`, `mean_class`, `map`.
    pub metric: Option<String>,
    /// How its images are usually brought to an encoder's size.
    pub test_transforms: Option<Vec<Transform>>,
    /// What to fetch.
    pub downloads: Vec<Download>,
    /// Names of its splits.
    pub splits: Vec<String>,
}

/// The long form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    name: String,
    #[serde(default)]
    home: Option<String>,
    #[serde(default)]
    licence: Option<String>,
    #[serde(default)]
    classes: Option<Vec<String>>,
    #[serde(default)]
    metric: Option<String>,
    #[serde(default)]
    test_transforms: Option<Vec<Transform>>,
    #[serde(default)]
    downloads: Vec<Download>,
    splits: BTreeMap<String, Part>,
}

/// Numbers that data sets are quoted by.
const METRICS: [&str; 3] = ["top1", "mean_class", "map"];

/// The path and the split of `data.toml#train`; no split where there is none.
pub(crate) fn split_of(spec: &str) -> (&str, Option<&str>) {
    match spec.rsplit_once('#') {
        Some((path, split)) if path.ends_with(".toml") => (path, Some(split)),
        _ => (spec, None),
    }
}

/// Reads the part of a description that a split names; without one, the whole of the short form.
pub(crate) fn read_part(path: &Path, split: Option<&str>) -> Result<Part, Error> {
    let error = |reason: String| Error::Description {
        path: path.to_path_buf(),
        reason,
    };
    let (part, _) = read(path)?;
    let part = match (part, split) {
        (Parts::One(part), None) => *part,
        (Parts::One(_), Some(split)) => {
            return Err(error(format!("has no splits, and `#{split}` asks for one")));
        }
        (Parts::Splits(mut splits), Some(split)) => match splits.remove(split) {
            Some(part) => part,
            None => {
                let names: Vec<&str> = splits.keys().map(String::as_str).collect();
                return Err(error(format!(
                    "has no split `{split}`, it has: {}",
                    names.join(", ")
                )));
            }
        },
        (Parts::Splits(splits), None) => {
            let names: Vec<String> = splits
                .keys()
                .map(|name| format!("`{}#{name}`", path.display()))
                .collect();
            return Err(error(format!(
                "has several splits; name one: {}",
                names.join(", ")
            )));
        }
    };
    Ok(part)
}

/// What a description says beside where the records are.
///
/// # Errors
/// [`Error`] where the file cannot be read or does not say what it should.
pub(crate) fn read_about(path: &Path) -> Result<About, Error> {
    Ok(read(path)?.1)
}

enum Parts {
    One(Box<Part>),
    Splits(BTreeMap<String, Part>),
}

fn read(path: &Path) -> Result<(Parts, About), Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let error = |reason: String| Error::Description {
        path: path.to_path_buf(),
        reason,
    };
    let wrong = |failure: toml::de::Error| error(failure.to_string().trim_end().to_string());
    let is_long = text
        .parse::<toml::Table>()
        .is_ok_and(|table| table.contains_key("splits"));
    if !is_long {
        let part: Part = toml::from_str(&text).map_err(wrong)?;
        part.check().map_err(error)?;
        check_names(part.classes.as_deref()).map_err(error)?;
        return Ok((Parts::One(Box::new(part)), About::default()));
    }
    let Long {
        name,
        home,
        licence,
        classes,
        metric,
        test_transforms,
        downloads,
        mut splits,
    } = toml::from_str(&text).map_err(wrong)?;
    check_names(classes.as_deref()).map_err(error)?;
    for (name, part) in &mut splits {
        part.check()
            .map_err(|reason| error(format!("split `{name}`: {reason}")))?;
        check_names(part.classes.as_deref()).map_err(|reason| error(format!("split `{name}`: {reason}")))?;
        if part.classes.is_none() {
            part.classes.clone_from(&classes);
        }
    }
    if splits.is_empty() {
        return Err(error("`splits` is empty".to_string()));
    }
    if let Some(metric) = &metric
        && !METRICS.contains(&metric.as_str())
    {
        return Err(error(format!(
            "`metric` is `{metric}`, expected one of {}",
            METRICS.join(", ")
        )));
    }
    if let Some(transforms) = &test_transforms {
        let group = ViewGroup {
            count: 1,
            transforms: transforms.clone(),
        };
        group
            .validate()
            .map_err(|reason| error(format!("`test_transforms`: {reason}")))?;
    }
    let about = About {
        name: Some(name),
        home,
        licence,
        metric,
        test_transforms,
        downloads,
        splits: splits.keys().cloned().collect(),
    };
    Ok((Parts::Splits(splits), about))
}

fn check_names(classes: Option<&[String]>) -> Result<(), String> {
    let mut sorted: Vec<&String> = classes.unwrap_or_default().iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!("class `{}` is named twice", twice[0])),
        None => Ok(()),
    }
}

/// A path of a description, seen from where the description lies. `${NAME}` is replaced by the environment's.
pub(crate) fn resolve(description: &Path, path: &str) -> Result<PathBuf, Error> {
    let mut rest = path;
    let mut full = String::new();
    // Brace patterns of shards have braces too, but no dollar before them.
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else {
            break;
        };
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Error::Description {
            path: description.to_path_buf(),
            reason: format!("`{path}` asks for the environment variable `{name}`, which is not set; set it to the folder of your data sets"),
        })?;
        full.push_str(before);
        full.push_str(&value);
        rest = behind;
    }
    full.push_str(rest);
    let path = description.parent().unwrap_or(Path::new("")).join(full);
    // `shards/./` and the like read badly in every message.
    let plain: PathBuf = path
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    Ok(if plain.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        plain
    })
}
