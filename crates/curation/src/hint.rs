//! How a user can fix an error of this crate, as values: the program words them, with its own flags and
//! commands.

/// The cure of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Run a curation into the folder first.
    RunFirst,
    /// Run the curation again: it continues.
    RunAgain,
    /// Repeat the decisions from this stage on.
    Redo {
        /// The stage.
        stage: String,
    },
    /// Run this stage first, or all of them.
    RunStageFirst {
        /// The stage.
        stage: String,
    },
    /// Nothing was removed; run all stages.
    RunAllStages,
    /// A stage is no longer in the config: restore it, or start in another folder.
    RestoreStage,
    /// Add the stage `review` to the config and run it.
    AddReview,
    /// Label the photos on the review page, then run again.
    LabelPhotos,
    /// No answers were discarded; names are those of the review page.
    NothingDiscarded,
    /// Draw a sample first.
    DrawSample,
    /// Look at the photos that each stage dropped.
    ShowStatus,
    /// Also take down the photo with this key.
    TakeDown {
        /// The key.
        key: String,
    },
    /// Take down the photo with this key, or release files with all of their metadata.
    KeepMetadata {
        /// The key.
        key: String,
    },
    /// Nothing was taken down; name folders of runs.
    NameEncoderFolders,
    /// Nothing was taken down; keys are those of `pass_metadata.csv`.
    NameListedKeys,
    /// Keys are those of the ledger's table `photos`.
    KeysAreInTheLedger,
    /// Stages that have decided are those of the status.
    NameDecidedStage,
    /// The takedown is recorded: fix the cause if that is possible, then repeat the command.
    RepeatTakedown(Option<Box<Hint>>),
    /// A new version needs added or removed photos, or other facts.
    NothingNew,
    /// Write these texts into the config, or set them, and run again.
    FillIn {
        /// The keys, as `release.publisher`.
        keys: Vec<&'static str>,
    },
    /// Another process is using the folder: wait until it ends, or end it.
    WaitOrEnd,
    /// Restore the ledger from a backup, or start in another folder.
    RestoreLedger,
    /// Restore the ledger that made a release, or move the release away.
    RestoreLedgerOrMoveRelease,
    /// Name the file of the list under this config key.
    NameList {
        /// The config key.
        key: &'static str,
    },
    /// Request the core file of YFCC100M, and name it.
    RequestYfcc,
    /// Check the network and the request rate, then run again.
    CheckNetwork,
    /// Download the weights of a detector, and name the file.
    GetWeights(Weights),
    /// One for each of several errors.
    Several(Vec<Hint>),
    /// The cure of an error of the data.
    Data(data::Hint),
}

/// Weights of a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// RetinaFace, which detects faces.
    RetinaFace,
    /// A network of the YOLOX family, which detects persons.
    Yolox,
}
