//! The wording of the libraries' hints, with this program's flags and commands.

mod curation;
mod settings;

use crate::output::shell_word;
use data::terminal::escape;
use std::path::{Path, PathBuf};
use weights::SaveAs;

pub(crate) use curation::of_curation;
pub(crate) use settings::{message as message_of_settings, of_settings};

/// How a user names the network of a file of weights.
#[derive(Clone, Copy)]
enum Names {
    /// With flags of a verb.
    Flags,
    /// With keys of `[start]`.
    Start,
}

impl Names {
    fn backbone(self, name: &str) -> String {
        match self {
            Self::Flags => format!("`--backbone {name}`"),
            Self::Start => format!("`--set start.backbone={name}`"),
        }
    }
}

/// The cure of a file of weights.
pub(crate) fn of_weights(hint: &weights::Hint) -> String {
    of_weights_named(hint, Names::Flags)
}

fn of_weights_named(hint: &weights::Hint, names: Names) -> String {
    use weights::{Detector, Hint};
    match hint {
        Hint::DownloadAgain => "a failed download leaves such a file: fetch it again".into(),
        Hint::FetchFromGitLfs => "fetch the file itself with `git lfs pull`".into(),
        Hint::Unpack => "unpack it with gzip".into(),
        Hint::SaveAgain(form) => saved(*form).into(),
        Hint::SaveAlone { networks, more } => match networks.as_slice() {
            [] => "load it with PyTorch and save the network that you want alone (docs/weights.md)".into(),
            [one] if one.path.is_empty() => format!(
                "its names are like those of {}, beside others that no layout has: save the network's `state_dict()` alone \
                 (docs/weights.md)",
                one.looks
            ),
            networks => {
                let list = networks
                    .iter()
                    .map(|network| format!("`{}` ({})", escape(&network.path), network.looks))
                    .collect::<Vec<_>>()
                    .join(", ");
                let more = match more {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(
                    "names are like a network's under {list}{more}: save the one that you want alone (docs/weights.md)"
                )
            }
        },
        Hint::ListContents => {
            "`passer weights inspect FILE --tensors` lists its names; docs/weights.md has the layouts that are read".into()
        }
        Hint::ListNames => {
            "`passer weights inspect FILE --tensors` lists the names; leave out `--allow-missing` or `--allow-unexpected` \
             where it allows nothing"
                .into()
        }
        Hint::NameHeads(name) => format!("name the network with its heads: {}", names.backbone(name)),
        Hint::NameIfPaddedByOne(name) => format!(
            "if yours is padded by 1 (torchvision's, lightly's), pass {}",
            names.backbone(name)
        ),
        Hint::NameIfPlain => format!(
            "if it is the plain network, name it: {}, {}",
            names.backbone("resnet50"),
            names.backbone("vit_base_patch16")
        ),
        Hint::GiveFolder => "give the folder, or its `.index.json`".into(),
        Hint::OmitName => match names {
            Names::Flags => "leave out `--backbone`".into(),
            Names::Start => "leave out `backbone` in `[start]`".into(),
        },
        Hint::ChooseRole(held) => match (names, held) {
            (Names::Flags, Some(held)) => format!("choose the one that it holds, `--part {}`, or leave out `--part`", held.name()),
            (Names::Flags, None) => "leave out `--part`".into(),
            (Names::Start, Some(held)) => format!(
                "choose the one that it holds, `--set start.part={}`, or leave out `part` in `[start]`",
                held.name()
            ),
            (Names::Start, None) => "leave out `part` in `[start]`".into(),
        },
        Hint::UseTimmNames => "write timm's names: `--to timm`".into(),
        Hint::ExportOnnx => "ONNX has every network: `--to onnx`".into(),
        Hint::ExportTransformers => "Transformers has such networks: `passer weights export ENCODER --to transformers`".into(),
        Hint::ExportTimm => "timm has this network: `--to timm`".into(),
        Hint::ExportHalves => "16-bit floats halve the file: `--dtype f16`".into(),
        Hint::UseToDetect(detector) => match detector {
            Detector::RetinaFace => {
                "it holds RetinaFace, which detects faces: `passer detect faces --weights FILE` reads it, and the stage `faces` of \
                 a curation"
            }
            Detector::Yolox => {
                "it holds YOLOX, which detects persons: `passer detect persons --weights FILE` reads it, and the stage `persons` of \
                 a curation"
            }
            Detector::Onnx => {
                "a detector in an ONNX file is read by `passer detect persons --weights FILE`, and by the stage `persons` of a \
                 curation; an encoder must be saved as its `state_dict()`"
            }
        }
        .into(),
    }
}

/// The instructions to save a file again.
fn saved(form: SaveAs) -> &'static str {
    match form {
        SaveAs::Default => "load it with PyTorch and save it again",
        SaveAs::StateDict => "load it with PyTorch and save its `state_dict()`",
        SaveAs::TrustedStateDict => {
            "if you trust the file's author, load it with PyTorch and save its `state_dict()` alone"
        }
        SaveAs::Tensors => {
            "load it with Python and save its arrays as tensors, with safetensors or `torch.save`"
        }
        SaveAs::Dense => "load it with PyTorch and save it after `to_dense()`",
        SaveAs::Resolved => "load it with PyTorch and save it after `resolve_neg()` and `resolve_conj()`",
        SaveAs::Loaded => "save the network after its weights are loaded",
        SaveAs::LittleEndian => "load it with PyTorch on a little-endian machine and save it again",
    }
}

/// The cure of a data set or a loader.
pub(crate) fn of_data(hint: &data::Hint) -> String {
    use data::Hint;
    match hint {
        Hint::Settings(fault) => of_settings(fault).unwrap_or_default(),
        Hint::CopyArchive => "copy the archive again".into(),
        Hint::VerifyShard { path } => format!(
            "`passer shards verify {}` lists what can be read; copy the shard again",
            shell_word(&path.display().to_string())
        ),
        Hint::SmallerShards => {
            "write its records to several smaller shards, as `passer shards pack --records-per-shard` does".into()
        }
        Hint::VerifyOrAllowMore => {
            "`passer shards verify` lists every broken record of a data set; to continue without them, raise \
             `max_bad_fraction` in the config, or `--max-bad-fraction` of `passer features`"
                .into()
        }
        Hint::CropOrAllowMore => {
            "put a `center_crop` right behind the `resize`, so that only the part that it keeps is made; to continue without \
             these records, raise `max_bad_fraction` in the config, or `--max-bad-fraction` of `passer features`"
                .into()
        }
        Hint::SizesOfBoxes => {
            "check that the boxes were drawn on these files: pictures may have been resized or turned since; to continue \
             without these records, raise `max_bad_fraction` in the config"
                .into()
        }
        Hint::SmallerBatch { records } => format!(
            "give more records, or lower `batch_images` in the config: `--set data.batch_images={records}`, or \
             `--set protocols.NAME.batch_images={records}` for a protocol that has its own"
        ),
        Hint::CompletePattern => {
            "a brace pattern such as `train-{000000..000143}.tar` must name files that all exist".into()
        }
        Hint::GiveFolder => "give the folder that the picture lies in".into(),
        Hint::PackArchive => "make shards of it first with `passer shards pack`".into(),
        Hint::UnpackOrPack { compression } => format!(
            "unpack it with `{}`, or make shards of it with `passer shards pack`",
            unpacks(*compression)
        ),
        Hint::Unpack { compression } => format!(
            "unpack it with `{}`; the `.tar` can be opened as it is",
            unpacks(*compression)
        ),
        Hint::UnpackShards => {
            "unpack the shards (`gunzip`, `unzstd`, `bunzip2`, `unxz`), or pack each archive of photos with `passer shards pack`"
                .into()
        }
        Hint::UnpackArchives => "unpack the archives, and give the folder of the photos".into(),
        Hint::GiveFolderOfShards => "give the folder that the `.tar` shards lie in".into(),
        Hint::UnpackInner => {
            "unpack it, then each inner archive into a folder of its name, which becomes the class; or pack each inner archive \
             with `passer shards pack`"
                .into()
        }
        Hint::RenameTar => "rename it to end in `.tar`".into(),
        Hint::NameImages => {
            "name one image of each record by the key and an extension alone (`KEY.jpg`, `KEY.png`), with no further dot in it"
                .into()
        }
        Hint::FetchFromGitLfs => "fetch the file itself with `git lfs pull`".into(),
        Hint::PackFolder => "pack the folder into shards with `passer shards pack`".into(),
        Hint::RestoreLink => "remove the link, or put back what it points to".into(),
        Hint::Rename => "rename it".into(),
        Hint::DescribeAsFlat => {
            "a data-set description with `kind = \"flat\"` takes all images without labels".into()
        }
        Hint::StateLabels => {
            "say in the data-set description what they are: `labels_are = \"names\"`, or `labels_are = \"numbers\"` where they \
             count from 0"
                .into()
        }
        Hint::NumberClasses => {
            "a `.cls` member holds the number of a class, from 0; names belong into `classes = [..]` of a `dataset.toml` beside \
             the shards, and `passer shards pack` writes both from class folders"
                .into()
        }
        Hint::NameClasses => {
            "remove the folder, or name the classes in order in a data-set description (`classes = [..]`)"
                .into()
        }
        Hint::DownloadAgain => "download it again, or correct the data-set description".into(),
    }
}

/// The program that unpacks a file.
fn unpacks(compression: data::Compression) -> &'static str {
    use data::Compression;
    match compression {
        Compression::Gzip => "gunzip",
        Compression::Bzip2 => "bunzip2",
        Compression::Zstd => "unzstd",
        Compression::Xz => "unxz",
    }
}

/// The cure of a run, an encoder or its data.
pub(crate) fn of_training(error: &training::Error) -> Option<String> {
    use training::Hint;
    if let training::Error::Data(error) = error {
        return error.hint().as_ref().map(of_data);
    }
    let hint = match error.hint()? {
        Hint::Weights(hint) => return Some(of_weights(&hint)),
        Hint::WeightsOfStart(hint) => return Some(of_weights_named(&hint, Names::Start)),
        Hint::ResumeOrOtherFolder => "resume with `--resume`, or give another `--out`",
        Hint::WaitOrOtherFolder => {
            "wait for it or end it, then resume with `--resume`; or give another `--out`"
        }
        Hint::RunsData => {
            "give the data that the run was started with, or start a new run with another `--out`"
        }
        Hint::RunsConfig => {
            "resume with the run's own `config.toml`, or start a new run with another `--out`"
        }
        Hint::OpenLength { unspoiled } => {
            let allow = "`passer pretrain … --resume --allow-jump` continues with the jump, and `run.json` says so; in a new run, `[schedule.constant]` and `[schedule.warmup_stable_decay]` leave the length open";
            return Some(match unspoiled {
                Some(checkpoint) => format!(
                    "move the checkpoints behind {} elsewhere: `--resume` then continues from it, as a run of the new length; or {allow}",
                    in_shell(&checkpoint)
                ),
                None => allow.into(),
            });
        }
        Hint::NameSteps => {
            "say which steps to run again: `--step S` those from the nearest checkpoint to step S, `--first N` the first N"
        }
        Hint::RestoreFile => "put the file back, or use another `--out`",
        Hint::CalmerTraining(captured) => {
            let calmer = "lower the optimizer's `learning_rate_per_256`, or raise the objective's temperature if it has one, and \
                          start again with another `--out`";
            return Some(format!("{}{calmer}", replay(captured.as_ref())));
        }
        Hint::WiderPrecision(captured) => {
            let wider = "use `training.precision = \"bf16\"` where the device has it, or `\"f32\"`, and start again with another \
                         `--out`";
            return Some(format!("{}{wider}", replay(captured.as_ref())));
        }
        Hint::LessMemory => {
            "lower `data.batch_images`, or set `training.micro_batch_images` (the same step with less \
             memory) or `training.precision = \"bf16\"`"
        }
        Hint::FreeSpace => {
            "free some space, then resume with `--resume`: checkpoints already written are intact"
        }
        Hint::RemoveCheckpoint { path } => {
            let (folder, before) = checkpoint_and_before(&path);
            let then = match before {
                Some(before) => format!(
                    "`--resume` then continues from the one before it, {}",
                    in_shell(&before)
                ),
                None => "there is none before it, so `--resume` then starts at step 0".into(),
            };
            return Some(format!(
                "put a copy of the file back, or remove this checkpoint's folder, {}: {then}",
                in_shell(&folder)
            ));
        }
        Hint::WriteFacts { file, facts } => {
            return Some(format!(
                "put a copy of the file back; or write it again with what the newest checkpoint knows, the data's fingerprint among it, \
                 which is enough to resume (device, command and commit of the first process are lost): \
                 `echo {} > {}`, then `--resume`",
                shell_word(&facts),
                in_shell(&file)
            ));
        }
    };
    Some(hint.into())
}

/// The folder of the checkpoint that a path names or lies in, and the newest one before it.
fn checkpoint_and_before(path: &Path) -> (PathBuf, Option<PathBuf>) {
    let is_checkpoint = |folder: &&Path| {
        let name = folder.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("step-"))
    };
    let folder = path.ancestors().take(2).find(is_checkpoint).unwrap_or(path);
    let run = folder.ancestors().nth(2).unwrap_or(folder);
    let all = training::list_checkpoints(run).unwrap_or_default();
    let step = all
        .iter()
        .find(|known| known.path == folder)
        .map(|known| known.step);
    let before = all
        .into_iter()
        .rfind(|known| step.is_some_and(|step| known.step < step));
    (folder.to_owned(), before.map(|known| known.path))
}

/// The command that runs a step again, of which something is kept.
fn replay(captured: Option<&training::Captured>) -> String {
    captured.map_or(String::new(), |captured| {
        format!(
            "`passer replay {}` runs the steps before it again, and names the first layer and the records that give no finite \
             values; then ",
            in_shell(&captured.run)
        )
    })
}

/// The cure of a detector's weights.
pub(crate) fn of_detection(error: &detection::DetectionError) -> Option<String> {
    use detection::Hint;
    Some(match error.hint()? {
        Hint::Weights(hint) => of_weights(&hint),
        Hint::ExportFixedSize => "export the model with a fixed size and a batch of one".into(),
        Hint::BuildWithOnnx => {
            "export YOLOX without `--decode_in_inference`; for another network, build with `--features onnx`"
                .into()
        }
        Hint::ExportWithoutDecoding => "export YOLOX without `--decode_in_inference`".into(),
    })
}

/// The cure of an evaluation, or of the run, encoder or data in it.
pub(crate) fn of_evaluation(error: &evaluation::Error) -> Option<String> {
    use evaluation::{Error, Hint};
    match error {
        Error::Protocol { source, .. } => return of_evaluation(source),
        Error::Training(error) => return of_training(error),
        Error::Data(error) => return error.hint().as_ref().map(of_data),
        _ => {}
    }
    let hint = match error.hint()? {
        Hint::Text(text) => text,
        Hint::FreeSpace => "free some space and run the same command again: it resumes",
        Hint::RemoveFile => "remove the file, or pass another `--out`",
        Hint::Wait => "wait for it, or pass another `--out`",
        Hint::OtherOutput => "pass another `--out`, or remove what lies there",
        Hint::SameArguments => {
            "pass the arguments that they were begun with to resume, or another `--out`, or remove the folder"
        }
        Hint::UseEncoder => {
            "use `passer evaluate run`, or leave the protocol out; `linear-cached` is a linear probe of features"
        }
        Hint::SameTransforms => "extract both with one size, one `--mean` and one `--std`",
        Hint::WriteF32 => "pass `--dtype f32`",
        Hint::OtherFormat => {
            "leave out `--format npy`, or pass `--format parquet`, whose keys may hold anything; or rename the record"
        }
        Hint::ExtractTap => {
            "extract it (`passer features --taps pooled,tokens_4`, or `stages`), or take it out of the config's `inputs`"
        }
        Hint::MakeFeatures => {
            "`passer features` makes such files; docs/protocols.md lists what a file of another program must hold"
        }
        Hint::FewerSlices => "lower N in `--slice I/N`, or `--batch-images`",
        Hint::GiveFolder(folder) => {
            return Some(format!("give the folder of all slices, {}", in_shell(&folder)));
        }
        Hint::MakeSlices(folder) => {
            let command = features_command(&folder, "I/N");
            return Some(format!("`{command}` makes slices"));
        }
        Hint::MakeSlice {
            folder,
            number,
            count,
            remove,
        } => {
            let command = features_command(&folder, &format!("{number}/{count}"));
            return Some(match remove {
                None => format!("make it with the other slices' arguments: `{command}`"),
                Some(file) => format!(
                    "remove {} and make the slice with the other slices' arguments: `{command}`",
                    in_shell(&file)
                ),
            });
        }
        Hint::OtherFolder(file) => {
            return Some(format!(
                "pass the arguments of that slice, or another `--out`, or remove {}",
                in_shell(&file)
            ));
        }
        Hint::RemoveFromFolder(file) => {
            return Some(format!(
                "the folder may hold each slice once and nothing else: move {} elsewhere",
                in_shell(&file)
            ));
        }
    };
    Some(hint.into())
}

/// The command that makes a slice, whose other arguments only the user knows.
fn features_command(folder: &Path, slice: &str) -> String {
    format!(
        "passer features --encoder ENCODER --data DATA --out {} --slice {slice}",
        in_shell(folder)
    )
}

fn in_shell(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use weights::SeenNetwork;

    #[test]
    fn networks_in_a_file_are_named_and_their_names_are_plain_text() {
        let network = |path: &str| SeenNetwork {
            path: path.to_owned(),
            looks: "resnet18".to_owned(),
        };
        let hint = weights::Hint::SaveAlone {
            networks: vec![network("ema\u{1b}[2J."), network("b.")],
            more: 3,
        };
        assert_eq!(
            of_weights(&hint),
            "names are like a network's under `ema\\u{1b}[2J.` (resnet18), `b.` (resnet18) and 3 more: save the one that you \
             want alone (docs/weights.md)"
        );
    }

    #[test]
    fn a_hint_reaches_the_user_through_every_error_that_wraps_it() {
        let encoder = || training::Error::Encoder {
            path: "x".into(),
            reason: "r".into(),
            hint: Some(weights::Hint::OmitName),
        };
        let words = "leave out `--backbone`";
        assert_eq!(of_training(&encoder()).unwrap(), words);
        // The part that a file holds, or none to choose.
        let part = |held| of_weights(&weights::Hint::ChooseRole(held));
        assert_eq!(part(None), "leave out `--part`");
        assert!(part(Some(weights::Role::Student)).contains("`--part student`"));
        // Of the encoder that `[start]` names, there are keys in place of flags.
        let of_start = |hint: weights::Hint| {
            let encoder = training::Error::Encoder {
                path: "x".into(),
                reason: "r".into(),
                hint: Some(hint),
            };
            of_training(&training::Error::Start(Box::new(encoder))).unwrap()
        };
        assert_eq!(
            of_start(weights::Hint::OmitName),
            "leave out `backbone` in `[start]`"
        );
        assert_eq!(
            of_start(weights::Hint::NameHeads("vit_small_patch16".into())),
            "name the network with its heads: `--set start.backbone=vit_small_patch16`"
        );
        let wrapped = evaluation::Error::Training(encoder());
        assert_eq!(of_evaluation(&wrapped).unwrap(), words);
        let full_disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full: training::Error =
            data::FileError::new("write", std::path::Path::new("x"))(full_disk).into();
        assert!(of_training(&full).unwrap().contains("`--resume`"));
        assert!(
            of_evaluation(&evaluation::Error::NeedsImages { protocol: "x" })
                .unwrap()
                .contains("`passer evaluate run`")
        );
    }
}
