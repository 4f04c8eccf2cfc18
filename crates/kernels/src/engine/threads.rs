//! Ranks as threads of one process, for tests that need no launcher.

use super::Engine;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a rank waits for the others: a rank that panicked never comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// One engine for each of `size` threads.
pub fn threads(size: usize) -> Vec<Arc<dyn Engine>> {
    let meeting = Arc::new(Meeting {
        size,
        state: Mutex::new(State {
            round: 0,
            given: vec![None; size],
            all: Arc::new(vec![]),
        }),
        complete: Condvar::new(),
    });
    let engine = |rank| {
        Arc::new(Thread {
            rank,
            meeting: meeting.clone(),
        }) as Arc<dyn Engine>
    };
    (0..size).map(engine).collect()
}

/// What a rank brings to a call.
#[derive(Clone, Debug, Default)]
struct Given {
    values: Vec<f32>,
    bytes: Vec<u8>,
    /// Values for each rank, of an exchange.
    sends: Vec<usize>,
}

#[derive(Debug)]
struct State {
    /// Calls completed.
    round: u64,
    given: Vec<Option<Given>>,
    /// What all ranks gave in the newest complete call.
    all: Arc<Vec<Given>>,
}

/// Where the threads of one group meet.
#[derive(Debug)]
struct Meeting {
    size: usize,
    state: Mutex<State>,
    complete: Condvar,
}

#[derive(Debug)]
struct Thread {
    rank: usize,
    meeting: Arc<Meeting>,
}

impl Thread {
    /// Gives, waits for the others, and returns what all gave.
    ///
    /// # Panics
    /// If another rank does not come.
    fn meet(&self, given: Given) -> Arc<Vec<Given>> {
        let meeting = &*self.meeting;
        let mut state = meeting.state.lock().unwrap_or_else(PoisonError::into_inner);
        let round = state.round;
        state.given[self.rank] = Some(given);
        if state.given.iter().all(Option::is_some) {
            state.all = Arc::new(state.given.iter_mut().filter_map(Option::take).collect());
            state.round += 1;
            meeting.complete.notify_all();
            return state.all.clone();
        }
        let (state, waited) = meeting
            .complete
            .wait_timeout_while(state, PATIENCE, |state| state.round == round)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            !waited.timed_out(),
            "rank {} of {} waited for the others in vain",
            self.rank,
            meeting.size
        );
        state.all.clone()
    }
}

impl Engine for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn exchange(&self, values: &[f32], sends: &[usize], receives: &[usize]) -> Vec<f32> {
        let all = self.meet(Given {
            values: values.to_vec(),
            sends: sends.to_vec(),
            ..Given::default()
        });
        let mut received = vec![];
        for (given, expected) in all.iter().zip(receives) {
            let start = given.sends[..self.rank].iter().sum::<usize>();
            assert!(
                given.sends[self.rank] == *expected,
                "an exchange of other lengths"
            );
            received.extend_from_slice(&given.values[start..][..*expected]);
        }
        received
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        let values = own.to_vec();
        let all = self.meet(Given {
            values,
            ..Given::default()
        });
        all.iter()
            .flat_map(|given| given.values.iter().copied())
            .collect()
    }

    fn gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let bytes = own.to_vec();
        let all = self.meet(Given {
            bytes,
            ..Given::default()
        });
        all.iter().map(|given| given.bytes.clone()).collect()
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        let all = self.meet(Given {
            bytes,
            ..Given::default()
        });
        all[0].bytes.clone()
    }
}
