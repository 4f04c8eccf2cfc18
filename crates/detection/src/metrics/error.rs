//! Errors of metrics: each names the picture and the value.

/// Why truth and results cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricsError {
    /// Two pictures of the truth have one number.
    #[error("the truth must have each image once, got image {image_id} twice")]
    TruthTwice {
        /// The number.
        image_id: u64,
    },
    /// Two lists of results are of one picture.
    #[error("results must have each image once, got image {image_id} twice")]
    ResultsTwice {
        /// The picture's number.
        image_id: u64,
    },
    /// Results of a picture that the truth lacks.
    #[error("results must be of images of the truth, got image {image_id}")]
    UnknownImage {
        /// The picture's number.
        image_id: u64,
    },
    /// A class that does not exist.
    #[error("{side} of image {image_id} must have classes below {classes}, got {class}")]
    Class {
        /// `results` or `objects`.
        side: &'static str,
        /// The picture's number.
        image_id: u64,
        /// The number of classes.
        classes: usize,
        /// The class.
        class: u32,
    },
    /// A score that is no number, or infinite.
    #[error("result {position} of image {image_id} must have a finite score, got {score}")]
    Score {
        /// The picture's number.
        image_id: u64,
        /// Which of its results, from 0.
        position: usize,
        /// The score.
        score: f32,
    },
    /// Edges that are no numbers, infinite or exchanged.
    #[error(
        "result {position} of image {image_id} must have finite edges, right not before left and bottom not above top, got {edges:?}"
    )]
    Edges {
        /// The picture's number.
        image_id: u64,
        /// Which of its results, from 0.
        position: usize,
        /// Left, top, right, bottom.
        edges: [f32; 4],
    },
    /// Masks are compared, and one is missing.
    #[error("{side} {position} of image {image_id} must have a mask")]
    NoMask {
        /// `result` or `object`.
        side: &'static str,
        /// The picture's number.
        image_id: u64,
        /// Which one of the picture's, from 0.
        position: usize,
    },
    /// A mask of another size than its picture.
    #[error(
        "the mask of {side} {position} of image {image_id} must have {} x {} px, got {} x {}",
        .picture[0], .picture[1], .mask[0], .mask[1]
    )]
    MaskSize {
        /// `result` or `object`.
        side: &'static str,
        /// The picture's number.
        image_id: u64,
        /// Which one of the picture's, from 0.
        position: usize,
        /// Width and height of the picture, px.
        picture: [u32; 2],
        /// Width and height of the mask, px.
        mask: [u32; 2],
    },
    /// A class without a name.
    #[error("class {class} must have a name, got {names} names")]
    NoName {
        /// The class.
        class: u32,
        /// How many names there are.
        names: usize,
    },
}
