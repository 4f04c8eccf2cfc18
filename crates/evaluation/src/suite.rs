//! A suite: many protocols over many data sets and encoders, and one table of their scores.
//!
//! Each protocol of each pair of encoder and data set is a separate evaluation with its own `result.json`. If
//! a score cannot be computed, its cell shows the reason and the other scores are still computed. A killed
//! suite resumes. Features are computed once for all protocols that see the same images.

mod cell;
mod file;
mod page;
mod table;

use crate::config::Config;
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::features::{FeatureCache, Records};
use crate::progress::Event;
use crate::protocols::ProtocolConfig;
use crate::result::{Outcome, Provenance};
use crate::run::{Job, Plan};
use burn::tensor::Device;
use data::{Dataset, FolderLock, with_causes};
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use cell::Cell;
pub use file::{DataSetEntry, EncoderEntry, EvaluationEntry, Suite, TransformsOf};

/// The folder of reports inside the output folder, one for each encoder and data set.
const REPORTS: &str = "reports";

/// Reads an encoder from a path.
pub type OpenEncoder<'a> =
    dyn Fn(&EncoderEntry, &Path) -> Result<Encoder, Box<dyn StdError + Send + Sync>> + 'a;

/// Everything that a suite needs from its caller.
pub struct SuiteContext<'a> {
    /// The folder of the suite's file.
    pub folder: &'a Path,
    /// Folder for results, features and tables.
    pub out: &'a Path,
    /// Device of the encoders, without autodiff.
    pub device: &'a Device,
    /// Facts that only the program knows about itself.
    pub provenance: Provenance,
    /// Reads a config of protocols.
    pub read: &'a dyn Fn(&Path) -> Result<Config, Error>,
    /// Reads an encoder from a path that is already resolved.
    pub open: &'a OpenEncoder<'a>,
    /// Whether reports are written: `report.html`, and one for each pair of encoder and data set.
    pub reports: bool,
    /// Called for each finished cell, with the number of finished cells and of all cells.
    pub on_cell: &'a mut dyn FnMut(&Cell, usize, usize),
    /// Called with the progress within a cell.
    pub progress: &'a mut dyn FnMut(Event<'_>),
}

/// The scores of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct SuiteTables {
    /// Cells in the order of the table.
    pub cells: Vec<Cell>,
    /// The table in Markdown.
    pub markdown: String,
    /// The files written to the output folder.
    pub files: Vec<PathBuf>,
}

/// Runs the missing cells, and writes `table.md`, `table.csv`, `table.json` and, if there are reports,
/// `report.html`.
///
/// # Errors
/// An invalid suite or config, a folder that cannot be written or that another suite works in. Every other
/// error becomes the reason of a missing cell.
pub fn run(suite: &Suite, context: &mut SuiteContext<'_>) -> Result<SuiteTables, Error> {
    suite.validate().map_err(Error::Config)?;
    let out = context.out;
    // Held until the tables are written: two suites would alternate in computing the same features, and fail.
    let _lock = FolderLock::take(out)?;
    let cells = run_cells(suite, context)?;
    write_tables(cells, context)
}

fn write_tables(cells: Vec<Cell>, context: &SuiteContext<'_>) -> Result<SuiteTables, Error> {
    let markdown = table::markdown(&cells);
    let mut tables = vec![("table.md", markdown.clone()), ("table.csv", table::csv(&cells))];
    if context.reports {
        let link = |cell: &Cell| {
            report_path(context.out, &cell.encoder, &cell.data_set)
                .exists()
                .then(|| page::address(REPORTS, &cell.encoder, &cell.data_set))
        };
        tables.push(("report.html", page::suite_page(&cells, &link)));
    }
    let json = context.out.join("table.json");
    data::durable::write_json(&json, &cells)?;
    let mut files = vec![json];
    for (name, text) in tables {
        let path = context.out.join(name);
        data::durable::write(&path, text.as_bytes())?;
        files.push(path);
    }
    Ok(SuiteTables {
        cells,
        markdown,
        files,
    })
}

/// Runs every cell, in the order of the table, and writes the reports of each pair.
fn run_cells(suite: &Suite, context: &mut SuiteContext<'_>) -> Result<Vec<Cell>, Error> {
    let columns = columns(suite, context)?;
    let pairs: Vec<Result<Pair, String>> = suite
        .data_sets
        .iter()
        .map(|entry| Pair::open(entry, context.folder))
        .collect();
    let of_data_set = |name: &str| columns.iter().filter(|column| column.is_for(name)).count();
    let of_encoder: usize = suite.data_sets.iter().map(|entry| of_data_set(&entry.name)).sum();
    let total = suite.encoders.len() * of_encoder;

    let cache = Arc::new(FeatureCache::new(context.out.join("features")));
    let mut cells: Vec<Cell> = Vec::with_capacity(total);
    for entry in &suite.encoders {
        // Opened when its first cell runs.
        let mut encoder: Option<Result<Encoder, String>> = None;
        for (data_set, pair) in suite.data_sets.iter().zip(&pairs) {
            let first = cells.len();
            let mut report = PairReport::default();
            for column in columns.iter().filter(|column| column.is_for(&data_set.name)) {
                let mut cell = Cell {
                    encoder: entry.name.clone(),
                    data_set: data_set.name.clone(),
                    column: column.name.clone(),
                    metric: pair.as_ref().ok().and_then(|pair| pair.about.metric.clone()),
                    outcomes: vec![],
                    missing: None,
                };
                let run = pair.as_ref().map_err(Clone::clone).and_then(|pair| {
                    let encoder = encoder.get_or_insert_with(|| open(entry, context));
                    let encoder = encoder.as_ref().map_err(|reason| reason.clone())?;
                    run_cell(column, pair, encoder, &cell, &cache, context)
                });
                match run {
                    Ok(run) => {
                        cell.outcomes.clone_from(&run.outcomes);
                        report.add(run);
                    }
                    Err(reason) => cell.missing = Some(reason),
                }
                (context.on_cell)(&cell, cells.len() + 1, total);
                cells.push(cell);
            }
            if let (true, Ok(pair), Some(Ok(encoder))) = (context.reports, pair, &encoder) {
                let outcomes = cells[first..].iter().flat_map(|cell| &cell.outcomes);
                let outcomes: Vec<Outcome> = outcomes.cloned().collect();
                let path = report_path(context.out, &entry.name, &data_set.name);
                let job = pair.job(encoder, &path, &cache, context);
                report.write(&job, &data_set.name, &outcomes, context.progress)?;
            }
        }
    }
    Ok(cells)
}

/// The file of a pair's report.
fn report_path(out: &Path, encoder: &str, data_set: &str) -> PathBuf {
    out.join(REPORTS).join(encoder).join(format!("{data_set}.html"))
}

/// A column of the table: a protocol of a config, for some data sets.
struct Column<'a> {
    entry: &'a EvaluationEntry,
    /// Config of this protocol alone.
    config: Config,
    name: String,
    /// Its folder inside that of encoder and data set.
    folder: String,
}

impl Column<'_> {
    /// Whether the column covers this data set.
    fn is_for(&self, data_set: &str) -> bool {
        let names = self.entry.data_sets.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name == data_set))
    }
}

/// The columns of all configs, in their order.
fn columns<'a>(suite: &'a Suite, context: &SuiteContext<'_>) -> Result<Vec<Column<'a>>, Error> {
    let mut columns = vec![];
    for entry in &suite.evaluations {
        let path = context.folder.join(&entry.config);
        let config = (context.read)(&path)?;
        config.validate().map_err(Error::Config)?;
        for (place, protocol) in config.protocols.iter().enumerate() {
            columns.push(Column {
                entry,
                config: Config {
                    protocols: vec![protocol.clone()],
                    ..config.clone()
                },
                name: column_name(protocol),
                folder: format!("{}-{place}-{}", stem(&path), protocol.name()),
            });
        }
    }
    make_unique(&mut columns);
    Ok(columns)
}

/// The protocol's name, and what distinguishes it from other columns of the same protocol.
fn column_name(protocol: &ProtocolConfig) -> String {
    match protocol.variant() {
        Some(variant) => format!("{} {variant}", protocol.name()),
        None => protocol.name().to_string(),
    }
}

/// Appends the config's name to columns of the same name, and a number if that is not enough.
fn make_unique(columns: &mut [Column<'_>]) {
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let mut taken = BTreeSet::new();
    for (column, name) in columns.iter_mut().zip(&names) {
        if names.iter().filter(|other| *other == name).count() > 1 {
            let stem = stem(Path::new(&column.entry.config));
            column.name = format!("{name} ({stem})");
            let mut number = 2;
            while taken.contains(&column.name) {
                column.name = format!("{name} ({stem} {number})");
                number += 1;
            }
        }
        taken.insert(column.name.clone());
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Both sets of a data set.
struct Pair {
    train: Records,
    test: Records,
    about: data::About,
}

impl Pair {
    fn open(entry: &DataSetEntry, folder: &Path) -> Result<Self, String> {
        let spec = |spec: &str| folder.join(spec).to_string_lossy().into_owned();
        let open = |text: &str| {
            Dataset::open(&spec(text))
                .map(Records::from)
                .map_err(|error| with_causes(&error))
        };
        Ok(Self {
            train: open(&entry.train)?,
            test: open(&entry.test)?,
            about: Dataset::about(&spec(&entry.test)).map_err(|error| with_causes(&error))?,
        })
    }
}

impl Pair {
    /// An evaluation of these records, with features shared by all cells.
    fn job<'a, 'c: 'a>(
        &self,
        encoder: &'a Encoder,
        out: &'a Path,
        cache: &Arc<FeatureCache>,
        context: &SuiteContext<'c>,
    ) -> Job<'a> {
        Job {
            encoder,
            train: self.train.clone(),
            test: self.test.clone(),
            out,
            shared_features: Some(Arc::clone(cache)),
            device: context.device,
            provenance: context.provenance.clone(),
        }
    }
}

fn open(entry: &EncoderEntry, context: &SuiteContext<'_>) -> Result<Encoder, String> {
    match (&entry.path, entry.pixels) {
        (_, Some(normalize)) => Ok(Encoder::pixels(normalize)),
        (Some(path), None) => {
            (context.open)(entry, &context.folder.join(path)).map_err(|error| with_causes(error.as_ref()))
        }
        // `validate` has already rejected this case.
        (None, None) => Err("neither `path` nor `pixels`".into()),
    }
}

/// A finished cell, from this call or an earlier one.
struct CellRun {
    outcomes: Vec<Outcome>,
    /// Whether this call computed it.
    is_new: bool,
    /// The config that it ran with.
    config: Config,
}

fn run_cell(
    column: &Column<'_>,
    pair: &Pair,
    encoder: &Encoder,
    cell: &Cell,
    cache: &Arc<FeatureCache>,
    context: &mut SuiteContext<'_>,
) -> Result<CellRun, String> {
    let mut config = column.config.clone();
    if column.entry.transforms == TransformsOf::DataSet {
        config.test_transforms = pair.about.test_transforms.clone().ok_or_else(|| {
            "the data set's description has no `test_transforms`, which the suite takes from it".to_string()
        })?;
    }
    let out = context.out.join("cells");
    let out = out.join(&cell.encoder).join(&cell.data_set).join(&column.folder);
    let job = pair.job(encoder, &out, cache, context);
    let reason = |error: Error| with_causes(&error);
    let mut plan = Plan::new(&config, &job).map_err(reason)?;
    plan.run(context.progress).map_err(reason)?;
    let (outcomes, is_new) = (plan.outcomes(), plan.is_new());
    Ok(CellRun {
        outcomes,
        is_new,
        config,
    })
}

/// The inputs of a pair's report, besides the scores.
#[derive(Default)]
struct PairReport {
    /// Whether a score is newer than the report.
    is_new: bool,
    /// Config of one of the protocols, for the images.
    config: Option<Config>,
}

impl PairReport {
    fn add(&mut self, run: CellRun) {
        self.is_new |= run.is_new;
        // Most of a report is made from training features.
        let is_better = |known: &Config| !known.needs_train_features() && run.config.needs_train_features();
        if self.config.as_ref().is_none_or(is_better) {
            self.config = Some(run.config);
        }
    }

    /// Writes the report to the file `job.out`, unless an up-to-date report exists.
    fn write(
        self,
        job: &Job<'_>,
        data_set: &str,
        outcomes: &[Outcome],
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let path = job.out;
        let Some(config) = self.config.filter(|_| self.is_new || !path.exists()) else {
            return Ok(());
        };
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        // This job reads and writes no results.
        let job = Job {
            out: folder,
            ..job.clone()
        };
        let html = Plan::new(&config, &job)?.report_of(data_set, outcomes, progress)?;
        Ok(data::durable::write(path, html.as_bytes())?)
    }
}

#[cfg(test)]
mod tests;
