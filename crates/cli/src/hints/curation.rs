//! The wording of a curation's hints, with the program's flags and commands.

use ::curation::{Hint, Weights};

/// A hint as it is printed after `hint:`.
pub(crate) fn of_curation(hint: &Hint) -> String {
    match hint {
        Hint::RunFirst => "run `passer curate run CONFIG --out DIR` first".to_string(),
        Hint::RunAgain => "run `passer curate run CONFIG --out DIR`, which continues with it".to_string(),
        Hint::Redo { stage } => format!(
            "run `passer curate run CONFIG --out DIR --redo {stage}`: it removes the decisions of `{stage}` and of the stages \
             after it and decides again; downloads and answers stay"
        ),
        Hint::RunStageFirst { stage } => format!("run `--stage {stage}` first, or omit `--stage`"),
        Hint::RunAllStages => "nothing was removed; omit `--stage` to run all stages".to_string(),
        Hint::RestoreStage => "put it back, or start in another folder with `--out`".to_string(),
        Hint::AddReview => {
            "add `[stages.review]` to the config and run `passer curate run CONFIG --out DIR`; docs/curation.md lists its keys"
                .to_string()
        }
        Hint::LabelPhotos => {
            "label them on the page of `passer curate review DIR`, then run this command again".to_string()
        }
        Hint::NothingDiscarded => {
            "no answer was discarded; the page lists the names, and so does the table `annotators` of the ledger".to_string()
        }
        Hint::DrawSample => "draw one with `passer curate audit DIR --draw N`".to_string(),
        Hint::ShowStatus => "`passer curate status DIR` shows what became of them".to_string(),
        Hint::TakeDown { key } => {
            let key = crate::output::shell_word(key);
            format!("take it down under this key too: `passer curate takedown DIR --keys {key}`")
        }
        Hint::KeepMetadata { key } => {
            let key = crate::output::shell_word(key);
            format!(
                "leave it out with `passer curate takedown DIR --keys {key}`, or release all files as they are with \
                 `release.metadata = \"keep\"`"
            )
        }
        Hint::NameEncoderFolders => {
            "nothing was taken down; pass folders of runs to `--encoders`".to_string()
        }
        Hint::NameListedKeys => {
            "nothing was taken down; keys are those of `pass_metadata.csv`, column `hash`; the name of a file does where one photo \
             alone has it and its key"
                .to_string()
        }
        Hint::KeysAreInTheLedger => {
            "keys are those of the sheets, of `pass_metadata.csv` (column `hash`), and of the ledger's table `photos`".to_string()
        }
        Hint::NameDecidedStage => "`passer curate status DIR` lists the stages that have decided".to_string(),
        Hint::RepeatTakedown(cause) => match cause {
            Some(cause) => format!("{}; then give the same command again, which does the rest", of_curation(cause)),
            None => "put that right and give the same command again, which does the rest".to_string(),
        },
        Hint::NothingNew => {
            "a new version needs photos that are new or gone, another `[release]` in the config of `passer curate run`, or that the \
             folder of the last version is gone"
                .to_string()
        }
        Hint::FillIn { keys } => {
            let sets: Vec<String> = keys.iter().map(|key| format!("--set \"{key}=TEXT\"")).collect();
            format!(
                "write them into the config, or add {} to the `passer curate run CONFIG --out DIR` that you typed, and run it again: \
                 no photo is decided anew",
                sets.join(" ")
            )
        }
        Hint::WaitOrEnd => "wait for it, or end it; its work so far is kept".to_string(),
        Hint::RestoreLedger => {
            "takedowns are in the ledger and nowhere else: put it back from a backup, or start in another folder with `--out`"
                .to_string()
        }
        Hint::RestoreLedgerOrMoveRelease => {
            "put the ledger back that made it, or move the folder away if nobody needs it".to_string()
        }
        Hint::NameList { key } => format!("name the file with `{key}`"),
        Hint::RequestYfcc => "YFCC100M's core file, `yfcc100m_dataset.bz2` (about 15 GB), is given on request: \
             multimediacommons.wordpress.com/yfcc100m-core-dataset says how; name yours with `--set 'source.yfcc100m.files=[\"PATH\"]'`, \
             its parts in order if it has several"
            .to_string(),
        Hint::CheckNetwork => {
            "check the network, and lower the request rate if the host objects; no photo was dropped, and the same command continues"
                .to_string()
        }
        Hint::Several(hints) => {
            let hints: Vec<String> = hints.iter().map(of_curation).collect();
            hints.join("\n      ")
        }
        Hint::GetWeights(Weights::RetinaFace) => {
            "`mobilenet0.25_Final.pth` (1.8 MB, MIT) is among the weights of github.com/biubug6/Pytorch_Retinaface, and in PASS's \
             repository, github.com/yukimasano/PASS, below PASSify/face/weights; name the file as `weights`"
                .to_string()
        }
        Hint::GetWeights(Weights::Yolox) => {
            "YOLOX's ONNX files (`yolox_nano.onnx` to `yolox_x.onnx`, Apache-2.0) are among the releases of \
             github.com/Megvii-BaseDetection/YOLOX; the larger, the fewer people it misses. torchvision's Faster and Mask R-CNN \
             (BSD-3) miss fewer: `torchvision.models.detection` downloads them. PASS's own is `model_final_480dd8.pkl` of \
             detectron2's model zoo (CC BY-SA 3.0). Name the file as `weights`"
                .to_string()
        }
        Hint::Data(hint) => crate::hints::of_data(hint),
    }
}
