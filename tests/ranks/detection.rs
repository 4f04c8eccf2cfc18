//! Fine-tuning of a detector on ranks: each rank is a micro-batch, to the bit.

use super::*;

/// 16 pictures with a bright square each, as shards with `objects`, and 6 others.
fn squares(folder: &Path, name: &str, count: u32) -> PathBuf {
    let home = folder.join(name);
    for part in ["JPEGImages", "Annotations", "ImageSets/Main"] {
        std::fs::create_dir_all(home.join(part)).unwrap();
    }
    let mut list = String::new();
    for picture in 0..count {
        let (width, height) = if picture % 3 == 0 { (60, 80) } else { (80, 60) };
        let shift = name.len() as u32;
        let (left, top) = (5 + (7 * picture + shift) % 18, 4 + (5 * picture + shift) % 16);
        let key = format!("{name}{picture:02}");
        image::RgbImage::from_fn(width, height, |x, y| {
            let inside = (left..left + 30).contains(&x) && (top..top + 30).contains(&y);
            match inside {
                true => image::Rgb([230, 200, 40]),
                false => image::Rgb([(x * 2) as u8, 60, (y * 3) as u8]),
            }
        })
        .save(home.join(format!("JPEGImages/{key}.jpg")))
        .unwrap();
        let xml = format!(
            "<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size><object>\
             <name>square</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>\
             </object></annotation>",
            left + 1,
            top + 1,
            left + 30,
            top + 30
        );
        std::fs::write(home.join(format!("Annotations/{key}.xml")), xml).unwrap();
        list += &format!("{key}\n");
    }
    std::fs::write(home.join("ImageSets/Main/all.txt"), list).unwrap();
    let description = folder.join(format!("{name}.toml"));
    let path = home.display().to_string();
    let text = format!("kind = \"voc\"\npath = {path:?}\nlist = \"all\"\nclasses = [\"square\"]\n");
    std::fs::write(&description, text).unwrap();
    description
}

/// The small config, narrower: 6 steps of 4 pictures, statistics of 2.
fn finetune(ranks: usize, folder: &Path, out: &Path) -> Command {
    let mut command = match ranks {
        1 => Command::new(env!("CARGO_BIN_EXE_passer")),
        _ => launched(ranks),
    };
    command
        .args(["evaluate", "finetune", "configs/evaluate/detection-small.toml"])
        .args(["--from-scratch", "--device", "flex"]);
    for (name, path) in [
        ("--train", folder.join("train.toml")),
        ("--test", folder.join("test.toml")),
        ("--out", out.to_owned()),
    ] {
        command.arg(name).arg(path);
    }
    for set in [
        "detection.network.backbone.width=8",
        "detection.network.neck.pyramid.channels=16",
        "detection.network.boxes.width=32",
        "detection.network.boxes.score_above=0.01",
        "detection.network.input.short_side_px=64",
        "detection.network.input.long_side_px=96",
        "detection.network.proposals.after_nms_training=60",
        "detection.network.boxes.sampler.per_image=32",
        "detection.views.shorter_px=[48, 64]",
        "detection.evaluate_every_steps=3",
        "detection.bootstrap.resamples=100",
        "schedule.milestones.milestones_steps=[4]",
        "training.steps=6",
        "training.checkpoint_every_steps=3",
        "training.log_every_steps=1",
        "training.batch_norm_images=2",
        "training.micro_batch_images=2",
    ] {
        command.args(["--set", set]);
    }
    command
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_detector_on_ranks_is_that_of_as_many_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    squares(folder.path(), "train", 16);
    squares(folder.path(), "test", 6);
    let out = |ranks: usize| folder.path().join(format!("ranks-{ranks}"));
    for ranks in [1, 2] {
        finished(finetune(ranks, folder.path(), &out(ranks)));
    }
    let bytes = |ranks: usize, file: &str| std::fs::read(out(ranks).join(file)).unwrap();
    assert_eq!(losses(&out(1)), losses(&out(2)));
    // Running statistics of two ranks are averaged, so scores may differ in a rounding: the curves' first line is enough.
    let first = |ranks: usize| {
        let text = String::from_utf8(bytes(ranks, "validation.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        (line["records"].clone(), line["box_ap50"].as_f64().unwrap())
    };
    assert_eq!(first(1).0, first(2).0);
    assert!(
        (first(1).1 - first(2).1).abs() < 1e-3,
        "{:?} {:?}",
        first(1),
        first(2)
    );
}
