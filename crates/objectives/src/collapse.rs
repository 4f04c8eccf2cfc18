//! Objectives that are broken on purpose in ways that no config can express, and the alarm that each of them gives. Configs
//! that are broken are run by `scripts/bench/alarms.py`.

use crate::head::{halves, l2_normalize, spread};
use crate::method::MethodConfig;
use crate::simsiam::{Config as SimsiamConfig, State, Student, negative_cosine};
use crate::{ObjectiveConfig, conformance};
use backbones::{Backbone, Context, Init, Replicas};
use burn::tensor::{Device, Tensor};
use std::path::Path;
use std::sync::Arc;
use training::{
    Alarm, Batch, Cause, Config, Event, Loss, Objective, OnAlarm, Outcome, RunOptions, ViewCount,
};

/// SimSiam without some of its parts.
struct Broken {
    config: SimsiamConfig,
    predictor: bool,
    stop_gradient: bool,
}

impl Objective for Broken {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        self.config.clone().objective(conformance::resnet()).init(init)
    }

    fn loss(&self, student: &Student, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let context = &context.per_view(batch.images);
        let projections = student.encoder.forward(batch, context);
        let spread = spread(&l2_normalize(projections.clone().detach()));
        let targets = match self.stop_gradient {
            true => projections.clone().detach(),
            false => projections.clone(),
        };
        let predictions = match self.predictor {
            true => student.predictor.forward(projections.clone(), context),
            false => projections.clone(),
        };
        let (first, second) = halves(targets);
        let loss = negative_cosine(predictions, Tensor::cat(vec![second, first], 0));
        let loss = Loss::new(loss, vec![("embedding_std", spread)]).with_embeddings(&halves(projections).0);
        (loss, ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// The config of the runs: CIFAR-10's of SimSiam with the smallest network, and batches of 32 synthetic pictures.
fn config(steps: usize) -> Config<ObjectiveConfig> {
    let text = include_str!("../../../configs/pretrain/simsiam-resnet18-cifar10.toml");
    let mut config: Config<ObjectiveConfig> = toml::from_str(text).unwrap();
    config.backbone = conformance::resnet();
    config.data.batch_images = 32;
    config.data.workers = 0;
    let ObjectiveConfig::Simsiam(simsiam) = &mut config.objective else {
        panic!("the config is SimSiam's");
    };
    (simsiam.projector_width, simsiam.embedding_width) = (64, 64);
    simsiam.predictor_width = 16;
    (config.training.epochs, config.training.steps) = (None, Some(steps));
    config.training.log_every_steps = 1;
    config.training.keep_checkpoints = 1;
    config
}

/// Trains in `out`; returns the alarms that were told, how the run ended, and its last line's spread.
fn run(
    objective: &Broken,
    config: &Config<ObjectiveConfig>,
    out: &Path,
    resume: bool,
) -> (Vec<Alarm>, Outcome) {
    let options = RunOptions {
        out: out.to_owned(),
        resume,
        device: Device::flex(),
        replicas: Replicas::single(),
        stop: Arc::default(),
        method: "simsiam".into(),
        provenance: serde_json::Map::new(),
    };
    let dataset = Arc::new(data::Dataset::synthetic(320, 32, 32, 2, 0));
    let mut alarms = vec![];
    let summary = training::pretrain(objective, config, dataset, &options, &mut |event| {
        if let Event::Alarm(alarm) = event {
            alarms.push(alarm.clone());
        }
    });
    let summary = summary.unwrap();
    assert_eq!(summary.alarm.is_some(), summary.outcome == Outcome::Interrupted);
    (alarms, summary.outcome)
}

fn broken(config: &Config<ObjectiveConfig>, predictor: bool, stop_gradient: bool) -> Broken {
    let ObjectiveConfig::Simsiam(config) = config.objective.clone() else {
        panic!("the config is SimSiam's");
    };
    Broken {
        config,
        predictor,
        stop_gradient,
    }
}

const STEPS: usize = 80;

#[test]
fn simsiam_without_stop_gradient_or_predictor_collapses_with_an_alarm_and_not_with_both() {
    let config = config(STEPS);
    let folder = tempfile::tempdir().unwrap();
    for (predictor, stop_gradient) in [(true, true), (true, false), (false, true)] {
        let objective = broken(&config, predictor, stop_gradient);
        let out = folder.path().join(format!("{predictor}-{stop_gradient}"));
        let (alarms, outcome) = run(&objective, &config, &out, false);
        assert_eq!(outcome, Outcome::Finished);
        let causes: Vec<Cause> = alarms.iter().map(|alarm| alarm.alarm).collect();
        match predictor && stop_gradient {
            true => assert!(causes.is_empty(), "{alarms:?}"),
            false => assert!(causes.contains(&Cause::Collapse), "{alarms:?}"),
        }
        assert_eq!(training::read_alarms(&out).unwrap(), alarms);
    }
}

#[test]
fn an_alarm_can_end_the_run_and_is_not_repeated_when_it_is_resumed() {
    let mut config = config(STEPS);
    config.training.on_alarm = OnAlarm::Stop;
    let objective = broken(&config, true, false);
    let folder = tempfile::tempdir().unwrap();
    let (alarms, outcome) = run(&objective, &config, folder.path(), false);
    assert_eq!((alarms.len(), outcome), (1, Outcome::Interrupted));
    let written = || training::read_alarms(folder.path()).unwrap();
    let checkpoint = training::latest_checkpoint(folder.path()).unwrap().unwrap();
    assert_eq!(checkpoint.step, alarms[0].step + 1);
    assert_eq!(written(), alarms);
    // Resumed, also from before the alarm, it goes to the end.
    let (again, outcome) = run(&objective, &config, folder.path(), true);
    assert!(
        again.iter().all(|alarm| alarm.alarm != alarms[0].alarm),
        "{again:?}"
    );
    if outcome == Outcome::Finished {
        assert_eq!(written()[0], alarms[0]);
    }
}
