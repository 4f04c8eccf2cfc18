//! The pages must be correct: links and anchors, paths, TOML blocks, and every `passer …` line.

use crate::{files, root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The commands in pages and messages.
mod commands;

/// A Markdown page.
struct Page {
    /// Path from the repository's root.
    name: String,
    path: PathBuf,
    text: String,
}

/// A fenced block of a page.
struct Block {
    /// Line of its first line of content, from 1.
    line: usize,
    /// Text after the opening fence.
    info: String,
    lines: Vec<String>,
}

/// Every page of the repository.
fn pages() -> Vec<Page> {
    let mut paths = vec![];
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            paths.push(path);
        }
    }
    for folder in ["docs", "scripts", "tests", "configs", "crates", "python"] {
        paths.extend(files(&root().join(folder), ".md"));
    }
    paths.sort();
    assert!(paths.len() > 10, "{paths:?}");
    let page = |path: PathBuf| Page {
        name: path
            .strip_prefix(root())
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/"),
        text: std::fs::read_to_string(&path).unwrap(),
        path,
    };
    paths.into_iter().map(page).collect()
}

impl Page {
    /// Fenced blocks, and the lines outside them with their numbers.
    fn parts(&self) -> (Vec<Block>, Vec<(usize, &str)>) {
        let (mut blocks, mut prose) = (Vec::<Block>::new(), vec![]);
        let mut open: Option<String> = None;
        for (at, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            match &open {
                Some(fence) if trimmed.trim_end() == fence => open = None,
                Some(_) => blocks.last_mut().unwrap().lines.push(line.to_owned()),
                None if trimmed.starts_with("```") => {
                    let info = trimmed.trim_start_matches('`');
                    open = Some(trimmed[..trimmed.len() - info.len()].to_owned());
                    blocks.push(Block {
                        line: at + 2,
                        info: info.trim().to_owned(),
                        lines: vec![],
                    });
                }
                None => prose.push((at + 1, line)),
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.name);
        (blocks, prose)
    }

    /// Anchors of the headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (_, line) in self.parts().1 {
            let heading = line.trim_start_matches('#');
            if heading.len() == line.len() || !heading.starts_with(' ') {
                continue;
            }
            let slug = slug(heading.trim());
            let mut anchor = slug.clone();
            let mut again = 0;
            while !found.insert(anchor.clone()) {
                again += 1;
                anchor = format!("{slug}-{again}");
            }
        }
        found
    }
}

/// GitHub's anchor of a heading: lowercase letters, digits, `_` and `-`; spaces become `-`; only the text of
/// a link counts.
fn slug(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some(start) = rest.find("](") {
        let (before, after) = rest.split_at(start);
        text.push_str(&before.replace('[', ""));
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let kept = text
        .chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '-' | ' '));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// A line with its code spans blanked, and those spans.
fn without_code(line: &str) -> (String, Vec<&str>) {
    let (mut text, mut spans) = (String::new(), vec![]);
    for (at, part) in line.split('`').enumerate() {
        match at % 2 {
            0 => text.push_str(part),
            _ => {
                text.push_str("``");
                spans.push(part);
            }
        }
    }
    (text, spans)
}

/// Targets of the links and pictures of a line, Markdown's and HTML's.
fn targets(line: &str) -> Vec<String> {
    let mut found = vec![];
    for (start, end) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
        for (at, _) in line.match_indices(start) {
            let target = line[at + start.len()..].split(end).next().unwrap();
            // A title may follow.
            found.push(target.split(' ').next().unwrap().to_owned());
        }
    }
    if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
        found.push(target.trim().to_owned());
    }
    found
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(
        slug("What `passer devices` says: 1, 2 & [three](x.md)"),
        "what-passer-devices-says-1-2--three"
    );
    let page = Page {
        name: "x.md".into(),
        path: "x.md".into(),
        text: "# A\n## A\n```\n# no heading\n```\n### B_c d-e\n#hash".into(),
    };
    assert_eq!(
        page.anchors().into_iter().collect::<Vec<_>>(),
        ["a", "a-1", "b_c-d-e"]
    );
    assert_eq!(
        targets("[a](b.md#c) ![d](e.svg \"title\") <img src=\"f.png\">"),
        ["b.md#c", "e.svg", "f.png"]
    );
}

#[test]
fn every_relative_link_resolves() {
    let mut wrong = vec![];
    for page in pages() {
        for (number, line) in page.parts().1 {
            for target in targets(&without_code(line).0) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let path = match file {
                    "" => page.path.clone(),
                    _ => page.path.parent().unwrap().join(file),
                };
                let known = match path.extension() {
                    _ if !path.exists() => false,
                    _ if anchor.is_empty() => true,
                    Some(ending) if ending == "md" => {
                        let text = std::fs::read_to_string(&path).unwrap();
                        let name = file.to_owned();
                        Page { name, path, text }.anchors().contains(anchor)
                    }
                    _ => false,
                };
                if !known {
                    wrong.push(format!("{}:{number}: {target}", page.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

/// The book's contents: `SUMMARY.md` lists every page of `docs/` once, and nothing else.
#[test]
fn the_book_lists_every_page_once() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut listed: Vec<String> = summary.lines().flat_map(targets).collect();
    // A draft, which mdBook shows as a heading.
    listed.retain(|target| !target.is_empty());
    listed.sort();
    let mut there: Vec<String> = files(&docs, ".md")
        .iter()
        .map(|path| {
            path.strip_prefix(&docs)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/")
        })
        .filter(|name| name != "SUMMARY.md")
        .collect();
    there.sort();
    assert_eq!(listed, there);
    let book: toml::Table = std::fs::read_to_string(root().join("book.toml"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(book["book"]["src"].as_str(), Some("docs"));
    let command = book["preprocessor"]["repository"]["command"].as_str().unwrap();
    assert!(
        root().join(command.split(' ').nth(1).unwrap()).exists(),
        "{command}"
    );
}

const OURS: [&str; 7] = [
    "crates/", "configs/", "docs/", "scripts/", "tests/", "python/", ".ci/",
];

/// File names in pages about the present: excludes the history and old decisions.
#[test]
fn every_path_in_backquotes_is_there() {
    let mut wrong = vec![];
    for page in pages() {
        if page.name == "CHANGELOG.md" || page.name.starts_with("docs/decisions/") {
            continue;
        }
        for (number, line) in page.parts().1 {
            for span in without_code(line).1 {
                let ours = OURS.iter().any(|folder| span.starts_with(folder));
                // Patterns, placeholders and commands are not single paths.
                let plain = !span.contains([' ', '*', '…', '<', '$'])
                    && !span
                        .split(['/', '-', '.', '_'])
                        .any(|part| part.len() > 1 && part.chars().all(|letter| letter.is_ascii_uppercase()));
                if !ours || !plain {
                    continue;
                }
                for path in alternatives(span) {
                    let path = path.split(['#', ':']).next().unwrap();
                    if !root().join(path).exists() {
                        wrong.push(format!("{}:{number}: `{path}`", page.name));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "paths that are not there:\n{}",
        wrong.join("\n")
    );
}

/// `a/{b,c}.rs` as `a/b.rs`, `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (inside, after) = rest.split_once('}').unwrap();
    inside
        .split(',')
        .flat_map(|part| alternatives(&format!("{before}{part}{after}")))
        .collect()
}

// ---- TOML

/// Keys whose table names one of several kinds: `[objective.moco]`.
const TAGGED: [&str; 5] = ["objective", "source", "backbone", "optimizer", "schedule"];

/// `over` merged into `base`: tables are merged, except those that name one of several kinds, where `over`
/// replaces `base`.
fn laid_over(base: &toml::Table, over: &toml::Table) -> toml::Table {
    let kind = |table: &toml::Table| match table.iter().next() {
        Some((kind, value)) if table.len() == 1 && value.is_table() => Some(kind.clone()),
        _ => None,
    };
    let mut merged = base.clone();
    for (key, value) in over {
        let both = (merged.get(key).and_then(|base| base.as_table()), value.as_table());
        let value = match both {
            (Some(base), Some(over))
                if kind(over).is_none() || kind(base).is_none() || kind(base) == kind(over) =>
            {
                laid_over(base, over).into()
            }
            _ => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    merged
}

/// A block that shows several kinds of one table is as many configs.
fn one_kind_each(block: &toml::Table) -> Vec<toml::Table> {
    for key in TAGGED {
        let kinds = block.get(key).and_then(|table| table.as_table());
        // `[objective]` of a fine-tuning is not a choice: not all of its keys are tables.
        if let Some(kinds) =
            kinds.filter(|kinds| kinds.len() > 1 && kinds.values().all(|kind| kind.is_table()))
        {
            let only = |(kind, value): (&String, &toml::Value)| {
                let mut block = block.clone();
                block[key] = toml::Table::from_iter([(kind.clone(), value.clone())]).into();
                block
            };
            return kinds.iter().map(only).collect();
        }
    }
    vec![block.clone()]
}

/// The number of kinds of `block` that a config shares.
fn kinds_in_common(config: &toml::Table, block: &toml::Table) -> usize {
    let kind = |table: &toml::Table, key: &str| table.get(key)?.as_table()?.keys().next().cloned();
    TAGGED
        .iter()
        .filter(|key| kind(block, key).is_some_and(|of_block| kind(config, key) == Some(of_block)))
        .count()
}

/// Reads a whole config strictly.
fn read(kind: &str, config: &toml::Table) -> Result<(), String> {
    fn parsed<C: serde::de::DeserializeOwned>(table: &toml::Table) -> Result<(), String> {
        let result: Result<C, _> = table.clone().try_into();
        result.map(drop).map_err(|error| error.to_string())
    }
    match kind {
        "pretrain" => parsed::<training::Config<objectives::ObjectiveConfig>>(config),
        "finetune" => parsed::<evaluation::finetune::Config>(config),
        "evaluate" => parsed::<evaluation::Config>(config),
        "suite" => parsed::<evaluation::suite::Suite>(config),
        "curate" => parsed::<curation::Config>(config),
        "dataset" => {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dataset.toml");
            std::fs::write(&path, config.to_string()).unwrap();
            let about = data::Dataset::about(&path.display().to_string());
            about.map(drop).map_err(|error| error.to_string())
        }
        _ => Err("no kind of config".into()),
    }
}

/// Our configs of a kind.
fn configs(kind: &str) -> Vec<toml::Table> {
    let fine_tunes = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("finetune-") || name.starts_with("semi-supervised-")
    };
    let folder = match kind {
        "finetune" => "evaluate",
        "suite" => "suites",
        // A description is complete in a line or two.
        "dataset" => return vec![],
        _ => kind,
    };
    let mut paths = files(&root().join("configs").join(folder), ".toml");
    paths.retain(|path| fine_tunes(path) == (kind == "finetune"));
    let parsed = |path: PathBuf| std::fs::read_to_string(path).unwrap().parse().unwrap();
    paths.into_iter().map(parsed).collect()
}

#[test]
fn every_toml_block_is_the_config_that_it_claims_to_be() {
    let mut wrong = vec![];
    let mut blocks = 0;
    for page in pages() {
        for block in page.parts().0 {
            let Some(kind) = block.info.strip_prefix("toml") else {
                continue;
            };
            blocks += 1;
            let kind = kind.trim();
            let mut report = |what: &str| wrong.push(format!("{}:{}: {what}", page.name, block.line));
            if !["pretrain", "finetune", "evaluate", "suite", "curate", "dataset"].contains(&kind) {
                report("the block does not say what it configures, as in ```toml pretrain");
                continue;
            }
            let table: toml::Table = match block.lines.join("\n").parse() {
                Ok(table) => table,
                Err(error) => {
                    report(&error.to_string());
                    continue;
                }
            };
            let configs = configs(kind);
            for part in one_kind_each(&table) {
                if read(kind, &part).is_ok() {
                    continue;
                }
                // A fragment: the rest comes from the most similar config.
                let base = configs
                    .iter()
                    .rev()
                    .max_by_key(|config| kinds_in_common(config, &part));
                let whole = laid_over(base.unwrap_or(&toml::Table::new()), &part);
                if let Err(error) = read(kind, &whole) {
                    report(&error);
                }
            }
        }
    }
    assert!(blocks >= 5);
    assert!(
        wrong.is_empty(),
        "blocks that are not read:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn fragments_are_read_strictly() {
    let base = &configs("pretrain")[0];
    let read_over = |text: &str| read("pretrain", &laid_over(base, &text.parse().unwrap()));
    assert_eq!(read_over("[training]\nprecision = 'bf16'"), Ok(()));
    assert!(
        read_over("[training]\nprecisoin = 'bf16'")
            .unwrap_err()
            .contains("precisoin")
    );
    assert!(
        read_over("[objective.nobody]\nx = 1")
            .unwrap_err()
            .contains("nobody")
    );
    let several = "[source.csv]\nfiles = []\n[source.folder]\nfolder = 'x'"
        .parse()
        .unwrap();
    assert_eq!(one_kind_each(&several).len(), 2);
}

// ---- Commands
