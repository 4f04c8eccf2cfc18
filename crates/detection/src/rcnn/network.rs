//! The whole detector: its parts in torchvision's order.

use backbones::layers::Roi;
use backbones::{Context, Init};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use super::block::Block;
use super::box_head::{self, BoxHead, BoxPredictor, Predictions, RegionTarget, StageHeads};
use super::config::{CascadeStage, MOST_LATER_STAGES, Neck, Norm, RcnnConfig};
use super::mask_head::{self, MaskPredictor, TrueMask};
use super::proposals::{self, ProposalNetwork};
use super::pyramid::{BodyAndPyramid, of_norm};
use crate::BoundingBox;
use crate::parts::{BoxCoder, Choose, Match, Pyramid};

/// Faster R-CNN, Mask R-CNN with a mask head, Cascade R-CNN with further stages.
#[derive(Module, Debug)]
pub struct Rcnn {
    /// The network below, and the pyramid.
    pub backbone: BodyAndPyramid,
    /// The region proposal network.
    pub rpn: ProposalNetwork,
    /// Heads on regions.
    pub roi_heads: RoiHeads,
    #[module(skip)]
    config: RcnnConfig,
}

/// Heads on regions.
#[derive(Module, Debug)]
pub struct RoiHeads {
    /// Layers of the box head.
    pub box_head: BoxHead,
    /// Its outputs.
    pub box_predictor: BoxPredictor,
    /// The stages behind them.
    pub cascade: Vec<StageHeads>,
    mask_head: Vec<Block>,
    /// Outputs of the mask head.
    pub mask_predictor: Option<MaskPredictor>,
}

/// What is true of an image, in the pixels that the network sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Boxes, each with a positive width and height.
    pub boxes: Vec<BoundingBox>,
    /// Their classes, from 0.
    pub classes: Vec<usize>,
    /// Their masks, if the network has a mask head.
    pub masks: Vec<TrueMask>,
}

/// The losses of a batch, each of one element; training minimizes their sum.
#[derive(Clone, Debug)]
pub struct RcnnLosses {
    /// Whether anchors hold objects.
    pub objectness: Tensor<1>,
    /// Deltas of anchors.
    pub proposal_boxes: Tensor<1>,
    /// Classes of regions.
    pub classes: Tensor<1>,
    /// Deltas of regions.
    pub boxes: Tensor<1>,
    /// Classes and deltas of the stages behind the first one.
    pub cascade: Vec<[Tensor<1>; 2]>,
    /// Masks, if the network has a mask head.
    pub masks: Option<Tensor<1>>,
}

/// A detected object, in the pixels that the network saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its box.
    pub bounds: BoundingBox,
    /// Its class, from 0.
    pub class: usize,
    /// Its score, 0 to 1.
    pub score: f32,
    /// The probabilities of its mask in its box, `[side · side]`, for [`paste`](crate::parts::paste), if the network
    /// has a mask head.
    pub mask: Option<Vec<f32>>,
}

impl Target {
    /// Checks it for a network of `config`; the message says what is wrong.
    pub fn check(&self, config: &RcnnConfig) -> Result<(), String> {
        let masks = if config.masks.is_some() {
            self.boxes.len()
        } else {
            self.masks.len()
        };
        if self.classes.len() != self.boxes.len() || self.masks.len() != masks {
            return Err(format!(
                "{} boxes need as many classes and masks, got {} and {}",
                self.boxes.len(),
                self.classes.len(),
                self.masks.len()
            ));
        }
        for (index, bounds) in self.boxes.iter().enumerate() {
            let finite = bounds.edges().iter().all(|edge| edge.is_finite());
            if !finite || bounds.width() <= 0.0 || bounds.height() <= 0.0 {
                return Err(format!(
                    "box {index} must be finite and not empty, got {:?}",
                    bounds.edges()
                ));
            }
        }
        if let Some(class) = self.classes.iter().find(|class| **class >= config.classes) {
            return Err(format!("classes must be below {}, got {class}", config.classes));
        }
        let wrong =
            |mask: &&TrueMask| mask.pixels.is_empty() || mask.pixels.len() != mask.size[0] * mask.size[1];
        match self.masks.iter().find(wrong) {
            Some(mask) => Err(format!(
                "a mask of {:?} has {} pixels",
                mask.size,
                mask.pixels.len()
            )),
            None => Ok(()),
        }
    }
}

/// Names of the losses of classes and deltas of each stage behind the first one.
const LATER_LOSSES: [[&str; 2]; MOST_LATER_STAGES] = [
    ["loss_classifier_stage2", "loss_box_reg_stage2"],
    ["loss_classifier_stage3", "loss_box_reg_stage3"],
    ["loss_classifier_stage4", "loss_box_reg_stage4"],
    ["loss_classifier_stage5", "loss_box_reg_stage5"],
];

impl RcnnLosses {
    /// Their sum.
    pub fn total(&self) -> Tensor<1> {
        let sum =
            self.objectness.clone() + self.proposal_boxes.clone() + self.classes.clone() + self.boxes.clone();
        let later = self.cascade.iter().flatten().chain(&self.masks);
        later.fold(sum, |sum, loss| sum + loss.clone())
    }

    /// The losses by torchvision's names; those of later stages have its number behind them, from 2.
    pub fn named(&self) -> Vec<(&'static str, Tensor<1>)> {
        let mut named = vec![
            ("loss_objectness", self.objectness.clone()),
            ("loss_rpn_box_reg", self.proposal_boxes.clone()),
            ("loss_classifier", self.classes.clone()),
            ("loss_box_reg", self.boxes.clone()),
        ];
        for ([of_classes, of_boxes], [classes, boxes]) in LATER_LOSSES.iter().zip(&self.cascade) {
            named.extend([(*of_classes, classes.clone()), (*of_boxes, boxes.clone())]);
        }
        named.extend(self.masks.clone().map(|masks| ("loss_mask", masks)));
        named
    }
}

impl RcnnConfig {
    /// The detector with its reference's initial weights. Its frozen parameters require no gradient.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) rejects the config.
    pub fn init(&self, init: &Init) -> Rcnn {
        let of_heads = init.at("roi_heads");
        let masks = self.masks.as_ref();
        let network = Rcnn {
            backbone: BodyAndPyramid::new(self, &init.at("backbone")),
            rpn: ProposalNetwork::new(self, &init.at("rpn")),
            roi_heads: RoiHeads {
                box_head: BoxHead::new(self, &of_heads.at("box_head")),
                box_predictor: BoxPredictor::new(self, &of_heads.at("box_predictor")),
                cascade: (0..self.cascade.len())
                    .map(|stage| StageHeads::new(self, &of_heads.at("cascade").at(&stage.to_string())))
                    .collect(),
                mask_head: masks.map_or(vec![], |masks| {
                    mask_head::convolutions(masks, self.map_channels(), &of_heads.at("mask_head"))
                }),
                mask_predictor: masks.map(|masks| {
                    let inputs = self.backbone.features();
                    MaskPredictor::new(
                        masks,
                        inputs,
                        mask_head::slots(self),
                        &of_heads.at("mask_predictor"),
                    )
                }),
            },
            config: self.clone(),
        };
        network.map(&mut Freeze {
            path: vec![],
            config: self.clone(),
        })
    }

    /// Whether the parameter at a path of [`Rcnn`] is never trained.
    pub fn is_frozen(&self, path: &str) -> bool {
        // A pyramid takes the blocks' output, before this norm.
        if path.starts_with("backbone.vit.body.norm.") {
            return true;
        }
        let Some(path) = path.strip_prefix("backbone.body.") else {
            return false;
        };
        let stages: [&[&str]; 5] = [
            &["conv1", "bn1"],
            &["layer1"],
            &["layer2"],
            &["layer3"],
            &["layer4"],
        ];
        let mut parts = path.split('.');
        let first = parts.next().unwrap_or_default();
        let of_frozen_stage = stages[..self.frozen_stages.min(5)].concat().contains(&first);
        // `downsample` holds a convolution, 0, and its norm, 1.
        let of_norm = path.split('.').any(|part| part.starts_with("bn")) || path.contains("downsample.1.");
        of_frozen_stage || self.backbone_norm == Norm::Frozen && of_norm
    }
}

/// Takes the gradient from frozen parameters, so that no backward pass reaches below them.
struct Freeze {
    path: Vec<String>,
    config: RcnnConfig,
}

impl ModuleMapper for Freeze {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.config.is_frozen(&self.path.join(".")) {
            true => param.set_require_grad(false),
            false => param,
        }
    }
}

/// A region of a batch, and the true box that it stands for.
struct Region {
    roi: Roi,
    bounds: BoundingBox,
    truth: Option<usize>,
}

impl Rcnn {
    /// The network without its mask head: Faster R-CNN.
    pub fn without_masks(mut self) -> Self {
        self.config.masks = None;
        self.roi_heads.mask_head = vec![];
        self.roi_heads.mask_predictor = None;
        self
    }

    /// The numbers of this detector.
    pub fn config(&self) -> &RcnnConfig {
        &self.config
    }

    fn anchors(&self, maps: &[Tensor<4>], padded: [usize; 2]) -> Vec<Vec<BoundingBox>> {
        let strides = self.config.strides();
        let levels = maps.iter().enumerate().map(|(level, map)| {
            let [_, _, height, width] = map.dims();
            self.config
                .anchors
                .of_level(level, [height, width], padded, strides[level])
        });
        levels.collect()
    }

    /// The losses of a batch.
    ///
    /// - `images`: normalized, `[images, 3, height, width]`, zeros right of and below each image
    /// - `sizes`: height and width of each without these zeros, px
    /// - `targets`: one for each, checked by [`Target::check`]
    /// - `from`: draws the anchors and regions that take part: [`ImageDraws`](crate::parts::ImageDraws)
    ///
    /// # Panics
    /// If the numbers of images, sizes and targets differ.
    pub fn losses(
        &self,
        images: Tensor<4>,
        sizes: &[[usize; 2]],
        targets: &[Target],
        from: &dyn Choose,
        context: &Context,
    ) -> RcnnLosses {
        let [count, _, height, width] = images.dims();
        assert!(
            count == sizes.len() && count == targets.len(),
            "{count} images need as many sizes and targets, got {} and {}",
            sizes.len(),
            targets.len()
        );
        let config = &self.config;
        let heads = of_heads(context);
        let maps = self.backbone.forward(images, config.backbone_norm, context);
        let outputs = self.rpn.forward(&maps, &heads);
        let anchors = self.anchors(&maps, [height, width]);
        let truth: Vec<&[BoundingBox]> = targets.iter().map(|target| target.boxes.as_slice()).collect();
        let [objectness, proposal_boxes] =
            proposals::losses(&outputs, &anchors, &truth, &config.proposals, from);
        let proposed = proposals::select(&outputs, &anchors, sizes, &config.proposals, true);

        let regions = self.sample(proposed, targets, from);
        let zero = || objectness.clone() * 0.0;
        let strides = config.strides();
        let pyramid = Pyramid {
            maps: &maps,
            strides: &strides[..config.pooled_levels()],
        };
        let mut kept = None;
        let (stages, mut of_stages, mut moved) = (config.box_stages(), vec![], None);
        for (number, stage) in stages.iter().enumerate() {
            let current: &[Region] = moved.as_deref().unwrap_or(&regions);
            if current.is_empty() {
                of_stages.push([zero(), zero()]);
                continue;
            }
            let rois: Vec<Roi> = current.iter().map(|region| region.roi).collect();
            let mut pooled = config.pooling.pool(&pyramid, &rois, config.boxes.pooled);
            if stages.len() > 1 {
                // Together the stages move the features as one head does.
                pooled.features = with_gradient_times(pooled.features, 1.0 / stages.len() as f64);
            }
            let of_region = pooled
                .order
                .iter()
                .map(|index| self.target(&current[*index], targets, &stage.coder));
            let wanted: Vec<RegionTarget> = of_region.collect();
            let (outputs, features) = self.boxes(number, pooled.features, &heads);
            let next = stages.get(number + 1).map(|next| {
                let deltas = outputs.agnostic_deltas(&pooled.order);
                let boxes = current.iter().zip(deltas).map(|(region, deltas)| {
                    let image = region.roi.image;
                    (
                        image,
                        moved_box(&stage.coder, &region.bounds, deltas, sizes[image]),
                    )
                });
                matched_anew(boxes.collect(), targets, next)
            });
            if number == 0 {
                kept = features.map(|features| (features, pooled.order));
            }
            of_stages.push(box_head::losses(outputs, &wanted, config));
            moved = next;
        }
        let mut of_stages = of_stages.into_iter();
        let [classes, boxes] = of_stages.next().unwrap_or_else(|| [zero(), zero()]);
        let masks = config.masks.as_ref().zip(self.roi_heads.mask_predictor.as_ref());
        let masks = masks.map(|(masks, predictor)| {
            let positive: Vec<(&Region, usize)> = regions
                .iter()
                .filter_map(|region| Some((region, region.truth?)))
                .collect();
            if positive.is_empty() {
                return zero();
            }
            let (features, order) = match kept.take() {
                // The box head's features of the same regions: nothing is pooled again.
                Some((features, order)) => {
                    let mut place = vec![None; regions.len()];
                    let numbers = regions
                        .iter()
                        .enumerate()
                        .filter(|(_, region)| region.truth.is_some());
                    for (number, (index, _)) in numbers.enumerate() {
                        place[index] = Some(number);
                    }
                    let rows = order
                        .iter()
                        .enumerate()
                        .filter_map(|(row, index)| Some((row, place[*index]?)));
                    let (rows, order): (Vec<usize>, Vec<usize>) = rows.unzip();
                    (mask_head::rows_of(features, &rows), order)
                }
                None => {
                    let rois: Vec<Roi> = positive.iter().map(|(region, _)| region.roi).collect();
                    let pooled = config.pooling.pool(&pyramid, &rois, masks.pooled);
                    (pooled.features, pooled.order)
                }
            };
            let wanted = order.iter().map(|index| {
                let (region, truth) = positive[*index];
                let target = &targets[region.roi.image];
                let slot = config.class_slots.slot(target.classes[truth]);
                (region.bounds, slot, &target.masks[truth])
            });
            let wanted: Vec<_> = wanted.collect();
            let logits = mask_head::forward(&self.roi_heads.mask_head, predictor, features, &heads);
            mask_head::loss(logits, &wanted, masks)
        });
        RcnnLosses {
            objectness,
            proposal_boxes,
            classes,
            boxes,
            cascade: of_stages.collect(),
            masks,
        }
    }

    /// The regions that take part in the losses: proposals and true boxes, matched and sampled.
    fn sample(&self, proposed: Vec<Vec<BoundingBox>>, targets: &[Target], from: &dyn Choose) -> Vec<Region> {
        let config = &self.config.boxes;
        let of_image = |(image, (mut boxes, target)): (usize, (Vec<BoundingBox>, &Target))| {
            boxes.extend_from_slice(&target.boxes);
            let matches = config.matcher.match_boxes(&target.boxes, &boxes);
            let samples = config.sampler.sample(&matches, "detection.regions", image, from);
            let region = |index: usize| Region {
                roi: Roi {
                    image,
                    edges: boxes[index].edges(),
                },
                bounds: boxes[index],
                truth: match matches[index] {
                    Match::Truth(truth) => Some(truth),
                    Match::Background | Match::Ignored => None,
                },
            };
            samples.all().into_iter().map(region).collect::<Vec<_>>()
        };
        let images = proposed.into_iter().zip(targets).enumerate();
        images.flat_map(of_image).collect()
    }

    fn target(&self, region: &Region, targets: &[Target], coder: &BoxCoder) -> RegionTarget {
        let slots = self.config.class_slots;
        match region.truth {
            Some(truth) => {
                let target = &targets[region.roi.image];
                RegionTarget {
                    slot: slots.slot(target.classes[truth]),
                    deltas: Some(coder.encode(&region.bounds, &target.boxes[truth])),
                }
            }
            None => RegionTarget {
                slot: slots.background(self.config.classes),
                deltas: None,
            },
        }
    }

    /// The outputs of a stage's box head, the first one's number being 0, for pooled regions; and their features behind
    /// the backbone's last stage, if that is the head.
    fn boxes(
        &self,
        stage: usize,
        regions: Tensor<4>,
        context: &Context,
    ) -> (box_head::Outputs, Option<Tensor<4>>) {
        let heads = &self.roi_heads;
        let (head, predictor) = match stage.checked_sub(1) {
            None => (&heads.box_head, &heads.box_predictor),
            Some(later) => {
                let stage = &heads.cascade[later];
                (&stage.box_head, &stage.box_predictor)
            }
        };
        match self.config.neck {
            Neck::Pyramid(_) => (predictor.forward(head.forward(regions, context)), None),
            Neck::C4(_) => {
                let features = self.last_stage(regions, context);
                let mean = box_head::mean(features.clone());
                (predictor.forward(mean), Some(features))
            }
        }
    }

    /// The backbone's last stage, and the norm behind it, on pooled regions.
    fn last_stage(&self, regions: Tensor<4>, context: &Context) -> Tensor<4> {
        let norm = self.config.backbone_norm;
        let x = self.backbone.last_stage(regions, norm, context);
        self.roi_heads.box_head.normalize(x, &of_norm(norm, context))
    }

    /// The proposals of each image, the most confident first, in the pixels that the network sees.
    ///
    /// `images` and `sizes` as in [`losses`](Self::losses).
    pub fn propose(&self, images: Tensor<4>, sizes: &[[usize; 2]]) -> Vec<Vec<BoundingBox>> {
        self.look(images, sizes).1
    }

    fn look(&self, images: Tensor<4>, sizes: &[[usize; 2]]) -> (Vec<Tensor<4>>, Vec<Vec<BoundingBox>>) {
        let [count, _, height, width] = images.dims();
        assert!(
            count == sizes.len(),
            "{count} images need as many sizes, got {}",
            sizes.len()
        );
        let context = Context::evaluation();
        let maps = self.backbone.forward(images, self.config.backbone_norm, &context);
        let outputs = self.rpn.forward(&maps, &context);
        let anchors = self.anchors(&maps, [height, width]);
        let proposed = proposals::select(&outputs, &anchors, sizes, &self.config.proposals, false);
        (maps, proposed)
    }

    /// The objects in each image, the most confident first, in the pixels that the network sees. Call it on a network
    /// without autodiff ([`Module::valid`]).
    ///
    /// `images` and `sizes` as in [`losses`](Self::losses).
    ///
    /// # Panics
    /// If the numbers of images and sizes differ.
    pub fn detect(&self, images: Tensor<4>, sizes: &[[usize; 2]]) -> Vec<Vec<Instance>> {
        let config = &self.config;
        let (maps, proposed) = self.look(images, sizes);
        let strides = config.strides();
        let pyramid = Pyramid {
            maps: &maps,
            strides: &strides[..config.pooled_levels()],
        };
        let context = Context::evaluation();
        let mut regions = numbered(proposed);
        if regions.is_empty() {
            return vec![vec![]; sizes.len()];
        }
        let (stages, mut of_stages) = (config.box_stages(), vec![]);
        for (number, stage) in stages.iter().enumerate() {
            let pooled = config
                .pooling
                .pool(&pyramid, &rois(&regions), config.boxes.pooled);
            let (outputs, _) = self.boxes(number, pooled.features, &context);
            let predictions = outputs.on_host(&pooled.order);
            if number + 1 < stages.len() {
                for (region, (image, bounds)) in regions.iter_mut().enumerate() {
                    let deltas = predictions.agnostic_deltas(region);
                    let moved = moved_box(&stage.coder, bounds, deltas, sizes[*image]);
                    // Also boxes that became empty: the scores of all stages are of the same regions.
                    if moved.edges().iter().all(|edge| edge.is_finite()) {
                        *bounds = moved;
                    }
                }
            }
            of_stages.push(predictions);
        }
        let last = stages.last().map_or(config.boxes.coder, |stage| stage.coder);
        let found = match Predictions::averaged(of_stages) {
            Some(mean) => box_head::detections(&mean, &regions, sizes, &last, config),
            None => vec![vec![]; sizes.len()],
        };

        let bounds = |found: &Vec<box_head::Scored>| found.iter().map(|one| one.bounds).collect::<Vec<_>>();
        let regions = numbered(found.iter().map(bounds).collect());
        let masks = config.masks.as_ref().zip(self.roi_heads.mask_predictor.as_ref());
        let mut masks = match masks {
            Some((masks, predictor)) if !regions.is_empty() => {
                let pooled = config.pooling.pool(&pyramid, &rois(&regions), masks.pooled);
                let features = match config.neck {
                    Neck::Pyramid(_) => pooled.features,
                    Neck::C4(_) => self.last_stage(pooled.features, &context),
                };
                let logits = mask_head::forward(&self.roi_heads.mask_head, predictor, features, &context);
                let all: Vec<usize> = found.iter().flatten().map(|one| one.class).collect();
                let slots: Vec<usize> = pooled
                    .order
                    .iter()
                    .map(|i| config.class_slots.slot(all[*i]))
                    .collect();
                let mut masks = vec![None; regions.len()];
                for (index, mask) in pooled.order.iter().zip(mask_head::probabilities(logits, &slots)) {
                    masks[*index] = Some(mask);
                }
                masks
            }
            _ => vec![None; regions.len()],
        }
        .into_iter();
        let mut instance = |one: box_head::Scored| Instance {
            bounds: one.bounds,
            class: one.class,
            score: one.score,
            mask: masks.next().flatten(),
        };
        let images = found.into_iter();
        images
            .map(|found| found.into_iter().map(&mut instance).collect::<Vec<_>>())
            .collect()
    }
}

/// The context of the heads: their batch normalization, where there is one, has the statistics of this replica's regions.
fn of_heads(context: &Context) -> Context {
    Context {
        batch_norm_images: None,
        batch_norm_replicas: 1,
        ..context.clone()
    }
}

/// The same values, whose gradient is multiplied by `factor`.
fn with_gradient_times(x: Tensor<4>, factor: f64) -> Tensor<4> {
    let scaled = x.clone() * factor;
    // The difference is exactly 0.
    x.detach() + (scaled.clone() - scaled.detach())
}

/// A stage's box, within the image of `size`, height and width.
fn moved_box(coder: &BoxCoder, from: &BoundingBox, deltas: [f32; 4], size: [usize; 2]) -> BoundingBox {
    let [height, width] = size.map(|side| side as f32);
    coder.decode(from, deltas).clipped(width, height)
}

/// The regions of the next stage: all boxes of the stage before that are not empty, by image, with new matches. Nothing is
/// sampled again.
fn matched_anew(boxes: Vec<(usize, BoundingBox)>, targets: &[Target], stage: &CascadeStage) -> Vec<Region> {
    let mut of_images: Vec<Vec<BoundingBox>> = targets.iter().map(|_| vec![]).collect();
    for (image, bounds) in boxes {
        if proposals::large_enough(&bounds, 0.0) {
            of_images[image].push(bounds);
        }
    }
    let regions = of_images.into_iter().zip(targets).enumerate();
    let regions = regions.flat_map(|(image, (boxes, target))| {
        let matches = stage.matcher.match_boxes(&target.boxes, &boxes);
        boxes
            .into_iter()
            .zip(matches)
            .filter_map(move |(bounds, matched)| {
                let truth = match matched {
                    Match::Truth(truth) => Some(truth),
                    Match::Background => None,
                    Match::Ignored => return None,
                };
                let roi = Roi {
                    image,
                    edges: bounds.edges(),
                };
                Some(Region { roi, bounds, truth })
            })
    });
    regions.collect()
}

fn numbered(boxes: Vec<Vec<BoundingBox>>) -> Vec<(usize, BoundingBox)> {
    let images = boxes.into_iter().enumerate();
    let pairs = images.flat_map(|(image, boxes)| boxes.into_iter().map(move |bounds| (image, bounds)));
    pairs.collect()
}

fn rois(regions: &[(usize, BoundingBox)]) -> Vec<Roi> {
    let roi = |(image, bounds): &(usize, BoundingBox)| Roi {
        image: *image,
        edges: bounds.edges(),
    };
    regions.iter().map(roi).collect()
}
