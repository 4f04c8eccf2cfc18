//! Taps: places in a network where features are taken, and the inputs that linear probes build from them.

use backbones::ResNetStage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The tap that every backbone has: its output after global average pooling.
pub const POOLED: &str = "pooled";

/// One tap; each is a tensor of a features file, `[records, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tap {
    /// The network's output after pooling: `pooled`.
    Pooled,
    /// The output of a ResNet's stage, averaged over so few positions that it has about 9,000 values:
    /// `conv1`, `res2` …
    Stage(ResNetStage),
    /// The normalized class token of a transformer's block, counted from the last block, which is 1:
    /// `class_token_1`.
    ClassToken(usize),
    /// The mean of the last block's normalized patch tokens: `patch_mean`.
    PatchMean,
}

impl Tap {
    /// Its name in features files.
    pub fn name(&self) -> String {
        match self {
            Self::Pooled => POOLED.into(),
            Self::Stage(stage) => stage.name().into(),
            Self::ClassToken(block) => format!("class_token_{block}"),
            Self::PatchMean => "patch_mean".into(),
        }
    }

    /// Whether the tap reads a transformer's tokens.
    pub(crate) fn is_token(&self) -> bool {
        matches!(self, Self::ClassToken(_) | Self::PatchMean)
    }

    /// The tap of this name in a features file, if this program has it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("class_token_") {
            Some(block) => Some(Self::ClassToken(block.parse().ok().filter(|block| *block > 0)?)),
            None => ResNetStage::ALL
                .map(Self::Stage)
                .into_iter()
                .chain([Self::Pooled, Self::PatchMean])
                .find(|tap| tap.name() == name),
        }
    }

    /// The taps behind a name: `pooled`; `stages` (all of a ResNet's) or one of them, `conv1`, `res2` …
    /// `res5`; `tokens_4` (the class tokens of the last four blocks and the mean of the last block's
    /// patches).
    ///
    /// # Errors
    /// Lists the valid names.
    pub fn group(name: &str) -> Result<Vec<Self>, String> {
        let blocks = name
            .strip_prefix("tokens_")
            .and_then(|count| count.parse::<usize>().ok());
        let stage = ResNetStage::ALL.into_iter().find(|stage| stage.name() == name);
        match (name, blocks) {
            // VISSL's name for the pooled output.
            (POOLED | "res5avg", _) => Ok(vec![Self::Pooled]),
            ("stages", _) => Ok(ResNetStage::ALL.map(Self::Stage).to_vec()),
            _ if stage.is_some() => Ok(stage.map(Self::Stage).into_iter().collect()),
            (_, Some(blocks)) if blocks > 0 => Ok((1..=blocks)
                .map(Self::ClassToken)
                .chain([Self::PatchMean])
                .collect()),
            _ => Err(format!(
                "no taps are called `{name}`: there are `pooled`, `stages` of ResNets (or one of `conv1`, `res2`, `res3`, `res4` and \
                 `res5`), and `tokens_N` of vision transformers (class tokens of the last N blocks, and the mean of the last one's \
                 patches)"
            )),
        }
    }
}

/// The input of a linear classifier, in a config: `"pooled"`, `{ stage = "res4" }`, or
/// `{ tokens = { blocks = 4, patch_mean = true } }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// The network's output after pooling.
    Pooled,
    /// A stage of a ResNet, averaged to about 9,000 values.
    Stage(ResNetStage),
    /// Class tokens of the last blocks concatenated, the last block's at the end, optionally followed by the
    /// mean of the last block's patches. DINO: four blocks without the mean for small transformers, one block
    /// with the mean for base ones.
    Tokens {
        /// Number of blocks, counted from the last.
        blocks: usize,
        /// Whether the mean of the patches is appended.
        patch_mean: bool,
    },
}

impl Input {
    /// The taps to concatenate.
    pub fn taps(&self) -> Vec<Tap> {
        match self {
            Self::Pooled => vec![Tap::Pooled],
            Self::Stage(stage) => vec![Tap::Stage(*stage)],
            Self::Tokens { blocks, patch_mean } => (1..=*blocks)
                .rev()
                .map(Tap::ClassToken)
                .chain(patch_mean.then_some(Tap::PatchMean))
                .collect(),
        }
    }

    /// For people: `pooled`, `4 blocks + patches`.
    pub fn name(&self) -> String {
        match self {
            Self::Pooled => POOLED.into(),
            Self::Stage(stage) => stage.name().into(),
            Self::Tokens { blocks, patch_mean } => {
                let plural = if *blocks == 1 { "" } else { "s" };
                let patches = if *patch_mean { " + patches" } else { "" };
                format!("{blocks} block{plural}{patches}")
            }
        }
    }

    /// Gives an error for invalid inputs.
    pub(crate) fn validate(&self, key: &str) -> Result<(), String> {
        match self {
            Self::Tokens { blocks: 0, .. } => Err(format!("`{key}.tokens.blocks` must be at least 1, got 0")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_name_their_taps_in_order() {
        let four = Input::Tokens {
            blocks: 2,
            patch_mean: true,
        };
        assert_eq!(
            four.taps(),
            [Tap::ClassToken(2), Tap::ClassToken(1), Tap::PatchMean]
        );
        assert_eq!(four.name(), "2 blocks + patches");
        assert_eq!(
            toml::from_str::<std::collections::BTreeMap<String, Vec<Input>>>(
                "x = ['pooled', { stage = 'res4' }, { tokens = { blocks = 2, patch_mean = true } }]"
            )
            .unwrap()["x"],
            [Input::Pooled, Input::Stage(ResNetStage::Res4), four]
        );
    }

    #[test]
    fn groups_are_named() {
        assert_eq!(
            Tap::group("tokens_1").unwrap(),
            [Tap::ClassToken(1), Tap::PatchMean]
        );
        assert_eq!(Tap::group("res4").unwrap(), [Tap::Stage(ResNetStage::Res4)]);
        assert_eq!(Tap::group("stages").unwrap().len(), 5);
        for tap in [
            Tap::Pooled,
            Tap::Stage(ResNetStage::Conv1),
            Tap::ClassToken(3),
            Tap::PatchMean,
        ] {
            assert_eq!(Tap::named(&tap.name()), Some(tap));
        }
        assert_eq!(Tap::named("layer3"), None);
        assert!(
            Tap::group("tokens_0")
                .unwrap_err()
                .contains("no taps are called `tokens_0`")
        );
    }
}
