//! The audit from sample to estimate, and its sheet.

use super::*;
use crate::verbs::review::tests::{curation, go, join, next, say, served};
use crate::{Error, Takedown};
use serde_json::json;

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
    let body = &seen[0]["key"];
    assert_eq!(found.samples[0].found.len(), 1);
    assert_eq!(
        (
            &json!(found.samples[0].found[0].key),
            &found.samples[0].found[0].categories[..]
        ),
        (body, &["body_part".to_string()][..])
    );
    let page = std::fs::read_to_string(&found.sheet).unwrap();
    assert!(page.contains("16.67 % (0.42 to 64.13)"), "{page}");
    // Four by score, and the one that the sample found.
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 5);
    assert!(
        page.contains("&lt;b&gt;Ann&lt;/b&gt;") && !page.contains("<b>Ann") && !page.contains("<img src=x")
    );
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));

    // Once it is taken down, the estimate is that of the photos before, and no sheet shows it any more.
    let key = body.as_str().unwrap();
    let other = home.path().join("elsewhere.html");
    let sheet = AuditOptions {
        sheet: Some(&other),
        sheet_photos: 10,
        ..options(&stop, None)
    };
    super::audit(&out, sheet).unwrap();
    let taken = Takedown {
        keys: &[key.to_string()],
        reason: "",
        encoders: &[],
        stop: &stop,
        progress: &|_, _, _| {},
    };
    let report = crate::takedown(&out, taken).unwrap();
    assert_eq!(report.sheets.len(), 2);
    for path in &report.sheets {
        let page = std::fs::read_to_string(path).unwrap();
        assert!(!page.contains(&format!("<code>{key}</code>")), "{page}");
        assert!(page.contains("taken down later and cut out"));
    }
    let found = audit(None);
    let sample = &found.samples[0];
    assert_eq!((sample.current, sample.taken_down_since), (false, Some(1)));
    assert!(sample.found[0].taken_down);
    let estimate = sample.estimate.clone().unwrap();
    assert_eq!(estimate.with_people, 1);
    assert!((estimate.expected_photos[1] - 10.0 / 6.0).abs() < 1e-12);
    let released = crate::release(&out, "", &stop, &|_, _, _| {}).unwrap();
    let sheet = std::fs::read_to_string(released.folder.join("DATASHEET.md")).unwrap();
    assert!(
        sheet.contains("Before 1 photo was taken down, a random sample of 6 of the 10 photos was labeled by people: 1 of them shows"),
        "{sheet}"
    );
    assert!(sheet.contains("16.67 % (0.42 to 64.13)"), "{sheet}");

    // After photos are removed, the sample describes a different set and gives no estimate.
    let gone = if key == "p3" { "p4" } else { "p3" };
    std::fs::remove_file(home.path().join(format!("photos/{gone}.png"))).unwrap();
    go(&config, &out, Some("source")).unwrap();
    let later = audit(None);
    assert!(!later.samples[0].current && later.samples[0].estimate.is_none());
    let error = super::audit(&out, options(&stop, Some((10, 1)))).unwrap_err();
    assert_eq!(error.to_string(), "audit: a sample must be 1 to 8 photos, got 10");
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

#[test]
fn before_the_review_the_scores_can_be_seen_and_no_sample_is_drawn() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    assert!(matches!(go(&config, &out, None), Err(Error::Waits(_))));
    let stop = AtomicBool::new(false);
    let found = audit(&out, options(&stop, None)).unwrap();
    assert_eq!(
        (found.stage.as_str(), found.before.as_deref()),
        ("licence", Some("review"))
    );
    assert_eq!(found.photos, 10);
    assert!(found.sheet.is_file());
    let error = audit(&out, options(&stop, Some((3, 1)))).unwrap_err();
    assert!(error.to_string().contains("and `review` is not done"), "{error}");
}

#[test]
fn a_sample_that_found_nobody_does_not_hide_one_that_found_people() {
    let sample = |id: i64, photos: u64, with_people: u64| Sample {
        id,
        seed: id as u64,
        photos,
        population: 100,
        labeled: photos,
        current: true,
        taken_down_since: Some(0),
        found: Vec::new(),
        estimate: Some(Estimate {
            with_people,
            rate: with_people as f64 / photos as f64,
            interval: [0.0, 0.5],
            expected_photos: [0.0, 1.0, 50.0],
        }),
    };
    let words = |samples: &[Sample]| super::estimate::estimate_in_words(samples).unwrap();
    assert!(!words(&[sample(1, 10, 2)]).contains("other"));
    // Drawn again and again until nobody is found.
    let again = words(&[sample(1, 10, 2), sample(2, 10, 1), sample(3, 10, 0)]);
    assert!(
        again.starts_with("A random sample of 10 of the 100 photos was labeled by people: 0 of them show"),
        "{again}"
    );
    assert!(
        again.ends_with("2 others were labeled too, and 3 of their 20 photos show people."),
        "{again}"
    );
}
