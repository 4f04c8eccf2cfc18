//! The devices that share a batch: the only path to other devices.

use burn::tensor::{Int, Tensor, TensorData};
use kernels::collective::{self, Engine};
use std::sync::Arc;

/// The devices that share a batch, each with an equal, contiguous part of it.
///
/// Every reduction over the whole batch (negatives, queue rows, Sinkhorn's sums, a center) uses it, and methods know
/// nothing else of other devices. On one device each function is the identity. [`mean`](Self::mean),
/// [`sum`](Self::sum) and [`gather`](Self::gather) are differentiable: gradients are those of the sum of all
/// replicas' losses.
///
/// All replicas must call the same functions in the same order, with tensors of the same shape.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    engine: Option<Arc<dyn Engine>>,
}

impl Replicas {
    /// One device, which holds the whole batch.
    pub fn single() -> Self {
        Self::default()
    }

    /// The ranks of an engine.
    pub fn of(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine: (engine.size() > 1).then_some(engine),
        }
    }

    /// The engine, if there are several.
    pub fn engine(&self) -> Option<&Arc<dyn Engine>> {
        self.engine.as_ref()
    }

    /// The number of devices that share the batch.
    pub fn count(&self) -> usize {
        self.engine.as_ref().map_or(1, |engine| engine.size())
    }

    /// This device, from 0.
    pub fn rank(&self) -> usize {
        self.engine.as_ref().map_or(0, |engine| engine.rank())
    }

    /// The mean of every replica's `tensor`, on each of them.
    pub fn mean<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match &self.engine {
            Some(engine) => collective::sum(tensor, engine) / engine.size() as f64,
            None => tensor,
        }
    }

    /// The mean of `tensor` over this replica's run of `run` replicas, on each of them.
    ///
    /// # Panics
    /// If `run` does not divide the replicas.
    pub fn mean_of_run<const D: usize>(&self, tensor: Tensor<D>, run: usize) -> Tensor<D> {
        let count = self.count();
        assert!(
            run > 0 && count.is_multiple_of(run),
            "{count} replicas cannot make runs of {run}"
        );
        if run == 1 || run == count {
            return if run == 1 { tensor } else { self.mean(tensor) };
        }
        // Small tensors, such as statistics: gathering from all is simpler than groups of an engine.
        let shape = tensor.dims();
        let values = shape.iter().product();
        let all = self.gather(tensor.reshape([1, values]));
        let first = self.rank() / run * run;
        all.narrow(0, first, run).mean_dim(0).reshape(shape)
    }

    /// The sum of every replica's `tensor`, on each of them.
    pub fn sum<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match &self.engine {
            Some(engine) => collective::sum(tensor, engine),
            None => tensor,
        }
    }

    /// Every replica's rows, one after the other: `[rows, …]` to `[count · rows, …]`.
    pub fn gather<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match &self.engine {
            Some(engine) => collective::gather(tensor, engine),
            None => tensor,
        }
    }

    /// Every replica's bytes, of any length each, in the order of replicas.
    pub fn gather_bytes(&self, own: Vec<u8>) -> Vec<Vec<u8>> {
        match &self.engine {
            Some(engine) => engine.gather_bytes(&own),
            None => vec![own],
        }
    }

    /// This replica's part of rows that all replicas hold, so that each row is on one: the parts differ by one row
    /// where the replicas do not divide them.
    pub fn share<const D: usize>(&self, tensor: Tensor<D>, dimension: usize) -> Tensor<D> {
        let (count, rank, rows) = (self.count(), self.rank(), tensor.dims()[dimension]);
        let (start, end) = (rows * rank / count, rows * (rank + 1) / count);
        tensor.narrow(dimension, start, end - start)
    }

    /// The rows of all replicas in another order, without a graph: row `i` of replica `r` becomes row
    /// `order[r · rows + i]` of all. `order` is a permutation, the same on every replica.
    ///
    /// Each replica sends and receives as many rows as it has.
    ///
    /// # Panics
    /// If `order` has another length than all rows.
    pub fn permute<const D: usize>(&self, rows: Tensor<D>, order: &[i32]) -> Tensor<D> {
        let rows = rows.without_autodiff();
        let (shape, device) = (rows.dims(), rows.device());
        let own = shape[0];
        assert!(
            order.len() == own * self.count(),
            "an order of {} rows for {} replicas of {own}",
            order.len(),
            self.count()
        );
        let select = |rows: Tensor<D>, order: Vec<i32>| {
            let order = TensorData::new(order, [own]);
            rows.select(0, Tensor::<1, Int>::from_data(order, &device))
        };
        let Some(engine) = &self.engine else {
            return select(rows, order.to_vec());
        };
        let (rank, count) = (engine.rank(), engine.size());
        let (mut sent, mut sends, mut receives) = (vec![], vec![0; count], vec![0; count]);
        // Where each row to receive lies among those received, which are in the order of their senders.
        let mut from: Vec<Vec<usize>> = vec![vec![]; count];
        for (place, row) in order.iter().enumerate() {
            let (source, target) = (*row as usize / own, place / own);
            if source == rank {
                sent.push(*row % own as i32);
                sends[target] += 1;
            }
            if target == rank {
                from[source].push(place % own);
                receives[source] += 1;
            }
        }
        let mut back = vec![0; own];
        for (at, place) in from.into_iter().flatten().enumerate() {
            back[place] = at as i32;
        }
        let width: usize = shape[1..].iter().product();
        let values: Vec<f32> = select(rows, sent).into_data().iter().collect();
        let wide = |counts: Vec<usize>| counts.into_iter().map(|rows| rows * width).collect::<Vec<_>>();
        let received = engine.exchange(&values, &wide(sends), &wide(receives));
        select(Tensor::from_data(TensorData::new(received, shape), &device), back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use kernels::collective::threads;

    fn on_ranks<T: Send>(size: usize, work: impl Fn(Replicas) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let started: Vec<_> = threads(size)
                .into_iter()
                .map(|engine| scope.spawn(|| work(Replicas::of(engine))))
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Rows of two values, numbered over all replicas.
    fn rows(replicas: &Replicas, own: usize) -> Tensor<2> {
        let first = replicas.rank() * own;
        let values = (first..first + own).flat_map(|row| [row as f32, row as f32 + 0.5]);
        let data = TensorData::new(values.collect::<Vec<f32>>(), [own, 2]);
        Tensor::from_data(data, &Device::flex())
    }

    fn first_column(tensor: Tensor<2>) -> Vec<f32> {
        tensor.narrow(1, 0, 1).into_data().iter().collect()
    }

    #[test]
    fn rows_are_permuted_over_all_replicas() {
        let order = [7, 2, 0, 11, 5, 6, 1, 3, 10, 9, 8, 4];
        for size in [1, 2, 3, 4] {
            let own = 12 / size;
            let permuted = on_ranks(size, |replicas| {
                let there = replicas.permute(rows(&replicas, own), &order);
                let mut back = [0; 12];
                order
                    .iter()
                    .enumerate()
                    .for_each(|(place, row)| back[*row as usize] = place as i32);
                let again = replicas.permute(there.clone(), &back);
                (first_column(there), first_column(again))
            });
            let (there, again): (Vec<_>, Vec<_>) = permuted.into_iter().unzip();
            assert_eq!(there.concat(), order.map(|row| row as f32));
            assert_eq!(again.concat(), (0..12).map(|row| row as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shares_hold_each_row_once() {
        for size in [1, 2, 3, 4] {
            let shares = on_ranks(size, |replicas| {
                let all = rows(&Replicas::single(), 10);
                first_column(replicas.share(all, 0))
            });
            assert_eq!(shares.concat(), (0..10).map(|row| row as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn means_of_runs() {
        let means = on_ranks(4, |replicas| {
            let own = rows(&replicas, 1);
            [1, 2, 4].map(|run| first_column(replicas.mean_of_run(own.clone(), run))[0])
        });
        assert_eq!(
            means,
            [[0.0, 0.5, 1.5], [1.0, 0.5, 1.5], [2.0, 2.5, 1.5], [3.0, 2.5, 1.5]]
        );
    }
}
