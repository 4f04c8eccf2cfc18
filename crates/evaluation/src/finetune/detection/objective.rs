//! The detector as an [`Objective`] of the `training` crate's loop.

use super::Settings;
use backbones::{Backbone, Context, Init, Parameter, independent_copy, parameters};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use data::ViewTargets;
use data::targets::Segmentation;
use detection::BoundingBox;
use detection::parts::ImageDraws;
use detection::rcnn::{Neck, Norm, Rcnn, RcnnConfig, RcnnLosses, Target, TrueMask, replace_state};
use std::collections::BTreeMap;
use training::{Batch, Loss, Objective, ParameterRule, ViewCount};

/// State saved besides the detector.
#[derive(Module, Debug)]
pub(super) struct State {
    /// The best detector on the validation split, if that one is kept.
    pub(super) best: Option<Rcnn>,
}

/// The objective.
#[derive(Clone, Debug)]
pub(super) struct Detect {
    settings: Settings,
    /// Weights to start from, by torchvision's names; others have their initial values.
    weights: BTreeMap<String, TensorData>,
    /// Paths of the norms, whose weights and biases may have no weight decay.
    norms: Vec<String>,
}

impl Detect {
    /// An objective that starts from these weights. `device` holds the network while its norms are listed.
    pub(super) fn new(settings: &Settings, weights: BTreeMap<String, TensorData>, device: &Device) -> Self {
        let network = settings.network.init(&Init::empty(device));
        // Batch and layer normalization alone have weights of one dimension.
        let norm = |parameter: Parameter| {
            let path = parameter.path.strip_suffix(".weight")?;
            (parameter.shape.len() == 1).then(|| path.to_owned())
        };
        Self {
            settings: settings.clone(),
            weights,
            norms: parameters(&network).into_iter().filter_map(norm).collect(),
        }
    }
}

/// Height and width of each picture of a batch without its padding, px.
pub(super) fn sizes(views: &[ViewTargets]) -> Vec<[usize; 2]> {
    let size = |view: &ViewTargets| [view.targets.height as usize, view.targets.width as usize];
    views.iter().map(size).collect()
}

/// The channels in the order that the network expects.
pub(super) fn in_its_order(images: Tensor<4>, network: &RcnnConfig) -> Tensor<4> {
    match network.input.bgr {
        true => images.flip([1]),
        false => images,
    }
}

/// What is true of a picture, for the losses: crowds are left out.
fn target(view: &ViewTargets, with_masks: bool) -> Target {
    let (width, height) = (view.targets.width, view.targets.height);
    let mut target = Target::default();
    for object in view
        .targets
        .objects
        .iter()
        .filter(|object| object.is_trained_on())
    {
        if object.bounding_box.width() <= 0.0 || object.bounding_box.height() <= 0.0 {
            // Scaled down to nothing.
            continue;
        }
        target
            .boxes
            .push(BoundingBox::from_edges(object.bounding_box.edges()));
        target.classes.push(object.class as usize);
        if with_masks {
            let pixels = object
                .segmentation
                .as_ref()
                .map(|mask: &Segmentation| mask.to_rle(width, height).to_rows());
            let size = [height as usize, width as usize];
            target.masks.push(TrueMask {
                size,
                // Masks were checked before the run.
                pixels: pixels.unwrap_or_else(|| vec![0; size[0] * size[1]]),
            });
        }
    }
    target
}

/// The losses of a micro-batch.
pub(super) fn losses_of(network: &Rcnn, batch: &Batch, context: &Context) -> RcnnLosses {
    let views = batch.targets.as_deref().unwrap_or_default();
    let with_masks = network.config().masks.is_some();
    let targets: Vec<Target> = views.iter().map(|view| target(view, with_masks)).collect();
    let images = in_its_order(batch.view(0), network.config());
    let draws = ImageDraws::new(context, batch.images);
    network.losses(images, &sizes(views), &targets, &draws, context)
}

impl Objective for Detect {
    type Student = Rcnn;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Objects
    }

    fn init(&self, init: &Init) -> (Rcnn, State) {
        let network = self.settings.network.init(&init.at("student"));
        let network = replace_state(network, self.weights.clone());
        let best = self.settings.keeps_best().then(|| independent_copy(&network));
        (network, State { best })
    }

    fn loss(&self, student: &Rcnn, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let losses = losses_of(student, batch, context);
        let named = losses.named().into_iter();
        let signals = named
            .map(|(name, loss)| (name, loss.without_autodiff()))
            .collect();
        let total = losses.total();
        (Loss::new(total, signals), ())
    }

    fn commit(&self, student: Rcnn, state: State, _: Vec<()>, _: &Context) -> (Rcnn, State) {
        (student, state)
    }

    fn parameter_rules(&self) -> Vec<ParameterRule> {
        if self.settings.decay_norms {
            return vec![];
        }
        let rule = |norm: &String| ParameterRule {
            decays: false,
            ..ParameterRule::of(norm.clone())
        };
        self.norms.iter().map(rule).collect()
    }

    fn takes_batch_statistics(&self, _: &Rcnn) -> bool {
        let network = &self.settings.network;
        // Statistics of the heads are those of the regions of a micro-batch. Transformers and their pyramids have none.
        network.resnet().is_some()
            && (network.backbone_norm != Norm::Frozen
                || matches!(network.neck, Neck::Pyramid(pyramid) if pyramid.norm))
    }

    fn encoder(&self, student: &Rcnn, state: &State) -> Backbone {
        let network = state.best.as_ref().unwrap_or(student);
        network.backbone.encoder()
    }
}
