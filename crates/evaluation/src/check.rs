//! What can be told before the first image is read: whether every protocol of a config can be asked of these records.
//!
//! Labels lie in the index of a data set, so classes that the training set lacks, or that have too few records, are found
//! out now, and not after hours of other protocols. Records that turn out to be broken can still change that later.

use crate::clustering::{self, Clusters};
use crate::config::{Config, Protocol};
use crate::encoder::Encoder;
use crate::error::Error;
use crate::features::{Features, POOLED};
use crate::linear_probe::view_group;
use crate::one_vs_rest::OneVsRest;
use crate::store::Records;
use crate::taps::Tap;
use crate::task::{Part, Task};
use crate::{few_shot, logistic, retrieval, svm_low_shot, svm_voc07};
use data::Transform;

/// Refuses what the config asks and these data cannot answer.
pub(crate) fn check(
    config: &Config,
    encoder: &Encoder,
    train: &Records,
    test: &Records,
) -> Result<(), Error> {
    encoder.check_transforms("`test_transforms`", &config.test_transforms)?;
    for protocol in &config.protocols {
        if let Some(transforms) = protocol.train_transforms() {
            let name = format!("`{}.train_transforms`", protocol.name());
            encoder.check_transforms(&name, transforms)?;
        }
        if matches!(protocol, Protocol::LinearVissl(_)) {
            encoder.check_resnet(protocol.name())?;
        }
        encoder.check_taps(protocol.name(), &protocol.taps())?;
        check_widths(protocol, encoder, &config.test_transforms)?;
    }
    for (set, dataset) in [("training", train), ("test", test)] {
        if dataset.is_empty() {
            return Err(Error::Empty { set });
        }
    }
    if !config.protocols.iter().any(Protocol::needs_labels) {
        return Ok(());
    }
    let same = train.fingerprint() == test.fingerprint();
    let test = test.index(true)?;
    // Its labels are nobody's business where no protocol learns from them: they may be anything, or be missing in part.
    let train = train.index(config.protocols.iter().any(Protocol::needs_train_labels))?;
    config
        .protocols
        .iter()
        .try_for_each(|protocol| answers(protocol, train, test).map_err(|error| error.of(protocol.name())))?;
    if same && config.protocols.iter().any(Protocol::needs_train_labels) {
        return Err(Error::SameRecords {
            records: test.records(),
        });
    }
    Ok(())
}

/// Refuses training images that give a classifier more or fewer numbers than test images do. Most networks give as many for any
/// size; pixels and a ResNet's stages do not.
fn check_widths(protocol: &Protocol, encoder: &Encoder, test: &[Transform]) -> Result<(), Error> {
    let Some(train) = protocol.train_transforms().map(view_group) else {
        return Ok(());
    };
    // Nothing is learned from its views.
    if matches!(protocol, Protocol::ViewDiagnostics(_)) {
        return Ok(());
    }
    let (Some(train), Some(test)) = (train.output_px(), view_group(test).output_px()) else {
        return Ok(());
    };
    let shape =
        |tap: Tap, (width, height): (u32, u32)| encoder.tap_shape(tap, [height as usize, width as usize]);
    for tap in protocol.taps() {
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

/// Whether a protocol can be asked of records with these labels.
fn answers(protocol: &Protocol, train: &Features, test: &Features) -> Result<(), Error> {
    let records = |part: Part| match part {
        Part::Train => train.records(),
        Part::Test => test.records(),
    };
    let task = || match protocol.needs_train_labels() {
        true => Task::new(train, test, POOLED),
        false => Task::within_test(train, test, POOLED),
    };
    if protocol.neighbors() > train.records() {
        return Err(Error::Neighbors {
            protocol: protocol.name(),
            neighbors: protocol.neighbors(),
            records: train.records(),
        });
    }
    match protocol {
        Protocol::KnnDino(_)
        | Protocol::KnnVissl(_)
        | Protocol::LinearMoco(_)
        | Protocol::LinearSwav(_)
        | Protocol::LinearDino(_)
        | Protocol::LinearMocoV3(_)
        | Protocol::LinearVissl(_)
        | Protocol::LinearCached(_) => task().map(|_| ()),
        Protocol::LinearDinov2(config) => config.choice.split(protocol.name(), &task()?).map(|_| ()),
        Protocol::LinearCachedGrid(config) => config.choice.split(protocol.name(), &task()?).map(|_| ()),
        Protocol::LogisticRegression(config) => logistic::check_records(config, &task()?),
        Protocol::Clustering(config) => {
            task()?;
            match config.clusters {
                Clusters::Count(count) => clustering::check_clusters(count, config.fit, records(config.fit)),
                Clusters::Classes => Ok(()),
            }
        }
        Protocol::FewShot(config) => few_shot::check_records(config, &task()?),
        Protocol::SvmVoc07(config) => svm_voc07::check_records(config, &OneVsRest::new(train, test, POOLED)?),
        Protocol::SvmLowShot(config) => {
            svm_low_shot::check_records(config, &OneVsRest::new(train, test, POOLED)?)
        }
        Protocol::Retrieval(config) => {
            task()?;
            retrieval::check_records(config, records(config.gallery))
        }
        Protocol::ViewDiagnostics(config) => match records(config.set) {
            1 => Err(Error::OneRecord {
                set: config.set.name(),
            }),
            _ => Ok(()),
        },
        Protocol::Diagnostics(config) => match records(config.set) {
            1 => Err(Error::OneRecord {
                set: config.set.name(),
            }),
            _ => Ok(()),
        },
    }
}
