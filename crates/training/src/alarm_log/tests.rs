//! What is written once, and what a resumed run does with it.

use super::*;
use crate::alarm::Setting;
use std::collections::BTreeMap;

fn rules() -> Rules {
    Rules::new(Setting {
        steps_per_epoch: 10,
        batch_images: 8,
        prototypes: None,
    })
}

fn line(step: usize, spread: f32) -> LogLine {
    LogLine {
        step,
        epoch: step / 10,
        loss: -1.0,
        learning_rate: 0.1,
        signals: BTreeMap::from([("embedding_spread".to_owned(), spread)]),
        loss_scale: None,
        skipped_steps: None,
        images_per_second: 1.0,
        data_wait: 0.0,
        device_memory_mib: None,
        device_busy: None,
        unix_seconds: None,
    }
}

fn remedies(_: Cause) -> Vec<Remedy> {
    vec![Remedy::new("objective.x.y", "raise it", "a paper")]
}

#[test]
fn an_alarm_is_written_once_and_not_again_by_a_resumed_run() {
    let run = tempfile::tempdir().unwrap();
    let mut log = AlarmLog::open(run.path(), rules(), &[]).unwrap();
    let mut lines = vec![];
    let mut told = vec![];
    for step in 1..=80 {
        lines.push(line(step, 0.001));
        told.extend(log.take(&lines[step - 1], remedies).unwrap());
    }
    assert_eq!(told.len(), 1);
    let alarm = &told[0];
    assert_eq!(
        (alarm.alarm, alarm.since_step, alarm.epoch),
        (Cause::Collapse, 41, alarm.step / 10)
    );
    assert_eq!(
        (alarm.signal.as_str(), alarm.remedies.len()),
        ("embedding_spread", 1)
    );
    assert_eq!(read_alarms(run.path()).unwrap(), (told.clone(), 0));

    // Resumed before the alarm and after it; half a line of a killed process is removed.
    for resumed_at in [0, alarm.step - 1, alarm.step] {
        let path = run.path().join(ALARMS);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"alarm\":\"coll")).unwrap();
        let mut log = AlarmLog::open(run.path(), rules(), &lines[..resumed_at]).unwrap();
        for line in &lines[resumed_at..] {
            assert_eq!(log.take(line, remedies).unwrap(), []);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    // A damaged line, or one of a later version, stays, and takes none behind it along.
    let path = run.path().join(ALARMS);
    let text = format!(
        "{{\"alarm\":\"of_later\"}}\n{}",
        std::fs::read_to_string(&path).unwrap()
    );
    std::fs::write(&path, &text).unwrap();
    let mut log = AlarmLog::open(run.path(), rules(), &lines[..1]).unwrap();
    for line in &lines[1..] {
        assert_eq!(log.take(line, remedies).unwrap(), []);
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(read_alarms(run.path()).unwrap(), (told, 1));
}

#[test]
fn a_run_without_alarms_has_no_file_and_one_of_an_earlier_version_is_judged_by_its_lines() {
    let run = tempfile::tempdir().unwrap();
    let lines: Vec<LogLine> = (1..=80).map(|step| line(step, 0.001)).collect();
    let mut log = AlarmLog::open(run.path(), rules(), &lines).unwrap();
    assert!(!run.path().join(ALARMS).exists());
    assert_eq!(read_alarms(run.path()).unwrap(), (vec![], 0));
    let alarms = log.take(&line(81, 0.001), remedies).unwrap();
    assert_eq!((alarms.len(), alarms[0].since_step), (1, 41));
}
