//! What can start from initial weights.

use super::*;

#[test]
fn frozen_layers_need_weights() {
    let mut network = small_network(false);
    assert_eq!(start::check_scratch(&network), Ok(()));
    network.frozen_stages = 2;
    assert!(
        start::check_scratch(&network)
            .unwrap_err()
            .contains("frozen_stages")
    );
    network.backbone_norm = Norm::Frozen;
    assert!(
        start::check_scratch(&network)
            .unwrap_err()
            .contains("backbone_norm")
    );
}
