//! The alarms of runs as a section of the page: what was found, at which step, and what to do about it.

use super::directory::TrainingRun;
use super::words::{grouped, label, sentence};
use data::significant;
use maud::{Markup, html};
use training::Alarm;

/// Every alarm of every run; empty without any.
pub(super) fn section(runs: &[TrainingRun]) -> Markup {
    if runs.iter().all(|run| run.alarms.is_empty()) {
        return html! {};
    }
    html! {
        ul class="remarks" {
            @for run in runs {
                @for alarm in &run.alarms {
                    li {
                        @if runs.len() > 1 { strong { (run.name) } ": " }
                        (one(alarm))
                    }
                }
            }
        }
    }
}

fn one(alarm: &Alarm) -> Markup {
    let beyond = if alarm.value < alarm.limit {
        "below"
    } else {
        "above"
    };
    html! {
        strong { (label(alarm.alarm.name())) } " at step " (grouped(alarm.step as f64)) ". "
        (sentence(&alarm.meaning)) " "
        span class="quiet" {
            (label(&alarm.signal)) " is " (significant(alarm.value, 3)) ", " (beyond) " " (significant(alarm.limit, 3))
            " since step " (grouped(alarm.since_step as f64)) "."
        }
        ol {
            @for remedy in &alarm.remedies {
                li { code { (remedy.key) } ": " (remedy.advice) " " span class="quiet" { "(" (remedy.source) ")" } }
            }
        }
    }
}
