//! A whole evaluation on synthetic pictures: every protocol, stored features, and errors before the first
//! image.

mod copies;
mod networks;

use super::*;
use crate::result::read_results;
use crate::run::on_features::{FeaturesJob, read_features, run_on_features};
use crate::testing::backbone;
use data::Dataset;
use training::Normalize;

const CONFIG: &str = r#"
test_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }]
[data]
batch_images = 16
workers = 1
max_bad_fraction = 0.0
[[protocols]]
[protocols.knn-dino]
neighbors = [5, 1]
headline_neighbors = 5
temperature = 0.07
[[protocols]]
[protocols.knn-vissl]
neighbors = 10
temperature = 0.1
[[protocols]]
[protocols.linear-cached]
scaling = "standardize"
batch_records = 16
epochs = 5
seeds = [0, 1]
optimizer = { sgd = { learning_rate_per_256 = 1.0, momentum = 0.9, weight_decay = 0.0, nesterov = false } }
schedule = { cosine_per_epoch = {} }
[[protocols]]
[protocols.logistic-regression]
scaling = "standardize"
strength = { fixed = 1.0 }
tolerance = 1e-6
max_iterations = 1000
[[protocols]]
[protocols.clustering]
scaling = "l2"
fit = "train"
clusters = "classes"
restarts = 2
max_iterations = 100
tolerance = 1e-4
seeds = [0, 1]
[[protocols]]
[protocols.few-shot]
scaling = "center_l2"
support = "train"
ways = 2
shots = 1
queries = 3
episodes = 10
classifier = { ridge = { penalty = 1.0 } }
seed = 0
[[protocols]]
[protocols.svm-voc07]
scaling = "l2"
costs = [0.1, 1.0]
folds = 3
positive_weight = 2.0
tolerance = 1e-6
max_iterations = 100
[[protocols]]
[protocols.svm-low-shot]
scaling = "l2"
positives = [1, 2]
headline_positives = 2
seeds = [0, 1]
cost = { held_out = [0.1, 1.0] }
positive_weight = 2.0
tolerance = 1e-6
max_iterations = 100
[[protocols]]
[protocols.retrieval]
scaling = "none"
gallery = "test"
recall_at = [1, 5]
[[protocols]]
[protocols.diagnostics]
set = "test"
records = 20
seed = 0
uniformity_t = 2.0
[[protocols]]
[protocols.view-diagnostics]
set = "test"
images = 20
views = 2
transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }, { horizontal_flip = { probability = 0.5 } }]
delta = 1e-4
alpha = 2.0
seed = 0
[[protocols]]
[protocols.linear-cached-grid]
inputs = ["pooled"]
learning_rates_per_256 = [0.1, 1.0]
momentum = 0.9
batch_records = 16
steps = 20
choice = { validation_fraction = 0.2, seed = 0 }
seed = 0
[[protocols]]
[protocols.linear-dinov2]
train_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }, { horizontal_flip = { probability = 0.5 } }]
batch_images = 16
order = "global"
steps = 6
inputs = ["pooled"]
learning_rates_per_256 = [0.1, 1.0]
momentum = 0.9
choice = { validation_fraction = 0.2, seed = 0 }
seed = 0
[[protocols]]
[protocols.linear-vissl]
taps = ["res4", "res5avg"]
headline_tap = "res5avg"
train_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }, { horizontal_flip = { probability = 0.5 } }]
batch_images = 16
order = "global"
epochs = 2
seeds = [3]
optimizer = { sgd = { learning_rate_per_256 = 0.1, momentum = 0.9, weight_decay = 5e-4, nesterov = true } }
schedule = { steps = { milestones_epochs = [1], factor = 0.1 } }
[[protocols]]
[protocols.linear-moco-v3]
input = "pooled"
train_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }, { horizontal_flip = { probability = 0.5 } }]
batch_images = 16
order = "global"
epochs = 2
seeds = [3]
optimizer = { sgd = { learning_rate_per_256 = 1.0, momentum = 0.9, weight_decay = 0.0, nesterov = false } }
schedule = { cosine_per_epoch = {} }
[[protocols]]
[protocols.linear-moco]
train_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = "bilinear" } }, { horizontal_flip = { probability = 0.5 } }]
batch_images = 16
order = "global"
epochs = 2
seeds = [3]
optimizer = { sgd = { learning_rate_per_256 = 1.0, momentum = 0.9, weight_decay = 0.0, nesterov = false } }
schedule = { steps = { milestones_epochs = [1], factor = 0.1 } }
"#;

/// Numbers that no float holds exactly: they must survive the round trip through the features file.
const IMAGENET: Normalize = Normalize {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
};

struct Fixture {
    encoder: Encoder,
    device: Device,
    out: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let device = Device::flex();
        let encoder = Encoder::new("small", "hash of the file", &backbone(0, &device), IMAGENET);
        Self {
            encoder,
            device,
            out: tempfile::tempdir().unwrap(),
        }
    }

    fn job(&self, train: Dataset, test: Dataset) -> Job<'_> {
        Job {
            encoder: &self.encoder,
            train: train.into(),
            test: test.into(),
            out: self.out.path(),
            shared_features: None,
            device: &self.device,
            provenance: Provenance {
                commit: "abc".into(),
                device: "flex".into(),
            },
        }
    }
}

/// The outcomes, and the stages that reported progress.
fn run_all(job: &Job<'_>) -> (Vec<Outcome>, Vec<String>) {
    let mut stages: Vec<String> = vec![];
    let config: Config = toml::from_str(CONFIG).unwrap();
    let outcomes = run(&config, job, &mut |event| stages.push(event.stage.to_string())).unwrap();
    stages.dedup();
    (outcomes, stages)
}

#[test]
fn every_protocol_answers_and_stored_features_are_used_again() {
    let fixture = Fixture::new();
    let job = fixture.job(
        Dataset::synthetic(60, 10, 10, 3, 1),
        Dataset::synthetic(30, 10, 10, 3, 2),
    );
    let (outcomes, stages) = run_all(&job);
    let of_features = ["features of the test set", "features of the training set"];
    assert_eq!(stages[..2], of_features);

    let named: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.metric != "mean_class")
        .map(|outcome| (outcome.protocol.as_str(), outcome.headline))
        .collect();
    assert_eq!(
        named,
        [
            ("knn-dino", true),
            ("knn-dino", false),
            ("knn-vissl", true),
            ("linear-cached", true),
            ("logistic-regression", true),
            ("clustering", true),
            ("clustering", false),
            ("clustering", false),
            ("clustering", false),
            ("few-shot", true),
            ("svm-voc07", true),
            ("svm-low-shot", false),
            ("svm-low-shot", true),
            ("retrieval", true),
            ("retrieval", false),
            ("retrieval", false),
            ("diagnostics", true),
            ("diagnostics", false),
            ("diagnostics", false),
            ("diagnostics", false),
            ("view-diagnostics", true),
            ("view-diagnostics", false),
            ("linear-cached-grid", true),
            ("linear-dinov2", true),
            ("linear-vissl", false),
            ("linear-vissl", true),
            ("linear-moco-v3", true),
            ("linear-moco", true)
        ]
    );
    for outcome in &outcomes {
        assert!(
            !outcome.is_share()
                || outcome.metric == "ari"
                || outcome.metric == "ami"
                || (0.0..=1.0).contains(&outcome.value)
        );
        let classes = if outcome.is_share() { 3 } else { 0 };
        assert_eq!(
            (outcome.train_records, outcome.test_records, outcome.classes),
            (60, 30, classes)
        );
        assert_eq!(
            (outcome.encoder.as_str(), outcome.commit.as_str()),
            ("hash of the file", "abc")
        );
    }
    let outcome = |protocol: &str, place: usize| {
        let mut of_protocol = outcomes.iter().filter(|outcome| outcome.protocol == protocol);
        of_protocol.nth(place).unwrap()
    };
    assert_eq!(outcome("knn-dino", 2).settings["neighbors"], 1);
    assert_eq!(
        outcome("linear-cached", 0).spread.as_ref().unwrap().values.len(),
        2
    );
    assert_eq!(outcome("logistic-regression", 0).settings["c"], 1.0);
    assert_eq!(outcome("linear-moco", 0).settings["epochs"], 2);

    let written = std::fs::read(fixture.out.path().join("result.json")).unwrap();
    let written: Vec<Outcome> = serde_json::from_slice(&written).unwrap();
    assert_eq!(written.len(), outcomes.len());
    for (written, outcome) in written.iter().zip(&outcomes) {
        assert_eq!(
            (&written.protocol, &written.metric),
            (&outcome.protocol, &outcome.metric)
        );
        assert!((written.value - outcome.value).abs() < 1e-12);
    }

    // The stored features alone give the same scores.
    let folder = tempfile::tempdir().unwrap();
    let mut alone_config: Config = toml::from_str(CONFIG).unwrap();
    alone_config
        .protocols
        .retain(|protocol| protocol.needs().images.is_none());
    let [train, test] = ["train", "test"].map(|set| {
        let path = fixture.out.path().join(format!("features-{set}.safetensors"));
        read_features(&path, &alone_config, Split::Test).unwrap()
    });
    let features_job = FeaturesJob {
        train: &train,
        test: &test,
        out: folder.path(),
        device: &fixture.device,
        provenance: job.provenance.clone(),
    };
    let alone = run_on_features(&alone_config, &features_job, &mut |_| {}).unwrap();
    let mut same = outcomes.clone();
    same.retain(|outcome| {
        alone
            .outcomes
            .iter()
            .any(|alone| alone.protocol == outcome.protocol)
    });
    let steps: Vec<_> = same
        .iter_mut()
        .map(|outcome| outcome.encoder_step.take())
        .collect();
    assert_eq!(steps, vec![None; same.len()]);
    // Features files hold no hashes of images.
    for overlap in same.iter_mut().filter_map(|outcome| outcome.overlap.as_mut()) {
        assert_eq!(overlap.compared, crate::Compared::Images);
        overlap.compared = crate::Compared::Features;
    }
    assert_eq!(alone.outcomes, same);
    assert!(same.len() > 10 && alone.kept.is_empty());
    let again = run_on_features(&alone_config, &features_job, &mut |_| {}).unwrap();
    assert_eq!(
        (again.outcomes.len(), again.kept.len()),
        (same.len(), alone_config.protocols.len())
    );

    // Nothing is computed twice.
    let (again, stages) = run_all(&job);
    assert_eq!(again.len(), outcomes.len());
    assert_eq!(stages, Vec::<String>::new());
    // Without the scores, stored features are used.
    std::fs::remove_file(fixture.out.path().join("result.json")).unwrap();
    let (again, stages) = run_all(&job);
    assert_eq!(again, outcomes);
    assert!(
        !stages.iter().any(|stage| of_features.contains(&stage.as_str())),
        "{stages:?}"
    );
}

#[test]
fn scores_before_a_failure_stay_and_are_not_asked_again() {
    let fixture = Fixture::new();
    let job = fixture.job(
        Dataset::synthetic(60, 10, 10, 3, 1),
        Dataset::synthetic(30, 10, 10, 3, 2),
    );
    let diverging = CONFIG.replacen("learning_rate_per_256 = 1.0", "learning_rate_per_256 = 1e38", 1);
    let mut config: Config = toml::from_str(&diverging).unwrap();
    config.protocols.truncate(4);
    let error = run(&config, &job, &mut |_| {}).unwrap_err().to_string();
    assert!(error.starts_with("linear-cached: the loss became"), "{error}");
    let path = fixture.out.path().join("result.json");
    let stored = read_results(&path).unwrap();
    assert!(!stored.is_empty());
    assert!(stored.iter().all(|outcome| outcome.protocol.starts_with("knn-")));

    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.protocols.truncate(4);
    let mut plan = Plan::new(&config, &job).unwrap();
    assert_eq!(plan.kept(), ["knn-dino", "knn-vissl"]);
    let mut stages = vec![];
    plan.run(&mut |event| stages.push(event.stage.to_string()))
        .unwrap();
    stages.dedup();
    assert_eq!(stages, ["linear-cached", "logistic-regression"]);
    assert_eq!(read_results(&path).unwrap().len(), plan.outcomes().len());

    // Scores of protocols outside the other config stay; for protocols with new settings, the new scores
    // replace the old.
    let mut other: Config = toml::from_str(&CONFIG.replace("neighbors = 10", "neighbors = 3")).unwrap();
    other.protocols.retain(|protocol| protocol.name() == "knn-vissl");
    let outcomes = run(&other, &job, &mut |_| {}).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.settings["neighbors"] == 3));
    let stored = read_results(&path).unwrap();
    let of = |name: &str| stored.iter().filter(|outcome| outcome.protocol == name).count();
    assert_eq!((of("knn-vissl"), of("linear-cached")), (outcomes.len(), 2));
}

#[test]
fn results_of_others_are_not_overwritten() {
    let fixture = Fixture::new();
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.protocols.truncate(1);
    let set = |records, seed| Dataset::synthetic(records, 10, 10, 3, seed);
    run(&config, &fixture.job(set(60, 1), set(30, 2)), &mut |_| {}).unwrap();
    let other = Encoder::new("other", "another hash", &backbone(1, &fixture.device), IMAGENET);
    let job = Job {
        encoder: &other,
        ..fixture.job(set(60, 1), set(30, 2))
    };
    let error = run(&config, &job, &mut |_| {}).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("holds results of encoder `small` (hash of the ), and this is `other` (another hash)"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::OtherOutput));
    let error = run(&config, &fixture.job(set(60, 1), set(31, 2)), &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().contains("results of another test set"),
        "{error}"
    );
}

#[test]
fn every_protocol_is_checked_before_the_first_image() {
    let fixture = Fixture::new();
    let picture = Dataset::synthetic(1, 10, 10, 2, 0).read(0).unwrap();
    let set = |labels: &[u32], names: &[&str]| {
        let records = labels.iter().enumerate().map(|(at, label)| data::Record {
            key: format!("r{at}"),
            label: Some(data::Label::Class(*label)),
            ..picture.clone()
        });
        Dataset::from_records(
            records.collect(),
            names.iter().map(|name| name.to_string()).collect(),
        )
    };
    let refused = |protocol: &str, text: &str, train: Dataset, test: Dataset| {
        let mut config: Config = toml::from_str(text).unwrap();
        config
            .protocols
            .retain(|asked| [protocol, "diagnostics"].contains(&asked.name()));
        // Put the runnable protocol first.
        config.protocols.reverse();
        let mut images = 0;
        let error = run(&config, &fixture.job(train, test), &mut |_| images += 1).unwrap_err();
        assert_eq!(images, 0, "{error}");
        error.to_string()
    };
    let names = ["ant", "bee", "cat"];
    let many = || set(&[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2], &names);
    let no_cat = || set(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], &names);
    let one_cat = || set(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 2], &names);
    for protocol in [
        "knn-dino",
        "linear-moco",
        "linear-cached",
        "logistic-regression",
        "svm-voc07",
    ] {
        assert_eq!(
            refused(protocol, CONFIG, no_cat(), many()),
            format!("{protocol}: test record `r2` is of class `cat`, which no training record has")
        );
    }
    let sweep = CONFIG.replace(
        "strength = { fixed = 1.0 }",
        "strength = { sweep = { candidates = [1.0], validation_fraction = 0.2, seed = 0 } }",
    );
    assert_eq!(
        refused("logistic-regression", &sweep, one_cat(), many()),
        "logistic-regression: class `cat` has 1 training record, so none of it can be held out for the choice of C"
    );
    assert!(
        refused("svm-voc07", CONFIG, one_cat(), many()).contains("class `cat` has only 1 training records")
    );
    assert!(
        refused("svm-low-shot", CONFIG, one_cat(), many())
            .contains("training records with class `cat`, and there are 1")
    );
    assert!(
        refused(
            "few-shot",
            &CONFIG.replace("shots = 1", "shots = 9"),
            many(),
            many()
        )
        .contains("0 have them")
    );
    let recall = CONFIG.replace("recall_at = [1, 5]", "recall_at = [12]");
    assert!(refused("retrieval", &recall, many(), many()).contains("`recall_at` must be at most"));
    let several = || {
        let records = many();
        let records = (0..records.len()).map(|at| data::Record {
            label: Some(data::Label::Classes(vec![0, 1])),
            ..records.read(at).unwrap()
        });
        Dataset::from_records(records.collect(), vec![])
    };
    assert_eq!(
        refused("knn-dino", CONFIG, several(), several()),
        "knn-dino: the training set labels a record with a set of classes, and this protocol needs one class a record"
    );
    assert!(
        refused("svm-voc07", CONFIG, many(), several()).contains("the test set labels a record with a set")
    );
}

#[test]
fn images_of_another_size_than_in_pretraining_are_told() {
    let fixture = Fixture::new();
    let config: Config = toml::from_str(CONFIG).unwrap();
    let note = |px| {
        fixture
            .encoder
            .clone()
            .trained(px, 5)
            .size_note(&config.test_transforms)
    };
    assert_eq!(note(8), None);
    assert_eq!(note(10), None);
    assert_eq!(note(0), None);
    assert!(
        note(32)
            .unwrap()
            .contains("reach the encoder at 8x8 px, and it was pretrained at 32 px")
    );
    assert_eq!(fixture.encoder.clone().trained(8, 5).step, Some(5));
}

#[test]
fn features_of_something_else_are_made_anew() {
    let fixture = Fixture::new();
    let train = || Dataset::synthetic(60, 10, 10, 3, 1);
    run_all(&fixture.job(train(), Dataset::synthetic(30, 10, 10, 3, 2)));
    let forget = || std::fs::remove_file(fixture.out.path().join("result.json")).unwrap();
    forget();
    let (outcomes, stages) = run_all(&fixture.job(train(), Dataset::synthetic(20, 10, 10, 3, 2)));
    assert_eq!(stages[0], "features of the test set");
    assert!(!stages.iter().any(|stage| stage == "features of the training set"));
    assert_eq!(outcomes[0].test_records, 20);

    std::fs::write(fixture.out.path().join("features-train.safetensors"), b"damaged").unwrap();
    forget();
    let (_, stages) = run_all(&fixture.job(train(), Dataset::synthetic(20, 10, 10, 3, 2)));
    assert_eq!(stages[0], "features of the training set");
}

#[test]
fn what_cannot_work_is_told_before_the_first_image() {
    let fixture = Fixture::new();
    let config: Config = toml::from_str(CONFIG).unwrap();
    let refused = |train, test| {
        let mut images = 0;
        let error = run(&config, &fixture.job(train, test), &mut |_| images += 1).unwrap_err();
        assert_eq!(images, 0);
        error.to_string()
    };
    let set = |records, classes| Dataset::synthetic(records, 10, 10, classes, 0);
    assert!(refused(set(60, 0), set(30, 3)).contains("the training set has no labels"));
    assert!(refused(set(60, 3), set(30, 0)).contains("the test set has no labels"));
    assert_eq!(
        refused(set(9, 3), set(30, 3)),
        "knn-vissl: `neighbors` must be at most the 9 training records, got 10"
    );
    let config: Config =
        toml::from_str(&CONFIG.replace("clusters = \"classes\"", "clusters = { count = 61 }")).unwrap();
    let error = run(&config, &fixture.job(set(60, 3), set(30, 3)), &mut |_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "clustering: `clusters` must be at most the 60 records of the training set, got 61"
    );
}

#[test]
fn diagnostics_alone_need_no_labels_and_no_training_features() {
    let fixture = Fixture::new();
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config
        .protocols
        .retain(|protocol| protocol.name() == "diagnostics");
    let set = |seed| Dataset::synthetic(30, 10, 10, 0, seed);
    let outcomes = run(&config, &fixture.job(set(1), set(2)), &mut |_| {}).unwrap();
    assert_eq!(outcomes.len(), 4);
    assert_eq!((outcomes[0].classes, outcomes[0].train_records), (0, 0));
    assert!(!fixture.out.path().join("features-train.safetensors").exists());
}

#[test]
fn protocols_within_the_test_set_take_any_training_set() {
    let fixture = Fixture::new();
    let text = CONFIG
        .replace("fit = \"train\"", "fit = \"test\"")
        .replace("support = \"train\"", "support = \"test\"");
    let mut config: Config = toml::from_str(&text).unwrap();
    config
        .protocols
        .retain(|protocol| ["clustering", "few-shot", "retrieval"].contains(&protocol.name()));
    assert_eq!(config.protocols.len(), 3);
    let test = || Dataset::synthetic(30, 10, 10, 3, 2);
    // No labels, and a test set with a new class.
    for classes in [0, 2] {
        let train = Dataset::synthetic(40, 10, 10, classes, 1);
        let outcomes = run(&config, &fixture.job(train, test()), &mut |_| {}).unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.classes == 3));
        std::fs::remove_file(fixture.out.path().join("result.json")).unwrap();
    }
}

#[test]
fn the_configs_normalization_outranks_the_encoders() {
    let fixture = Fixture::new();
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.protocols.truncate(1);
    config.normalize = Some(Normalize {
        mean: [0.1; 3],
        std: [0.2; 3],
    });
    let job = fixture.job(
        Dataset::synthetic(20, 10, 10, 2, 1),
        Dataset::synthetic(10, 10, 10, 2, 2),
    );
    let outcomes = run(&config, &job, &mut |_| {}).unwrap();
    assert_eq!(outcomes[0].normalize, json!(config.normalize));
    assert_ne!(outcomes[0].normalize, json!(IMAGENET));
}
