//! A network's weights and running statistics by name, exported and imported in memory.
//!
//! Names are torchvision's for ResNets and timm's for vision transformers. The crate `weights` handles files.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use crate::Backbone;
use crate::parameters::Path;

/// Every weight and running statistic by its torchvision or timm name, as f32 on the host.
pub fn state_dict(backbone: &Backbone) -> BTreeMap<String, TensorData> {
    let mut collect = Collect::default();
    // Visits the network itself: the enum around it would add its variant to each name.
    match backbone {
        Backbone::ResNet(network) => network.visit(&mut collect),
        Backbone::Vit(network) => network.visit(&mut collect),
    }
    collect.found
}

/// The backbone with the tensors in `tensors` replaced, by the names of [`state_dict`]; other float types
/// become f32. Gradients and device are unchanged. Names and shapes are not checked: callers with tensors
/// from a file must check them first.
pub fn replace_state(backbone: Backbone, mut tensors: BTreeMap<String, TensorData>) -> Backbone {
    replace(backbone, |name| tensors.remove(name))
}

/// Any module with the tensors that `tensor_of` has for a parameter's dotted path and shape. Gradients and device are unchanged.
pub fn replace_matching<M: Module>(
    module: M,
    tensor_of: impl FnMut(&str, &[usize]) -> Option<TensorData>,
) -> M {
    module.map(&mut Replace {
        path: Path::default(),
        tensor_of,
    })
}

/// [`replace_state`] by the tensors that `tensor_of` has.
pub(crate) fn replace(backbone: Backbone, mut tensor_of: impl FnMut(&str) -> Option<TensorData>) -> Backbone {
    let mut replace = Replace {
        path: Path::default(),
        tensor_of: |name: &str, _: &[usize]| tensor_of(name),
    };
    match backbone {
        Backbone::ResNet(network) => Backbone::ResNet(network.map(&mut replace)),
        Backbone::Vit(network) => Backbone::Vit(network.map(&mut replace)),
    }
}

#[derive(Default)]
struct Collect {
    path: Path,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .insert(self.path.dotted(), to_f32(param.val().into_data()));
    }
}

struct Replace<F> {
    path: Path,
    tensor_of: F,
}

impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> ModuleMapper for Replace<F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = (self.tensor_of)(&self.path.dotted(), &param.val().dims()) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let mut tensor = Tensor::from_data(to_f32(data), &old.device());
        if old.is_require_grad() {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

fn to_f32(data: TensorData) -> TensorData {
    if data.dtype() == DType::F32 {
        return data;
    }
    let shape = data.shape().clone();
    TensorData::new(data.iter::<f32>().collect::<Vec<_>>(), shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{BackboneConfig, Init, ResNetConfig, Stem, parameters};

    fn network(seed: u64, device: &Device) -> Backbone {
        let config = BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        });
        config.init(&Init::new(seed, device))
    }

    #[test]
    fn a_state_goes_into_another_network_and_leaves_gradients_as_they_are() {
        let state = state_dict(&network(7, &Device::flex()));
        let replaced = replace_state(network(1, &Device::flex().autodiff()), state.clone());
        assert_eq!(state_dict(&replaced), state);
        let Backbone::ResNet(network) = &replaced else {
            unreachable!()
        };
        assert!(
            parameters(network)
                .iter()
                .all(|p| p.trained != p.running_statistic)
        );
    }

    #[test]
    fn what_is_not_named_stays() {
        let device = Device::flex();
        let before = state_dict(&network(1, &device));
        let bias = TensorData::new(vec![0.5f64; 4], [4]);
        let replaced = replace_state(
            network(1, &device),
            BTreeMap::from([("bn1.bias".to_owned(), bias)]),
        );
        let after = state_dict(&replaced);
        assert_eq!(after["bn1.bias"].as_slice::<f32>().unwrap(), [0.5; 4]);
        let same = |(name, data): (&String, &TensorData)| name == "bn1.bias" || *data == before[name];
        assert!(after.iter().all(same));
    }
}
