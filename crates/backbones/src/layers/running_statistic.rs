//! A statistic that a forward pass updates behind a shared reference.
//!
//! Burn's own `RunningState` suits replicas in threads, but has three costs for a trainer with checkpoints:
//! its clones share one value, an update is visible only after the next one, and a timely read depends on the
//! thread of its creation. Here a clone is a copy, and the next read, save or visit sees an update.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    ParamId,
};
use burn::tensor::{Device, Tensor};

/// One value per channel, `[channels]`, that training updates without gradients. It is visited, saved and
/// loaded like a parameter.
#[derive(Debug)]
pub struct RunningStatistic {
    id: ParamId,
    value: Mutex<Tensor<1>>,
}

/// Whether a parameter's dotted path is that of a running statistic, which weight averages and weight decay
/// exclude.
pub fn is_running_statistic(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path);
    matches!(name, "running_mean" | "running_var")
}

impl RunningStatistic {
    /// A statistic that starts at `value`.
    pub fn new(value: Tensor<1>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<1>) -> Self {
        Self {
            id,
            value: Mutex::new(value),
        }
    }

    /// Its key among a module's parameters.
    pub(crate) fn id(&self) -> ParamId {
        self.id
    }

    /// The value after the last update.
    pub fn value(&self) -> Tensor<1> {
        self.lock().clone()
    }

    /// Replaces the value and detaches it from its graph.
    pub fn set(&self, value: Tensor<1>) {
        *self.lock() = value.without_autodiff();
    }

    /// A panic elsewhere cannot leave a tensor half written, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, Tensor<1>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_value(self, change: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        let value = self.value.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self::with_id(self.id, change(value))
    }
}

impl Clone for RunningStatistic {
    fn clone(&self) -> Self {
        Self::with_id(self.id, self.value())
    }
}

impl Module for RunningStatistic {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.value()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let value = self.value.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mapped = mapper.map_float(Param::initialized(self.id, value));
        // A mapper that enables gradients on everything must not affect this value.
        let (id, value, _) = mapped.consume();
        Self::with_id(id, value.without_autodiff())
    }

    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.value().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_value(|value| value.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn materialize(self) -> Self {
        self
    }

    /// The same statistic: the value never belongs to a graph, even in training.
    fn valid(&self) -> Self {
        self.clone()
    }

    fn train(self) -> Self {
        self
    }
}

impl ModuleDisplayDefault for RunningStatistic {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&"RunningStatistic".to_owned()).optional()
    }
}

impl ModuleDisplay for RunningStatistic {}
