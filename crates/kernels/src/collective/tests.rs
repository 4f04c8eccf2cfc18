//! Engines and collectives on threads, with gradients by hand.

use super::*;
use burn::tensor::{Device, TensorData};

/// What each of `size` ranks returns.
fn on_ranks<T: Send>(size: usize, work: impl Fn(Arc<dyn Engine>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let started: Vec<_> = threads(size)
            .into_iter()
            .map(|engine| scope.spawn(|| work(Arc::new(Checked::new(engine)))))
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn tensor(values: Vec<f32>, rows: usize) -> Tensor<2> {
    let columns = values.len() / rows;
    Tensor::from_data(
        TensorData::new(values, [rows, columns]),
        &Device::flex().autodiff(),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

/// Two values of each rank, `10 · rank` and one more.
fn own(engine: &Arc<dyn Engine>) -> Vec<f32> {
    let first = 10.0 * engine.rank() as f32;
    vec![first, first + 1.0]
}

#[test]
fn engines_move_values_in_the_order_of_ranks() {
    for size in [1, 2, 3, 4] {
        let results = on_ranks(size, |engine| {
            let mut sum = own(&engine);
            engine.sum(&mut sum);
            let bytes = engine.gather_bytes(&vec![engine.rank() as u8; engine.rank()]);
            let rank = engine.rank();
            // Rank r sends r + 1 values to each.
            let sent = vec![rank as f32; (rank + 1) * size];
            let receives: Vec<usize> = (1..=size).collect();
            let received = engine.exchange(&sent, &vec![rank + 1; size], &receives);
            let first = engine.broadcast(vec![rank as u8 + 7]);
            engine.barrier();
            (sum, engine.gather(&own(&engine)), bytes, received, first)
        });
        let of_ranks = (0..size).flat_map(|rank| [10.0 * rank as f32, 10.0 * rank as f32 + 1.0]);
        let gathered: Vec<f32> = of_ranks.collect();
        let total = |column: usize| gathered.iter().skip(column).step_by(2).sum::<f32>();
        for (sum, all, bytes, received, first) in results {
            assert_eq!(sum, [total(0), total(1)]);
            assert_eq!(all, gathered);
            assert_eq!(
                bytes,
                (0..size).map(|rank| vec![rank as u8; rank]).collect::<Vec<_>>()
            );
            let expected: Vec<f32> = (0..size).flat_map(|rank| vec![rank as f32; rank + 1]).collect();
            assert_eq!(received, expected);
            assert_eq!(first, [7]);
        }
    }
}

#[test]
fn sums_are_added_from_rank_0_upward() {
    // (1e8 + 1) - 1e8 is 0 in f32 from the left, and 1 in other orders.
    let results = on_ranks(3, |engine| {
        let mut value = [[1e8, 1.0, -1e8][engine.rank()]; 7];
        engine.sum(&mut value);
        value
    });
    assert_eq!(results, vec![[(1e8f32 + 1.0) - 1e8; 7]; 3]);
}

/// Each collective's gradient is that of the sum of all ranks' losses, computed here by hand.
#[test]
fn gradients_are_those_of_the_sum_of_losses() {
    let size = 3;
    let weight = |rank: usize, at: usize| 1.0 + rank as f32 + 0.5 * at as f32;
    let results = on_ranks(size, |engine| {
        let rank = engine.rank();
        let weights = |count: usize| (0..count).map(|at| weight(rank, at)).collect::<Vec<f32>>();
        let gradient = |of: &dyn Fn(Tensor<2>) -> Tensor<2>, count: usize, rows: usize| {
            let x = tensor(weights(count), rows).require_grad();
            let output = of(x.clone());
            let length = output.dims().iter().product();
            let [height, _] = output.dims();
            let loss = (output * tensor(weights(length), height)).sum();
            values(x.grad(&loss.backward()).unwrap())
        };
        (
            gradient(&|x| sum(x, &engine), 2, 1),
            gradient(&|x| gather(x, &engine), 2, 1),
            gradient(&|x| collect(x, Kind::ScatterSum, &engine), 2 * size, size),
        )
    });
    let all = |at: usize| (0..size).map(|rank| weight(rank, at)).sum::<f32>();
    for (rank, (of_sum, of_gather, of_scatter)) in results.into_iter().enumerate() {
        assert_eq!(of_sum, [all(0), all(1)]);
        // Its own rows, at `2 · rank`, of every rank's weights.
        assert_eq!(of_gather, [all(2 * rank), all(2 * rank + 1)]);
        let rows = (0..size).flat_map(|rank| [weight(rank, 0), weight(rank, 1)]);
        assert_eq!(of_scatter, rows.collect::<Vec<_>>());
    }
}

#[test]
fn constants_pass_without_a_graph() {
    let results = on_ranks(2, |engine| {
        let constant = Tensor::<1>::from_floats([engine.rank() as f32], &Device::flex());
        values(gather(constant, &engine))
    });
    assert_eq!(results, [[0.0, 1.0], [0.0, 1.0]]);
}

#[test]
fn ranks_that_differ_are_named() {
    let messages = on_ranks(2, |engine| {
        let call = std::panic::AssertUnwindSafe(|| match engine.rank() {
            0 => engine.gather(&[1.0]),
            _ => engine.gather(&[1.0, 2.0]),
        });
        let panic = std::panic::catch_unwind(call).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    });
    assert_eq!(
        messages[0],
        "ranks differ: rank 0 makes call 0: gather of 1 values, rank 1 call 0: gather of 2 values"
    );
}
