//! The review cannot err in silence: no answer without a picture that was sent, none twice, none lost; answers
//! that are discarded; one reviewer alone.

use super::*;

/// The rows of `answers` as `key categories state`.
fn rows(out: &Path) -> Vec<String> {
    let ledger = rusqlite::Connection::open(out.join("ledger.sqlite")).unwrap();
    let mut query = ledger
        .prepare("SELECT key || ' ' || categories || ' ' || state FROM answers ORDER BY id")
        .unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn no_answer_is_taken_for_a_picture_that_its_annotator_was_not_sent() {
    let (home, config) = curation(1.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let (ann, bob) = (join(address, "Ann"), join(address, "Bob"));
        let give =
            |who, answers: &[(i64, &[&str], &str)]| post(address, "/api/answers", &change(who, answers));
        let refused =
            |photo: i64, reason: &str| (409, json!({ "refused": [{ "photo": photo, "reason": reason }] }));
        next(address, ann);
        let (status, shown) = show(address, ann, 1);
        assert_eq!(status, 200);
        let file = std::fs::read(home.path().join("photos/p0.png")).unwrap();
        assert_eq!(shown, data::hex(&crate::ledger::sha256(&file)));
        // Bob was sent nothing, Ann nothing of photo 2, and no file of photo 1 has this content.
        assert_eq!(give(bob, &[(1, &[], &shown)]), refused(1, "not_shown"));
        assert_eq!(give(ann, &[(2, &[], &shown)]), refused(2, "not_shown"));
        assert_eq!(give(ann, &[(1, &[], &"0".repeat(64))]), refused(1, "changed"));
        // All or nothing.
        assert_eq!(
            give(ann, &[(1, &[], &shown), (2, &[], &shown)]),
            refused(2, "not_shown")
        );
        assert_eq!(rows(&out), [] as [String; 0]);
        assert_eq!(give(ann, &[(1, &["nsfw"], &shown)]).0, 200);
        assert_eq!(rows(&out), ["p0 nsfw current"]);
        // With the next page the pictures of this one are forgotten.
        assert_eq!(show(address, ann, 3).0, 200);
        next(address, ann);
        assert_eq!(give(ann, &[(1, &[], &shown)]), refused(1, "not_shown"));
        assert_eq!(rows(&out), ["p0 nsfw current"]);
    });
    // Another process does not know what this one has sent.
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        let answer = change(ann, &[(3, &[], &"0".repeat(64))]);
        assert_eq!(post(address, "/api/answers", &answer).0, 409);
    });
}

#[test]
fn pictures_that_are_missing_exchanged_or_broken_get_no_answer_and_hold_nobody_up() {
    let (home, mut config) = curation(0.0);
    let text = "integrity = { min_side_px = 1, max_side_px = 100, max_pixels = 10000, single_colour_levels = 0, placeholders = [] }";
    config.stages.insert(1, toml::from_str(text).unwrap());
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    let photos = home.path().join("photos");
    let whole = std::fs::read(photos.join("p1.png")).unwrap();
    std::fs::remove_file(photos.join("p1.png")).unwrap();
    std::fs::copy(photos.join("p9.png"), photos.join("p2.png")).unwrap();
    let ((), reviewed) = served(&out, None, |address| {
        let ann = join(address, "Ann");
        assert_eq!(next(address, ann).len(), 10);
        let text = |photo: i64| {
            let (status, body, _) = get(address, &format!("/thumb/{photo}?annotator={ann}"));
            (status, String::from_utf8_lossy(&body).trim().to_string())
        };
        let (status, reason) = text(2);
        assert!(
            status == 422
                && reason.starts_with("its file cannot be read: No such file")
                && !reason.contains("p1"),
            "{status} {reason}"
        );
        let exchanged = (
            409,
            "the file changed since the stage `integrity` read it".to_string(),
        );
        assert_eq!(text(3), exchanged);
        for photo in [2, 3] {
            assert_eq!(say(address, ann, photo, &[]), 409);
        }
        assert_eq!(rows(&out), [] as [String; 0]);
        // Nobody receives them again, until they are looked for again.
        assert_eq!(next(address, ann).len(), 8);
        let state = state(address);
        assert_eq!(
            (&state["labels_open"], &state["labels_not_shown"]),
            (&json!(10), &json!(2))
        );
        assert_eq!(state["not_shown_photos"][1]["key"], "p2");
        let again = json!({ "annotator": ann, "count": 100, "again": true });
        assert_eq!(
            post(address, "/api/next", &again).1["photos"]
                .as_array()
                .unwrap()
                .len(),
            10
        );
        text(2);
        text(3);
        for photo in next(address, ann) {
            assert_eq!(say(address, ann, photo["photo"].as_i64().unwrap(), &[]), 200);
        }
        // One of them comes back.
        std::fs::write(photos.join("p1.png"), &whole).unwrap();
        assert_eq!(show(address, ann, 2).0, 200);
        assert_eq!(next(address, ann).len(), 1);
        assert_eq!(say(address, ann, 2, &["person"]), 200);
    });
    assert_eq!((reviewed.photos, reviewed.done), (10, 9));
    assert_eq!(reviewed.not_shown[0].0, "p2");
    // All others have their labels: the stage drops it, as every stage that reads files does.
    go(&config, &out, None).unwrap();
    let stage = crate::status(&out).unwrap().stages.pop().unwrap();
    let reasons: Vec<&str> = stage
        .reasons
        .iter()
        .map(|reason| reason.reason.as_str())
        .collect();
    assert_eq!((stage.kept, reasons), (8, vec!["file_changed", "person"]));
}

#[test]
fn a_file_cut_off_is_no_picture_and_a_disk_that_is_gone_drops_nothing() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    let photos = home.path().join("photos");
    let whole = std::fs::read(photos.join("p4.png")).unwrap();
    std::fs::write(photos.join("p4.png"), &whole[..whole.len() / 2]).unwrap();
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        // As a whole file, browsers would show its upper part.
        for size in ["thumb", "medium", "photo"] {
            let (status, reason, _) = get(address, &format!("/{size}/5?annotator={ann}"));
            assert_eq!(status, 422, "{}", String::from_utf8_lossy(&reason));
        }
        for photo in next(address, ann) {
            say(address, ann, photo["photo"].as_i64().unwrap(), &[]);
        }
    });
    go(&config, &out, None).unwrap();
    let stage = crate::status(&out).unwrap().stages.pop().unwrap();
    assert_eq!((stage.kept, stage.dropped), (9, 1));

    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    let photos = home.path().join("photos");
    for number in 0..10 {
        std::fs::remove_file(photos.join(format!("p{number}.png"))).unwrap();
    }
    let error = go(&config, &out, None).unwrap_err().to_string();
    assert!(
        error.contains("none of the 10 photos can be shown, e.g. `p0`"),
        "{error}"
    );
    std::fs::remove_dir_all(&photos).unwrap();
    assert!(go(&config, &out, None).is_err());
    assert_eq!(crate::status(&out).unwrap().stages.pop().unwrap().dropped, 0);
}

#[test]
fn a_change_that_is_sent_again_takes_effect_once() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        let (_, first) = show(address, ann, 1);
        let (_, second) = show(address, ann, 2);
        for answer in [
            change(ann, &[(1, &["person"], &first)]),
            change(ann, &[(2, &[], &second)]),
        ] {
            let response = post(address, "/api/answers", &answer);
            assert_eq!(response, (200, json!({ "saved": 1, "withdrawn": [] })));
            assert_eq!(post(address, "/api/answers", &answer), response);
        }
        assert_eq!(rows(&out), ["p0 person current", "p1  current"]);
        // The same answer in another change, as after the server was started again.
        assert_eq!(say(address, ann, 1, &["person"]), 200);
        assert_eq!(rows(&out).len(), 2);
        let undo = change(ann, &[]);
        let response = post(address, "/api/undo", &undo);
        assert_eq!(response.1["photos"][0]["key"], "p1");
        assert_eq!(post(address, "/api/undo", &undo), response);
        assert_eq!(rows(&out), ["p0 person current", "p1  undone"]);
        // An older change does not come late.
        let mut late = undo;
        late["number"] = json!(0);
        assert_eq!(post(address, "/api/undo", &late).0, 400);
    });
}

#[test]
fn the_answers_of_one_annotator_can_be_discarded_and_stay_in_the_ledger() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let (ann, bob) = (join(address, "Ann"), join(address, "Bob"));
        for photo in [1, 2, 3] {
            assert_eq!(say(address, ann, photo, &["person"]), 200);
        }
        assert_eq!(say(address, ann, 3, &[]), 200);
        assert_eq!(say(address, bob, 4, &[]), 200);
        assert_eq!(state(address)["labels_open"], 6);
        let (status, said) = post(address, "/api/discard", &change(ann, &[]));
        assert_eq!((status, said), (200, json!({ "discarded": 3 })));
        assert_eq!(state(address)["labels_open"], 9);
        assert_eq!(next(address, ann).len(), 9);
        // Nothing is left to take back.
        assert_eq!(
            post(address, "/api/undo", &change(ann, &[])).1["photos"],
            json!([])
        );
    });
    let kept = [
        "p0 person discarded",
        "p1 person discarded",
        "p2 person replaced",
        "p2  discarded",
        "p3  current",
    ];
    assert_eq!(rows(&out), kept);
    let error = discard_answers(&out, None, "Eve").unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage `review`: there is no annotator `Eve`; known are `Ann`, `Bob`"
    );
    let discarded = discard_answers(&out, None, "Bob").unwrap();
    assert_eq!((discarded.answers, discarded.decided), (1, false));
    assert_eq!(rows(&out)[4], "p3  discarded");
    assert_eq!(crate::status(&out).unwrap().review.unwrap().labels_open, 10);
}

#[test]
fn one_reviewer_finishes_alone_once_no_photo_is_labeled_twice() {
    let (home, mut config) = curation(1.0);
    let out = home.path().join("out");
    go(&config, &out, None).unwrap_err();
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        for photo in next(address, ann) {
            assert_eq!(say(address, ann, photo["photo"].as_i64().unwrap(), &[]), 200);
        }
    });
    let Err(Error::Waits(labeling)) = go(&config, &out, None) else {
        panic!("the stage waits");
    };
    assert_eq!((labeling.labels_open, labeling.wait_for_second), (10, 10));
    // While the stage has decided on nothing, its settings may change.
    let Some(crate::StageConfig::Review(review)) = config.stages.last_mut() else {
        panic!("the last stage is the review");
    };
    review.labeled_twice = 0.0;
    go(&config, &out, None).unwrap();
    let ledger = crate::Ledger::open_read_only(&out).unwrap();
    assert!(
        ledger
            .stage("review")
            .unwrap()
            .unwrap()
            .settings
            .contains("\"labelled_twice\":0.0")
    );
}
