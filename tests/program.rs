//! The program's help and its messages for bad input: each names the subject and, if known, the fix.

use crate::passer;
use crate::runs::photos;
use predicates::prelude::*;
use predicates::str::contains;
use std::path::Path;

/// stderr of a call that must fail with this status.
fn refused(status: i32, arguments: &[&str]) -> String {
    let assert = passer().args(arguments).assert().code(status);
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const SMALL: &str = "configs/pretrain/moco-v2-resnet18-cifar10.toml";

#[test]
fn help_names_every_verb() {
    let help = passer().arg("--help").assert().success();
    let text = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    insta::assert_snapshot!("help", text);
    for verb in [
        vec!["pretrain"],
        vec!["evaluate", "run"],
        vec!["evaluate", "features"],
        vec!["evaluate", "finetune"],
        vec!["features"],
        vec!["shards", "pack"],
        vec!["views"],
        vec!["detect", "faces"],
        vec!["detect", "persons"],
        vec!["detect", "objects"],
        vec!["weights", "inspect"],
        vec!["weights", "convert"],
        vec!["quickstart"],
    ] {
        passer()
            .args(verb)
            .arg("--help")
            .assert()
            .success()
            .stdout(contains("Usage: passer"));
    }
    passer()
        .arg("devices")
        .assert()
        .success()
        .stdout(contains("flex").and(contains("scripts/build-gpu.sh rocm")));
}

#[test]
fn wrong_usage_is_status_2() {
    assert!(refused(2, &["pretrain"]).contains("<CONFIG>"));
    assert!(refused(2, &["pretrian"]).contains("pretrain"));
    assert!(refused(2, &["pretrain", SMALL, "--out", "x"]).contains("--data"));
}

#[test]
fn configs_are_strict() {
    let smoke = |set: &str| refused(1, &["pretrain", SMALL, "--smoke", "--set", set]);
    assert!(smoke("training.epoch=3").contains("there is no key `training.epoch`"));
    assert!(smoke("backbone.resnet.depth=19").contains("19"));
    assert!(smoke("views.0.count=3").contains("exactly 2 views"));
    assert!(smoke("training.epochs=0").contains("`training.epochs` must be at least 1"));
    for (set, said) in [
        ("backbone.resnet.width=100000", "`backbone.resnet.width` needs"),
        (
            "objective.moco.queue_images=6400000000000",
            "`objective.moco.queue_images` needs",
        ),
        (
            "data.workers=100000",
            "`data.workers` must be at most 1024, got 100000",
        ),
        (
            "training.precision=16",
            "`training.precision` must be one of the names `f32`, `bf16`, `f16`, got 16",
        ),
        (
            "training.precision=fp16",
            "`training.precision` must be one of `f32`, `bf16`, `f16`, got \"fp16\"",
        ),
    ] {
        let error = smoke(set);
        assert!(error.contains(said), "{set}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.toml");
    let text = std::fs::read_to_string(crate::root().join(SMALL)).unwrap();
    std::fs::write(&config, text.replace("[objective.moco]", "[objective.mocco]")).unwrap();
    let error = refused(1, &["pretrain", path(&config), "--smoke"]);
    assert!(
        [
            "line ",
            "`objective` must have exactly one of ",
            "got `mocco`",
            "the nearest key is `objective.moco`"
        ]
        .iter()
        .all(|part| error.contains(part)),
        "{error}"
    );
    let error = refused(1, &["pretrain", "no-such.toml", "--smoke"]);
    assert!(error.contains("config `no-such.toml` cannot be read"), "{error}");
}

#[test]
fn a_transformer_trains_where_its_patches_divide_the_views() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("vit.toml");
    let text = std::fs::read_to_string(crate::root().join(SMALL)).unwrap();
    let (before, after) = text.split_once("[backbone.resnet]").unwrap();
    let (_, after) = after.split_once("\n[").unwrap();
    let backbone = r#"[backbone.vit]
width = 32
depth = 2
heads = 2
patch_px = 4
image_px = 16
position = "learned"
interpolation = "antialiased"
registers = 0
layer_scale = 1e-5
drop_path = 0.5
pooling = "class_token"
initialization = "truncated_normal"
"#;
    std::fs::write(&config, format!("{before}{backbone}\n[{after}")).unwrap();
    let smoke = ["pretrain", path(&config), "--smoke", "--device", "flex"];
    passer().args(smoke).assert().success();
    let set = [
        "--set",
        "backbone.vit.patch_px=5",
        "--set",
        "backbone.vit.image_px=20",
    ];
    let error = refused(1, &[&smoke[..], &set].concat());
    assert!(
        error.contains(
            "`views.transforms`: images of 32×32 px cannot be cut into patches of 5 px; 30×30 px can"
        ),
        "{error}"
    );
}

#[test]
fn a_smoke_test_in_f16_applies_a_step_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let smoke = |temperature: &str| {
        let mut smoke = passer();
        smoke
            .args(["pretrain", "configs/pretrain/dino-resnet18-cifar10.toml"])
            .args(["--smoke", "--device", "flex", "--set", "training.precision=f16"])
            .args([
                "--set",
                &format!("objective.dino.student_temperature={temperature}"),
            ])
            .env("TMPDIR", folder.path());
        smoke.assert()
    };
    // The first steps overflow, as in PyTorch, and are reported.
    smoke("0.1").success().stdout(
        contains("smoke test passed: 12 steps of 4 synthetic images").and(contains("skipped (loss scale)")),
    );
    // A temperature so small that all steps overflow.
    smoke("1e-7").code(1).stderr(contains(
        "smoke test failed: no step was applied: gradients overflowed f16 in each of 12 steps",
    ));
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_batch_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let base = [
        "pretrain",
        SMALL,
        "--device",
        "flex",
        "--data",
        path(&photos),
        "--out",
        path(&out),
    ];
    // 32 photos are fewer than a batch of 256.
    let error = refused(1, &base);
    assert!(error.contains("256") && error.contains("32"), "{error}");
    let error = refused(
        1,
        &[
            &base[..],
            &[
                "--set",
                "data.batch_images=24",
                "--set",
                "training.batch_norm_images=12",
            ],
        ]
        .concat(),
    );
    assert!(
        error.contains(
            "`objective.moco.queue_images` must be a multiple of `data.batch_images` (24), got 4096"
        ),
        "{error}"
    );
}

#[test]
fn absent_devices_say_what_to_build() {
    let error = refused(1, &["pretrain", SMALL, "--smoke", "--device", "cuda"]);
    assert!(
        error.contains("no `cuda` backend") && error.contains("scripts/build-gpu.sh cuda"),
        "{error}"
    );
    assert!(
        refused(1, &["pretrain", SMALL, "--smoke", "--device", "tpu"])
            .contains("device `tpu`: expected auto")
    );
}

#[test]
fn bad_data_is_named_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let inspect = |data: &Path| refused(1, &["shards", "inspect", path(data)]);
    assert!(inspect(&empty).contains("no image"), "{}", inspect(&empty));
    assert!(inspect(&folder.path().join("absent")).contains("not found"));

    // Broken photos among good ones: counted, named, replaced; above the limit they stop the run.
    let photos = photos(folder.path());
    let jpeg = {
        let mut bytes = std::io::Cursor::new(vec![]);
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 77]))
            .write_to(&mut bytes, image::ImageFormat::Jpeg)
            .unwrap();
        bytes.into_inner()
    };
    std::fs::write(photos.join("red/cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    std::fs::write(photos.join("red/nothing.jpg"), b"").unwrap();
    std::fs::write(photos.join("blue/text.jpg"), b"this is not a picture").unwrap();
    let error = refused(1, &["shards", "verify", path(&photos)]);
    assert!(error.contains("3 broken images"), "{error}");
    let out = folder.path().join("run");
    let run = |limit: &str, out: &Path| {
        let mut command = passer();
        command.args([
            "pretrain",
            SMALL,
            "--device",
            "flex",
            "--data",
            path(&photos),
            "--out",
            path(out),
        ]);
        for set in [
            "data.batch_images=16",
            "training.batch_norm_images=8",
            "training.epochs=1",
            "backbone.resnet.width=4",
            "objective.moco.queue_images=64",
            "views.0.transforms.0.random_resized_crop.size_px=16",
            limit,
        ] {
            command.args(["--set", set]);
        }
        command.assert()
    };
    run("data.max_bad_fraction=0.2", &out)
        .success()
        .stderr(contains("records could not be decoded").and(contains("replaced by the next good one")));
    run("data.max_bad_fraction=0.01", &folder.path().join("strict"))
        .code(1)
        .stderr(contains("max_bad_fraction").and(contains("hint: `passer shards verify`")));

    // A record that decodes and would become gigabytes, and one without pixels.
    let odd = folder.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    for (at, photo) in crate::files(&photos.join("blue"), ".png").iter().enumerate() {
        std::fs::copy(photo, odd.join(format!("p{at}.png"))).unwrap();
    }
    image::RgbImage::from_fn(1, 6000, |_, y| image::Rgb([(y % 251) as u8; 3]))
        .save(odd.join("thin.png"))
        .unwrap();
    let mut gif = std::io::Cursor::new(vec![]);
    image::RgbImage::new(8, 8)
        .write_to(&mut gif, image::ImageFormat::Gif)
        .unwrap();
    let mut gif = gif.into_inner();
    gif[6..10].fill(0);
    std::fs::write(odd.join("zero.gif"), gif).unwrap();
    passer()
        .args(["shards", "verify", path(&odd)])
        .assert()
        .code(1)
        .stdout(contains("zero: 0 x 0 px: an image must have at least one pixel"))
        .stderr(contains("1 broken image, "));
    let encoder = crate::weights::fixture(folder.path(), "moco-v2-legacy.pth.tar");
    passer()
        .args([
            "features",
            "--device",
            "flex",
            "--encoder",
            path(&encoder),
            "--size-px",
            "32",
        ])
        .args(["--data", path(&odd), "--max-bad-fraction", "0.2"])
        .args(["--out", path(&folder.path().join("odd.safetensors"))])
        .assert()
        .success()
        .stderr(contains("1 record that could not be decoded").and(contains("zero")));
    passer()
        .args(["views", SMALL, "--data", path(&odd), "--records", "20"])
        .args(["--out", path(&folder.path().join("odd.png"))])
        .assert()
        .success()
        .stderr(contains("zero"));

    // A truncated shard.
    let shards = folder.path().join("shards");
    passer()
        .args(["shards", "pack", path(&photos), "--out", path(&shards)])
        .assert()
        .success();
    let shard = crate::files(&shards, ".tar").remove(0);
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let error = inspect(&shards);
    assert!(
        error.contains("shard") && error.contains("hint: `passer shards verify"),
        "{error}"
    );
}

#[test]
fn a_run_directory_belongs_to_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let run = |more: &[&str]| {
        let mut command = passer();
        command.args([
            "pretrain",
            SMALL,
            "--device",
            "flex",
            "--data",
            path(&photos),
            "--out",
            path(&out),
        ]);
        for set in [
            "data.batch_images=16",
            "training.batch_norm_images=8",
            "training.epochs=1",
            "backbone.resnet.width=4",
            "objective.moco.queue_images=64",
            "views.0.transforms.0.random_resized_crop.size_px=16",
        ] {
            command.args(["--set", set]);
        }
        command.args(more).assert()
    };
    run(&[]).success();
    run(&[])
        .code(1)
        .stderr(contains("already holds a run").and(contains("hint: resume with `--resume`")));
    run(&["--resume", "--set", "backbone.resnet.width=8"])
        .code(1)
        .stderr(contains(
            "was started with another `backbone.resnet.width`: expected `4`, got `8`",
        ));
    run(&["--resume"]).success();

    // A checkpoint of another architecture under this config's name.
    let config = out.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("width = 4", "width = 8")).unwrap();
    run(&["--resume", "--set", "backbone.resnet.width=8"])
        .code(1)
        .stderr(contains("student.bpk").and(contains("does not fit the config's networks")));
}

#[test]
fn views_go_into_a_folder_that_is_made_and_are_at_least_one() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("new folder/views.png");
    let arguments = |records: &'static str| {
        let mut arguments = vec!["views", SMALL, "--data"];
        arguments.extend([path(&photos), "--out", path(&out), "--records", records]);
        arguments
    };
    let error = refused(1, &arguments("0"));
    assert!(error.contains("`--records` must be at least 1, got 0"), "{error}");
    passer().args(arguments("1")).assert().success();
    assert!(out.is_file());
}

#[test]
fn encoders_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let evaluate = |encoder: &Path| {
        let out = folder.path().join("scores");
        refused(
            1,
            &[
                "evaluate",
                "run",
                "configs/evaluate/quickstart.toml",
                "--device",
                "flex",
                "--encoder",
                path(encoder),
                "--train",
                path(&photos),
                "--test",
                path(&photos),
                "--out",
                path(&out),
            ],
        )
    };
    let error = evaluate(folder.path());
    assert!(
        error.contains("holds no `encoder.safetensors` and no checkpoint"),
        "{error}"
    );
    let file = folder.path().join("encoder.safetensors");
    std::fs::write(&file, b"not an encoder").unwrap();
    assert!(evaluate(&file).contains("neither a PyTorch checkpoint (zip or legacy) nor a safetensors file"));
}

#[test]
fn detectors_say_what_is_wrong_with_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("found.jsonl");
    let detect = |what: &str, weights: &Path| {
        let arguments = [
            "detect",
            what,
            "--data",
            path(&photos),
            "--out",
            path(&out),
            "--weights",
        ];
        refused(1, &[&arguments[..], &[path(weights)]].concat())
    };
    let missing = detect("faces", Path::new("no-such.pth"));
    assert!(
        missing.contains("cannot read the weights `no-such.pth`"),
        "{missing}"
    );
    let other = folder.path().join("other.safetensors");
    std::fs::write(&other, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let error = detect("faces", &other);
    assert!(error.contains("cannot read the face detector from"), "{error}");
    assert!(
        error.contains("253 missing: body.stage1.0.0.weight, ") && error.contains("and 245 more"),
        "{error}"
    );
    let error = detect("persons", &other);
    assert!(
        error.contains("the weights must be YOLOX's, or those of torchvision's")
            && error.contains("got no tensor"),
        "{error}"
    );
    assert!(!out.exists());
    let usage = refused(2, &["detect", "persons", "--overlap-px", "9"]);
    assert!(usage.contains("--tile-px"), "{usage}");
}

#[test]
fn the_program_carries_its_configs() {
    let output = |arguments: &[&str]| {
        let output = crate::passer().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed: serde_json::Value = serde_json::from_str(&output(&["config", "list", "--json"])).unwrap();
    let listed = listed.as_array().unwrap();
    let mut paths = vec![];
    for config in listed {
        let path = config["path"].as_str().unwrap();
        let text = std::fs::read_to_string(crate::root().join(path)).unwrap();
        assert_eq!(output(&["config", "show", path]), text);
        assert!(!config["description"].as_str().unwrap().is_empty(), "{path}");
        assert!(config["kind"].is_string(), "{path}");
        paths.push(crate::root().join(path));
    }
    assert_eq!(paths, crate::files(&crate::root().join("configs"), ".toml"));
    let some = output(&["config", "list", "MAE", "cifar10"]);
    assert_eq!(some.lines().next(), Some("configs/pretrain/mae-vit-cifar10.toml"));
    let error = refused(1, &["config", "show", "mae-vit-cifar"]);
    assert!(
        error.contains("a shipped one is configs/pretrain/mae-vit-cifar10.toml"),
        "{error}"
    );
    let error = refused(1, &["config", "list", "no-such-word", "--json"]);
    assert!(
        error.contains("no shipped config holds `no-such-word`"),
        "{error}"
    );
    // One name in two folders: each verb takes its own.
    let error = refused(1, &["config", "show", "quickstart"]);
    assert!(
        error.contains("2 shipped configs have the name `quickstart`"),
        "{error}"
    );
    assert!(
        error.contains("configs/evaluate/quickstart.toml, configs/pretrain/quickstart.toml"),
        "{error}"
    );
    let smoke = crate::passer()
        .args(["pretrain", "quickstart", "--smoke", "--device", "flex"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&smoke.stderr).into_owned();
    assert!(
        smoke.status.success() && said.contains("config: configs/pretrain/quickstart.toml"),
        "{said}"
    );
    let error = refused(1, &["pretrain", "mae", "--smoke"]);
    assert!(
        error.contains("hint: shipped ones are configs/pretrain/mae-"),
        "{error}"
    );
}

#[test]
fn what_machines_read() {
    let output = crate::passer().args(["devices", "--json"]).output().unwrap();
    let devices: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let backends = devices["backends"].as_array().unwrap();
    let flex = backends.iter().find(|backend| backend["name"] == "flex").unwrap();
    assert_eq!(flex["compiled"], true);
    let rates = &flex["devices"][0]["rates"][0];
    assert_eq!(rates["precision"], "f32");
    assert!(rates["matrix_product_gflop_per_s"].as_f64().unwrap() > 0.0);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = crate::passer().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("passer") && script.contains("finetune"),
            "{shell}"
        );
    }
    // What bash offers for `passer pretrain mae`.
    let words = "eval \"$($0 completions bash)\"; COMP_WORDS=(passer pretrain mae); COMP_CWORD=2; \
                 _passer passer mae pretrain; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .args(["-c", words, env!("CARGO_BIN_EXE_passer")])
        .output()
        .unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    assert!(
        offered.lines().any(|name| name == "mae-vit-cifar10")
            && offered.lines().all(|name| name.starts_with("mae")),
        "{offered}"
    );
    // Threads are those that computations use.
    let output = crate::passer()
        .args(["devices", "--json"])
        .env("RAYON_NUM_THREADS", "3")
        .output()
        .unwrap();
    let devices: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(devices["cpu_threads"], 3);
}

#[test]
fn errors_of_lengths_and_sizes_name_the_cure() {
    let mae = |set: &str| {
        refused(
            1,
            &[
                "pretrain",
                "mae-vit-cifar10",
                "--data",
                ".",
                "--out",
                "no",
                "--set",
                set,
            ],
        )
    };
    let error = mae("training.epochs=1");
    assert!(
        error.contains(
            "`schedule.cosine_per_step.warmup` needs a run of at least 2 epochs, and this one has 1"
        ),
        "{error}"
    );
    assert!(
        error.contains("hint: train for at least ") && error.contains("`--set training.epochs="),
        "{error}"
    );
    let error = mae("backbone.vit.image_px=400000");
    assert!(error.contains("`backbone.vit.image_px` needs "), "{error}");
}

#[cfg(unix)]
#[test]
fn a_key_with_a_line_break_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let picture = std::fs::read_dir(&photos)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let picture = match picture.is_dir() {
        true => std::fs::read_dir(&picture)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path(),
        false => picture,
    };
    std::fs::copy(&picture, picture.with_file_name("a\nb.png")).unwrap();
    let run = folder.path().join("run");
    let trained = crate::passer()
        .args([
            "pretrain",
            "quickstart",
            "--smoke",
            "--device",
            "flex",
            "--out",
            path(&run),
        ])
        .output()
        .unwrap();
    assert!(trained.status.success());
    let out = folder.path().join("features");
    let arguments = [
        "features",
        "--format",
        "npy",
        "--device",
        "flex",
        "--encoder",
        path(&run),
    ];
    let error = refused(
        1,
        &[&arguments[..], &["--data", path(&photos), "--out", path(&out)]].concat(),
    );
    assert!(
        error.contains("has a line break, which `keys.txt` cannot hold"),
        "{error}"
    );
    assert!(error.contains("hint: leave out `--format npy`"), "{error}");
    assert!(!folder.path().join("features.unfinished.safetensors").exists());
}
