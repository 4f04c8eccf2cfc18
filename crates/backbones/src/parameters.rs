//! The parameters of any module as a list: path, shape, and kind. Weight-decay groups, frozen parameters and
//! messages use it.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::layers::is_running_statistic;

/// One float tensor of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Dotted path from the listed module, as in checkpoints: `layer1.0.conv1.weight`.
    pub path: String,
    /// Its key in Burn's optimizers and gradients.
    pub id: ParamId,
    /// Size in each dimension; the rank distinguishes biases and norms (1) from weights.
    pub shape: Vec<usize>,
    /// Whether it currently requires gradients: false on a device without autodiff.
    pub trained: bool,
    /// Whether it is a running statistic, which weight averages exclude.
    pub running_statistic: bool,
}

/// The parameter with another value. `change` works outside autodiff; the parameter keeps its id, its
/// gradient flag and its graph's checkpointing.
pub fn change_value<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let (id, old, mapper) = param.consume();
    let (autodiff, requires) = (old.is_autodiff(), old.is_require_grad());
    let checkpointing = old.gradient_checkpointing_strategy();
    let mut new = change(old.without_autodiff());
    if autodiff {
        new = new.autodiff();
        if let Some(strategy) = checkpointing {
            new = new.with_gradient_checkpointing_strategy(strategy);
        }
    }
    if requires {
        new = new.require_grad();
    }
    Param::from_mapped_value(id, new, mapper)
}

/// The float tensors of `module` that are saved with it, in visiting order.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut list = List::default();
    module.visit(&mut list);
    list.found
}

#[derive(Default)]
struct List {
    path: Path,
    found: Vec<Parameter>,
}

impl ModuleVisitor for List {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.dotted();
        self.found.push(Parameter {
            id: param.id,
            shape: param.lazy_shape().to_vec(),
            trained: param.is_require_grad(),
            running_statistic: is_running_statistic(&path),
            path,
        });
    }
}

/// The current position of a visit in a module.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn dotted(&self) -> String {
        self.0.join(".")
    }
}
