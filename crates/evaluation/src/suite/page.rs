//! A suite's table as a page: data sets one below the other, encoders as rows, protocols as columns, and
//! reasons for missing scores.

use super::cell::{Cell, remarks};
use crate::report::{Page, column, table, value};
use maud::{Markup, html};

/// The page; `link` returns the address of a pair's own report relative to the page, if it exists.
pub(super) fn suite_page(cells: &[Cell], link: &dyn Fn(&Cell) -> Option<String>) -> String {
    let unique = |name: &dyn Fn(&Cell) -> String, among: &[&Cell]| {
        let mut found: Vec<String> = vec![];
        for cell in among {
            let name = name(cell);
            if !found.contains(&name) {
                found.push(name);
            }
        }
        found
    };
    let all: Vec<&Cell> = cells.iter().collect();
    let data_sets = unique(&|cell| cell.data_set.clone(), &all);
    let missing = cells.iter().filter(|cell| cell.missing.is_some()).count();
    let encoders = unique(&|cell| cell.encoder.clone(), &all).len();
    let lead = html! {
        p {
            (encoders) " encoders, " (data_sets.len()) " data sets, " (cells.len() - missing) " scores"
            @if missing > 0 { ", " (missing) " missing" }
            ". Test labels chose no setting."
        }
    };
    let mut page = Page::new("Evaluation suite", lead);
    let mut reasons: Vec<&str> = vec![];
    let mut tables = vec![];
    for data_set in &data_sets {
        let here: Vec<&Cell> = cells.iter().filter(|cell| cell.data_set == *data_set).collect();
        let columns = unique(&|cell| cell.column.clone(), &here);
        let head = html! {
            (column("encoder", true))
            @for name in &columns { (column(name, false)) }
        };
        let mut rows = vec![];
        for encoder in unique(&|cell| cell.encoder.clone(), &here) {
            let row: Vec<&&Cell> = here.iter().filter(|cell| cell.encoder == encoder).collect();
            let scores: Vec<Markup> = columns
                .iter()
                .map(|name| row.iter().find(|cell| cell.column == *name))
                .map(|cell| cell.map_or_else(|| html! {}, |cell| score(cell, &mut reasons)))
                .collect();
            rows.push(html! {
                tr {
                    th scope="row" {
                        @match row.iter().find_map(|cell| link(cell)) {
                            Some(address) => a href=(address) { (encoder) },
                            None => (encoder),
                        }
                    }
                    @for score in &scores { td { (score) } }
                }
            });
        }
        let rows = html! { @for row in &rows { (row) } };
        let caption = format!("Scores on {data_set}");
        tables.push(html! { h3 { (data_set) } (table("", &caption, &head, &rows)) });
    }
    let scores = html! {
        @for table in &tables { (table) }
        p class="quiet" {
            "± is the standard deviation over seeds, or half of a 95 % interval. A metric in brackets is the headline metric of the \
             data set, and not of the protocol. An encoder's name is a link to its pictures."
        }
        @for remark in remarks(cells) { p class="wrong" { (remark) "." } }
    };
    page.section("scores", "Scores", scores);
    if !reasons.is_empty() {
        let list = html! {
            ol { @for (number, reason) in (1..).zip(&reasons) { li id={ "reason-" (number) } { (reason) } } }
        };
        page.section("missing", "Missing", list);
    }
    page.html()
}

/// A cell's score, or a link to the reason why it is missing; a new reason is added to `reasons`.
fn score<'a>(cell: &'a Cell, reasons: &mut Vec<&'a str>) -> Markup {
    let Some(outcome) = cell.quoted() else {
        let reason = cell.missing.as_deref().unwrap_or("it gave no number");
        let place = reasons.iter().position(|known| *known == reason);
        let number = 1 + place.unwrap_or_else(|| {
            reasons.push(reason);
            reasons.len() - 1
        });
        return html! { "missing " a href={ "#reason-" (number) } { "[" (number) "]" } };
    };
    html! {
        (value(outcome))
        @if !outcome.headline { " (" (outcome.metric) ")" }
    }
}

/// The address of a pair's report, relative to the page.
pub(super) fn address(folder: &str, encoder: &str, data_set: &str) -> String {
    let escaped = |name: &str| {
        let letter = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        name.bytes().map(letter).collect::<String>()
    };
    format!("{folder}/{}/{}.html", escaped(encoder), escaped(data_set))
}
