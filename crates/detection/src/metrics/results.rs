//! What a detector found in a picture, as plain memory.

use std::cmp::Ordering;

use data::targets::Rle;

/// One found object.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Class, from 0 without gaps, as [`data::targets::Object::class`].
    pub class: u32,
    /// Confidence; any finite number, because metrics use its order alone.
    pub score: f32,
    /// Left, top, right and bottom edge, px of the original picture; right is at least left, bottom at least top.
    pub edges: [f32; 4],
    /// The mask, of the original picture's size. [`Kind::Masks`] needs it.
    pub mask: Option<Rle>,
}

/// What was found in one picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageResults {
    /// The picture: [`data::targets::ImageTargets::image_id`].
    pub image_id: u64,
    /// The found objects, in any order. Of equal scores, the first counts as the more confident.
    pub found: Vec<Scored>,
}

/// What is compared with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Boxes (COCO's `bbox`).
    Boxes,
    /// Masks (COCO's `segm`).
    Masks,
}

/// The higher score first; for stable sorts of scores that are numbers.
pub(super) fn descending<T: PartialOrd>(one: T, two: T) -> Ordering {
    // Not `total_cmp`, to which 0 and -0 differ.
    two.partial_cmp(&one).unwrap_or(Ordering::Equal)
}
