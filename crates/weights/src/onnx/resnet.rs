//! The operations of a residual network.

use backbones::{ResNetConfig, Stem};

use super::graph::{Graph, int, ints};
use super::{ONNX_EMBEDDING, Tensors};

/// Added to the variance in every norm: PyTorch's, as in `backbones::layers::BatchNorm`.
const EPSILON: f64 = 1e-5;

/// Writes the network from normalized images to its embedding.
pub(super) fn write(graph: &mut Graph, config: &ResNetConfig, network: &Tensors, images: &str) {
    let (stride, has_pooling) = match config.stem {
        Stem::Imagenet => (2, true),
        Stem::Small => (1, false),
    };
    let mut x = convolution(graph, network, images, ("conv1", "bn1"), stride);
    x = graph.node("Relu", "stem.relu", &[&x], vec![]);
    if has_pooling {
        let window = vec![
            ints("kernel_shape", &[3, 3]),
            ints("pads", &[1; 4]),
            ints("strides", &[2, 2]),
        ];
        x = graph.node("MaxPool", "stem.pool", &[&x], window);
    }
    for stage in 1..=4 {
        let blocks =
            (0..).map_while(|number| Some(format!("layer{stage}.{number}")).filter(|at| has(network, at)));
        for (number, at) in blocks.enumerate() {
            let stride = if stage > 1 && number == 0 { 2 } else { 1 };
            x = block(graph, network, &x, &at, config.strides(stride));
        }
    }
    let pooled = graph.node("GlobalAveragePool", "pool", &[&x], vec![]);
    let name = graph.name_of_output(ONNX_EMBEDDING);
    graph.node("Flatten", &name, &[&pooled], vec![int("axis", 1)]);
}

fn has(network: &Tensors, block: &str) -> bool {
    network.has(&format!("{block}.conv1.weight"))
}

/// A block: two 3×3 convolutions, or 1×1, 3×3 and 1×1; the strides of the first two.
fn block(graph: &mut Graph, network: &Tensors, x: &str, at: &str, strides: [usize; 2]) -> String {
    let is_bottleneck = network.has(&format!("{at}.conv3.weight"));
    let [first, second] = strides.map(|stride| stride as i64);
    let stride = first * second;
    let strides = &[first, second, 1][..if is_bottleneck { 3 } else { 2 }];
    let shortcut = if network.has(&format!("{at}.downsample.0.weight")) {
        let names = (format!("{at}.downsample.0"), format!("{at}.downsample.1"));
        convolution(graph, network, x, (&names.0, &names.1), stride)
    } else {
        x.to_owned()
    };
    let mut branch = x.to_owned();
    for (number, stride) in strides.iter().enumerate() {
        let number = number + 1;
        if number > 1 {
            branch = graph.node("Relu", &format!("{at}.relu{}", number - 1), &[&branch], vec![]);
        }
        let names = (format!("{at}.conv{number}"), format!("{at}.bn{number}"));
        branch = convolution(graph, network, &branch, (&names.0, &names.1), *stride);
    }
    let sum = graph.node("Add", &format!("{at}.add"), &[&branch, &shortcut], vec![]);
    graph.node("Relu", &format!("{at}.relu"), &[&sum], vec![])
}

/// A convolution with the batch normalization behind it: scaled weights and a bias, computed in f64.
fn convolution(
    graph: &mut Graph,
    network: &Tensors,
    x: &str,
    (name, norm): (&str, &str),
    stride: i64,
) -> String {
    let (shape, mut weight) = network.get(&format!("{name}.weight"));
    let of_norm = |part: &str| network.get(&format!("{norm}.{part}")).1;
    let (scale, shift) = (of_norm("weight"), of_norm("bias"));
    let (mean, variance) = (of_norm("running_mean"), of_norm("running_var"));
    let mut bias = vec![0.0; shape[0]];
    let of_channel = weight.len() / shape[0];
    for (channel, weights) in weight.chunks_exact_mut(of_channel).enumerate() {
        let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + EPSILON).sqrt();
        for value in weights {
            *value = (f64::from(*value) * factor) as f32;
        }
        bias[channel] = (f64::from(shift[channel]) - f64::from(mean[channel]) * factor) as f32;
    }
    let kernel = shape[2] as i64;
    let weight = graph.weight(&format!("{name}.weight"), &shape, &weight);
    let bias = graph.weight(&format!("{name}.bias"), &[shape[0]], &bias);
    let attributes = vec![
        ints("kernel_shape", &[kernel, kernel]),
        ints("pads", &[kernel / 2; 4]),
        ints("strides", &[stride, stride]),
    ];
    graph.node("Conv", name, &[x, &weight, &bias], attributes)
}
