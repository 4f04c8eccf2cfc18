//! A test suite for every objective: the loop's assumptions, checked on a tiny network.

mod ranks;

use crate::method::{MethodConfig, RunShape};
use backbones::vit::Interpolation;
use backbones::{BackboneConfig, ResNetConfig, Stem, VitConfig, state_dict};
use backbones::{Context, Draws, Init, Parameter, Precision, RunPosition, change_value, parameters};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::ModuleRecord;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use std::collections::BTreeMap;
use training::{Batch, Objective, Optimizer, OptimizerConfig, Rates, ViewGroupTensor};

/// Photographs in the suite's batches.
const IMAGES: usize = 8;

/// A method's config and its known properties.
pub(crate) struct Case<C> {
    pub(crate) config: C,
    /// Views of each image and their side in px, global ones first.
    pub(crate) views: Vec<(usize, usize)>,
    /// Path of the teacher in the state, of its counterpart in the student, and the configured momentum.
    pub(crate) teacher: Option<(&'static str, &'static str, f32)>,
    /// Whether an image's loss depends on its batch only through batch statistics.
    pub(crate) independent_images: bool,
}

/// A case on one network.
struct Trial<'a, O> {
    objective: O,
    views: &'a [(usize, usize)],
    teacher: Option<(&'static str, &'static str, f32)>,
}

impl<C: MethodConfig> Case<C> {
    fn on(&self, backbone: &BackboneConfig) -> Trial<'_, C::Objective> {
        Trial {
            objective: self.config.clone().objective(backbone.clone()),
            views: &self.views,
            teacher: self.teacher,
        }
    }

    /// Whether the method accepts this network.
    fn accepts(&self, backbone: &BackboneConfig) -> bool {
        let views_px: Vec<(u32, u32)> = self.views.iter().map(|&(_, px)| (px as u32, px as u32)).collect();
        let run = RunShape {
            batch_images: IMAGES,
            backbone,
            views_px: &views_px,
        };
        self.config.validate(&run).is_ok()
    }
}

/// The user's error message for a method's config on a network, in batches of `batch_images` with views of 16
/// px.
pub(crate) fn checked<C: MethodConfig>(
    config: &C,
    backbone: &BackboneConfig,
    batch_images: usize,
) -> Result<(), String> {
    config.check(&RunShape {
        batch_images,
        backbone,
        views_px: &[(16, 16)],
    })
}

impl<O> Trial<'_, O> {
    /// A batch of smooth, step-dependent pictures.
    fn batch(&self, step: usize) -> Batch {
        let group = |(index, &(count, pixels)): (usize, &(usize, usize))| {
            let shape = [count * IMAGES, 3, pixels, pixels];
            let value = |at: usize| {
                let area = pixels * pixels;
                let (picture, place) = (at / area + 1000 * index, at % area);
                ((picture * (step + 3) + 1) as f32 * 0.37 + place as f32 * 0.011 * (picture % 7 + 1) as f32)
                    .sin()
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
            ViewGroupTensor {
                images: Tensor::from_data(TensorData::new(values, shape), &Device::flex()),
                count,
            }
        };
        Batch {
            views: self.views.iter().enumerate().map(group).collect(),
            images: IMAGES,
            labels: None,
            targets: None,
        }
    }

    fn context(&self, step: usize) -> Context {
        let progress = RunPosition::at(step, 4, 12);
        Context {
            batch_norm_images: Some(IMAGES / 2),
            ..Context::training(progress, Draws::new(11, step as u64))
        }
    }
}

/// A small ResNet for tests.
pub(crate) fn resnet() -> BackboneConfig {
    BackboneConfig::Resnet(ResNetConfig {
        depth: 18,
        width: 4,
        stem: Stem::Small,
        zero_init_residual: false,
        stride_in_1x1: false,
    })
}

/// A small vision transformer for tests, of DINO's kind.
pub(crate) fn vit() -> VitConfig {
    VitConfig {
        interpolation: Interpolation::Offset,
        drop_path: 0.2,
        ..VitConfig::tiny_for_tests()
    }
}

/// Checks of a method's cases.
pub(crate) trait Suite {
    /// On each kind of network that the method's config accepts.
    fn check<C: MethodConfig>(&self, case: &Case<C>) {
        let networks = accepted(case);
        networks.iter().for_each(|network| self.check_on(case, network));
    }

    /// On this network.
    fn check_on<C: MethodConfig>(&self, case: &Case<C>, backbone: &BackboneConfig);
}

/// The networks that the method's config accepts, at least one.
fn accepted<C: MethodConfig>(case: &Case<C>) -> Vec<BackboneConfig> {
    let mut networks = vec![resnet(), BackboneConfig::Vit(vit())];
    networks.retain(|network| case.accepts(network));
    assert!(!networks.is_empty(), "{} goes with no network", C::NAME);
    networks
}

/// The suite of a method on one device.
pub(crate) struct OneDevice;

impl Suite for OneDevice {
    fn check<C: MethodConfig>(&self, case: &Case<C>) {
        let networks = accepted(case);
        networks.iter().for_each(|network| check_in_f32(case, network));
        // On one of them. An untrained vision transformer gives nearly equal features for all images. A loss that
        // compares images magnifies each image's rounding error. Rounded weights, the measure of this check,
        // change all images alike.
        sixteen_bits_stay_close_to_f32(&case.on(&networks[0]));
    }

    fn check_on<C: MethodConfig>(&self, case: &Case<C>, backbone: &BackboneConfig) {
        assert!(case.accepts(backbone), "{} refuses {}", C::NAME, backbone.name());
        check_in_f32(case, backbone);
        sixteen_bits_stay_close_to_f32(&case.on(backbone));
    }
}

fn check_in_f32<C: MethodConfig>(case: &Case<C>, backbone: &BackboneConfig) {
    let trial = case.on(backbone);
    gradients_reach_the_student_and_never_the_state(&trial);
    a_start_sets_the_backbone_and_nothing_else(&trial, backbone);
    commit_moves_the_teacher_by_its_momentum(&trial);
    a_saved_run_goes_on_as_if_never_stopped(&trial);
    what_depends_on_the_length_is_in_force(&trial);
    what_a_released_file_may_give_exists(&trial);
    // Paths are dropped by an image's position in the batch, so a micro-batch drops others.
    let whole = case.on(&dropping(backbone, 0.0));
    if case.independent_images {
        micro_batches_make_the_same_step(&whole);
    }
    the_teacher_drops_no_path(&whole, &case.on(&dropping(backbone, 0.5)));
}

fn what_a_released_file_may_give_exists<O: Objective>(trial: &Trial<'_, O>) {
    let (student, state) = init(trial, 3);
    let all = parameters(&student).into_iter().chain(parameters(&state));
    let known: Vec<String> = all.map(|parameter| parameter.path).collect();
    for released in trial.objective.released() {
        assert!(
            known.contains(&released.ours),
            "{} is none of {known:?}",
            released.ours
        );
    }
}

/// The network with another drop path rate, if it has one.
fn dropping(backbone: &BackboneConfig, drop_path: f64) -> BackboneConfig {
    match backbone {
        BackboneConfig::Vit(vit) => BackboneConfig::Vit(VitConfig {
            drop_path,
            ..vit.clone()
        }),
        other => other.clone(),
    }
}

fn init<O: Objective>(trial: &Trial<'_, O>, seed: u64) -> (O::Student, O::State) {
    trial.objective.init(&Init::new(seed, &Device::flex().autodiff()))
}

fn scalar(tensor: &Tensor<1>) -> f32 {
    assert_eq!(tensor.dims(), [1], "a loss is one number");
    tensor.clone().into_data().try_to_vec::<f32>().unwrap()[0]
}

/// One step, as in the loop.
fn step<O: Objective>(
    trial: &Trial<'_, O>,
    (student, state): (O::Student, O::State),
    optimizer: &mut Optimizer,
    step: usize,
) -> (O::Student, O::State, f32) {
    let context = trial.context(step);
    let (loss, pending) = trial
        .objective
        .loss(&student, &state, &trial.batch(step), &context);
    let value = scalar(&loss.total);
    for (name, signal) in &loss.signals {
        assert!(scalar(signal).is_finite(), "signal {name}");
        assert!(!signal.is_tracked(), "signal {name} holds the graph");
    }
    let grads = GradientsParams::from_grads(loss.total.backward(), &student);
    let student = optimizer.step(&rates(), student, grads);
    let (student, state) = trial.objective.commit(student, state, vec![pending], &context);
    (student, state, value)
}

fn sgd() -> Optimizer {
    OptimizerConfig::Sgd {
        learning_rate_per_256: 0.05,
        momentum: 0.9,
        weight_decay: 1e-4,
        nesterov: false,
    }
    .init()
}

fn rates() -> Rates {
    Rates::constant(0.05, 1e-4)
}

/// Values of all float parameters and running statistics by path.
fn values<M: Module>(module: &M) -> BTreeMap<String, Vec<f32>> {
    #[derive(Default)]
    struct Values {
        path: Vec<String>,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Values {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found
                .insert(self.path.join("."), param.val().into_data().try_to_vec().unwrap());
        }
    }
    let mut visitor = Values::default();
    module.visit(&mut visitor);
    visitor.found
}

fn gradients_reach_the_student_and_never_the_state<O: Objective>(trial: &Trial<'_, O>) {
    let (student, state) = init(trial, 1);
    let (loss, _) = trial
        .objective
        .loss(&student, &state, &trial.batch(0), &trial.context(0));
    assert!(scalar(&loss.total).is_finite());
    let mut gradients = loss.total.backward();
    let of_student = GradientsParams::from_module(&mut gradients, &student);
    let wanting: Vec<Parameter> = parameters(&student).into_iter().filter(|p| p.trained).collect();
    assert!(!wanting.is_empty());
    assert_eq!(
        of_student.len(),
        wanting.len(),
        "every student parameter has a gradient"
    );
    let of_state = GradientsParams::from_module(&mut gradients, &state);
    assert_eq!(of_state.len(), 0, "no parameter of the state has one");

    struct NoGradient;
    impl ModuleVisitor for NoGradient {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert!(
                !param.is_require_grad(),
                "a parameter of the state requires a gradient"
            );
        }
    }
    state.visit(&mut NoGradient);

    // Ids distinguish gradients, so the two modules must share none.
    let ids = |module: Vec<Parameter>| {
        module
            .into_iter()
            .map(|p| p.id)
            .collect::<std::collections::HashSet<_>>()
    };
    assert!(
        ids(parameters(&student)).is_disjoint(&ids(parameters(&state))),
        "student and state share parameter ids"
    );
}

/// A run that starts from an encoder: the network under study, the student's and the teacher's, is that encoder. The loop freezes
/// what is named `backbone`, so that must be this network's path in every method.
fn a_start_sets_the_backbone_and_nothing_else<O: Objective>(trial: &Trial<'_, O>, backbone: &BackboneConfig) {
    let source = state_dict(&backbone.init(&Init::new(99, &Device::flex())));
    let start = Init::new(1, &Device::flex().autodiff()).starting_from(source.clone());
    let (student, state) = trial.objective.init(&start);
    assert_eq!(state_dict(&trial.objective.encoder(&student, &state)), source);
    let (drawn, drawn_state) = init(trial, 1);
    let tensors: Vec<Vec<f32>> = source.values().map(|tensor| tensor.iter().collect()).collect();
    let check = |started: BTreeMap<String, Vec<f32>>, drawn: BTreeMap<String, Vec<f32>>| {
        let mut of_backbone = 0;
        for (path, value) in started {
            if path.split('.').any(|part| part == "backbone") {
                assert!(tensors.contains(&value), "{path} is not the encoder's");
                of_backbone += 1;
            } else {
                assert_eq!(value, drawn[&path], "{path} is not drawn as without a start");
            }
        }
        of_backbone
    };
    assert_eq!(check(values(&student), values(&drawn)), tensors.len());
    let of_state = check(values(&state), values(&drawn_state));
    assert!([0, tensors.len()].contains(&of_state), "{of_state}");
}

/// A run that gets another length is compared with itself by what is in force: nothing else may depend on the length.
fn what_depends_on_the_length_is_in_force<O: Objective>(trial: &Trial<'_, O>) {
    let of_length = |steps: usize| {
        let progress = RunPosition::at(5, 4, steps);
        let context = Context {
            progress,
            ..trial.context(5)
        };
        let (student, state) = init(trial, 1);
        let (loss, pending) = trial.objective.loss(&student, &state, &trial.batch(5), &context);
        let (student, state) = trial.objective.commit(student, state, vec![pending], &context);
        let frozen = trial.objective.frozen(&progress);
        let step = (scalar(&loss.total), values(&student), values(&state), frozen);
        (trial.objective.in_force(&progress, IMAGES), step)
    };
    let ((in_force, step), (in_force_longer, step_longer)) = (of_length(12), of_length(400));
    if in_force == in_force_longer {
        assert!(
            step == step_longer,
            "a step depends on the length, and `in_force` does not show it"
        );
    }
}

fn commit_moves_the_teacher_by_its_momentum<O: Objective>(trial: &Trial<'_, O>) {
    let Some((teacher, counterpart, momentum)) = trial.teacher else {
        return;
    };
    let (student, state) = init(trial, 1);
    let started = (values(&student), values(&state));
    for (path, value) in &started.0 {
        if let Some(rest) = path.strip_prefix(counterpart) {
            assert_eq!(
                &started.1[&format!("{teacher}{rest}")],
                value,
                "the teacher starts as the student: {path}"
            );
        }
    }
    // Forward first: commit must work on statistics that were already updated, and leave them unchanged.
    let (loss, pending) = trial
        .objective
        .loss(&student, &state, &trial.batch(0), &trial.context(0));
    let grads = GradientsParams::from_grads(loss.total.backward(), &student);
    let student = sgd().step(&rates(), student, grads);
    let before = values(&state);
    let (student, state) = trial
        .objective
        .commit(student, state, vec![pending], &trial.context(0));
    let (student, after) = (values(&student), values(&state));
    let mut compared = 0;
    for (path, old) in before.iter().filter(|(path, _)| path.starts_with(teacher)) {
        let new = &after[path];
        if path.contains("running_") {
            assert_eq!(
                old, new,
                "{path}: the teacher's average must leave running statistics out"
            );
            assert_ne!(
                old, &started.1[path],
                "{path}: the teacher's own forward moves them"
            );
            continue;
        }
        let target = &student[&path.replacen(teacher, counterpart, 1)];
        for ((old, new), target) in old.iter().zip(new).zip(target) {
            let expected = momentum * old + (1.0 - momentum) * target;
            assert!(
                (new - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                "{path}: {new} is not {expected}"
            );
        }
        compared += 1;
    }
    assert!(compared > 0, "no parameter lies under `{teacher}`");
}

fn a_saved_run_goes_on_as_if_never_stopped<O: Objective>(trial: &Trial<'_, O>) {
    let run = |steps: std::ops::Range<usize>, mut modules: (O::Student, O::State), optimizer: &mut _| {
        let mut losses = vec![];
        for at in steps {
            let (student, state, loss) = step(trial, modules, optimizer, at);
            modules = (student, state);
            losses.push(loss.to_bits());
        }
        (modules, losses)
    };
    let mut optimizer = sgd();
    let (half, _) = run(0..3, init(trial, 1), &mut optimizer);
    let student = half.0.clone().into_record().into_bytes().unwrap();
    let state = half.1.clone().into_record().into_bytes().unwrap();
    let saved = optimizer.to_bytes().unwrap();
    let (ended, losses) = run(3..6, half, &mut optimizer);

    // Another seed, so that any unsaved value would differ.
    let (fresh_student, fresh_state) = init(trial, 2);
    let student = fresh_student.load_record(ModuleRecord::from_bytes(student).unwrap());
    let state = fresh_state.load_record(ModuleRecord::from_bytes(state).unwrap());
    let mut optimizer = sgd();
    optimizer.load_bytes(&saved, &student).unwrap();
    let (resumed, again) = run(3..6, (student, state), &mut optimizer);
    assert_eq!(losses, again, "losses after save and load");
    assert_eq!(
        values(&ended.0),
        values(&resumed.0),
        "students after save and load"
    );
    assert_eq!(values(&ended.1), values(&resumed.1), "states after save and load");

    // The same seed gives the same run, another one does not.
    let first = |seed| run(0..1, init(trial, seed), &mut sgd()).1;
    assert_eq!(first(5), first(5));
    assert_ne!(first(5), first(6));
}

fn micro_batches_make_the_same_step<O: Objective>(trial: &Trial<'_, O>) {
    let (student, state) = init(trial, 1);
    let batch = trial.batch(0);
    let context = trial.context(0);
    let (whole, pending) = trial.objective.loss(&student, &state, &batch, &context);
    let micro = |half: usize| {
        let part = batch.clone().parts(IMAGES / 2).remove(half);
        trial
            .objective
            .loss(&student, &state, &part, &context.micro_batch(half, 2))
    };
    let ((first, one), (second, two)) = (micro(0), micro(1));
    let mean = (scalar(&first.total) + scalar(&second.total)) / 2.0;
    let whole = scalar(&whole.total);
    assert!(
        (whole - mean).abs() <= 1e-5 * whole.abs(),
        "micro-batches: mean loss {mean}, whole batch {whole}"
    );
    let (_, at_once) = trial
        .objective
        .commit(student.clone(), init(trial, 1).1, vec![pending], &context);
    let (_, in_parts) = trial
        .objective
        .commit(student, init(trial, 1).1, vec![one, two], &context);
    for ((path, a), (_, b)) in values(&at_once).iter().zip(&values(&in_parts)) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5, "{path}: state after micro-batches");
        }
    }
}

/// Drop path rates in the state's networks have no effect: a student may drop paths, a teacher never.
fn the_teacher_drops_no_path<O: Objective>(whole: &Trial<'_, O>, dropping: &Trial<'_, O>) {
    let (student, state) = init(whole, 1);
    let (_, would_drop) = init(dropping, 1);
    let loss = |state: &O::State| {
        let (loss, _) = whole
            .objective
            .loss(&student, state, &whole.batch(0), &whole.context(0));
        scalar(&loss.total)
    };
    assert_eq!(
        loss(&state),
        loss(&would_drop),
        "the teacher's forward passes take `Context::teacher()`"
    );
}

/// Loss and gradients in 16-bit compute, compared with f32: outside the layers values are f32, and the error
/// is at most what rounding alone explains.
///
/// An untrained network with batch normalization over four images magnifies any rounding. So the bound is the
/// effect of rounding weights and pictures to the same type in an f32 computation.
fn sixteen_bits_stay_close_to_f32<O: Objective>(trial: &Trial<'_, O>) {
    struct Rounded(FloatDType);
    impl ModuleMapper for Rounded {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.is_require_grad() {
                return param;
            }
            change_value(param, |value| value.cast(self.0).cast(FloatDType::F32))
        }
    }
    let of = |precision, rounded: Option<FloatDType>| {
        let init = Init::new(1, &Device::flex().autodiff()).with_precision(precision);
        let (mut student, state) = trial.objective.init(&init);
        let mut batch = trial.batch(0);
        if let Some(rounded) = rounded {
            student = student.map(&mut Rounded(rounded));
            for group in &mut batch.views {
                group.images = group.images.clone().cast(rounded).cast(FloatDType::F32);
            }
        }
        let (loss, _) = trial.objective.loss(&student, &state, &batch, &trial.context(0));
        for (name, signal) in &loss.signals {
            assert_eq!(signal.dtype(), DType::F32, "signal {name}");
        }
        let value = f64::from(scalar(&loss.total));
        let gradients = GradientsParams::from_grads(loss.total.backward(), &student);
        let mut visitor = Gradients {
            of: &gradients,
            found: vec![],
        };
        student.visit(&mut visitor);
        (value, visitor.found)
    };
    let exact = of(Precision::F32, None);
    for (precision, dtype) in [
        (Precision::F16, FloatDType::F16),
        (Precision::Bf16, FloatDType::BF16),
    ] {
        let (low, rounded) = (of(precision, None), of(Precision::F32, Some(dtype)));
        let name = precision.name();
        assert!(low.0 != exact.0, "{name}: the layers do not compute in it");
        let off = |loss: f64| (loss - exact.0).abs() / (1.0 + exact.0.abs());
        assert!(
            off(low.0) <= 0.1,
            "{name}: loss {}, in f32 {}, with rounded weights {}",
            low.0,
            exact.0,
            rounded.0
        );
        let turned = |gradient: &[f64]| 1.0 - cosine(gradient, &exact.1);
        assert!(
            turned(&low.1) <= 10.0 * turned(&rounded.1) + 1e-6,
            "{name}: gradients turn by {:e}, with rounded weights by {:e}",
            turned(&low.1),
            turned(&rounded.1)
        );
    }
}

/// The cosine of two gradients.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// All gradients of a module, concatenated; gradients and parameters are f32.
struct Gradients<'a> {
    of: &'a GradientsParams,
    found: Vec<f64>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert_eq!(param.val().dtype(), DType::F32);
        if let Some(gradient) = self.of.get::<D>(param.id) {
            assert_eq!(gradient.dtype(), DType::F32);
            self.found.extend(gradient.into_data().iter::<f64>());
        }
    }
}
