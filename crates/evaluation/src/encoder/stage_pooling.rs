//! Pooled outputs of a ResNet's stages. Each is averaged over so few positions that every stage has about
//! 9,000 values. Linear probes of several stages use them, so that no stage wins by having more values.
//!
//! Zhang et al. 2017 (*Split-brain autoencoders*), Goyal et al. 2019 (*Scaling and benchmarking
//! self-supervised visual representation learning*), and VISSL's configs. Maps of the shape that ResNet-50
//! has at 224 px use VISSL's windows. The rule behind them: the largest square of positions with at most
//! 9,216 values. Other maps (other sizes, other networks) keep the rule, with windows that cover them like
//! PyTorch's
//! `AdaptiveAvgPool2d`.

use backbones::layers::{adaptive_average_pool, average_pool};
use burn::tensor::Tensor;

/// No stage has more values, unless its channels alone exceed this.
const MOST: usize = 9216;

/// VISSL's windows for ResNet-50 at 224 px, and ResNet-101, which has the same maps: channels and side of a map, then kernel,
/// stride and padding. `configs/config/benchmark/linear_image_classification` in facebookresearch/vissl.
const VISSL: [([usize; 2], [usize; 3]); 5] = [
    ([64, 112], [10, 10, 4]),
    ([256, 56], [16, 8, 0]),
    ([512, 28], [13, 5, 0]),
    ([1024, 14], [8, 3, 0]),
    ([2048, 7], [6, 1, 0]),
];

/// How a map becomes a smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// Square windows.
    Windows {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    /// This many windows, over the whole map.
    Adaptive([usize; 2]),
}

fn pooling([channels, height, width]: [usize; 3]) -> Pooling {
    let known =
        |([of, side], _): &&([usize; 2], [usize; 3])| [channels, height, width] == [*of, *side, *side];
    match VISSL.iter().find(known) {
        Some((_, [kernel, stride, padding])) => Pooling::Windows {
            kernel: *kernel,
            stride: *stride,
            padding: *padding,
        },
        None => {
            let side = (MOST / channels.max(1)).isqrt().max(1);
            Pooling::Adaptive([side.min(height), side.min(width)])
        }
    }
}

/// Channels, rows and columns of [`pooled`]'s output for a map of this shape.
pub(crate) fn pooled_shape(map: [usize; 3]) -> [usize; 3] {
    let [channels, height, width] = map;
    match pooling(map) {
        Pooling::Windows {
            kernel,
            stride,
            padding,
        } => {
            let side = |px: usize| (px + 2 * padding - kernel) / stride + 1;
            [channels, side(height), side(width)]
        }
        Pooling::Adaptive([rows, columns]) => [channels, rows, columns],
    }
}

/// A stage's features, f32.
///
/// # Shapes
/// - `map`: `[images, channels, height, width]`
/// - output: `[images, channels * rows * columns]`, channel by channel, as PyTorch flattens
pub(crate) fn pooled(map: &Tensor<4>) -> Tensor<2> {
    let [_, channels, height, width] = map.dims();
    let pooled = match pooling([channels, height, width]) {
        Pooling::Windows {
            kernel,
            stride,
            padding,
        } => average_pool(map.clone(), kernel, stride, padding),
        Pooling::Adaptive(size) => adaptive_average_pool(map.clone(), size),
    };
    pooled.flatten(1, 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn sizes_are_vissls_and_follow_one_rule() {
        let places = |map| {
            let [channels, rows, columns] = pooled_shape(map);
            assert_eq!(rows, columns);
            (rows, channels * rows * columns)
        };
        for ([channels, side], _) in VISSL {
            let (rows, _) = places([channels, side, side]);
            assert_eq!(rows, (MOST / channels).isqrt(), "{channels}");
        }
        let sizes = VISSL.map(|([channels, side], _)| places([channels, side, side]).1);
        assert_eq!(sizes, [9216, 9216, 8192, 9216, 8192]);
        // The same network at 256 px, which VISSL does not specify; ResNet-18; maps smaller than the square;
        // many channels.
        assert_eq!(places([512, 32, 32]), (4, 8192));
        assert_eq!(places([128, 28, 28]), (8, 8192));
        assert_eq!(places([512, 7, 7]), (4, 8192));
        assert_eq!(places([8, 32, 32]), (32, 8192));
        assert_eq!(places([128, 4, 4]), (4, 2048));
        assert_eq!(places([10_000, 7, 7]), (1, 10_000));
        assert_eq!(pooled_shape([512, 3, 9]), [512, 3, 4]);
    }

    #[test]
    fn borders_count_in_the_mean() {
        let device = Device::flex();
        let map = Tensor::<4>::ones([1, 64, 112, 112], &device);
        let features: Vec<f32> = pooled(&map).into_data().try_to_vec().unwrap();
        assert_eq!(features.len(), 9216);
        // The first window has a border of 4 above and to the left, so 36 of its 100 positions are in the
        // map.
        assert!((features[0] - 0.36).abs() < 1e-6 && (features[13] - 1.0).abs() < 1e-6);
    }
}
