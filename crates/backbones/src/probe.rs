//! The outputs of a pass's layers: a pass in, for each layer in order whether its output is finite out.
//!
//! For `passer replay`, which looks for the first layer that fails. A pass outside [`observe`] does nothing more than ask a flag of
//! its thread, and no pass computes other values.

use burn::module::ParamId;
use burn::tensor::{FloatDType, Tensor};
use std::cell::RefCell;

thread_local! {
    /// The outputs that this thread's pass had so far; `None` outside [`observe`].
    static SEEN: RefCell<Option<Vec<Seen>>> = const { RefCell::new(None) };
}

/// The output of one layer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// A parameter of the layer, which names it: see [`parameters`](crate::parameters()).
    pub parameter: ParamId,
    /// `[rows, 1]`: 0 for a row of the output's first dimension that is finite, NaN for another.
    pub rows: Tensor<2>,
}

/// Runs `pass`, and returns the outputs of the layers that it ran in this thread, in order. The values stay on the device.
pub fn observe<T>(pass: impl FnOnce() -> T) -> (T, Vec<Seen>) {
    /// Ends the observation of a pass that panics, too.
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            SEEN.with_borrow_mut(|seen| *seen = None);
        }
    }
    let _ends = Ends;
    SEEN.with_borrow_mut(|seen| *seen = Some(vec![]));
    let result = pass();
    let seen = SEEN.with_borrow_mut(Option::take);
    (result, seen.unwrap_or_default())
}

/// A layer's output, unchanged.
pub(crate) fn look<const D: usize>(parameter: ParamId, output: Tensor<D>) -> Tensor<D> {
    if SEEN.with_borrow(Option::is_some) {
        let rows = output.dims()[0];
        let zeros = output.clone().without_autodiff().cast(FloatDType::F32) * 0.0;
        let zeros = zeros.reshape([rows as i64, -1]).sum_dim(1);
        SEEN.with_borrow_mut(|seen| {
            if let Some(seen) = seen {
                seen.push(Seen {
                    parameter,
                    rows: zeros,
                });
            }
        });
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;
    use crate::layers::Linear;
    use burn::tensor::Device;

    #[test]
    fn layers_are_seen_in_order_with_the_rows_that_are_not_finite() {
        let device = Device::flex();
        let init = Init::new(0, &device);
        let (first, second) = (Linear::new(&init.at("a"), 2, 3), Linear::new(&init.at("b"), 3, 1));
        let x = Tensor::<2>::from_data([[1.0, 2.0], [f32::INFINITY, 0.0], [0.0, 1.0]], &device);
        let (y, seen) = observe(|| second.forward(first.forward(x.clone())));
        assert_eq!(y.dims(), [3, 1]);
        let layers: Vec<ParamId> = seen.iter().map(|seen| seen.parameter).collect();
        assert_eq!(layers, [first.weight.id, second.weight.id]);
        for seen in &seen {
            let rows: Vec<f32> = seen.rows.clone().into_data().iter().collect();
            let finite: Vec<bool> = rows.iter().map(|row| row.is_finite()).collect();
            assert_eq!(finite, [true, false, true]);
        }
        // Outside, nothing is kept.
        second.forward(first.forward(x));
        assert!(observe(|| ()).1.is_empty());
    }
}
