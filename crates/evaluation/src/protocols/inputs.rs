//! The inputs of several linear classifiers on one network, and the union of their taps.

use crate::encoder::{Input, Tap};
use crate::error::Error;
use crate::features::{Features, Matrix};
use crate::task::check_rows;
use std::collections::BTreeSet;

/// The inputs of several classifiers, and the union of their taps.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) inputs: Vec<Input>,
    pub(crate) taps: Vec<Tap>,
}

impl Inputs {
    pub(crate) fn new(inputs: &[Input]) -> Self {
        let taps: BTreeSet<Tap> = inputs.iter().flat_map(Input::taps).collect();
        Self {
            inputs: inputs.to_vec(),
            taps: taps.into_iter().collect(),
        }
    }

    /// For each input the indices of its taps in `taps`.
    pub(crate) fn places(&self) -> Vec<Vec<usize>> {
        let place = |tap: &Tap| {
            let place = self.taps.iter().position(|other| other == tap);
            place.expect("`taps` holds the taps of all inputs")
        };
        let of = |input: &Input| input.taps().iter().map(place).collect();
        self.inputs.iter().map(of).collect()
    }

    /// The rows of each tap.
    pub(crate) fn rows<'a>(
        &self,
        features: &'a Features,
        set: &'static str,
    ) -> Result<Vec<&'a Matrix>, Error> {
        let rows = |tap: &Tap| check_rows(features, &tap.name(), set);
        self.taps.iter().map(rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_share_their_taps() {
        let two = Input::Tokens {
            blocks: 2,
            patch_mean: true,
        };
        let one = Input::Tokens {
            blocks: 1,
            patch_mean: false,
        };
        let inputs = Inputs::new(&[one, two]);
        assert_eq!(
            inputs.taps,
            [Tap::ClassToken(1), Tap::ClassToken(2), Tap::PatchMean]
        );
        assert_eq!(inputs.places(), [vec![0], vec![1, 0, 2]]);
    }
}
