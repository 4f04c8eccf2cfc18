//! The page and the summary of runs whose numbers are known.

use super::*;
use data::thumbnail::to_jpeg;
use std::fmt::Write;
use std::path::Path;

const FINGERPRINT: &str = "00ff";

/// A run directory with `lines` lines, one every 10 steps; the loss falls by 1 a line from `loss`.
fn write_run(folder: &Path, name: &str, seed: u64, rate: f64, lines: usize, loss: f64) -> PathBuf {
    let run = folder.join(name);
    std::fs::create_dir_all(&run).unwrap();
    let config = format!(
        "seed = {seed}\n[data]\nbatch_images = 8\n[objective.shuffle]\nqueue = 64\n[optimizer.sgd]\nrate = {rate}\n\
         [backbone.resnet]\ndepth = 18\nwidth = 64\nstem = \"small\"\n"
    );
    std::fs::write(run.join("config.toml"), config).unwrap();
    let facts = format!(
        r#"{{"commit":"abc","device":"a device","fingerprint":"{FINGERPRINT}","records":1200,"steps":{},"steps_per_epoch":20,
            "command":["passer","pretrain","--data","photos"],"listing":[]}}"#,
        10 * lines.max(3)
    );
    std::fs::write(run.join("run.json"), facts).unwrap();
    let mut log = String::new();
    for line in 1..=lines {
        // 80 images at 80 images per second: a second.
        let _ = writeln!(
            log,
            r#"{{"step":{},"epoch":0,"loss":{},"learning_rate":{rate},"signals":{{"similarity":0.5}},"images_per_second":80.0,"data_wait":0.25,"unix_seconds":{}}}"#,
            10 * line,
            loss - line as f64,
            1_796_046_390 + line
        );
    }
    std::fs::write(run.join("metrics.jsonl"), log).unwrap();
    run
}

fn cite(run: &TrainingRun) -> Vec<Citation> {
    vec![Citation {
        text: format!("The paper of <{}>", run.method()),
        url: "https://arxiv.org/abs/0".into(),
    }]
}

#[test]
fn facts_of_a_run_are_read_from_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_run(folder.path(), "one", 3, 0.5, 2, 9.0);
    let runs = read(std::slice::from_ref(&path)).unwrap();
    let run = &runs[0];
    assert_eq!(
        (run.name.as_str(), run.method(), run.network()),
        ("one", "shuffle", "resnet18-small".into())
    );
    assert_eq!((run.step(), run.steps(), run.epochs()), (20, Some(30), Some(1.0)));
    assert_eq!(run.hours().map(|hours| (hours * 3600.0).round()), Some(2.0));
    assert_eq!(run.rate().map(f64::round), Some(80.0));
    assert_eq!(
        (run.data_wait(), run.lowest_loss()),
        (Some(0.25), Some((20, 7.0)))
    );
    let summary = summary(&runs, &cite);
    let of_run = &summary["runs"][0];
    assert_eq!(of_run["last"]["train/loss"], 7.0);
    assert_eq!(of_run["cite"][0]["text"], "The paper of <shuffle>");
    let remarks = of_run["remarks"].as_array().unwrap();
    assert_eq!(
        remarks[0],
        "not finished: the log ends at step 20 of 30, and there is no checkpoint"
    );
    assert!(
        remarks[1]
            .as_str()
            .unwrap()
            .starts_with("25 % of the time passed waiting for data")
    );
    // A line that is being written is not read, and said.
    let log = path.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap() + r#"{"step":"#;
    std::fs::write(&log, text).unwrap();
    let runs = read(&[path]).unwrap();
    assert_eq!(runs[0].step(), 20);
    assert!(remarks::of_run(&runs[0])[1].starts_with("the last 8 bytes of metrics.jsonl"));
}

#[test]
fn a_folder_that_is_no_run_is_an_error_that_names_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = read(&[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(
        error.ends_with("is not a run directory: it holds no `config.toml`"),
        "{error}"
    );
    std::fs::write(folder.path().join("config.toml"), "[source.folder]\n").unwrap();
    let error = read(&[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(error.ends_with("it holds no `metrics.jsonl`"), "{error}");
}

#[test]
fn runs_that_differ_in_the_seed_alone_are_one_curve() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        write_run(folder.path(), "a/slow-seed-0", 0, 0.1, 3, 9.0),
        write_run(folder.path(), "a/fast-seed-0", 0, 0.5, 3, 8.0),
        write_run(folder.path(), "a/slow-seed-1", 1, 0.1, 3, 11.0),
        write_run(folder.path(), "b/slow-seed-0", 0, 0.1, 3, 9.5),
    ];
    let runs = read(&paths).unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(
        names,
        ["a/slow-seed-0", "fast-seed-0", "slow-seed-1", "b/slow-seed-0"]
    );
    let curves = curves_of(&runs);
    let of: Vec<(usize, &str)> = curves
        .iter()
        .map(|curve| (curve.runs.len(), curve.name.as_str()))
        .collect();
    // The same seed twice is not a second seed: it is a curve of its own.
    assert_eq!(of[1..], [(1, "fast-seed-0"), (1, "b/slow-seed-0")]);
    assert_eq!(of[0].0, 2);
    let loss = &curves[0].series["train/loss"];
    assert_eq!(loss.len(), 3);
    assert_eq!(
        (loss[0].at[0], loss[0].mean, loss[0].low, loss[0].high),
        (10.0, 9.0, 8.0, 10.0)
    );
    let last = &curves[0].last_spreads()["train/loss"];
    assert_eq!((last.mean, last.values.clone()), (7.0, vec![6.0, 8.0]));
    assert!((last.standard_deviation - 2f64.sqrt()).abs() < 1e-12);
    let keys: Vec<&str> = differences(&runs).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["optimizer.sgd.rate", "seed"]);
}

#[test]
fn the_page_shows_everything_and_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [
        write_run(folder.path(), "seed-0", 0, 0.1, 3, 9.0),
        write_run(folder.path(), "seed-1", 1, 0.1, 3, 10.0),
        write_run(folder.path(), "<other>", 0, 0.2, 3, 9.0),
    ];
    let picture = data::RgbImage {
        width: 8,
        height: 8,
        pixels: vec![100; 192],
    };
    std::fs::write(paths[0].join(".views.jpg"), to_jpeg(&picture, 90)).unwrap();
    let html = page(&read(&paths).unwrap(), &cite);
    for text in [
        "<h1>3 training runs</h1>",
        "in 2 groups",
        "&lt;other&gt;",
        "optimizer.sgd.rate",
        "00ff",
        "1,200",
        "The paper of &lt;shuffle&gt;",
        "data:image/jpeg;base64,",
        "similarity",
        "2026-11-30 13:46 UTC",
        "6.5 ± 0.71",
    ] {
        assert!(html.contains(text), "`{text}` is not on the page");
    }
    // Three axes of four charts, and one band for the seeds in each chart of a number that differs.
    assert_eq!(html.matches("<svg").count(), 3 * 5);
    assert_eq!(html.matches(r#"class="band""#).count(), 3);
    for element in ["<script", "<link", "<iframe", "url(", "@import", " src=\"http"] {
        assert!(!html.contains(element), "`{element}` is on the page");
    }
}

#[test]
fn a_hundred_thousand_lines_make_a_page_under_5_mb() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_run(folder.path(), "long", 0, 0.1, 0, 0.0);
    let mut log = String::new();
    for step in 1..=100_000u32 {
        // One peak that must be seen, and noise that no column can leave out.
        let noise = f64::from(step.wrapping_mul(2_654_435_761) >> 16) / 65536.0;
        let loss = if step == 70_001 { 50.0 } else { 5.0 + noise };
        let _ = writeln!(
            log,
            r#"{{"step":{step},"epoch":0,"loss":{loss},"learning_rate":0.1,"signals":{{"a":{noise},"b":{noise},"c":{noise},"d":{noise}}},"images_per_second":80.0,"data_wait":0.0}}"#
        );
    }
    std::fs::write(run.join("metrics.jsonl"), log).unwrap();
    let started = std::time::Instant::now();
    let html = page(&read(&[run]).unwrap(), &cite);
    eprintln!("{} bytes in {:.1} s", html.len(), started.elapsed().as_secs_f64());
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    assert!(html.contains("to 50)"), "the peak is lost");
}
