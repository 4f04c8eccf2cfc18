//! What to cite for networks that Passer loads: their methods, and the papers of those that it does not train.

use backbones::Paper;

const DINOV2: Paper = Paper {
    authors: "Oquab et al.",
    title: "DINOv2: Learning Robust Visual Features without Supervision",
    year: 2023,
    arxiv: "2304.07193",
};

/// The method behind the name in an encoder's file, which is a layout's where another program trained it.
pub fn method_of(name: &str) -> &str {
    match name {
        "transformers_vit_mae" => "mae",
        "transformers_dinov2" | "transformers_dinov2_with_registers" => "dinov2",
        name => name,
    }
}

/// What to cite for a method that Passer does not train; nothing for any other.
pub(super) fn of_foreign_method(method: &str) -> &'static [Paper] {
    match method {
        "dinov2" => &[DINOV2],
        _ => &[],
    }
}
