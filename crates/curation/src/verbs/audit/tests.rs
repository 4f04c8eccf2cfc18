//! The audit from sample to estimate, and its sheet.

use super::*;
use crate::verbs::review::tests::{curation, go, join, next, say, served};

fn options(stop: &AtomicBool, draw: Option<(usize, u64)>) -> AuditOptions<'_> {
    AuditOptions {
        sheet_photos: 4,
        sheet: None,
        draw,
        stop,
        progress: &|_, _, _| {},
    }
}

#[test]
fn a_sample_is_drawn_labeled_and_tells_how_many_people_are_left() {
    let (home, mut config) = curation(0.0);
    config.stages.pop();
    let out = home.path().join("out");
    go(&config, &out, None).unwrap();
    let stop = AtomicBool::new(false);
    let audit = |draw| audit(&out, options(&stop, draw)).unwrap();
    let first = audit(None);
    assert_eq!((first.photos, first.with_score, first.samples.len()), (10, 0, 0));
    let drawn = audit(Some((6, 1)));
    assert_eq!(drawn.samples.len(), 1);
    assert_eq!((drawn.samples[0].photos, drawn.samples[0].labeled), (6, 0));
    // The same request returns the same sample; another seed gives another one.
    assert_eq!(audit(Some((6, 1))).samples.len(), 1);
    assert_eq!(audit(Some((6, 2))).samples.len(), 2);
    let (seen, _) = served(&out, Some(1), |address| {
        let ann = join(address, "Ann");
        let photos = next(address, ann);
        for (at, photo) in photos.iter().enumerate() {
            let said: &[&str] = match at {
                0 => &["body_part"],
                1 => &["licence_plate"],
                _ => &[],
            };
            say(address, ann, photo["photo"].as_i64().unwrap(), said);
        }
        photos
    });
    assert_eq!(seen.len(), 6);
    // Nothing on the page may influence the person who labels a sample.
    assert!(seen.iter().all(|photo| photo["score"].is_null()));
    let found = audit(None);
    let estimate = found.samples[0].estimate.clone().unwrap();
    assert_eq!((estimate.with_people, estimate.rate), (1, 1.0 / 6.0));
    assert_eq!(estimate.interval, clopper_pearson(1, 6, 0.95));
    assert_eq!(found.samples[1].estimate, None);
    let page = std::fs::read_to_string(&found.sheet).unwrap();
    assert!(page.contains("16.67 % (0.42 to 64.13)"), "{page}");
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 4);
    assert!(
        page.contains("&lt;b&gt;Ann&lt;/b&gt;") && !page.contains("<b>Ann") && !page.contains("<img src=x")
    );
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));

    // After photos are removed, the sample describes a different set and gives no estimate.
    std::fs::remove_file(home.path().join("photos/p3.png")).unwrap();
    go(&config, &out, Some("source")).unwrap();
    let later = audit(None);
    assert!(!later.samples[0].current && later.samples[0].estimate.is_none());
    let error = super::audit(&out, options(&stop, Some((10, 1)))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage `audit`: a sample must be 1 to 9 photos, got 10"
    );
}

#[test]
fn estimates_are_told_alike_everywhere() {
    let estimate = Estimate {
        with_people: 2,
        rate: 0.02,
        interval: [0.002_43, 0.070_38],
        expected_photos: [2.43, 20.0, 70.38],
    };
    assert_eq!(estimate.rate_in_words(), "2.00 % (0.24 to 7.04)");
    assert_eq!(estimate.photos_in_words(), "20 (2 to 71)");
    // One of 50,000 is not none.
    let rare = Estimate {
        with_people: 1,
        rate: 0.000_02,
        interval: [0.000_000_506, 0.000_111_4],
        ..estimate
    };
    assert_eq!(rare.rate_in_words(), "0.002 % (0.000 to 0.012)");
}
