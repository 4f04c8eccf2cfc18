//! Checks before the first image is read: whether every protocol of a config can run on these records with
//! this encoder.
//!
//! The index of a data set holds the labels, so missing or too small classes are found before hours of other
//! protocols. Broken records can still change the result later.

use crate::config::Config;
use crate::encoder::{Encoder, Tap};
use crate::error::Error;
use crate::features::{Records, view_group};
use crate::protocols::ProtocolConfig;
use crate::split::{TEST, TRAIN};
use crate::task::Splits;
use data::Transform;

/// Gives an error if the config cannot evaluate this encoder on these records.
pub(crate) fn check(
    config: &Config,
    encoder: &Encoder,
    train: &Records,
    test: &Records,
) -> Result<(), Error> {
    encoder.check_transforms("`test_transforms`", &config.test_transforms)?;
    for protocol in &config.protocols {
        let needs = protocol.needs();
        if let Some(images) = &needs.images {
            let name = format!("`{}.{}`", protocol.name(), images.key);
            encoder.check_transforms(&name, images.transforms)?;
        }
        protocol.check_encoder(encoder)?;
        encoder.check_taps(protocol.name(), &needs.taps)?;
        check_widths(protocol, encoder, &config.test_transforms)?;
    }
    for (set, dataset) in [(TRAIN, train), (TEST, test)] {
        if dataset.is_empty() {
            return Err(Error::Empty { set });
        }
    }
    // Labels that no protocol reads may have any value, or be missing in part.
    let splits = Splits {
        train: train.index(config.needs_train_labels())?,
        test: test.index(config.needs_labels())?,
    };
    for protocol in &config.protocols {
        protocol
            .check(splits)
            .map_err(|error| error.of(protocol.name()))?;
    }
    if config.needs_train_labels() && train.fingerprint() == test.fingerprint() {
        return Err(Error::SameRecords {
            records: test.len(),
            by_protocol: true,
        });
    }
    Ok(())
}

/// Gives an error if training and test images give a classifier different numbers of features. Most networks
/// give the same number for any size; pixels and a ResNet's stages do not.
fn check_widths(protocol: &ProtocolConfig, encoder: &Encoder, test: &[Transform]) -> Result<(), Error> {
    let needs = protocol.needs();
    let Some(images) = needs.images.filter(|images| images.trains) else {
        return Ok(());
    };
    let (Some(train), Some(test)) = (
        view_group(images.transforms).output_px(),
        view_group(test).output_px(),
    ) else {
        return Ok(());
    };
    let shape =
        |tap: Tap, (width, height): (u32, u32)| encoder.tap_shape(tap, [height as usize, width as usize]);
    for tap in needs.taps {
        let (of_train, of_test) = (shape(tap, train)?, shape(tap, test)?);
        if of_train != of_test {
            return Err(Error::Config(format!(
                "{}: `{}` has {} numbers for training images of {}×{} px and {} for test images of {}×{} px; give both the same size",
                protocol.name(),
                tap.name(),
                of_train.iter().product::<usize>(),
                train.0,
                train.1,
                of_test.iter().product::<usize>(),
                test.0,
                test.1,
            )));
        }
    }
    Ok(())
}
