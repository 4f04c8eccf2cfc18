//! A detector and pictures with their objects in, results and average precision out.

use super::objective::{in_its_order, sizes};
use super::{Metric, Settings};
use crate::error::Error;
use crate::progress::Event;
use backbones::Replicas;
use burn::tensor::Device;
use data::targets::{ImageTargets, Rle};
use data::{Dataset, Loader, LoaderConfig, Order, ViewTargets};
use detection::BoundingBox;
use detection::metrics::{
    CocoScores, ImageResults, Intervals, Kind, Matches, Scored, VocScores, VocYear, coco, voc,
};
use detection::parts::pasted_rle;
use detection::rcnn::{Instance, Rcnn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Pictures to score, and what is true of them.
pub(super) struct EvaluationSet {
    pub(super) dataset: Arc<Dataset>,
    /// The objects of each record, with the training set's classes.
    pub(super) truth: Vec<ImageTargets>,
    /// The data set's own number of each class of the training set, for results.
    pub(super) category_ids: Vec<u64>,
}

/// What a detector found in a set.
pub(super) struct Found {
    /// One entry for each readable picture, in the order of records.
    pub(super) results: Vec<ImageResults>,
    /// The objects of the same pictures.
    pub(super) truth: Vec<ImageTargets>,
    /// The positions of the same pictures.
    pub(super) positions: Vec<u64>,
}

/// The scores of a set.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    pub(super) boxes: BoxScores,
    pub(super) masks: Option<CocoScores>,
    /// Of boxes, and of masks.
    pub(super) intervals: Option<(Intervals, Option<Intervals>)>,
}

/// The scores of boxes.
#[derive(Clone, Debug)]
pub(super) enum BoxScores {
    Coco(CocoScores),
    Voc(VocScores),
}

impl BoxScores {
    /// AP over IoU 0.5 to 0.95, at 0.5, and at 0.75.
    pub(super) fn main(&self) -> [Option<f64>; 3] {
        match self {
            Self::Coco(scores) => [scores.mean.ap, scores.mean.ap50, scores.mean.ap75],
            Self::Voc(scores) => [scores.ap, scores.ap50, scores.ap75],
        }
    }
}

/// How pictures reach the detector.
pub(super) struct Pass<'a> {
    pub(super) settings: &'a Settings,
    pub(super) loader: LoaderConfig,
    pub(super) device: &'a Device,
    pub(super) replicas: &'a Replicas,
}

/// What is found in a picture, as bytes between ranks.
#[derive(Serialize, Deserialize)]
struct Sent {
    position: u64,
    found: Vec<SentObject>,
}

/// A found object; floats as bits, so that no digit is lost.
#[derive(Serialize, Deserialize)]
struct SentObject {
    class: u32,
    score: u32,
    edges: [u32; 4],
    mask: Option<SentMask>,
}

/// A mask as compressed run lengths.
#[derive(Serialize, Deserialize)]
struct SentMask {
    width: u32,
    height: u32,
    counts: String,
}

impl SentObject {
    fn into_scored(self) -> Scored {
        let mask = self.mask;
        Scored {
            class: self.class,
            score: f32::from_bits(self.score),
            edges: self.edges.map(f32::from_bits),
            mask: mask.and_then(|mask| Rle::from_compressed(mask.width, mask.height, &mask.counts).ok()),
        }
    }
}

impl Pass<'_> {
    /// What `network`, on a device without autodiff, finds in all pictures, each rank in a part of them. Pictures that
    /// cannot be decoded are left out, up to the config's bound.
    pub(super) fn find(
        &self,
        network: &Rcnn,
        set: &EvaluationSet,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Found, Error> {
        let (rank, ranks) = (self.replicas.rank(), self.replicas.count());
        let images = self.settings.evaluation_images;
        let loader = LoaderConfig {
            batch_images: images,
            ..self.loader
        };
        let dataset = Arc::clone(&set.dataset);
        let views = self.settings.test_views();
        let loader = Loader::of_objects(dataset, views, images, loader, Order::Sequential, 0)?;
        let passes = loader.batches_per_epoch();
        let (start, end) = (passes * rank / ranks, passes * (rank + 1) / ranks);
        let total = (end * images).min(set.dataset.len()) - start * images;
        let normalize = self.settings.normalize();
        let mut own: Vec<Sent> = vec![];
        for batch in loader.batches(start, end) {
            let batch = batch?;
            let positions = batch.positions.clone();
            let batch = training::Batch::upload(batch, &normalize, self.device);
            let views = batch.targets.as_deref().unwrap_or_default();
            let pictures = in_its_order(batch.view(0), &self.settings.network);
            let found = network.detect(pictures, &sizes(views));
            for ((position, view), found) in positions.iter().zip(views).zip(found) {
                own.push(Sent {
                    position: *position,
                    found: found
                        .iter()
                        .filter_map(|one| self.in_original(one, view))
                        .collect(),
                });
            }
            progress(Event {
                stage: "detecting",
                done: own.len(),
                total,
                unit: "images",
            });
        }
        self.merged(own, set, &loader)
    }

    /// A detection in pixels of the original picture, as it is sent; `None` where nothing is left of it.
    fn in_original(&self, one: &Instance, view: &ViewTargets) -> Option<SentObject> {
        let (width, height) = (view.original_width, view.original_height);
        let across = width as f32 / view.targets.width as f32;
        let down = height as f32 / view.targets.height as f32;
        let [left, top, right, bottom] = one.bounds.edges();
        let within = |edge: f32, most: u32| edge.clamp(0.0, most as f32);
        let edges = [
            within(left * across, width),
            within(top * down, height),
            within(right * across, width),
            within(bottom * down, height),
        ];
        if edges[2] <= edges[0] || edges[3] <= edges[1] || !one.score.is_finite() {
            return None;
        }
        let network = &self.settings.network;
        let mask = one.mask.as_ref().zip(network.masks.as_ref());
        let mask = mask.map(|(mask, masks)| {
            let bounds = BoundingBox::from_edges(edges);
            let size = [height as usize, width as usize];
            let pasted = pasted_rle(mask, network.mask_side(), &bounds, size, masks.paste);
            SentMask {
                width,
                height,
                counts: pasted.to_compressed(),
            }
        });
        Some(SentObject {
            class: one.class as u32,
            score: one.score.to_bits(),
            edges: edges.map(f32::to_bits),
            mask,
        })
    }

    /// The results of all ranks, in the order of records; broken records count against the limit over all ranks.
    fn merged(&self, own: Vec<Sent>, set: &EvaluationSet, loader: &Loader) -> Result<Found, Error> {
        training::share_bad_records(self.replicas, loader, &mut BTreeSet::new())?;
        let bytes = self
            .replicas
            .gather_bytes(serde_json::to_vec(&own).unwrap_or_default());
        let all = bytes.iter().flat_map(|of_rank| {
            let of_rank: Vec<Sent> = serde_json::from_slice(of_rank).unwrap_or_default();
            of_rank
        });
        let (mut results, mut truth, mut positions) = (vec![], vec![], vec![]);
        for sent in all {
            let objects = &set.truth[sent.position as usize];
            results.push(ImageResults {
                image_id: objects.image_id,
                found: sent.found.into_iter().map(SentObject::into_scored).collect(),
            });
            truth.push(objects.clone());
            positions.push(sent.position);
        }
        if results.is_empty() {
            return training::agree(self.replicas, Err(Error::Empty { set: "scored" }));
        }
        Ok(Found {
            results,
            truth,
            positions,
        })
    }
}

impl Found {
    /// The scores by the config's metric, with intervals if it wants them and `with_intervals`.
    pub(super) fn scores(&self, settings: &Settings, with_intervals: bool) -> Result<Scores, Error> {
        let classes = settings.network.classes;
        let (truth, results) = (&self.truth, &self.results);
        let of_year = |year| voc(truth, results, classes, year, false).map(BoxScores::Voc);
        let with_masks = settings.network.masks.is_some();
        let boxes = match settings.metric {
            Metric::Coco => coco(truth, results, classes, Kind::Boxes).map(BoxScores::Coco),
            Metric::Voc2007 => of_year(VocYear::Voc2007),
            Metric::Voc2012 => of_year(VocYear::Voc2012),
        };
        let masks = with_masks.then(|| coco(truth, results, classes, Kind::Masks));
        let intervals = settings
            .bootstrap
            .filter(|_| with_intervals && settings.metric == Metric::Coco);
        let intervals = intervals.map(|bootstrap| {
            let of = |kind| -> Result<Intervals, Error> {
                let matches = Matches::new(truth, results, classes, kind)?;
                Ok(matches.bootstrap(bootstrap.resamples, bootstrap.seed))
            };
            let masks = with_masks.then(|| of(Kind::Masks)).transpose()?;
            Ok::<_, Error>((of(Kind::Boxes)?, masks))
        });
        Ok(Scores {
            boxes: boxes?,
            masks: masks.transpose()?,
            intervals: intervals.transpose()?,
        })
    }
}
