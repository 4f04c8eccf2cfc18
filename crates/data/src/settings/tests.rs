//! Faults and cures of small configs, in the forms in which people write them.

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Config {
    objective: Objective,
    views: Vec<View>,
    accept: Vec<License>,
    source: Source,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum Objective {
    Moco { queue_images: usize },
    MocoCld { queue_images: usize },
    MocoV3 {},
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code)]
enum View {
    CenterCrop { size_px: u32 },
    RandomResizedCrop { size_px: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct License {
    name: String,
    urls: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code)]
struct Source {
    folder: String,
    licence: Option<String>,
}

const TEXT: &str = "\
views = [{ center_crop = { size_px = 8 } }]
[objective.moco]
queue_images = 4
[[accept]]
name = \"CC0\"
urls = []
[source]
folder = \"photos\"
";

/// The fault of [`TEXT`] with one part replaced, and of edits.
fn fault(from: &str, to: &str, edits: &[(&str, &str)]) -> Fault {
    assert!(TEXT.contains(from), "{from}");
    let edits: Vec<Edit> = edits
        .iter()
        .map(|(path, text)| Edit {
            path: (*path).to_string(),
            text: (*text).to_string(),
        })
        .collect();
    read::<Config>(&TEXT.replace(from, to), &edits, |_| (), |_: &Config| Ok(())).unwrap_err()
}

fn named(header: &str, table: &str, key: &str) -> Cure {
    Cure::Named {
        header: header.into(),
        table: table.into(),
        key: key.into(),
    }
}

#[test]
fn the_text_is_read() {
    read::<Config>(TEXT, &[], |_| (), |_: &Config| Ok(())).unwrap();
}

#[test]
fn a_choice_that_a_key_names_is_written_as_its_table() {
    for (name, table) in [
        ("moco", "objective.moco"),
        ("MoCo", "objective.moco"),
        ("moco_v2", "objective.moco"),
        ("moco-v3", "objective.moco_v3"),
        ("moco_cld", "objective.moco_cld"),
    ] {
        for key in ["name", "type", "method"] {
            let fault = fault(
                "[objective.moco]",
                &format!("[objective]\n{key} = \"{name}\""),
                &[],
            );
            let mut keys = [key, "queue_images"];
            keys.sort_unstable();
            assert_eq!(
                fault.to_string(),
                format!(
                    "line 2: `objective` must have exactly one of `moco`, `moco_cld`, `moco_v3`, got `{}` and `{}`",
                    keys[0], keys[1]
                )
            );
            assert_eq!(fault.cure(), Some(&named("[objective]", table, key)), "{name}");
        }
    }
    // A name of nothing that there is.
    let unknown = fault("[objective.moco]", "[objective]\nname = \"dino\"", &[]);
    assert!(!matches!(unknown.cure(), Some(Cure::Named { .. })));
}

#[test]
fn a_choice_within_a_line_is_written_with_its_settings() {
    let view = fault(
        "{ center_crop = { size_px = 8 } }",
        "{ name = \"CenterCrop\", size_px = 8 }",
        &[],
    );
    assert_eq!(
        view.cure(),
        Some(&Cure::Line {
            line: "{ center_crop = { size_px = 8 } }".into()
        })
    );
    let objective = fault(
        "[objective.moco]\nqueue_images = 4",
        "[objective]\nmoco = { queue_images = 4 }\nname = \"moco\"",
        &[],
    );
    assert_eq!(
        objective.cure(),
        Some(&Cure::Omit {
            key: "objective.name".into()
        })
    );
    let edited = fault("", "", &[("objective.name", "moco_v3")]);
    assert_eq!(
        edited.cure(),
        Some(&Cure::Replace {
            path: "objective".into(),
            content: "{ moco_v3 = {} }".into()
        })
    );
}

#[test]
fn names_with_other_numbers_are_no_misspellings() {
    let found = fault("[objective.moco]", "[objective.moco_v2]", &[]);
    let nearest = Cure::Nearest {
        path: "objective.moco".into(),
    };
    assert_eq!(found.cure(), Some(&nearest));
}

#[test]
fn a_key_in_place_of_the_one_that_is_missing_is_named_with_it() {
    let wrong = fault("name =", "licence =", &[]);
    assert_eq!(
        wrong.to_string(),
        "line 5: there is no key `accept.licence`: `accept.0` has no `licence`; keys are `name`, `urls`"
    );
    // Not `source.licence`, which has this name and may be left out.
    let instead = Cure::Instead {
        path: "accept.0.name".into(),
        key: "licence".into(),
    };
    assert_eq!(wrong.cure(), Some(&instead));
    // A value that does not fit; nothing is missing.
    let number = fault("name = \"CC0\"", "licence = 3", &[]);
    assert!(!matches!(number.cure(), Some(Cure::Instead { .. })));
    let more = fault("urls = []", "urls = []\nlicence = \"CC0\"", &[]);
    let elsewhere = Cure::Elsewhere {
        paths: vec!["source.licence".into()],
    };
    assert_eq!(more.cure(), Some(&elsewhere));
    // The key is missing where it belongs.
    let moved = fault(
        "name = \"CC0\"\nurls = []\n[source]\nfolder = \"photos\"",
        "folder = \"photos\"\nurls = []\n[source]",
        &[],
    );
    let elsewhere = Cure::Elsewhere {
        paths: vec!["source.folder".into()],
    };
    assert_eq!(moved.cure(), Some(&elsewhere));
}

#[test]
fn a_table_too_many_is_left_out() {
    let inner = fault("[source]", "[source.folder]\nlicence = \"CC0\"", &[]);
    // `folder` is a key of the table, so its type is named.
    assert!(
        inner
            .to_string()
            .contains("`source.folder` must be a text in quotes"),
        "{inner}"
    );
    let inner = fault("[source]", "[source.photos]\nlicence = \"CC0\"", &[]);
    assert_eq!(
        inner.to_string(),
        "line 7: there is no key `source.photos`: `source` has no `photos`; keys are `folder`, `licence`"
    );
    let flat = Cure::Flat {
        table: "source".into(),
        inner: "source.photos".into(),
    };
    assert_eq!(inner.cure(), Some(&flat));
}

#[test]
fn a_table_given_without_keys_has_no_keys_to_give_one_by_one() {
    let emptied = fault("CC0", "CC0", &[("source", "{}")]);
    assert_eq!(emptied.to_string(), "`source.folder` is missing");
    assert_eq!(emptied.cure(), None);
    let partly = fault("CC0", "CC0", &[("source", "{ licence = \"x\" }")]);
    let edits = vec![Edit {
        path: "source.licence".to_string(),
        text: "\"x\"".to_string(),
    }];
    assert_eq!(partly.cure(), Some(&Cure::OneByOne { edits }));
}

#[test]
fn the_nearest_key_is_no_cure_where_it_is_a_table_and_the_value_is_none() {
    let unlike = fault("CC0", "CC0", &[("sources", "3")]);
    assert!(
        unlike.to_string().starts_with("there is no key `sources`"),
        "{unlike}"
    );
    assert_ne!(
        unlike.cure(),
        Some(&Cure::Nearest {
            path: "source".to_string()
        })
    );
    let alike = fault("CC0", "CC0", &[("source.licences", "\"CC0\"")]);
    assert_eq!(
        alike.cure(),
        Some(&Cure::Nearest {
            path: "source.licence".to_string()
        })
    );
}

#[test]
fn a_fault_of_an_edit_names_the_key_as_it_was_typed() {
    for (path, text, sentence) in [
        (
            "views.0.center_crop.sise",
            "8",
            "there is no key `views.0.center_crop.sise`: `views.0.center_crop` has no `sise`; keys are `size_px`",
        ),
        (
            "views.center_crop.sise",
            "8",
            "there is no key `views.center_crop.sise`: `views.center_crop` has no `sise`; keys are `size_px`",
        ),
        (
            "views.0.center_crop.size_px",
            "x",
            "`views.0.center_crop.size_px` must be a whole number, got \"x\"",
        ),
        (
            "accept.0.cout",
            "8",
            "there is no key `accept.0.cout`: `accept.0` has no `cout`; keys are `name`, `urls`",
        ),
        (
            "views.0.center_crop.size_px.a",
            "1",
            "`views.0.center_crop.size_px` is 8 in the config and has no keys",
        ),
        (
            "accept.0.urls.7",
            "a",
            "the list `accept.0.urls` has no element `7`; it has 0, counted from 0",
        ),
    ] {
        assert_eq!(fault("", "", &[(path, text)]).to_string(), sentence);
    }
    let edit = Edit {
        path: "views.0.center_crop.size_px".into(),
        text: "9".into(),
    };
    let refused = |_: &Config| Err("`views.center_crop.size_px` must be 8, got 9".to_string());
    let fault = read::<Config>(TEXT, &[edit], |_| (), refused).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "`views.0.center_crop.size_px` must be 8, got 9"
    );
}
