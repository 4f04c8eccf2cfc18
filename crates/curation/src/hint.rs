//! How a user can settle an error of this crate, as values: the program words them, with its own flags and commands.

/// The cure of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Run a curation into the folder first.
    RunFirst,
    /// Run the curation again: it continues.
    RunAgain,
    /// Decide again from this stage on.
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
    /// A stage is no longer in the config: put it back, or start in another folder.
    RestoreStage,
    /// Add the stage `review` to the config and run it.
    AddReview,
    /// Label the photos on the review page, then run again.
    LabelPhotos,
    /// Draw a sample first.
    DrawSample,
    /// Look at what each stage dropped.
    ShowStatus,
    /// Take the photo of this key down too.
    TakeDown {
        /// The key.
        key: String,
    },
    /// Nothing was taken down; name folders of runs.
    NameEncoderFolders,
    /// Nothing was taken down; keys are those of `pass_metadata.csv`.
    NameListedKeys,
    /// The takedown is noted: settle the cause if it has a cure, then repeat the command.
    RepeatTakedown(Option<Box<Hint>>),
    /// A new version needs photos that are new or gone.
    NothingNew,
    /// Another process works in the folder: wait for it, or end it.
    WaitOrEnd,
    /// Put the ledger back from a backup, or start in another folder.
    RestoreLedger,
    /// Put the ledger back that made a release, or move the release away.
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
    /// Get the weights of a detector, and name the file.
    GetWeights(Weights),
    /// The cure of an error of the data.
    Data(data::Hint),
}

/// Weights of a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// RetinaFace, which looks for faces.
    RetinaFace,
    /// A network of the YOLOX family, which looks for persons.
    Yolox,
}
