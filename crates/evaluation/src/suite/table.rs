//! A suite's table: Markdown for people, CSV for programs.

use super::cell::{Cell, remarks};
use crate::result::Outcome;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One row per encoder and data set, one column per protocol. A star means "missing", with its reason below.
pub(super) fn markdown(cells: &[Cell]) -> String {
    let mut columns: Vec<&str> = vec![];
    let mut rows: Vec<(&str, &str)> = vec![];
    for cell in cells {
        if !columns.contains(&cell.column.as_str()) {
            columns.push(&cell.column);
        }
        let row = (cell.data_set.as_str(), cell.encoder.as_str());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    // Data sets in order of first appearance, encoders of one data set next to each other.
    let order: BTreeMap<&str, usize> = rows
        .iter()
        .rev()
        .map(|(data_set, _)| *data_set)
        .zip(0..)
        .collect();
    rows.sort_by_key(|(data_set, _)| std::cmp::Reverse(order[data_set]));

    let mut reasons: Vec<&str> = vec![];
    let mut text = String::from("| data set | encoder |");
    columns
        .iter()
        .for_each(|column| text.push_str(&format!(" {} |", plain(column))));
    text.push_str("\n|---|---|");
    text.push_str(&"---:|".repeat(columns.len()));
    text.push('\n');
    for (data_set, encoder) in rows {
        text.push_str(&format!("| {} | {} |", plain(data_set), plain(encoder)));
        for column in &columns {
            let cell = cells
                .iter()
                .find(|cell| cell.data_set == data_set && cell.encoder == encoder && cell.column == *column);
            let shown = match cell.map(|cell| (cell.quoted(), cell)) {
                // Not run on this data set.
                None => String::new(),
                Some((Some(outcome), _)) => number(outcome),
                Some((None, cell)) => {
                    let reason = cell.missing.as_deref().unwrap_or("it gave no number");
                    let place = reasons
                        .iter()
                        .position(|known| *known == reason)
                        .unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                    format!("missing [{}]", place + 1)
                }
            };
            text.push_str(&format!(" {shown} |"));
        }
        text.push('\n');
    }
    text.push_str(
        "\nShares in per cent; +- is the standard deviation over seeds, or half of a 95 % interval. A metric in brackets is not the \
         protocol's usual one, but what the data set is quoted by.\n",
    );
    for remark in remarks(cells) {
        let _ = writeln!(text, "\n{}", plain(&remark));
    }
    for (place, reason) in reasons.iter().enumerate() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\n[{}] missing: {}", place + 1, plain(reason));
    }
    text
}

fn number(outcome: &Outcome) -> String {
    let number = |value: f64, digits: usize| match outcome.is_share() {
        true => format!("{:.2}", 100.0 * value),
        false => data::significant(value, digits),
    };
    let mut text = number(outcome.value, 4);
    if let Some(uncertainty) = outcome.uncertainty() {
        text.push_str(&format!(" +- {}", number(uncertainty, 2)));
    }
    if !outcome.headline {
        text.push_str(&format!(" ({})", outcome.metric));
    }
    text
}

/// Text with the characters that break a table replaced.
fn plain(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// One line per score, and one per missing score.
pub(super) fn csv(cells: &[Cell]) -> String {
    let mut text = String::from(
        "data_set,encoder,column,protocol,variant,metric,value,uncertainty,quoted,train_records,test_records,missing\n",
    );
    let mut line = |fields: &[String]| {
        let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
        text.push_str(&fields.join(","));
        text.push('\n');
    };
    for cell in cells {
        let start = [cell.data_set.clone(), cell.encoder.clone(), cell.column.clone()];
        if let Some(reason) = &cell.missing {
            let mut fields = start.to_vec();
            fields.extend(vec![String::new(); 8]);
            fields.push(reason.clone());
            line(&fields);
        }
        for outcome in &cell.outcomes {
            let mut fields = start.to_vec();
            fields.extend([
                outcome.protocol.clone(),
                outcome.variant().unwrap_or_default(),
                outcome.metric.clone(),
                // More digits than any score has, few enough to hide rounding.
                format!("{:.12}", outcome.value),
                outcome
                    .uncertainty()
                    .map_or(String::new(), |value| format!("{value:.12}")),
                cell.quoted().is_some_and(|quoted| quoted == outcome).to_string(),
                outcome.train_records.to_string(),
                outcome.test_records.to_string(),
                String::new(),
            ]);
            line(&fields);
        }
    }
    text
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_string(),
    }
}
