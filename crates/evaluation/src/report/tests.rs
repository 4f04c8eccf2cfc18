//! Whole reports of tiny evaluations: their content, names that need escaping, and no loading of other files.

use super::*;
use crate::config::Config;
use crate::testing::{NORMALIZE, backbone, extract};
use backbones::{BackboneConfig, Init};
use data::{Label, Metadata, Record};
use serde_json::json;

const CONFIG: &str = r#"
test_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }]
[data]
batch_images = 16
workers = 0
max_bad_fraction = 0.5
[[protocols]]
[protocols.knn-dino]
neighbors = [3]
headline_neighbors = 3
temperature = 0.07
"#;

/// Pictures of these classes in turn, some of them broken, with keys and names that need escaping.
fn records(count: usize, names: &[&str], shift: u64) -> Arc<Dataset> {
    let pictures = Dataset::synthetic(count, 12, 10, names.len() as u32, shift);
    let record = |position: usize| Record {
        key: format!("<b>folder</b>/'{position}'&\"{shift}\".jpg"),
        image: match position % 7 {
            6 => b"broken".to_vec(),
            _ => pictures.read(position).unwrap().image,
        },
        label: (!names.is_empty()).then(|| Label::Class((position % names.len()) as u32)),
        metadata: Metadata::default(),
    };
    let names = names.iter().map(|name| name.to_string()).collect();
    Arc::new(Dataset::from_records((0..count).map(record).collect(), names))
}

fn vit() -> Encoder {
    let config: BackboneConfig = serde_json::from_value(json!({ "vit": {
        "width": 16, "depth": 2, "heads": 2, "patch_px": 4, "image_px": 8, "position": "learned",
        "interpolation": "antialiased", "registers": 2, "drop_path": 0.0, "pooling": "class_token",
        "initialization": "truncated_normal"
    } }))
    .unwrap();
    let backbone = config.init(&Init::new(0, &Device::flex()));
    Encoder::new("vit <x>", "hash", &backbone, NORMALIZE)
}

fn made(encoder: &Encoder, train: &Arc<Dataset>, test: &Arc<Dataset>) -> String {
    let device = Device::flex();
    let config: Config = toml::from_str(CONFIG).unwrap();
    let features = |dataset: &Arc<Dataset>| {
        extract(
            encoder,
            dataset,
            &config.test_transforms,
            &config.data,
            &device,
            &mut |_| {},
        )
        .unwrap()
    };
    let mut stages = vec![];
    let html = report(
        &Content {
            data_name: "<script>alert(1)</script>",
            encoder,
            test_transforms: &config.test_transforms,
            voting: config.protocols[0].voting(),
            outcomes: &[],
            train: &features(train),
            test: &features(test),
            train_data: train,
            test_data: test,
            device: &device,
        },
        &mut |event| stages.push((event.done, event.total)),
    )
    .unwrap();
    assert_eq!(stages, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    html
}

fn count(html: &str, what: &str) -> usize {
    html.matches(what).count()
}

#[test]
fn everything_is_shown_and_names_break_nothing() {
    let names = ["<i>cat</i>", "dog & \"co\""];
    let (train, test) = (records(42, &names, 1), records(35, &names, 2));
    let html = made(&vit(), &train, &test);
    for id in [
        "results",
        "classes",
        "confusion",
        "mistakes",
        "neighbors",
        "map",
        "attention",
        "origin",
    ] {
        assert_eq!(count(&html, &format!("<section id=\"{id}\"")), 1, "{id}");
        assert_eq!(count(&html, &format!("href=\"#{id}\"")), 1, "{id}");
    }
    // Names are escaped text.
    for raw in ["<script", "<b>folder", "<i>cat", "dog & \"", "vit <x>"] {
        assert!(!html.contains(raw), "{raw}");
    }
    assert!(
        html.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && html.contains("&lt;i&gt;cat&lt;/i&gt;")
    );
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("url(\""));
    // Every picture has its alternative text, and all pictures are embedded in the file.
    assert_eq!(count(&html, "<img "), count(&html, "alt=\""));
    assert_eq!(
        count(&html, " src=\""),
        count(&html, "src=\"data:image/jpeg;base64,/9j/")
    );
    // 12 queries with 7 neighbors each; 6 pictures with the mean and two heads each.
    assert_eq!(count(&html, "class=\"query\""), 12);
    assert_eq!(count(&html, "alt=\"Neighbor "), 84);
    assert_eq!(count(&html, "head 2</figcaption>"), 6);
    // 35 records minus 5 broken ones.
    assert_eq!(count(&html, "<i style="), 30);
    assert_eq!(count(&html, "<caption>"), count(&html, "<table"));
    assert_eq!(count(&html, "<table class=\"confusion\">"), 1);
    assert!(html.len() < 1_000_000, "{} bytes", html.len());
    assert_eq!(html, made(&vit(), &train, &test), "the same every time");
}

#[test]
fn what_cannot_be_shown_is_left_out() {
    // No labels: neighbors and the map remain.
    let html = made(&vit(), &records(20, &[], 1), &records(20, &[], 2));
    for (id, there) in [
        ("classes", false),
        ("confusion", false),
        ("neighbors", true),
        ("map", true),
    ] {
        assert_eq!(html.contains(&format!("<section id=\"{id}\"")), there, "{id}");
    }
    // Residual networks have no attention.
    let resnet = Encoder::new("small", "h", &backbone(0, &Device::flex()), NORMALIZE);
    let names = ["a", "b"];
    let html = made(&resnet, &records(20, &names, 1), &records(20, &names, 2));
    assert!(!html.contains("id=\"attention\"") && html.contains("id=\"confusion\""));
    // Three records are too few for a map.
    let html = made(&resnet, &records(20, &names, 1), &records(3, &names, 2));
    assert!(!html.contains("id=\"map\""));
}

#[test]
fn many_classes_get_a_picture_and_the_worst_pairs() {
    let names: Vec<String> = (0..25).map(|class| format!("kind {class}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let resnet = Encoder::new("small", "h", &backbone(0, &Device::flex()), NORMALIZE);
    let html = made(&resnet, &records(75, &names, 1), &records(50, &names, 2));
    assert!(html.contains("Confusion matrix of 25 classes as a picture"));
    assert!(html.contains("Most frequent confusions") && !html.contains("class=\"confusion\""));
}
