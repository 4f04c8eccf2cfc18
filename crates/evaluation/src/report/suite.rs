//! A suite's table as a page: data sets one below the other, encoders as rows, protocols as columns, and what is missing.

use super::page::{Page, table};
use super::sections::value;
use crate::suite::Cell;
use data::html::escape;
use std::fmt::Write as _;

/// The page; `link` gives the address of a pair's own report, relative to it, where there is one.
pub fn suite_page(cells: &[Cell], link: &dyn Fn(&Cell) -> Option<String>) -> String {
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
    let mut page = Page::new(
        "Evaluation suite",
        format!(
            "<p>{} encoders, {} data sets, {} scores{}. Test labels chose no setting.</p>",
            unique(&|cell| cell.encoder.clone(), &all).len(),
            data_sets.len(),
            cells.len() - missing,
            match missing {
                0 => String::new(),
                missing => format!(", {missing} missing"),
            }
        ),
    );
    let mut reasons: Vec<&str> = vec![];
    let mut tables = String::new();
    for data_set in &data_sets {
        let here: Vec<&Cell> = cells.iter().filter(|cell| cell.data_set == *data_set).collect();
        let columns = unique(&|cell| cell.column.clone(), &here);
        let mut head = String::from("<th scope=\"col\" class=\"text\">encoder</th>");
        for column in &columns {
            let _ = write!(head, "<th scope=\"col\">{}</th>", escape(column));
        }
        let mut rows = String::new();
        for encoder in unique(&|cell| cell.encoder.clone(), &here) {
            let own: Vec<&&Cell> = here.iter().filter(|cell| cell.encoder == encoder).collect();
            let name = escape(&encoder);
            let linked = own.iter().find_map(|cell| link(cell));
            let name = linked.map_or(name.clone(), |address| {
                format!("<a href=\"{}\">{name}</a>", escape(&address))
            });
            let _ = write!(rows, "<tr><th scope=\"row\">{name}</th>");
            for column in &columns {
                let cell = own.iter().find(|cell| cell.column == *column);
                let shown = match cell.map(|cell| (cell.quoted(), &cell.missing)) {
                    None => String::new(),
                    Some((Some(outcome), _)) => {
                        let metric = match outcome.headline {
                            true => String::new(),
                            false => format!(" ({})", outcome.metric),
                        };
                        escape(&(value(outcome) + &metric))
                    }
                    Some((None, reason)) => {
                        let reason = reason.as_deref().unwrap_or("it gave no number");
                        let place = reasons.iter().position(|known| *known == reason);
                        let place = place.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        format!("missing <a href=\"#reason-{0}\">[{0}]</a>", place + 1)
                    }
                };
                let _ = write!(rows, "<td>{shown}</td>");
            }
            rows.push_str("</tr>\n");
        }
        tables += &format!(
            "<h3>{}</h3>\n{}",
            escape(data_set),
            table("", &format!("Scores on {data_set}"), &head, &rows)
        );
    }
    tables.push_str(
        "<p class=\"quiet\">± is the standard deviation over seeds, or half of a 95 % interval. A metric in brackets is not the protocol's \
         usual one, but what the data set is quoted by. An encoder's name leads to its pictures.</p>\n",
    );
    page.section("scores", "Scores", tables);
    let mut list = String::new();
    for (place, reason) in reasons.iter().enumerate() {
        let _ = writeln!(list, "<li id=\"reason-{}\">{}</li>", place + 1, escape(reason));
    }
    if !list.is_empty() {
        page.section("missing", "Missing", format!("<ol>\n{list}</ol>\n"));
    }
    page.html()
}
