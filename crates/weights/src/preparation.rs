//! How a photo becomes a network's input outside of training, from the encoder's description: the rule of
//! `passer features`, which exported folders state to other libraries.

use crate::encoder_info::EncoderInfo;

/// Images up to this side are resized as a whole, because small pictures have no margin to crop.
const LARGEST_WHOLE_PX: usize = 64;

/// A photo's way to a square input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// Side of the network's input, pixels.
    pub size_px: usize,
    /// The shorter side after the resize, from which the center is cropped; absent: both sides are resized to
    /// [`size_px`](Self::size_px). Both are bilinear and antialiased.
    pub shorter_px: Option<usize>,
}

impl Preparation {
    /// For a square input of this side: the shorter side at 8/7 of it (256 px for 224) and the center cropped, or above all
    /// the whole picture up to 64 px.
    pub fn to(size_px: usize) -> Self {
        Self {
            size_px,
            shorter_px: (size_px > LARGEST_WHOLE_PX).then(|| (size_px * 8).div_ceil(7)),
        }
    }

    /// For an encoder's images.
    pub(crate) fn of(info: &EncoderInfo) -> Self {
        Self::to(info.pixels)
    }

    /// The ratio of crop to shorter side, from which timm takes the shorter side as `floor(size / ratio)`.
    pub(crate) fn crop_ratio(self) -> f64 {
        let size = self.size_px as f64;
        match self.shorter_px {
            None => 1.0,
            Some(shorter) => {
                let ratio = size / shorter as f64;
                // Where the quotient is a hair below the whole number.
                if (size / ratio).floor() == shorter as f64 {
                    ratio
                } else {
                    size / (shorter as f64 + 0.25)
                }
            }
        }
    }

    /// For people.
    pub(crate) fn in_words(self) -> String {
        let size = self.size_px;
        match self.shorter_px {
            Some(shorter) => {
                format!("shorter side to {shorter} px (bilinear, antialiased), center crop of {size} px")
            }
            None => format!("both sides to {size} px (bilinear, antialiased)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// timm's rule gives the side back for every size.
    #[test]
    fn the_ratio_gives_the_shorter_side() {
        assert_eq!(Preparation::to(224).shorter_px, Some(256));
        assert_eq!(Preparation::to(64).shorter_px, None);
        for size in 65..2000 {
            let made = Preparation::to(size);
            let floor = (size as f64 / made.crop_ratio()).floor() as usize;
            assert_eq!(Some(floor), made.shorter_px, "{size}");
        }
        assert_eq!(Preparation::to(224).crop_ratio(), 0.875);
    }
}
