//! One part of a data-set description: its keys, and the layout that its `kind` names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::LAYOUTS;
use super::index_file::IndexStore;
use super::source::Opened;
use crate::error::Error;
use crate::listing::Listing;
use crate::names;

/// A column of a table: by its name in the first row, or by its number without such a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "must be a column's name in quotes, or its number from 0"
)]
pub(crate) enum Column {
    /// From 0; the table has no header.
    Number(usize),
    /// The table has a header.
    Name(String),
}

/// What the labels of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LabelsAre {
    /// Names of classes, even if they consist of digits.
    Names,
    /// Numbers of classes from 0: positions in `classes` where there are any.
    Numbers,
}

/// Where the records of one split are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// The layout of `path`.
    pub(crate) kind: Kind,
    /// The data, relative to the folder of the description; `${NAME}` is an environment variable.
    pub(crate) path: String,
    /// Binary files in `path`, for `cifar10` and `cifar100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<String>>,
    /// The file of labels, for `idx`, `coco` and `csv`, or of the classes' names, for `yolo`; relative like `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<String>,
    /// For `voc`: the name of a list of `ImageSets/Main`; absent: every annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<String>,
    /// For `voc` and `yolo`: the folder of the images; absent: `JPEGImages` or `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) images: Option<String>,
    /// For `voc` and `yolo`: the folder of the annotations; absent: `Annotations`, or `labels` for `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<String>,
    /// For `csv`: the column of the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_column: Option<Column>,
    /// For `csv`: the column of the labels; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label_column: Option<Column>,
    /// For `csv`: the character between the columns; absent: a comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) separator: Option<String>,
    /// For `csv`: the text between the classes of a record that may have several; absent: each record has
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label_separator: Option<String>,
    /// For `csv`: what the labels are; absent: names if there are `classes`, else numbers or names, whichever
    /// all of them are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels_are: Option<LabelsAre>,
    /// For `csv`: keep the rows whose column of this name has this text, as where one table has all splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<BTreeMap<String, String>>,
    /// For `coco`: each record has exactly one class, as in iNaturalist's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) one_class: bool,
    /// Class names in the order of their numbers; in the long form, of this split alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) classes: Option<Vec<String>>,
}

impl Part {
    /// A part with only kind and path.
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
            labels_are: None,
            only: None,
            one_class: false,
            classes: None,
        }
    }

    /// The keys that are present beside `kind`, `path` and `classes`.
    fn given_keys(&self) -> Vec<&'static str> {
        let keys = [
            ("files", self.files.is_some()),
            ("labels", self.labels.is_some()),
            ("list", self.list.is_some()),
            ("images", self.images.is_some()),
            ("annotations", self.annotations.is_some()),
            ("image_column", self.image_column.is_some()),
            ("label_column", self.label_column.is_some()),
            ("separator", self.separator.is_some()),
            ("label_separator", self.label_separator.is_some()),
            ("labels_are", self.labels_are.is_some()),
            ("only", self.only.is_some()),
            ("one_class", self.one_class),
        ];
        let given = keys.into_iter().filter(|(_, is_given)| *is_given);
        given.map(|(key, _)| key).collect()
    }

    /// Gives an error for keys that this kind does not read, and for missing ones that it needs: the key, and what
    /// is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let given = self.given_keys();
        if let Some(key) = given.iter().find(|key| !self.kind.keys.contains(key)) {
            let kinds: Vec<String> = LAYOUTS
                .iter()
                .filter(|layout| layout.keys.contains(key))
                .map(|layout| format!("`{}`", layout.name))
                .collect();
            let reason = format!("is for {}, not for `{}`", kinds.join(", "), self.kind.name);
            return Err((key, reason));
        }
        if let Some(key) = self.kind.required.iter().find(|key| !given.contains(key)) {
            return Err((key, format!("is missing: `{}` needs it", self.kind.name)));
        }
        if let Some(separator) = self.separator.as_ref().filter(|separator| separator.len() != 1) {
            return Err((
                "separator",
                format!("must be one ASCII character, got {separator:?}"),
            ));
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
            return Err((
                "image_column",
                "and the other columns must all be given by name (the table has a header) or all by number (it has none)"
                    .to_string(),
            ));
        }
        check_classes(self.classes.as_deref()).map_err(|reason| ("classes", reason))
    }
}

/// Gives an error if a name occurs twice, also in another Unicode form.
pub(crate) fn check_classes(classes: Option<&[String]>) -> Result<(), String> {
    if classes.is_some_and(<[String]>::is_empty) {
        return Err(
            "must name at least one class, got none; leave the key out where they are not known".to_string(),
        );
    }
    let classes = classes.unwrap_or_default().iter();
    if let Some(place) = classes.clone().position(|class| class.trim().is_empty()) {
        return Err(format!(
            "must have a name for each class, got a blank one at {place}, counted from 0"
        ));
    }
    let mut sorted: Vec<_> = classes.map(|class| names::composed(class)).collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!("must name each class once, got `{}` twice", twice[0])),
        None => Ok(()),
    }
}

/// Shards by name, before they are opened.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    pub(crate) paths: Vec<PathBuf>,
    /// What else is in their folder.
    pub(crate) listing: Listing,
}

impl From<Vec<PathBuf>> for Shards {
    fn from(paths: Vec<PathBuf>) -> Shards {
        Shards {
            paths,
            listing: Listing::default(),
        }
    }
}

/// Lists the shards at a path.
type ShardsAt = fn(&Path) -> Result<Shards, Error>;

/// The layout of a part's records, and the function that opens them.
pub(crate) struct Layout {
    /// The value of `kind`.
    pub(crate) name: &'static str,
    /// Keys that it reads beside `kind`, `path` and `classes`.
    pub(crate) keys: &'static [&'static str],
    /// The required ones of these keys.
    pub(crate) required: &'static [&'static str],
    /// Whether `path` must be a folder.
    pub(crate) in_folder: bool,
    /// For layouts in shards: the shards at `path`.
    pub(crate) shards: Option<ShardsAt>,
    /// Opens and indexes the records.
    pub(crate) open: fn(&Place<'_>, &IndexStore) -> Result<Opened, Error>,
}

/// A part of a description, with its paths resolved against the folder of the description.
pub(crate) struct Place<'a> {
    pub(crate) part: &'a Part,
    pub(crate) path: PathBuf,
    /// `labels`; empty where the part has none.
    pub(crate) labels: PathBuf,
    /// Whether boxes and masks are read too, where the layout has them.
    pub(crate) with_objects: bool,
}

/// A `kind` of a description: one of [`LAYOUTS`].
#[derive(Clone, Copy)]
pub(crate) struct Kind(pub(crate) &'static Layout);

impl std::ops::Deref for Kind {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        self.0
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.name == other.name
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        static NAMES: LazyLock<Vec<&'static str>> =
            LazyLock::new(|| LAYOUTS.iter().map(|layout| layout.name).collect());
        let name = String::deserialize(deserializer)?;
        let layout = LAYOUTS.iter().find(|layout| layout.name == name);
        layout
            .map(|layout| Kind(layout))
            .ok_or_else(|| D::Error::unknown_variant(&name, &NAMES))
    }
}

impl JsonSchema for Kind {
    fn schema_name() -> Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = LAYOUTS.iter().map(|layout| layout.name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}
