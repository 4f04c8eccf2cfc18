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
    let read_runs = read(std::slice::from_ref(&path)).unwrap();
    let run = &read_runs.runs[0];
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
    let summary = summary(&read_runs, &cite);
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
    let runs = read(&[path]).unwrap().runs;
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
    let runs = read(&paths).unwrap().runs;
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
    std::fs::write(paths[0].join(data::VIEWS_FILE), to_jpeg(&picture, 90)).unwrap();
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

/// The remarks on one run.
fn remarks_on(path: &Path) -> Vec<String> {
    remarks::of_run(&read(&[path.to_owned()]).unwrap().runs[0])
}

#[test]
fn a_damaged_line_is_counted_and_the_lines_behind_it_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_run(folder.path(), "one", 3, 0.5, 5, 9.0);
    let log = path.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen(r#"{"step":20,"#, r#"{"st"#, 1)).unwrap();
    let line = r#"{"step":10,"epoch":0,"top1":0.5}"#;
    std::fs::write(
        path.join("validation.jsonl"),
        format!("{line}\n{{\"st\n{}\n{{\"step", line.replace("10", "50")),
    )
    .unwrap();
    let runs = read(std::slice::from_ref(&path)).unwrap().runs;
    assert_eq!((runs[0].step(), runs[0].lines.len()), (50, 4));
    let steps: Vec<usize> = runs[0].validation.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [10, 50]);
    assert_eq!(
        remarks_on(&path)[..2],
        [
            "1 line of metrics.jsonl cannot be read (line 2)",
            "1 of the 3 lines of validation.jsonl cannot be read"
        ]
    );
}

#[test]
fn lines_that_are_missing_are_named_and_break_the_curve() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_run(folder.path(), "one", 3, 0.5, 9, 9.0);
    let config = std::fs::read_to_string(path.join("config.toml")).unwrap();
    std::fs::write(
        path.join("config.toml"),
        config + "[training]\nlog_every_steps = 10\n",
    )
    .unwrap();
    let log = path.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let strokes = |page: &str| page.matches(r#"class="line" stroke"#).count();
    let page = || page(&read(std::slice::from_ref(&path)).unwrap(), &cite);
    let whole = strokes(&page());
    assert!(!remarks_on(&path)[0].contains("missing"));
    let cut: Vec<&str> = text
        .lines()
        .enumerate()
        .filter(|(at, _)| !(3..6).contains(at))
        .map(|(_, line)| line)
        .collect();
    std::fs::write(&log, cut.join("\n") + "\n").unwrap();
    assert_eq!(
        remarks_on(&path)[0],
        "steps 31 to 60 of metrics.jsonl are missing: the curves have a gap there"
    );
    assert_eq!(strokes(&page()), 2 * whole);
}

#[test]
fn files_that_are_missing_or_damaged_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = |name: &str, damage: &dyn Fn(&Path)| {
        let path = write_run(folder.path(), name, 3, 0.5, 3, 9.0);
        damage(&path);
        remarks_on(&path).swap_remove(0)
    };
    let not_known = "device, command, data and length of the run are not known";
    let remove = |name: &'static str| move |run: &Path| std::fs::remove_file(run.join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| {
        move |run: &Path| {
            let path = run.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    };
    assert_eq!(
        first("a", &remove("metrics.jsonl")),
        "there is no metrics.jsonl: the curves are lost"
    );
    assert_eq!(
        first("b", &remove("run.json")),
        format!("there is no run.json: {not_known}")
    );
    let facts = first("c", &write("run.json", "{"));
    assert!(
        facts.starts_with("run.json is damaged (") && facts.ends_with(not_known),
        "{facts}"
    );
    let encoder = first("d", &write("encoder.safetensors", "half a file"));
    assert!(
        encoder.starts_with("encoder.safetensors cannot be read: "),
        "{encoder}"
    );
    let step = "checkpoints/step-00000020/encoder.safetensors";
    let encoder = first("e", &write(step, "half a file"));
    assert!(
        encoder.starts_with("encoder.safetensors of the checkpoint of step 20 cannot be read: "),
        "{encoder}"
    );
    assert_eq!(
        first("f", &write("result.json", "{")),
        "result.json cannot be read, and its scores are not shown"
    );
}

#[test]
fn a_damaged_run_is_listed_and_the_others_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["one", "two", "three", "four"]
        .map(|name| write_run(folder.path(), name, 3, 0.5, 3, 9.0))
        .to_vec();
    std::fs::write(paths[1].join("config.toml"), "seed = = 1").unwrap();
    std::fs::remove_file(paths[3].join("config.toml")).unwrap();
    let read_runs = read(&paths).unwrap();
    let names: Vec<&str> = read_runs.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["one", "three"]);
    let summary = summary(&read_runs, &cite);
    let damaged = summary["damaged"].as_array().unwrap();
    assert_eq!((damaged.len(), &damaged[1]["name"]), (2, &json!("four")));
    assert_eq!(
        damaged[1]["reason"],
        "it is not a run directory: it holds no config.toml"
    );
    let html = page(&read_runs, &cite);
    assert!(html.contains("<strong>two</strong> is not on this page: its config.toml cannot be read:"));
    // None is left to show.
    let error = read(&paths[1..2]).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read `") && error.contains("config.toml"),
        "{error}"
    );
}

#[test]
fn what_is_not_known_of_a_run_is_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two", "three"].map(|name| write_run(folder.path(), name, 3, 0.5, 3, 9.0));
    let facts = |run: &Path, commit: &str| {
        let text = format!(r#"{{"commit":{commit:?},"fingerprint":"{FINGERPRINT}"}}"#);
        std::fs::write(run.join("run.json"), text).unwrap();
    };
    facts(&paths[1], "unknown");
    std::fs::remove_file(paths[2].join("run.json")).unwrap();
    let known = read(&paths).unwrap();
    assert!(
        remarks::of_all(&known.runs).is_empty(),
        "{:?}",
        remarks::of_all(&known.runs)
    );
    let html = page(&known, &cite);
    assert!(html.contains("<dt>commit</dt><dd>abc (one; not known of the others)</dd>"));
    facts(&paths[1], "def");
    let known = read(&paths).unwrap();
    assert_eq!(
        remarks::of_all(&known.runs),
        ["the runs were made by different commits of the program"]
    );
}

#[test]
fn a_page_for_others_names_no_folder_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().join("ann");
    let path = write_run(&root, "runs/mine", 3, 0.5, 3, 9.0);
    let encoder = root.join("runs/first/encoder.safetensors");
    let config = std::fs::read_to_string(path.join("config.toml")).unwrap();
    std::fs::write(
        path.join("config.toml"),
        format!("{config}[start]\nencoder = {encoder:?}\n"),
    )
    .unwrap();
    let facts = json!({
        "fingerprint": FINGERPRINT,
        "command": [root.join("passer"), "pretrain", "--data", root.join("photos"), "--out", path],
        "start": {"path": encoder},
    });
    std::fs::write(path.join("run.json"), facts.to_string()).unwrap();
    let other = write_run(&root, "runs/other", 4, 0.5, 3, 9.0);
    let html = page(&read(&[path, other]).unwrap(), &cite);
    assert!(!html.contains("/ann"), "a folder is on the page");
    for text in [
        "passer pretrain --data …/photos --out ../mine",
        "encoder = &quot;../first/encoder.safetensors&quot;",
        // The other run started from initial weights, which is a difference.
        r#"started from</th><td class="text long">../first/encoder.safetensors</td><td class="text">–</td>"#,
    ] {
        assert!(html.contains(text), "`{text}` is not on the page");
    }
}
