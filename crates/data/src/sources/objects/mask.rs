//! A mask as JSON has it in, packed bytes and a [`Segmentation`] out.
//!
//! Polygons of COCO have two decimals, so most of them are packed as hundredths in 32 bits, half of an f64; the
//! others keep their f64. Both come back to the bit.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Segmentation;
use crate::targets::{Polygon, Rle};

const HUNDREDTHS: u8 = 1;
const DOUBLES: u8 = 2;
const RUNS: u8 = 3;
const BROKEN: u8 = 4;

/// A mask before it is compared with its picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mask {
    /// Outlines, unchecked; at least one.
    Polygons(Vec<Vec<f64>>),
    Rle(Rle),
    /// Run lengths that are no mask, with the reason.
    Broken(String),
}

impl Mask {
    /// Appends its bytes: a kind, and for each polygon its length and numbers, or sides and compressed run lengths.
    pub(super) fn pack(&self, bytes: &mut Vec<u8>) {
        match self {
            Mask::Polygons(polygons) => {
                let is_short = polygons
                    .iter()
                    .flatten()
                    .all(|number| hundredths(*number).is_some());
                bytes.push(if is_short { HUNDREDTHS } else { DOUBLES });
                for polygon in polygons {
                    bytes.extend((polygon.len() as u32).to_le_bytes());
                    for number in polygon {
                        match hundredths(*number) {
                            Some(short) if is_short => bytes.extend(short.to_le_bytes()),
                            _ => bytes.extend(number.to_le_bytes()),
                        }
                    }
                }
            }
            Mask::Rle(rle) => {
                bytes.push(RUNS);
                bytes.extend(rle.width().to_le_bytes());
                bytes.extend(rle.height().to_le_bytes());
                bytes.extend(rle.to_compressed().into_bytes());
            }
            Mask::Broken(reason) => {
                bytes.push(BROKEN);
                bytes.extend(reason.as_bytes());
            }
        }
    }

    /// The mask that [`Mask::pack`] wrote; `None` for no bytes.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Mask> {
        let (kind, mut rest) = bytes.split_first()?;
        match *kind {
            RUNS => {
                let width = u32::from_le_bytes(take(&mut rest)?);
                let height = u32::from_le_bytes(take(&mut rest)?);
                let text = std::str::from_utf8(rest).ok()?;
                Rle::from_compressed(width, height, text).ok().map(Mask::Rle)
            }
            BROKEN => Some(Mask::Broken(String::from_utf8_lossy(rest).into_owned())),
            kind => {
                let mut polygons = Vec::new();
                while let Some(length) = take(&mut rest) {
                    let numbers = (0..u32::from_le_bytes(length)).map(|_| match kind {
                        HUNDREDTHS => Some(f64::from(i32::from_le_bytes(take(&mut rest)?)) / 100.0),
                        _ => Some(f64::from_le_bytes(take(&mut rest)?)),
                    });
                    polygons.push(numbers.collect::<Option<_>>()?);
                }
                Some(Mask::Polygons(polygons))
            }
        }
    }

    /// What is right of it; `None` where nothing is.
    pub(super) fn into_segmentation(self) -> Option<Segmentation> {
        match self {
            Mask::Polygons(polygons) => {
                let polygons: Vec<Polygon> = polygons
                    .iter()
                    .filter_map(|polygon| Polygon::from_flat(polygon).ok())
                    .collect();
                (!polygons.is_empty()).then_some(Segmentation::Polygons(polygons))
            }
            Mask::Rle(rle) => Some(Segmentation::Rle(rle)),
            Mask::Broken(_) => None,
        }
    }
}

/// The number times 100, where that is all there is to it.
fn hundredths(number: f64) -> Option<i32> {
    let short = (number * 100.0).round() as i32;
    let back = f64::from(short) / 100.0;
    (back.to_bits() == number.to_bits()).then_some(short)
}

fn take<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

/// COCO's `segmentation`: a list of polygons, or an object of `size` and `counts`; `None` for an empty list and
/// for null.
pub(crate) fn optional_mask<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mask>, D::Error> {
    deserializer.deserialize_any(MaskVisitor)
}

struct MaskVisitor;

impl<'de> Visitor<'de> for MaskVisitor {
    type Value = Option<Mask>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of polygons, or an object of `size` and `counts`")
    }

    fn visit_unit<E>(self) -> Result<Option<Mask>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Mask>, A::Error> {
        let mut polygons: Vec<Vec<f64>> = Vec::new();
        while let Some(polygon) = list.next_element()? {
            polygons.push(polygon);
        }
        Ok((!polygons.is_empty()).then_some(Mask::Polygons(polygons)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<Mask>, A::Error> {
        let (mut size, mut counts) = (None::<[u32; 2]>, None);
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "size" => size = Some(object.next_value()?),
                "counts" => counts = Some(object.next_value()?),
                _ => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        let [height, width] = size.ok_or_else(|| A::Error::missing_field("size"))?;
        let rle = match counts.ok_or_else(|| A::Error::missing_field("counts"))? {
            Counts::Text(text) => Rle::from_compressed(width, height, &text),
            Counts::Numbers(numbers) => Rle::new(width, height, numbers),
        };
        Ok(Some(match rle {
            Ok(rle) => Mask::Rle(rle),
            Err(reason) => Mask::Broken(reason.to_string()),
        }))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Text(String),
    Numbers(Vec<u32>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "optional_mask")]
        segmentation: Option<Mask>,
    }

    fn read(text: &str) -> Result<Option<Mask>, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"segmentation":{text}}}"#))
            .map(|holder: Holder| holder.segmentation)
    }

    #[test]
    fn all_forms_of_cocos_masks_are_read_and_packed() {
        let rle = Rle::new(3, 2, [1, 3, 2]).unwrap();
        let flat = vec![1.0, 2.5, 3.25, 4.0, 5.0, 6.01];
        for (text, expected) in [
            (
                "[[1,2.5,3.25,4,5,6.01]]",
                Some(Mask::Polygons(vec![flat.clone()])),
            ),
            (
                "[[1,2.5,3.25,4,5,6.01],[0.1234567,2,3,4]]",
                Some(Mask::Polygons(vec![flat, vec![0.1234567, 2.0, 3.0, 4.0]])),
            ),
            (r#"{"size":[2,3],"counts":[1,3,2]}"#, Some(Mask::Rle(rle.clone()))),
            (
                &format!(r#"{{"counts":"{}","size":[2,3],"id":4}}"#, rle.to_compressed()),
                Some(Mask::Rle(rle)),
            ),
            ("[]", None),
            ("null", None),
        ] {
            let mask = read(text).unwrap();
            assert_eq!(mask, expected, "{text}");
            let mut bytes = Vec::new();
            if let Some(mask) = &mask {
                mask.pack(&mut bytes);
            }
            assert_eq!(Mask::unpack(&bytes), mask, "{text}");
        }
        let Some(Mask::Broken(reason)) = read(r#"{"size":[2,3],"counts":[1,3]}"#).unwrap() else {
            panic!("runs that do not cover the picture");
        };
        assert!(reason.contains("must cover 6 px, got 4"), "{reason}");
        assert!(read("[1,2,3]").is_err());
        assert!(read(r#"{"size":[2,3]}"#).is_err());
    }

    #[test]
    fn hundredths_are_kept_only_where_they_are_all() {
        assert_eq!(hundredths(123.1), Some(12310));
        assert_eq!(hundredths(-0.07), Some(-7));
        assert_eq!(hundredths(0.125), None);
        assert_eq!(hundredths(1e12), None);
        assert_eq!(hundredths(f64::NAN), None);
    }
}
