//! Each rule on lines made by hand: beyond its limit for long enough, for too short a time, and on the healthy side.

use super::*;

const EPOCH: usize = 40;

fn rules(prototypes: Option<usize>) -> Rules {
    Rules::new(Setting {
        steps_per_epoch: EPOCH,
        batch_images: 256,
        prototypes,
    })
}

fn line(step: usize, signals: &[(&str, f32)]) -> LogLine {
    LogLine {
        step,
        epoch: step / EPOCH,
        loss: 1.0,
        learning_rate: 0.1,
        signals: signals
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
        loss_scale: None,
        skipped_steps: None,
        images_per_second: 1.0,
        data_wait: 0.0,
        device_memory_mib: None,
        device_busy: None,
        unix_seconds: None,
    }
}

/// The first step at which each cause is found in lines `every` steps apart.
fn found(mut rules: Rules, every: usize, lines: usize, of: impl Fn(usize) -> LogLine) -> Vec<(Cause, usize)> {
    let mut found: Vec<(Cause, usize)> = vec![];
    for step in (1..=lines).map(|line| line * every) {
        for finding in rules.take(&of(step)) {
            if !found.iter().any(|(cause, _)| *cause == finding.cause) {
                found.push((finding.cause, step));
            }
        }
    }
    found
}

#[test]
fn each_rule_needs_its_signal_beyond_the_limit_for_some_steps() {
    let prototypes = Some(1000);
    let cases: [(&str, f32, f32, Cause, usize); 5] = [
        ("variance", 0.98, 0.9, Cause::Collapse, 61),
        ("embedding_spread", 0.04, 0.06, Cause::Collapse, 61),
        ("embedding_rank", 1.5, 1.7, Cause::LowRank, 61),
        // A 64th of the 1,000 prototypes, which ten steps of 256 images can use.
        ("prototypes_used", 15.5, 15.7, Cause::DeadPrototypes, 61),
        ("loss_over_chance", 1.002, 0.99, Cause::ChanceLoss, 61),
    ];
    for (signal, beyond, healthy, cause, first) in cases {
        assert_eq!(
            found(rules(prototypes), 1, 200, |step| line(step, &[(signal, beyond)])),
            [(cause, first)]
        );
        assert_eq!(
            found(rules(prototypes), 1, 200, |step| line(step, &[(signal, healthy)])),
            []
        );
        // A line on the healthy side begins the count anew.
        let interrupted = |step: usize| {
            line(
                step,
                &[(signal, if step.is_multiple_of(20) { healthy } else { beyond })],
            )
        };
        assert_eq!(found(rules(prototypes), 1, 200, interrupted), []);
        // Far between, three lines are needed.
        assert_eq!(
            found(rules(prototypes), 500, 9, |step| line(step, &[(signal, beyond)])),
            [(cause, 1500)]
        );
    }
    // A method without prototypes has none that could be dead, and other signals are not needed.
    assert_eq!(
        found(rules(None), 1, 200, |step| line(
            step,
            &[("prototypes_used", 1.0)]
        )),
        []
    );
    assert_eq!(found(rules(prototypes), 1, 200, |step| line(step, &[])), []);
}

#[test]
fn a_loss_far_above_chance_or_a_gradient_far_above_the_first_ones_diverges() {
    let above = |step: usize| line(step, &[("loss_over_chance", if step < 50 { 1.1 } else { 1.5 })]);
    assert_eq!(found(rules(None), 1, 200, above), [(Cause::Diverging, 55)]);
    // MAE's loss begins far above.
    assert_eq!(
        found(rules(None), 1, 200, |step| line(
            step,
            &[("loss_over_chance", 1.5)]
        )),
        []
    );
    let norm = |step: usize| {
        // One peak is no divergence.
        let norm = if step == 30 || step >= 100 { 900.0 } else { 2.0 };
        line(step, &[("gradient_norm", norm)])
    };
    assert_eq!(found(rules(None), 1, 200, norm), [(Cause::Diverging, 105)]);
}

#[test]
fn a_loss_scale_below_one_is_the_end_of_f16() {
    let scale = |step: usize| LogLine {
        loss_scale: Some(if step < 50 { 128.0 } else { 0.5 }),
        skipped_steps: Some(step / 2),
        ..line(step, &[])
    };
    assert_eq!(found(rules(None), 1, 200, scale), [(Cause::LossScale, 55)]);
    let usual = |step: usize| LogLine {
        loss_scale: Some(1.0),
        ..line(step, &[])
    };
    assert_eq!(found(rules(None), 1, 200, usual), []);
}

#[test]
fn a_resumed_run_finds_what_an_uninterrupted_one_finds() {
    let of = |step: usize| line(step, &[("embedding_spread", if step < 30 { 0.5 } else { 0.01 })]);
    let whole: Vec<_> = {
        let mut rules = rules(None);
        (1..=90).map(|step| rules.take(&of(step))).collect()
    };
    for cut in [10, 45, 70] {
        let mut again = rules(None);
        for step in 1..=cut {
            again.take(&of(step));
        }
        let rest: Vec<_> = (cut + 1..=90).map(|step| again.take(&of(step))).collect();
        assert_eq!(rest, whole[cut..]);
    }
}
