//! Reads the workspace's Rust files well enough to find which module uses which: tokens, `use` trees,
//! modules. Test code is excluded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A token that the rules inspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// An identifier or keyword.
    Word(String),
    /// The content of a string literal, escapes as written.
    Text(String),
    /// `::`.
    Path,
    /// Any other character of code.
    Sign(char),
}

impl Token {
    /// Whether it is this identifier or keyword.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// The tokens of a file without comments, numbers kept as words.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let at = |place: usize| letters.get(place).copied().unwrap_or('\0');
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let (mut tokens, mut place) = (vec![], 0);
    while place < letters.len() {
        let letter = letters[place];
        if letter == '/' && at(place + 1) == '/' {
            while place < letters.len() && letters[place] != '\n' {
                place += 1;
            }
        } else if letter == '/' && at(place + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(place), at(place + 1)) {
                    ('/', '*') => (depth, place) = (depth + 1, place + 2),
                    ('*', '/') => (depth, place) = (depth - 1, place + 2),
                    _ => place += 1,
                }
                if depth == 0 || place >= letters.len() {
                    break;
                }
            }
        } else if let Some((start, hashes)) = raw_string(&letters, place) {
            let close: String = std::iter::once('"')
                .chain(std::iter::repeat_n('#', hashes))
                .collect();
            let rest: String = letters[start..].iter().collect();
            let content = rest
                .split_once(&close)
                .map_or(rest.as_str(), |(content, _)| content);
            place = start + content.chars().count() + 1 + hashes;
            tokens.push(Token::Text(content.into()));
        } else if letter == '"' {
            let start = place + 1;
            place = start;
            while place < letters.len() && letters[place] != '"' {
                place += if letters[place] == '\\' { 2 } else { 1 };
            }
            let end = place.min(letters.len());
            tokens.push(Token::Text(letters[start..end].iter().collect()));
            place += 1;
        } else if letter == '\'' && (at(place + 1) == '\\' || at(place + 2) == '\'') {
            // A character, not a lifetime.
            place += if at(place + 1) == '\\' { 3 } else { 2 };
            while place < letters.len() && letters[place] != '\'' {
                place += 1;
            }
            place += 1;
        } else if is_word(letter) {
            let start = place;
            while is_word(at(place)) {
                place += 1;
            }
            tokens.push(Token::Word(letters[start..place].iter().collect()));
        } else if letter == ':' && at(place + 1) == ':' {
            tokens.push(Token::Path);
            place += 2;
        } else {
            if !letter.is_whitespace() {
                tokens.push(Token::Sign(letter));
            }
            place += 1;
        }
    }
    tokens
}

/// Start of the content of a raw string that begins here, and its number of `#`.
fn raw_string(letters: &[char], place: usize) -> Option<(usize, usize)> {
    let before = place.checked_sub(1).map_or(' ', |before| letters[before]);
    if letters[place] != 'r' || before.is_alphanumeric() && before != 'b' || before == '_' {
        return None;
    }
    let hashes = letters[place + 1..]
        .iter()
        .take_while(|letter| **letter == '#')
        .count();
    (letters.get(place + 1 + hashes) == Some(&'"')).then_some((place + 2 + hashes, hashes))
}

/// A module of a crate: one file.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Tokens without those of tests.
    pub(super) tokens: Vec<Token>,
    /// Names imported by `use`, with their paths.
    names: BTreeMap<String, Vec<String>>,
    /// Modules whose names are all imported here, by `use …::*`.
    globs: Vec<Vec<String>>,
    /// Paths that begin with `crate`, `self` or `super`, and those of `use`.
    paths: Vec<Vec<String>>,
    /// Modules of this file that contain only tests.
    tests: BTreeSet<String>,
}

/// A crate's modules by path; the root's path is empty.
#[derive(Debug, Default)]
pub(super) struct Crate(pub(super) BTreeMap<Vec<String>, Module>);

impl Crate {
    /// Reads `folder/src`.
    pub(super) fn read(folder: &Path) -> Self {
        let source = folder.join("src");
        let mut modules = BTreeMap::new();
        for file in crate::files(&source, ".rs") {
            let inside = file.strip_prefix(&source).unwrap().with_extension("");
            let mut path: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into()).collect();
            if path.len() == 1 && (path[0] == "lib" || path[0] == "main" && !source.join("lib.rs").exists()) {
                path.clear();
            }
            if path.last().is_some_and(|name| name == "mod") {
                path.pop();
            }
            modules.insert(path, Module::read(&std::fs::read_to_string(&file).unwrap()));
        }
        let of_tests: Vec<Vec<String>> = modules
            .iter()
            .flat_map(|(path, module): (&Vec<String>, &Module)| {
                module
                    .tests
                    .iter()
                    .map(|name| [path.as_slice(), std::slice::from_ref(name)].concat())
            })
            .collect();
        modules.retain(|path, _| !of_tests.iter().any(|test| path.starts_with(test)));
        Self(modules)
    }

    /// The module that defines an item of this absolute path, following re-exports.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut module: Vec<String> = vec![];
        for (place, name) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(name)].concat();
            if self.0.contains_key(&child) {
                module = child;
                continue;
            }
            let Some(own) = self.0.get(&module).filter(|_| depth < 8) else {
                return Some(module);
            };
            let named = own.names.get(name).into_iter().cloned();
            let in_globs = own
                .globs
                .iter()
                .map(|glob| [glob.as_slice(), std::slice::from_ref(name)].concat());
            for target in named.chain(in_globs) {
                let Some(target) = self.absolute(&module, &target) else {
                    // A name of another crate.
                    return None;
                };
                let target = [target.as_slice(), &path[place + 1..]].concat();
                let found = self.resolve(&target, depth + 1)?;
                if own.names.contains_key(name) || self.0[&found].defines(name) {
                    return Some(found);
                }
            }
            return Some(module);
        }
        Some(module)
    }

    /// A path as written in `module`, from the crate's root; `None` for another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (vec![], &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            // A child's path, or another crate's.
            child => {
                if !self.0.contains_key(&[module, &[child.to_string()]].concat()) {
                    return None;
                }
            }
        }
        Some([base.as_slice(), rest].concat())
    }

    /// Which module uses which, with the path that proves it.
    pub(super) fn uses(&self) -> BTreeMap<(Vec<String>, Vec<String>), String> {
        let mut uses = BTreeMap::new();
        for (path, module) in &self.0 {
            for written in &module.paths {
                let target = self
                    .absolute(path, written)
                    .and_then(|target| self.resolve(&target, 0));
                if let Some(target) = target {
                    uses.entry((path.clone(), target))
                        .or_insert_with(|| written.join("::"));
                }
            }
        }
        uses
    }

    /// Cycles: sibling modules, each with its descendants, that use each other. Parent and child may.
    pub(super) fn circles(&self) -> Vec<String> {
        let uses = self.uses();
        let mut parents: BTreeSet<Vec<String>> = self.0.keys().cloned().collect();
        parents.insert(vec![]);
        let mut circles = vec![];
        for parent in parents {
            let depth = parent.len();
            let mut edges: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
            for ((from, to), written) in &uses {
                let inside = from.starts_with(&parent) && to.starts_with(&parent);
                if inside && from.len() > depth && to.len() > depth && from[depth] != to[depth] {
                    let why = format!("{} uses {written}", from.join("::"));
                    edges
                        .entry(&from[depth])
                        .or_default()
                        .entry(&to[depth])
                        .or_insert(why);
                }
            }
            for circle in strongly_connected(&edges) {
                let inside = |name: &&&str| circle.contains(**name);
                let mut lines: Vec<String> = vec![];
                for from in edges.keys().filter(inside) {
                    for (to, why) in edges[from].iter().filter(|(to, _)| circle.contains(**to)) {
                        lines.push(format!("    {from} -> {to}: {why}"));
                    }
                }
                let names: Vec<&str> = circle.iter().copied().collect();
                let parent = if parent.is_empty() {
                    "the root".into()
                } else {
                    parent.join("::")
                };
                circles.push(format!("in {parent}: {}\n{}", names.join(", "), lines.join("\n")));
            }
        }
        circles
    }
}

/// Groups of two or more that reach each other.
fn strongly_connected<'a>(edges: &BTreeMap<&'a str, BTreeMap<&'a str, String>>) -> Vec<BTreeSet<&'a str>> {
    let reach = |from: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(name) = open.pop() {
            for next in edges.get(name).into_iter().flat_map(|next| next.keys().copied()) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|name| (*name, reach(name))).collect();
    let mut groups: Vec<BTreeSet<&str>> = vec![];
    for (name, seen) in &reached {
        let group: BTreeSet<&str> = seen
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(name)))
            .collect();
        if group.len() > 1 && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

impl Module {
    fn read(text: &str) -> Self {
        let mut module = Self::default();
        let all = tokens(text);
        let mut place = 0;
        while place < all.len() {
            if is_test_attribute(&all[place..]) {
                let start = place;
                place = end_of_item(&all, place);
                let item = &all[start..place];
                if let Some(at) = item.iter().position(|token| token.is("mod"))
                    && let Some(name) = item.get(at + 1).and_then(Token::word)
                {
                    module.tests.insert(name.into());
                }
            } else {
                module.tokens.push(all[place].clone());
                place += 1;
            }
        }
        let own = std::mem::take(&mut module.tokens);
        let mut place = 0;
        while place < own.len() {
            if own[place].is("use") {
                let end = place
                    + own[place..]
                        .iter()
                        .position(|token| *token == Token::Sign(';'))
                        .unwrap_or(0);
                module.take_use(&own[place + 1..end], &[]);
                place = end + 1;
                continue;
            }
            let inside = place > 0 && own[place - 1] == Token::Path;
            if !inside && ["crate", "self", "super"].iter().any(|word| own[place].is(word)) {
                let mut path = vec![own[place].word().unwrap().to_string()];
                while let (Some(Token::Path), Some(Token::Word(name))) =
                    (own.get(place + 1), own.get(place + 2))
                {
                    path.push(name.clone());
                    place += 2;
                }
                if path.len() > 1 {
                    module.paths.push(path);
                }
            }
            place += 1;
        }
        module.tokens = own;
        module
    }

    /// One tree of a `use`, after the path `before`.
    fn take_use(&mut self, tree: &[Token], before: &[String]) {
        let mut path = before.to_vec();
        let mut place = 0;
        loop {
            match tree.get(place) {
                Some(Token::Word(name)) if name == "as" => {
                    if let Some(alias) = tree.get(place + 1).and_then(Token::word) {
                        self.names.insert(alias.into(), path.clone());
                    }
                    self.paths.push(path);
                    return;
                }
                Some(Token::Word(name)) => path.push(name.clone()),
                Some(Token::Sign('*')) => {
                    self.globs.push(path.clone());
                    self.paths.push(path);
                    return;
                }
                Some(Token::Sign('{')) => {
                    let (mut depth, mut start) = (0, place + 1);
                    for (at, token) in tree.iter().enumerate().skip(place) {
                        match token {
                            Token::Sign('{') => depth += 1,
                            Token::Sign('}') => depth -= 1,
                            _ => {}
                        }
                        let ends = depth == 0 || depth == 1 && *token == Token::Sign(',');
                        if ends && at > start {
                            self.take_use(&tree[start..at], &path);
                        }
                        if ends {
                            start = at + 1;
                        }
                        if depth == 0 {
                            return;
                        }
                    }
                    return;
                }
                Some(_) => {}
                None => break,
            }
            place += 1;
        }
        if path.last().is_some_and(|name| name == "self") {
            path.pop();
        }
        if let Some(name) = path.last() {
            self.names.insert(name.clone(), path.clone());
            self.paths.push(path);
        }
    }

    /// Whether an item of this name is defined here, or imported by `use`.
    fn defines(&self, name: &str) -> bool {
        const ITEMS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
        self.names.contains_key(name)
            || (self.tokens.windows(2))
                .any(|pair| ITEMS.iter().any(|item| pair[0].is(item)) && pair[1].is(name))
    }
}

/// Whether these tokens begin with `#[cfg(test)]`, or with another condition that only tests meet.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let start = tokens.iter().take(5).cloned().collect::<Vec<_>>();
    let cfg = |word: &str| {
        [
            Token::Sign('#'),
            Token::Sign('['),
            Token::Word("cfg".into()),
            Token::Sign('('),
            Token::Word(word.into()),
        ]
    };
    start == cfg("test") || start == cfg("all") && tokens.get(6).is_some_and(|token| token.is("test"))
}

/// The position after the item whose attributes begin at `place`.
fn end_of_item(tokens: &[Token], mut place: usize) -> usize {
    // Attributes first: brackets in them do not end the item or begin its body.
    while tokens.get(place) == Some(&Token::Sign('#')) {
        let mut depth = 0;
        loop {
            place += 1;
            match tokens.get(place) {
                Some(Token::Sign('[')) => depth += 1,
                Some(Token::Sign(']')) => depth -= 1,
                None => return place,
                _ => {}
            }
            if depth == 0 {
                place += 1;
                break;
            }
        }
    }
    let mut depth = 0;
    while let Some(token) = tokens.get(place) {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        place += 1;
        if depth == 0 && matches!(token, Token::Sign(';' | '}')) {
            // `use a::{b, c};` ends at the semicolon.
            if *token == Token::Sign('}') && tokens.get(place) == Some(&Token::Sign(';')) {
                place += 1;
            }
            break;
        }
    }
    place
}

#[test]
fn circles_are_found_through_re_exports_and_folders() {
    let read = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join("src").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Crate::read(folder.path()).circles()
    };
    // Through a re-export of the root.
    let circles = read(&[
        ("lib.rs", "mod a; mod b; pub use a::A; pub use b::*;"),
        ("a.rs", "use crate::B; pub struct A;"),
        ("b.rs", "pub struct B; fn f(a: crate::A) {}"),
    ]);
    assert_eq!(circles.len(), 1, "{circles:?}");
    assert!(circles[0].contains("a -> b: a uses crate::B"), "{circles:?}");
    // Two folders that use each other in different files.
    let circles = read(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod x; mod y;"),
        ("a/x.rs", "use crate::b::y;"),
        ("a/y.rs", ""),
        ("b.rs", "pub mod x; pub mod y;"),
        ("b/x.rs", "use crate::a::{y};"),
        ("b/y.rs", ""),
    ]);
    assert_eq!(circles.len(), 1, "{circles:?}");
    // Parent and child, comments, strings, and tests form no cycle.
    let circles = read(&[
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
        (
            "a.rs",
            "//! [`crate::b`]\nuse crate::b::B; pub struct A; mod c; use c::C;",
        ),
        ("a/c.rs", "use super::A; pub struct C;"),
        (
            "b.rs",
            "pub struct B; const T: &str = \"crate::a\"; #[cfg(test)]\nmod tests { use crate::a::A; }",
        ),
        ("tests.rs", "use crate::a::A; use crate::b::B;"),
    ]);
    assert_eq!(circles, Vec::<String>::new());
}
