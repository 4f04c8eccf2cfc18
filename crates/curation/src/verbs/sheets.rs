//! The contact sheets that were made of a curation, and how photos are cut out of them when they are taken
//! down.
//!
//! A sheet holds small copies of photos, so a takedown must reach it. The ledger knows the paths; each photo is
//! one item of a list that names its key, so that it can be cut out of the file, whatever made it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data::html::data_uri;
use data::terminal::one_line;
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use crate::error::Error;
use crate::ledger::{FILE_NAME, Ledger};
use crate::photo::Photo;

/// Longer side of a picture, px.
pub(crate) const PICTURE_PX: u32 = 360;

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.45 system-ui,sans-serif;margin:1rem;max-width:110rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem}table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid gray}\
ol{list-style:none;padding:0;display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(15rem,45%),1fr))}\
figure{margin:0}figure img{width:100%;height:13rem;object-fit:contain;background:rgba(128,128,128,.15)}figcaption{font-size:.85rem;overflow-wrap:anywhere}.pair{display:flex;gap:.25rem}.pair>*{flex:1 1 0;min-width:0}\
.scroll{overflow-x:auto}";

/// The content policy: only the pictures within the page.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// The name of an audit's sheet in the folder of the curation.
pub(crate) const AUDIT: &str = "audit.html";
/// The fact of the ledger that lists the sheets, JSON: relative paths within the folder of the curation, absolute
/// ones elsewhere. Versions before 0.3 wrote absolute ones alone.
const FACT: &str = "sheets";

/// Records a sheet that was made of the curation in `folder`.
pub(crate) fn note(ledger: &Ledger, folder: &Path, sheet: &Path) -> Result<(), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(Error::io("find", path));
    // A copy of the curation has its own copy of a sheet within.
    let path = match real(sheet)?.strip_prefix(real(folder)?) {
        Ok(within) => within.to_path_buf(),
        Err(_) => std::path::absolute(sheet).map_err(Error::io("find", sheet))?,
    };
    let mut known = known(ledger)?;
    if known.insert(path) {
        ledger.set_fact(FACT, &serde_json::to_string(&known).unwrap_or_default())?;
    }
    Ok(())
}

fn known(ledger: &Ledger) -> Result<BTreeSet<PathBuf>, Error> {
    let text = ledger.fact(FACT)?.unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Cuts photos out of all sheets of the curation in `folder`. Returns the sheets that showed one of them.
///
/// # Errors
/// A sheet that cannot be read or written. A sheet that is gone is none.
pub(crate) fn cut_out(
    ledger: &Ledger,
    folder: &Path,
    keys: &BTreeSet<String>,
) -> Result<Vec<PathBuf>, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
    let home = absolute(folder)?;
    let mut sheets: BTreeSet<PathBuf> = known(ledger)?.into_iter().map(|path| home.join(path)).collect();
    // Of versions that did not record it.
    sheets.insert(home.join(AUDIT));
    let mut cut = Vec::new();
    for path in sheets.into_iter().filter(|path| !is_of_another(path, &home)) {
        let page = match std::fs::read_to_string(&path) {
            Ok(page) => page,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        if let Some(page) = without(&page, keys) {
            data::durable::write(&path, page.as_bytes())?;
            cut.push(path);
        }
    }
    Ok(cut)
}

/// Whether a sheet lies in the folder of another curation: that of which this one is a copy.
fn is_of_another(sheet: &Path, home: &Path) -> bool {
    let holds_ledger = |folder: &&Path| folder.join(FILE_NAME).is_file();
    sheet
        .parent()
        .and_then(|folder| folder.ancestors().find(holds_ledger))
        .is_some_and(|folder| folder != home)
}

/// A page without the items of these keys; `None` if it has none of them.
fn without(page: &str, keys: &BTreeSet<String>) -> Option<String> {
    let mut page = page.to_string();
    let mut count = 0;
    for key in keys {
        let PreEscaped(key) = key.as_str().render();
        let name = format!("<code>{key}</code>");
        let mut from = 0;
        while let Some(at) = page[from..].find(&name).map(|at| from + at) {
            let item = page[..at].rfind("<li>").zip(page[at..].find("</li>"));
            let Some((start, end)) = item.filter(|(start, _)| !page[*start..at].contains("</li>")) else {
                from = at + name.len();
                continue;
            };
            page.replace_range(start..at + end + "</li>".len(), "");
            count += 1;
            from = start;
        }
    }
    if count == 0 {
        return None;
    }
    let note = match count {
        1 => "<p>1 photo was taken down later and cut out of this page.</p>".to_string(),
        count => format!("<p>{count} photos were taken down later and cut out of this page.</p>"),
    };
    let end = page.rfind("</main>").unwrap_or(page.len());
    page.insert_str(end, &note);
    Some(page)
}

/// A page that loads and runs nothing.
pub(crate) fn document(title: &str, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (main)
                }
            }
        }
    }
}

/// A photo with what is said of it.
pub(crate) fn figure(photo: &Photo, said: &str, jpeg: Option<Vec<u8>>) -> Markup {
    html! {
        li {
            figure {
                @if let Some(jpeg) = jpeg {
                    img loading="lazy" alt={ "photo " (photo.key) } src=(data_uri(&jpeg));
                } @else {
                    p { "This file cannot be shown." }
                }
                figcaption {
                    @if !said.is_empty() {
                        strong { (said) } " "
                    }
                    code { (photo.key) }
                    @if let Some(title) = &photo.title {
                        " “" (one_line(title)) "”"
                    }
                    @if let Some(photographer) = &photo.photographer {
                        " by " (one_line(photographer))
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copied curation has copied sheets: a takedown in one leaves the other's alone.
    #[test]
    fn sheets_within_a_curation_are_its_own_wherever_it_is() {
        let home = tempfile::tempdir().unwrap();
        let (mine, copy) = (home.path().join("mine"), home.path().join("copy"));
        let item = "<ol><li><code>a</code></li></ol>";
        let outside = home.path().join("outside.html");
        std::fs::create_dir(&mine).unwrap();
        let ledger = Ledger::open(&mine).unwrap();
        for sheet in [&mine.join(AUDIT), &mine.join("faces.html"), &outside] {
            std::fs::write(sheet, item).unwrap();
            note(&ledger, &mine, sheet).unwrap();
        }
        let noted = known(&ledger).unwrap();
        assert_eq!(
            noted.into_iter().collect::<Vec<_>>(),
            [outside.clone(), PathBuf::from(AUDIT), PathBuf::from("faces.html")]
        );
        drop(ledger);
        std::fs::create_dir(&copy).unwrap();
        for name in [FILE_NAME, AUDIT, "faces.html"] {
            std::fs::copy(mine.join(name), copy.join(name)).unwrap();
        }
        let keys: BTreeSet<String> = ["a".to_string()].into();
        let cut = |names: &[PathBuf]| {
            let ledger = Ledger::open(&copy).unwrap();
            ledger
                .set_fact(FACT, &serde_json::to_string(names).unwrap())
                .unwrap();
            cut_out(&ledger, &copy, &keys).unwrap()
        };
        let in_copy = [copy.join(AUDIT), copy.join("faces.html"), outside.clone()];
        assert_eq!(
            cut(&[AUDIT.into(), "faces.html".into(), outside.clone()]),
            in_copy
        );
        // A ledger of before names the original's.
        std::fs::write(&in_copy[0], item).unwrap();
        assert_eq!(cut(&[mine.join(AUDIT), mine.join("faces.html")]), in_copy[..1]);
        for name in [AUDIT, "faces.html"] {
            assert_eq!(std::fs::read_to_string(mine.join(name)).unwrap(), item);
        }
    }

    #[test]
    fn a_photo_is_cut_out_with_its_picture_and_nothing_else() {
        let page = "<main><p><code>a</code></p><ol><li><img src=1><code>a</code> x</li><li><img src=2><code>a&amp;b</code></li>\
                    <li><code>c</code> beside <code>a</code></li></ol></main>";
        let keys = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        assert_eq!(without(page, &keys(&["d", "b"])), None);
        assert_eq!(
            without(page, &keys(&["a&b"])).unwrap(),
            "<main><p><code>a</code></p><ol><li><img src=1><code>a</code> x</li>\
             <li><code>c</code> beside <code>a</code></li></ol><p>1 photo was taken down later and cut out of this page.</p></main>"
        );
        assert_eq!(
            without(page, &keys(&["a"])).unwrap(),
            "<main><p><code>a</code></p><ol><li><img src=2><code>a&amp;b</code></li></ol>\
             <p>2 photos were taken down later and cut out of this page.</p></main>"
        );
    }
}
