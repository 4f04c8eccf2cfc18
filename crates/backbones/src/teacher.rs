//! A second network that follows a first: MoCo's key encoder, BYOL's target, DINO's teacher.
//!
//! **A teacher's batch normalization.** Three behaviors, each decided in one place:
//!
//! 1. *In a forward pass* a teacher normalizes by the statistics of its batch, like its student, and its own
//!    running statistics are updated. [`Context::training`](crate::Context) decides this:
//!    [`Context::teacher`](crate::Context::teacher) keeps it true and only turns off drop path. The layer
//!    knows no teacher ([`BatchNorm`](crate::layers::BatchNorm) has no mode of its own), and autodiff has no
//!    effect on it.
//! 2. *In the moving average* running statistics are excluded: [`ema`] updates weights, scale and shift,
//!    because the statistics come from the teacher's own forward passes. [`ema_with_statistics`] updates them
//!    too, for an average that never runs in training (fine-tuning's).
//! 3. *Which images share statistics* is `training.batch_norm_images`, for student and teacher alike. With
//!    it, MoCo shuffles a batch before the teacher and restores the order of the keys after it
//!    (`objectives/src/moco.rs`, `keys`), so that a query and its key do not share statistics, which would
//!    leak the match.

use std::any::Any;
use std::collections::VecDeque;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};

use crate::layers::is_running_statistic;
use crate::parameters::{Path, change_value};

/// A copy that shares nothing with `student`: parameters have new ids and no gradients, running statistics
/// are separate, and it is outside autodiff, so its forward passes record nothing.
///
/// New ids matter: gradients and optimizer state are keyed by id, and a copy with the student's ids would
/// receive them.
pub fn independent_copy<M: Module>(student: &M) -> M {
    student.valid().map(&mut Detach)
}

struct Detach;

impl ModuleMapper for Detach {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::new(), tensor.without_autodiff(), mapper).set_require_grad(false)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::new(), tensor, mapper)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::new(), tensor, mapper)
    }

    fn map_flag(&mut self, param: Param<Flag>) -> Param<Flag> {
        let (_, flag, mapper) = param.consume();
        Param::from_mapped_value(ParamId::new(), flag, mapper)
    }
}

/// Updates `teacher` towards `student`: `t ← m·t + (1 − m)·s` for every weight, with `m` = `momentum` in `[0,
/// 1]` (He et al., *Momentum contrast*, 2020, eq. 2). Running statistics stay the teacher's own, because they
/// come from its own forward passes.
///
/// # Panics
/// If the two modules differ in structure.
pub fn ema<M: Module>(teacher: M, student: &M, momentum: f64) -> M {
    moved(teacher, student, momentum, false)
}

/// [`ema`] that averages running statistics like weights, for an average that never runs in training: timm's
/// `ModelEmaV2` and `ModelEmaV3`.
///
/// # Panics
/// If the two modules differ in structure.
pub fn ema_with_statistics<M: Module>(average: M, student: &M, momentum: f64) -> M {
    moved(average, student, momentum, true)
}

fn moved<M: Module>(teacher: M, student: &M, momentum: f64, statistics: bool) -> M {
    let mut weights = Weights {
        statistics,
        ..Weights::default()
    };
    student.visit(&mut weights);
    let mut average = Average {
        path: Path::default(),
        student: weights.found,
        momentum,
        statistics,
    };
    let teacher = teacher.map(&mut average);
    assert!(
        average.student.is_empty(),
        "the student has weights that the teacher lacks"
    );
    teacher
}

/// The student's weights in visiting order, outside autodiff. `Any`, because ranks differ.
#[derive(Default)]
struct Weights {
    path: Path,
    /// Whether running statistics are among them.
    statistics: bool,
    found: VecDeque<(String, Box<dyn Any>)>,
}

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.dotted();
        if self.statistics || !is_running_statistic(&path) {
            self.found
                .push_back((path, Box::new(param.val().without_autodiff())));
        }
    }
}

/// How far the teacher's weights are from the student's: `‖s − t‖ / ‖s‖` over all weights together, `[1]`, outside autodiff. 0 if
/// they are equal.
///
/// # Panics
/// If the two modules differ in structure, or have no weights.
pub fn relative_distance<M: Module>(student: &M, teacher: &M) -> Tensor<1> {
    let rows = |module: &M| {
        let mut rows = Rows::default();
        module.visit(&mut rows);
        rows.found
    };
    let (student, teacher) = (rows(student), rows(teacher));
    assert_eq!(
        student.len(),
        teacher.len(),
        "student and teacher differ in structure"
    );
    let device = student.first().expect("networks have weights").device();
    let (mut apart, mut whole) = (Tensor::zeros([1], &device), Tensor::zeros([1], &device));
    for (student, teacher) in student.into_iter().zip(teacher) {
        apart = kernels::add_squared_distance(apart, student.clone(), teacher);
        whole = kernels::add_squares(whole, student);
    }
    (apart / whole.clamp_min(f32::MIN_POSITIVE)).sqrt()
}

/// A module's weights as matrices, in visiting order.
#[derive(Default)]
struct Rows {
    path: Path,
    found: Vec<Tensor<2>>,
}

impl ModuleVisitor for Rows {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !is_running_statistic(&self.path.dotted()) {
            let value = param.val().without_autodiff();
            let shape = value.dims();
            let first = if D > 1 { shape[0] } else { 1 };
            self.found
                .push(value.reshape([first, shape.iter().product::<usize>() / first.max(1)]));
        }
    }
}

struct Average {
    path: Path,
    student: VecDeque<(String, Box<dyn Any>)>,
    momentum: f64,
    statistics: bool,
}

impl ModuleMapper for Average {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.dotted();
        if !self.statistics && is_running_statistic(&path) {
            return param;
        }
        let (name, weight) = self
            .student
            .pop_front()
            .unwrap_or_else(|| panic!("the student lacks the teacher's {path}"));
        assert_eq!(name, path, "student and teacher differ in structure");
        let student = *weight
            .downcast::<Tensor<D>>()
            .expect("equal paths have equal ranks");

        let momentum = self.momentum;
        change_value(param, |teacher| {
            kernels::moving_average(teacher, student, momentum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_relative_to_the_students_length() {
        let device = Device::flex().autodiff();
        let student = Net::new(1, &device);
        let equal = independent_copy(&student);
        let distance = |teacher: &Net| relative_distance(&student, teacher).into_scalar::<f32>();
        assert_eq!(distance(&equal), 0.0);
        // Half way to zero; running statistics do not count.
        let zero = independent_copy(&Net {
            linear: student.linear.clone(),
            norm: student.norm.clone(),
        })
        .map(&mut Zero);
        let half = ema(zero, &student, 0.5);
        assert!((distance(&half) - 0.5).abs() < 1e-6, "{}", distance(&half));
    }

    struct Zero;

    impl ModuleMapper for Zero {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            change_value(param, |value| value * 0.0)
        }
    }
    use crate::context::{Context, RunPosition};
    use crate::draws::Draws;
    use crate::init::Init;
    use crate::layers::{BatchNorm, Linear};
    use crate::parameters::parameters;
    use burn::tensor::{Device, TensorData};

    #[derive(Module, Debug)]
    struct Net {
        linear: Linear,
        norm: BatchNorm,
    }

    impl Net {
        fn new(seed: u64, device: &Device) -> Self {
            let init = Init::new(seed, device);
            Self {
                linear: Linear::new(&init.at("linear"), 3, 2),
                norm: BatchNorm::new(&init.at("norm"), 2),
            }
        }

        fn forward(&self, x: Tensor<2>, context: &Context) -> Tensor<2> {
            self.norm.forward(self.linear.forward(x), context)
        }
    }

    fn training() -> Context {
        let progress = RunPosition::at(0, 1, 1);
        Context::training(progress, Draws::new(0, 0))
    }

    fn images(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0], [4.0, 0.0, 0.5]], device)
    }

    #[test]
    fn a_copy_shares_nothing() {
        let device = Device::flex().autodiff();
        let student = Net::new(1, &device);
        let teacher = independent_copy(&student);
        let (ours, theirs) = (parameters(&student), parameters(&teacher));
        assert_eq!(ours.len(), 6);
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!((&a.path, &a.shape), (&b.path, &b.shape));
            assert_ne!(a.id, b.id, "{}", a.path);
            assert!(!b.trained && (a.trained != a.running_statistic), "{}", a.path);
        }
        let weight = teacher.linear.weight.val().into_data();
        weight.assert_eq(&student.linear.weight.val().into_data(), true);
        // `train` must not enable the gradients either.
        assert!(parameters(&teacher.clone().train()).iter().all(|p| !p.trained));
    }

    #[test]
    fn a_teachers_training_forward_moves_its_own_statistics_and_records_nothing() {
        let device = Device::flex().autodiff();
        let student = Net::new(1, &device);
        let teacher = independent_copy(&student);
        let output = teacher.forward(images(&device), &training());
        assert!(!output.is_tracked());
        let still = TensorData::from([0.0f32, 0.0]);
        student
            .norm
            .running_mean
            .value()
            .into_data()
            .assert_eq(&still, true);
        assert_ne!(teacher.norm.running_mean.value().into_data(), still);
        // Evaluation updates nothing.
        let before = teacher.norm.running_var.value().into_data();
        teacher.forward(images(&Device::flex()), &Context::evaluation());
        before.assert_eq(&teacher.norm.running_var.value().into_data(), true);
    }

    #[test]
    fn the_average_moves_weights_by_the_momentum_and_statistics_never() {
        let device = Device::flex().autodiff();
        let student = Net::new(1, &device);
        student.forward(images(&device), &training());
        let teacher = independent_copy(&Net::new(2, &device));
        let values = |net: &Net| {
            net.linear
                .weight
                .val()
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>()
        };
        let (old, target) = (values(&teacher), values(&student));
        let ids = parameters(&teacher).into_iter().map(|p| p.id).collect::<Vec<_>>();

        let teacher = ema(teacher, &student, 0.9);
        for ((new, old), target) in values(&teacher).iter().zip(old).zip(target) {
            assert!((new - (0.9 * old + 0.1 * target)).abs() < 1e-7);
        }
        let still = TensorData::from([0.0f32, 0.0]);
        teacher
            .norm
            .running_mean
            .value()
            .into_data()
            .assert_eq(&still, true);
        let after = parameters(&teacher);
        assert!(after.iter().all(|p| !p.trained));
        assert_eq!(ids, after.into_iter().map(|p| p.id).collect::<Vec<_>>());
    }
}
