//! Pairs of another library's name and the network's, read in both directions: of a file's tensor the network's
//! name, of a network's tensor the names in a file.

use crate::patterns::renamed;

/// One pair of names. In a list the first pair that matches counts, so a second spelling of the same tensor is
/// read and never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rename {
    theirs: &'static str,
    ours: &'static str,
    third: Option<usize>,
}

/// A list of pairs.
pub(crate) type Renames = &'static [Rename];

/// The same tensor by another name.
pub(crate) const fn whole(theirs: &'static str, ours: &'static str) -> Rename {
    Rename {
        theirs,
        ours,
        third: None,
    }
}

/// The first, second or last third (0, 1, 2) of a network's tensor along its first dimension: queries, keys or
/// values, which other libraries store as three tensors.
pub(crate) const fn third(number: usize, theirs: &'static str, ours: &'static str) -> Rename {
    Rename {
        theirs,
        ours,
        third: Some(number),
    }
}

/// The network's name of a file's tensor, and which third of it the tensor is.
pub(crate) fn ours(renames: &[Rename], name: &str) -> Option<(String, Option<usize>)> {
    renames
        .iter()
        .find_map(|pair| Some((renamed(pair.theirs, pair.ours, name)?, pair.third)))
}

/// The names in a file of a network's tensor: one, or those of its thirds in order. Without a pair the name
/// stays.
pub(crate) fn theirs(renames: &[Rename], name: &str) -> Vec<String> {
    let of = |third: Option<usize>| {
        let mut pairs = renames.iter().filter(|pair| pair.third == third);
        pairs.find_map(|pair| renamed(pair.ours, pair.theirs, name))
    };
    if let Some(whole) = of(None) {
        return vec![whole];
    }
    let thirds = (0..3).filter_map(|number| of(Some(number))).collect::<Vec<_>>();
    if thirds.len() == 3 {
        thirds
    } else {
        vec![name.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouts::LAYOUTS;
    use backbones::{BackboneConfig, Init, ResNetConfig, Stem, VitConfig, state_dict};
    use burn::tensor::Device;

    /// Every tensor of our networks, written by a row's names and read again, has its own name: so a row serves
    /// both directions.
    #[test]
    fn names_written_by_a_row_are_read_back_by_it() {
        let device = Device::flex();
        let vit = |registers, layer_scale| {
            BackboneConfig::Vit(VitConfig {
                registers,
                layer_scale,
                ..VitConfig::tiny_for_tests()
            })
        };
        let resnet = |depth| {
            BackboneConfig::Resnet(ResNetConfig {
                depth,
                width: 2,
                stem: Stem::Imagenet,
                zero_init_residual: false,
                stride_in_1x1: false,
            })
        };
        for (row, network, thirds) in [
            ("torchvision_vit", vit(0, None), 0),
            ("transformers_vit", vit(0, None), 4),
            ("transformers_vit_mae", vit(0, None), 4),
            ("transformers_dinov2", vit(0, Some(1.0)), 4),
            ("transformers_dinov2_with_registers", vit(4, Some(1.0)), 4),
            ("transformers_resnet", resnet(18), 0),
            ("transformers_resnet", resnet(50), 0),
        ] {
            let layout = LAYOUTS.iter().find(|layout| layout.name == row).unwrap();
            let mut split = 0;
            for name in state_dict(&network.init(&Init::empty(&device))).into_keys() {
                let names = theirs(layout.renames, &name);
                assert_ne!(names, std::slice::from_ref(&name), "{row}");
                split += usize::from(names.len() == 3);
                for (number, written) in names.iter().enumerate() {
                    let expected = (names.len() == 3).then_some(number);
                    assert_eq!(
                        ours(layout.renames, written),
                        Some((name.clone(), expected)),
                        "{row}"
                    );
                }
            }
            assert_eq!(split, thirds, "{row}");
        }
    }
}
