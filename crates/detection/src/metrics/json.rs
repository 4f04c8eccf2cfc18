//! Results as COCO's results file.

use serde::Serialize;

use super::check::check_values;
use super::error::MetricsError;
use super::results::{ImageResults, Kind};

#[derive(Serialize)]
struct Line<'a> {
    image_id: u64,
    category_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    category_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bbox: Option<[f64; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<Segmentation>,
    score: f32,
}

#[derive(Serialize)]
struct Segmentation {
    /// Height and width, px.
    size: [u32; 2],
    counts: String,
}

/// Results as the text of COCO's results file, one object per line, which pycocotools and other evaluators read.
///
/// - `category_ids` is the data set's own number of a class, as `Dataset::category_id` gives it;
/// - `names`, if not empty, are the classes' names, written as `category_name`; evaluators pass over it;
/// - boxes are `bbox`: left, top, width, height in px. Both sides are exact in f64, so an evaluator that adds them
///   gets the edges back;
/// - masks are `segmentation`, compressed run lengths, without `bbox`: pycocotools would take the box's area for
///   the mask's;
/// - scores are written in the fewest digits that lead back to the same f32.
///
/// # Errors
/// [`MetricsError`] for scores and edges that are no numbers, masks that are missing, and classes without a name.
pub fn results_json(
    results: &[ImageResults],
    kind: Kind,
    category_ids: impl Fn(u32) -> u64,
    names: &[String],
) -> Result<String, MetricsError> {
    let mut text = String::from("[");
    let mut separator = "\n";
    for ImageResults { image_id, found } in results {
        for (position, scored) in found.iter().enumerate() {
            check_values(*image_id, position, scored, kind)?;
            let class = scored.class;
            let category_name = match names.is_empty() {
                true => None,
                false => Some(names.get(class as usize).ok_or(MetricsError::NoName {
                    class,
                    names: names.len(),
                })?),
            };
            let [left, top, right, bottom] = scored.edges.map(f64::from);
            let mask = scored.mask.as_ref().filter(|_| kind == Kind::Masks);
            let line = Line {
                image_id: *image_id,
                category_id: category_ids(class),
                category_name: category_name.map(String::as_str),
                bbox: (kind == Kind::Boxes).then_some([left, top, right - left, bottom - top]),
                segmentation: mask.map(|mask| Segmentation {
                    size: [mask.height(), mask.width()],
                    counts: mask.to_compressed(),
                }),
                score: scored.score,
            };
            text.push_str(separator);
            // Numbers were checked, and all keys are text: nothing of it can fail.
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            separator = ",\n";
        }
    }
    text.push_str("\n]\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::results::Scored;
    use super::*;
    use data::targets::Rle;

    fn results() -> Vec<ImageResults> {
        let scored = |class, score, edges| Scored {
            class,
            score,
            edges,
            mask: Some(Rle::new(3, 2, [1, 3, 2]).unwrap()),
        };
        vec![
            ImageResults {
                image_id: 42,
                found: vec![
                    scored(1, 0.1, [0.1, 2.0, 10.3, 4.5]),
                    scored(0, 1.0 / 3.0, [0.0, 0.0, 1.0, 2.0]),
                ],
            },
            ImageResults {
                image_id: 7,
                found: vec![],
            },
        ]
    }

    #[test]
    fn a_file_holds_the_data_sets_own_numbers() {
        let names = ["cat \"a\"", "dog"].map(String::from);
        let text = results_json(&results(), Kind::Masks, |class| u64::from(class) * 10 + 3, &names).unwrap();
        assert_eq!(
            text,
            "[\n\
             {\"image_id\":42,\"category_id\":13,\"category_name\":\"dog\",\"segmentation\":{\"size\":[2,3],\"counts\":\"132\"},\"score\":0.1},\n\
             {\"image_id\":42,\"category_id\":3,\"category_name\":\"cat \\\"a\\\"\",\"segmentation\":{\"size\":[2,3],\"counts\":\"132\"},\"score\":0.33333334}\n\
             ]\n"
        );
        assert_eq!(results_json(&[], Kind::Boxes, u64::from, &[]).unwrap(), "[\n]\n");
    }

    #[test]
    fn scores_and_edges_lead_back_to_the_same_bits() {
        let mut state = 1u64;
        let mut number = |largest: f32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 * largest
        };
        let found: Vec<Scored> = (0..500)
            .map(|_| {
                let (left, top) = (number(700.0), number(500.0));
                Scored {
                    class: 0,
                    score: number(1.0),
                    edges: [left, top, left + number(300.0), top + number(300.0)],
                    mask: None,
                }
            })
            .collect();
        let results = [ImageResults { image_id: 1, found }];
        let text = results_json(&results, Kind::Boxes, u64::from, &[]).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<serde_json::Value>>(&text)
                .unwrap()
                .len(),
            500
        );
        // Read by the standard library, which rounds correctly; so does Python.
        let between = |line: &str, before: &str, after: &str| -> Vec<f64> {
            let (_, rest) = line.split_once(before).unwrap();
            let (numbers, _) = rest.split_once(after).unwrap();
            numbers.split(',').map(|number| number.parse().unwrap()).collect()
        };
        for (line, scored) in text.lines().skip(1).zip(&results[0].found) {
            let side = between(line, "\"bbox\":[", "]");
            let edges = [side[0], side[1], side[0] + side[2], side[1] + side[3]];
            assert_eq!(edges, scored.edges.map(f64::from));
            assert_eq!(between(line, "\"score\":", "}")[0] as f32, scored.score);
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let mut results = results();
        let names = [String::from("one")];
        assert_eq!(
            results_json(&results, Kind::Boxes, u64::from, &names),
            Err(MetricsError::NoName { class: 1, names: 1 })
        );
        results[0].found[1].mask = None;
        assert!(results_json(&results, Kind::Boxes, u64::from, &[]).is_ok());
        let error = results_json(&results, Kind::Masks, u64::from, &[]).unwrap_err();
        assert_eq!(error.to_string(), "result 1 of image 42 must have a mask");
        results[0].found[0].score = f32::NAN;
        assert!(results_json(&results, Kind::Boxes, u64::from, &[]).is_err());
    }
}
