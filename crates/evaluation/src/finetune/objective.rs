//! The fine-tuned network as an [`Objective`] of the `training` crate's loop: a backbone and a linear
//! classifier, with cross-entropy on the labels of the batch.

use super::mixing::{self, Mix, soft_target_cross_entropy};
use super::{Average, HeadInit, Settings};
use crate::error::Error;
use crate::task::Classes;
use backbones::layers::Linear;
use backbones::vit::Pooling;
use backbones::{
    Backbone, BackboneConfig, Context, Init, Replicas, ema_with_statistics, independent_copy, replace_state,
    state_dict,
};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use data::Label;
use std::collections::BTreeMap;
use training::{Batch, Loss, Objective, ParameterRule, ViewCount};
use weights::load_state_dict;

/// Backbone and classifier: everything that the optimizer updates.
#[derive(Module, Debug)]
pub(super) struct Network {
    /// The encoder, which is trained as well.
    pub(super) backbone: Backbone,
    /// One logit per class.
    pub(super) head: Linear,
}

impl Network {
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`, normalized
    /// - output: `[images, classes]`
    pub(super) fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        self.head.forward(self.backbone.forward(images, context))
    }
}

/// State saved besides the network.
#[derive(Module, Debug)]
pub(super) struct State {
    /// The moving average of weights and running statistics.
    pub(super) average: Option<Network>,
    /// The network of the best epoch on the validation split, if that one is kept.
    pub(super) best: Option<Network>,
}

/// The objective.
#[derive(Clone, Debug)]
pub(super) struct Finetune {
    settings: Settings,
    backbone: BackboneConfig,
    /// The encoder's weights; `None` starts from the network's initial weights.
    weights: Option<BTreeMap<String, TensorData>>,
    classes: Classes,
}

impl Finetune {
    /// `backbone` is the network's config with the settings' pooling and drop path; `encoder` is the
    /// pretrained network and its pooling.
    ///
    /// # Errors
    /// The encoder differs from the config's network.
    pub(super) fn new(
        settings: &Settings,
        backbone: &BackboneConfig,
        encoder: Option<(&Backbone, &BackboneConfig)>,
        classes: Classes,
    ) -> Result<Self, Error> {
        let weights = match encoder {
            None => None,
            Some((encoder, before)) => {
                let mut weights = state_dict(encoder);
                if starts_its_norm_anew(before, backbone) {
                    for (name, value) in [("norm.weight", 1.0f32), ("norm.bias", 0.0)] {
                        let width = backbone.features();
                        weights.insert(name.into(), TensorData::new(vec![value; width], [width]));
                    }
                }
                // Compared here, because `init` cannot return an error.
                let device = encoder.devices().into_iter().next().unwrap_or_default().inner();
                load_state_dict(backbone.init(&Init::empty(&device)), weights.clone()).map_err(|error| {
                    Error::Config(format!("the encoder does not fit `[backbone]`: {error}"))
                })?;
                Some(weights)
            }
        };
        Ok(Self {
            settings: settings.clone(),
            backbone: backbone.clone(),
            weights,
            classes,
        })
    }

    /// The network to score: the average if there is one, else the trained network.
    pub(super) fn current(student: &Network, state: &State) -> Network {
        state.average.clone().unwrap_or_else(|| student.valid())
    }

    fn places(&self, batch: &Batch) -> Vec<u32> {
        let place = |label: &Label| match label {
            Label::Class(class) => self.classes.place(i64::from(*class)),
            Label::Classes(_) => None,
        };
        let labels = batch.labels.as_deref().unwrap_or_default();
        let places: Option<Vec<u32>> = labels.iter().map(place).collect();
        let places = places.unwrap_or_default();
        assert_eq!(places.len(), batch.images, "labels were checked before the run");
        places
    }
}

impl Finetune {
    /// A micro-batch's images and targets, mixed by groups. A group of more images than a replica has spans several.
    fn mixed(
        &self,
        config: &mixing::Config,
        images: Tensor<4>,
        places: &[u32],
        context: &Context,
    ) -> (Tensor<4>, Vec<f32>) {
        let (classes, smoothing) = (self.classes.count(), self.settings.label_smoothing);
        let replicas = &context.replicas;
        let [count, _, height, width] = images.dims();
        let together = config.images.unwrap_or(count * replicas.count());
        let before = context.place() * count;
        let draw = |row: usize| {
            // The group's index in the step, so that replicas and micro-batches draw the same as the whole batch.
            let group = ((before + row) / together) as u64;
            let mut rng = context.draws.whole_step().rng("finetune.mixing", group);
            config.draw([height, width], &mut rng)
        };
        let mix_images = |mix: Option<Mix>, images: Tensor<4>, others: Tensor<4>| match mix {
            Some(mix) => mix.images(images, others),
            None => images,
        };
        if together > count {
            let mirrored = |row: usize| row / together * together + together - 1 - row % together;
            let order: Vec<i32> = (0..count * replicas.count())
                .map(|row| mirrored(row) as i32)
                .collect();
            let all = of_all_replicas(replicas, places);
            let others: Vec<u32> = (before..before + count).map(|row| all[mirrored(row)]).collect();
            let mix = draw(0);
            let targets = mixing::targets(places, &others, classes, smoothing, mix.as_ref());
            let others = replicas.permute(images.clone(), &order);
            return (mix_images(mix, images, others), targets);
        }
        let (mut mixed, mut targets) = (vec![], vec![]);
        for (group, places) in places.chunks(together).enumerate() {
            let part = images.clone().narrow(0, group * together, places.len());
            let others: Vec<u32> = places.iter().rev().copied().collect();
            let mix = draw(group * together);
            targets.extend(mixing::targets(places, &others, classes, smoothing, mix.as_ref()));
            mixed.push(mix_images(mix, part.clone(), part.flip([0])));
        }
        (Tensor::cat(mixed, 0), targets)
    }
}

/// The classes of all replicas' images, in the order of replicas.
fn of_all_replicas(replicas: &Replicas, places: &[u32]) -> Vec<u32> {
    let own = places.iter().flat_map(|place| place.to_le_bytes()).collect();
    let all = replicas.gather_bytes(own).concat();
    let (places, _) = all.as_chunks();
    places.iter().map(|place| u32::from_le_bytes(*place)).collect()
}

/// Whether the norm after the pooling differs from the encoder's training: BEiT and MAE initialize it to 1
/// and 0.
fn starts_its_norm_anew(before: &BackboneConfig, now: &BackboneConfig) -> bool {
    let normed_mean = |config: &BackboneConfig| matches!(config, BackboneConfig::Vit(vit) if vit.pooling == Pooling::MeanThenNorm);
    normed_mean(now) && !normed_mean(before)
}

impl Objective for Finetune {
    type Student = Network;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(1)
    }

    fn init(&self, init: &Init) -> (Network, State) {
        let mut backbone = self.backbone.init(&init.at("student.backbone"));
        if let Some(weights) = &self.weights {
            backbone = replace_state(backbone, weights.clone());
        }
        let (width, classes) = (self.backbone.features(), self.classes.count());
        let at = init.at("student.head");
        let head = match self.settings.head {
            HeadInit::Uniform => Linear::new(&at, width, classes),
            HeadInit::Normal(std) => Linear::normal(&at, width, classes, std),
            HeadInit::TruncatedNormal(std) => Linear::truncated_normal(&at, width, classes, std),
        };
        let network = Network { backbone, head };
        let copy = |wanted: bool| wanted.then(|| independent_copy(&network));
        let state = State {
            average: copy(self.settings.average.is_some()),
            best: copy(self.settings.keeps_best()),
        };
        (network, state)
    }

    fn loss(&self, student: &Network, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let images = batch.view(0);
        let places = self.places(batch);
        let (classes, smoothing) = (self.classes.count(), self.settings.label_smoothing);
        let (images, targets) = match &self.settings.mixing {
            None => (
                images,
                mixing::targets(&places, &places, classes, smoothing, None),
            ),
            Some(config) => self.mixed(config, images, &places, context),
        };
        let targets = mixing::target_tensor(targets, classes, &images.device());
        let logits = student.forward(images, context);
        let hits = logits
            .clone()
            .without_autodiff()
            .argmax(1)
            .equal(targets.clone().argmax(1))
            .float();
        let accuracy = hits.mean_dim(0).reshape([1]);
        let loss = soft_target_cross_entropy(logits, targets);
        let signals = vec![("accuracy", accuracy)];
        (Loss::new(loss, signals), ())
    }

    fn commit(&self, student: Network, mut state: State, _: Vec<()>, context: &Context) -> (Network, State) {
        if let (Some(config), Some(average)) = (&self.settings.average, state.average.take()) {
            let decay = config.decay_at(context.progress.step + 1);
            state.average = Some(ema_with_statistics(average, &student, decay));
        }
        (student, state)
    }

    fn parameter_rules(&self) -> Vec<ParameterRule> {
        let rule = |path, learning_rate_factor, decays| ParameterRule {
            learning_rate_factor,
            decays,
            ..ParameterRule::of(path)
        };
        let mut rules = vec![rule(
            "head",
            self.settings.head_learning_rate_factor.unwrap_or(1.0),
            true,
        )];
        // timm's and BEiT's `no_weight_decay`.
        let tokens = ["backbone.Vit.cls_token", "backbone.Vit.pos_embed"];
        rules.extend(tokens.map(|path| rule(path, 1.0, false)));
        rules
    }

    fn whole_batch(&self) -> Option<&'static str> {
        let mixing = self.settings.mixing.as_ref()?;
        mixing.images.is_none().then_some(
            "mixup and CutMix mix the images of the whole batch; say with `objective.mixing.images` how many are mixed among themselves",
        )
    }

    fn encoder(&self, student: &Network, state: &State) -> Backbone {
        let of_state = state.best.as_ref().or(state.average.as_ref());
        of_state.unwrap_or(student).backbone.clone()
    }
}

impl Average {
    /// The decay at a step, counted from 1, as in timm's `ModelEmaV3` and its training script: the first step
    /// copies.
    pub(super) fn decay_at(&self, step: usize) -> f64 {
        let step = step.saturating_sub(1);
        if step == 0 {
            return 0.0;
        }
        match &self.warmup {
            None => self.decay,
            Some(warmup) => {
                let rising = 1.0 - (1.0 + step as f64 / warmup.gamma).powf(-warmup.power);
                rising.clamp(0.0, self.decay)
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
