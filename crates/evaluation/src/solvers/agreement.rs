//! Agreement between a clustering and classes that it never saw: mutual information (normalized, adjusted),
//! adjusted Rand index, and accuracy under the best assignment of clusters to classes.
//!
//! Defined as in scikit-learn; mutual information is divided by the arithmetic mean of both entropies. AMI
//! and ARI are adjusted for chance (Hubert and Arabie 1985; Vinh, Epps and Bailey 2010): random clusters get
//! 0, whatever their number. NMI and accuracy are unadjusted, and rise with the number of clusters.

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix as Weights;
use rayon::prelude::*;

/// The four scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Agreement {
    /// Normalized mutual information, 0..1.
    pub(crate) nmi: f64,
    /// Adjusted mutual information, at most 1.
    pub(crate) ami: f64,
    /// Adjusted Rand index, -0.5..1.
    pub(crate) ari: f64,
    /// Share of records whose cluster is assigned to their class, each cluster to one class at most.
    pub(crate) accuracy: f64,
}

/// The number of records of each class in each cluster; classes and clusters without records are skipped.
struct Table {
    /// `[classes, clusters]`.
    counts: Vec<u64>,
    classes: Vec<u64>,
    clusters: Vec<u64>,
    total: u64,
}

impl Table {
    fn of(classes: &[u32], clusters: &[u32]) -> Self {
        let (classes, class_count) = renumbered(classes);
        let (clusters, cluster_count) = renumbered(clusters);
        let mut counts = vec![0; class_count * cluster_count];
        for (class, cluster) in classes.iter().zip(&clusters) {
            counts[class * cluster_count + cluster] += 1;
        }
        let rows = counts.chunks_exact(cluster_count.max(1));
        let class_sums = rows.clone().map(|row| row.iter().sum()).collect();
        let mut cluster_sums = vec![0; cluster_count];
        for row in rows {
            cluster_sums
                .iter_mut()
                .zip(row)
                .for_each(|(sum, count)| *sum += count);
        }
        Self {
            counts,
            classes: class_sums,
            clusters: cluster_sums,
            total: classes.len() as u64,
        }
    }

    /// Every pair of a class and a cluster: records in both, in the class, in the cluster.
    fn cells(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let sums = self
            .classes
            .iter()
            .flat_map(|class| self.clusters.iter().map(move |cluster| (*class, *cluster)));
        self.counts
            .iter()
            .zip(sums)
            .map(|(count, (class, cluster))| (*count, class, cluster))
    }

    fn mutual_information(&self) -> f64 {
        let total = self.total as f64;
        let terms = self
            .cells()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, class, cluster)| {
                let count = count as f64;
                count / total * (count.ln() + total.ln() - (class as f64).ln() - (cluster as f64).ln())
            });
        terms.sum::<f64>().max(0.0)
    }

    /// The mean of both sides' entropies.
    fn mean_entropy(&self) -> f64 {
        let total = self.total as f64;
        let entropy = |sums: &[u64]| -> f64 {
            let shares = sums.iter().map(|sum| *sum as f64 / total);
            shares.map(|share| -share * share.ln()).sum()
        };
        0.5 * (entropy(&self.classes) + entropy(&self.clusters))
    }

    /// The mean mutual information over all clusterings with these sizes (Vinh et al. 2010, equation 24a).
    fn expected_mutual_information(&self) -> f64 {
        let total = self.total;
        // ln n! for n = 0..=total.
        let mut log_factorials = Vec::with_capacity(total as usize + 1);
        log_factorials.push(0.0);
        let mut sum = 0.0;
        for number in 1..=total {
            sum += (number as f64).ln();
            log_factorials.push(sum);
        }
        let log_factorial = |number: u64| log_factorials[number as usize];
        let term = |class: u64, cluster: u64| -> f64 {
            let fixed = log_factorial(class)
                + log_factorial(cluster)
                + log_factorial(total - class)
                + log_factorial(total - cluster)
                - log_factorial(total);
            let logs = (total as f64).ln() - (class as f64).ln() - (cluster as f64).ln();
            // The count of this class and this cluster is within this range.
            let least = (class + cluster).saturating_sub(total).max(1);
            (least..=class.min(cluster))
                .map(|count| {
                    let information = count as f64 / total as f64 * (logs + (count as f64).ln());
                    let log_probability = fixed
                        - log_factorial(count)
                        - log_factorial(class - count)
                        - log_factorial(cluster - count)
                        - log_factorial(total + count - class - cluster);
                    information * log_probability.exp()
                })
                .sum()
        };
        let rows: Vec<f64> = self
            .classes
            .par_iter()
            .map(|class| self.clusters.iter().map(|cluster| term(*class, *cluster)).sum())
            .collect();
        rows.iter().sum()
    }

    /// Whether each class is one cluster, and each cluster one class.
    fn is_perfect(&self) -> bool {
        self.cells()
            .all(|(count, class, cluster)| count == 0 || (count == class && count == cluster))
    }

    fn adjusted_rand_index(&self) -> f64 {
        // Ordered pairs of different records, in 128 bits: their products overflow 64 bits from about 65,000
        // records on.
        let pairs = |sums: &[u64]| sums.iter().map(|sum| i128::from(*sum).pow(2)).sum::<i128>();
        let total = i128::from(self.total);
        let both = pairs(&self.counts);
        let (classes, clusters) = (pairs(&self.classes), pairs(&self.clusters));
        let together = (both - total) as f64;
        let only_class = (classes - both) as f64;
        let only_cluster = (clusters - both) as f64;
        let apart = (total * total - classes - clusters + both) as f64;
        if self.is_perfect() {
            return 1.0;
        }
        2.0 * (together * apart - only_class * only_cluster)
            / ((together + only_class) * (only_class + apart)
                + (together + only_cluster) * (only_cluster + apart))
    }

    /// The largest share of correct records under any one-to-one assignment of clusters to classes. If there
    /// are more clusters than classes, records of unassigned clusters count as wrong.
    fn accuracy(&self) -> f64 {
        let weight = |class: usize, cluster: usize| self.counts[class * self.clusters.len() + cluster] as i64;
        // The algorithm needs at least as many columns as rows.
        let weights = if self.classes.len() <= self.clusters.len() {
            Weights::from_fn(self.classes.len(), self.clusters.len(), |(class, cluster)| {
                weight(class, cluster)
            })
        } else {
            Weights::from_fn(self.clusters.len(), self.classes.len(), |(cluster, class)| {
                weight(class, cluster)
            })
        };
        kuhn_munkres(&weights).0 as f64 / self.total as f64
    }
}

/// The labels renumbered as 0, 1, 2 …, and the number of distinct labels.
fn renumbered(labels: &[u32]) -> (Vec<usize>, usize) {
    let most = labels.iter().copied().max().map_or(0, |most| most as usize + 1);
    let mut places = vec![usize::MAX; most];
    let mut count = 0;
    let labels = labels
        .iter()
        .map(|label| {
            let place = &mut places[*label as usize];
            if *place == usize::MAX {
                *place = count;
                count += 1;
            }
            *place
        })
        .collect();
    (labels, count)
}

/// Scores a clustering of at least one record. Both slices have one entry per record.
pub(crate) fn agreement(classes: &[u32], clusters: &[u32]) -> Agreement {
    let table = Table::of(classes, clusters);
    let perfect = table.is_perfect();
    let (nmi, ami) = if perfect {
        // This also covers one cluster for all records and one cluster per record, where the quotients below
        // would be 0 / 0.
        (1.0, 1.0)
    } else if table.classes.len() == 1 || table.clusters.len() == 1 {
        (0.0, 0.0)
    } else {
        let information = table.mutual_information();
        let entropy = table.mean_entropy();
        let expected = table.expected_mutual_information();
        // Positive up to rounding, since the partitions differ.
        let room = (entropy - expected).max(f64::EPSILON);
        (information / entropy, (information - expected) / room)
    };
    Agreement {
        nmi,
        ami,
        ari: table.adjusted_rand_index(),
        accuracy: table.accuracy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_for_the_same_clusters_are_perfect() {
        let agreement = agreement(&[0, 0, 1, 1, 2], &[7, 7, 0, 0, 3]);
        for value in [agreement.nmi, agreement.ami, agreement.ari, agreement.accuracy] {
            assert!((value - 1.0).abs() < 1e-12, "{agreement:?}");
        }
    }

    #[test]
    fn four_records_by_hand() {
        // Classes aabb in clusters 0 1 1 1: table [[1, 1], [0, 2]].
        let found = agreement(&[0, 0, 1, 1], &[0, 1, 1, 1]);
        assert_eq!(found.accuracy, 0.75);
        // Pairs: class pairs 2, cluster pairs 3, both 1, of 6: (1 - 2 * 3 / 6) / ((2 + 3) / 2 - 1) = 0.
        assert_eq!(found.ari, 0.0);
        // Information 1/4 ln 2 + 1/4 ln (2/3) + 1/2 ln (4/3); entropies ln 2 and 1/4 ln 4 + 3/4 ln (4/3).
        let information = 0.25 * 2f64.ln() + 0.25 * (2f64 / 3.0).ln() + 0.5 * (4f64 / 3.0).ln();
        let entropy = 0.5 * (2f64.ln() + 0.25 * 4f64.ln() + 0.75 * (4f64 / 3.0).ln());
        assert!((found.nmi - information / entropy).abs() < 1e-12);
        // Sizes 2, 2 and 1, 3 allow no other table, so chance scores the same.
        assert!(found.ami.abs() < 1e-12);
    }

    #[test]
    fn clusters_left_over_are_right_for_nobody() {
        // One class in three clusters: the largest is assigned to it.
        let found = agreement(&[4; 6], &[0, 1, 1, 1, 2, 2]);
        assert_eq!((found.accuracy, found.nmi, found.ari), (0.5, 0.0, 0.0));
        // Three classes in one cluster.
        assert_eq!(agreement(&[0, 1, 1, 2], &[5; 4]).accuracy, 0.5);
        assert_eq!(agreement(&[3, 3], &[9, 9]).ami, 1.0);
    }
}
