//! The names of heads and center in DINO's full checkpoints, as its `main_dino.py` saves them.

use super::{Centering, Config};
use training::Released;

/// The parameters of student, teacher and loss. Running statistics of a head with batch normalization start anew.
pub(super) fn names(config: &Config) -> Vec<Released> {
    let head = &config.head;
    // Linear, (norm,) GELU, twice, then the last linear layer.
    let step = if head.batch_norm { 3 } else { 2 };
    let mut all = vec![];
    for (network, prefix) in [("student", ""), ("teacher", "teacher.")] {
        for index in 0..3 {
            let ours = format!("{prefix}head.layers.{index}");
            all.extend(Released::layer(
                &ours,
                network,
                &format!("head.mlp.{}", step * index),
            ));
        }
        for index in (0..2).filter(|_| head.batch_norm) {
            let ours = format!("{prefix}head.norms.{index}");
            all.extend(Released::layer(
                &ours,
                network,
                &format!("head.mlp.{}", step * index + 1),
            ));
        }
        for name in ["weight_g", "weight_v"] {
            all.push(Released {
                ours: format!("{prefix}head.last_layer.{name}"),
                within: network,
                theirs: format!("head.last_layer.{name}"),
                transposed: false,
            });
        }
    }
    // With Sinkhorn there is none.
    if let Centering::Mean { .. } = config.centering {
        all.push(Released {
            ours: "centre".into(),
            within: "dino_loss",
            theirs: "center".into(),
            transposed: false,
        });
    }
    all
}
