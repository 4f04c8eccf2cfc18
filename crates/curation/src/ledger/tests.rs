//! The gate for takedowns: which photos it lets through, and that it uses index lookups and no scans.

use super::*;
use crate::photo::{Photo, Row};

fn photo(id: i64, key: &str) -> Row {
    Row {
        photo: Photo {
            id,
            key: key.to_string(),
            ..Photo::default()
        },
        refused: None,
        note: None,
    }
}

/// A ledger of the source's photos `a`, `b` and `c`; the content of `b` is all 2s.
fn ledger() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(folder.path()).unwrap();
    ledger
        .add_rows(&[photo(1, "a"), photo(2, "b"), photo(3, "c")])
        .unwrap();
    ledger.note_content(1, 2, &[2; 32]).unwrap();
    (folder, ledger)
}

fn take_down(ledger: &mut Ledger, key: &str, contents: &[Content]) {
    let contents = HashMap::from([(key.to_string(), contents.to_vec())]);
    ledger
        .take_down(&[key.to_string()].into(), &contents, "")
        .unwrap();
}

#[test]
fn photos_are_taken_down_by_key_and_by_known_content() {
    let (_folder, mut ledger) = ledger();
    let keys = |photos: &[Photo]| -> Vec<String> { photos.iter().map(|photo| photo.key.clone()).collect() };
    assert_eq!(ledger.undecided(1, 2, 0, 9).unwrap().photos.len(), 3);
    // Another key with the bytes of `b`, and one that releases held.
    take_down(&mut ledger, "gone", &[[9; 32], [2; 32]]);
    take_down(&mut ledger, "a", &[]);
    let undecided = ledger.undecided(1, 2, 0, 9).unwrap();
    assert_eq!(
        (keys(&undecided.photos), keys(&undecided.taken_down)),
        (vec!["c".into()], vec!["a".into(), "b".into()])
    );
    assert_eq!(undecided.last(), Some(3));
    assert_eq!(keys(&ledger.survivors(1, 0, 9).unwrap()), ["c"]);
    let mut survivors = Vec::new();
    ledger
        .for_each_survivor(1, |id, key| survivors.push((id, key.to_string())))
        .unwrap();
    assert_eq!(survivors, [(3, "c".to_string())]);
    // When files are read.
    let gate = ledger.gate(&undecided.taken_down).unwrap();
    assert_eq!(gate.check(7, &[9; 32]), Err(Refusal::TakenDown));
    assert_eq!(gate.check(2, &[3; 32]), Err(Refusal::Changed));
    assert_eq!(gate.check(3, &[3; 32]), Ok(()));
    // A key that returns is dropped when it is listed, and nothing else of it is kept.
    let mut again = photo(4, "a");
    again.photo.title = Some("title".into());
    ledger.add_rows(&[again]).unwrap();
    assert_eq!(ledger.counts(1).unwrap(), (3, 1));
    assert_eq!(ledger.photo(4).unwrap().unwrap().title, None);
}

/// At 10 million rows a stage must not scan: every table is reached by its key.
#[test]
fn the_gate_searches_nothing() {
    let (_folder, ledger) = ledger();
    let gated = [
        format!(
            "SELECT p.id, {} FROM decisions d CROSS JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = 1 AND d.photo > 0 AND d.kept = 1 \
             AND NOT EXISTS (SELECT 1 FROM decisions e WHERE e.stage = 2 AND e.photo = d.photo) ORDER BY d.photo LIMIT 64",
            takedowns::IS_TAKEN_DOWN
        ),
        format!(
            "SELECT p.id FROM decisions d CROSS JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = 1 AND d.photo > 0 AND d.kept = 1 AND NOT {} ORDER BY d.photo LIMIT 64",
            takedowns::IS_TAKEN_DOWN
        ),
    ];
    for query in gated {
        let plan: Vec<String> = ledger
            .sql(|db| {
                db.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?
                    .query_map([], |row| row.get(3))?
                    .collect()
            })
            .unwrap();
        assert!(plan.iter().all(|step| !step.contains("SCAN")), "{plan:#?}");
        assert!(
            plan.iter().all(|step| !step.contains("TEMP B-TREE FOR ORDER BY")),
            "{plan:#?}"
        );
        for table in ["p", "c"] {
            let by_key = format!("SEARCH {table} USING INTEGER PRIMARY KEY (rowid=?)");
            assert!(plan.iter().any(|step| step.starts_with(&by_key)), "{plan:#?}");
        }
    }
}
