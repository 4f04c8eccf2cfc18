//! Rows with bad addresses in, reasons and details of the ledger out.

use super::*;

#[test]
fn what_became_of_an_address_is_in_the_ledger_with_its_cause() {
    let server = Server::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = &server.address;
    let rows = [
        ("good", format!("{at}/good-3.jpg")),
        ("twice", format!("{at}/twice-1.jpg")),
        ("whither", format!("{at}/whither-1.jpg")),
        ("loop", format!("{at}/loop-1.jpg")),
        ("noai", format!("{at}/to-%2Fnoai-2.jpg")),
        ("closed", format!("{at}/to-http%3A%2F%2F{nobody}%2Fa.jpg")),
        ("brace", "http://a{b.example/a.jpg".to_string()),
        ("slow", format!("{at}/to-%2Fnever-1.jpg")),
    ];
    let rows: Vec<(String, String)> = rows.map(|(key, address)| (key.to_string(), address)).into();
    let fetch = FetchConfig {
        robots_noai: Some(NoAi::Drop),
        timeout_s: 2.0,
        attempts: 1,
        ..fetch_config()
    };
    let config = config(folder.path(), &rows, fetch);
    let out = folder.path().join("out");
    go(&config, &out, &AtomicBool::new(false)).unwrap();
    let ledger = rusqlite::Connection::open(out.join("ledger.sqlite")).unwrap();
    let found = |key: &str| {
        let sql = "SELECT reason, detail FROM decision_log WHERE stage = 'fetch' AND key = ?1";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        ledger
            .query_row::<(String, String), _, _>(sql, [key], row)
            .unwrap()
    };
    for (key, reason, detail) in [
        (
            "twice",
            "bad_address",
            "redirected to two addresses, `/good-1.jpg` and `/good-2.jpg`".to_string(),
        ),
        (
            "whither",
            "http_302",
            "the host redirects without saying where (`Location`)".to_string(),
        ),
        (
            "loop",
            "too_many_redirects",
            format!("after 3 of them it is at `{at}/loop-1.jpg`, which redirects again"),
        ),
        (
            "noai",
            "noai",
            format!("`X-Robots-Tag: noindex, noai` at `{at}/noai-2.jpg`"),
        ),
        (
            "slow",
            "timeout",
            format!("redirected to `{at}/never-1.jpg`: no whole response within 2 s"),
        ),
    ] {
        assert_eq!(found(key), (reason.to_string(), detail), "{key}");
    }
    let (reason, detail) = found("closed");
    assert_eq!(reason, "no_connection");
    assert!(
        detail.starts_with(&format!("redirected to `http://{nobody}/a.jpg`: ")),
        "{detail}"
    );
    let (reason, detail) = found("brace");
    assert_eq!(reason, "bad_address");
    assert!(!detail.is_empty());
}
