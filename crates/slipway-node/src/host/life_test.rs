//! The rules against an imagined machine: random requests, ends and restarts, and what must hold after each.

use super::{Life, Step};
use proptest::prelude::{Strategy, prop_oneof, proptest};
use slipway_api::node::ContainerState::{self, Created, Dead, Exited, Paused, Running, Stopping};
use slipway_api::node::{Exit, Restart, RestartWhen, StepError};
use std::time::{Duration, Instant};

/// What may happen to a container.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask(ContainerState),
    /// Its init ends with this code, or nobody knows how.
    End(Option<i32>),
    /// Time passes.
    Pass(i64),
    /// The next starts go wrong, or well again.
    Break(bool),
    /// The service is killed and begins anew.
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let state = prop_oneof![
        proptest::strategy::Just(Running),
        proptest::strategy::Just(Exited),
        proptest::strategy::Just(Paused),
        proptest::strategy::Just(Dead),
    ];
    prop_oneof![
        4 => state.prop_map(Act::Ask),
        3 => prop_oneof![
            proptest::strategy::Just(Some(0)),
            proptest::strategy::Just(Some(1)),
            proptest::strategy::Just(None)
        ].prop_map(Act::End),
        2 => (0_i64..40_000).prop_map(Act::Pass),
        1 => proptest::bool::ANY.prop_map(Act::Break),
        1 => proptest::strategy::Just(Act::Crash),
    ]
}

/// A machine that has processes, or not.
struct Machine {
    life: Life,
    policy: Restart,
    processes: u32,
    broken: bool,
    now_ms: i64,
    /// When it starts again by itself.
    due_ms: Option<i64>,
}

impl Machine {
    fn start(&mut self, by_itself: bool) {
        assert_eq!(self.processes, 0, "a second init beside the first");
        let again = if self.broken {
            let error = StepError { step: "init".into(), errno: None, text: String::new() };
            self.life.start_failed(error, by_itself, &self.policy)
        } else {
            self.processes = 1;
            self.life.started(7, true, self.now_ms);
            None
        };
        self.later(again);
    }

    fn later(&mut self, again: Option<Duration>) {
        if let Some(wait) = again {
            assert!(self.life.kept.wanted, "nobody wants it");
            assert!((100..=30_000).contains(&(wait.as_millis() as i64)));
            assert_ne!(self.policy.when, RestartWhen::No);
            assert!(self.policy.when == RestartWhen::Always || self.life.state == Dead);
        }
        self.due_ms = again.map(|wait| self.now_ms + wait.as_millis() as i64);
    }

    fn run(&mut self, act: Act) {
        match act {
            Act::Ask(state) => self.ask(state),
            Act::End(code) if self.processes > 0 => {
                self.processes = 0;
                let how = match code {
                    Some(code) => Ok(Exit { code: Some(code), at_ms: self.now_ms, ..Exit::default() }),
                    None => Err(StepError { step: "shim".into(), errno: None, text: String::new() }),
                };
                let was_stopped = !self.life.kept.wanted && code.is_some();
                let again = self.life.ended(how, &self.policy, self.now_ms);
                assert_eq!(self.life.state, if was_stopped || code == Some(0) { Exited } else { Dead });
                self.later(again);
            }
            Act::End(_) => {}
            Act::Pass(ms) => {
                self.now_ms += ms;
                if self.due_ms.is_some_and(|due| due <= self.now_ms) {
                    self.due_ms = None;
                    self.life.restarting();

                    self.start(true);
                }
            }
            Act::Break(broken) => self.broken = broken,
            Act::Crash => {
                let text = serde_json::to_string(&self.life.kept).unwrap();
                assert_eq!(serde_json::from_str::<super::Kept>(&text).unwrap(), self.life.kept);
            }
        }
    }

    fn ask(&mut self, state: ContainerState) {
        let before = self.life.state;
        match self.life.asked(state) {
            Ok(Step::Start) => {
                self.life.wanted_set(true);
                self.due_ms = None;
                self.start(false);
            }
            Ok(Step::Stop) => {
                self.life.wanted_set(false);
                self.life.stop_begun(Instant::now());
            }
            Ok(step @ (Step::Freeze | Step::Thaw)) => self.life.held(step == Step::Freeze),
            Ok(Step::Nothing) => {
                if state == Exited {
                    self.life.wanted_set(false);
                    self.due_ms = None;
                }
            }
            Err(refusal) => {
                assert!(matches!(refusal.status, 409 | 422));
                assert_eq!(self.life.state, before);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.processes > 0, self.life.is_alive(), "{:?}", self.life);
        match self.life.state {
            Created => assert!(self.life.kept.exit.is_none()),
            Running => assert!(self.life.kept.wanted && self.life.kept.error.is_none()),
            Paused => assert!(self.life.kept.still),
            Stopping => assert!(!self.life.kept.wanted && self.life.kill_at.is_some()),
            Exited => assert!(self.life.kept.exit.as_ref().unwrap().code == Some(0) || !self.life.kept.wanted),
            Dead => assert!(
                self.life.kept.error.is_some() || self.life.kept.exit.as_ref().is_some_and(|exit| exit.code != Some(0))
            ),
        }
        if self.policy.max > 0 {
            assert!(self.life.kept.in_row <= self.policy.max);
        }
        assert!(self.life.kept.restarts >= self.life.kept.in_row);
        assert_eq!(self.life.kept.retrying, self.due_ms.is_some(), "what is to come outlives the service");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold(
        when in prop_oneof![
            proptest::strategy::Just(RestartWhen::No),
            proptest::strategy::Just(RestartWhen::OnFailure),
            proptest::strategy::Just(RestartWhen::Always),
        ],
        max in 0_u64..4,
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let policy = Restart { when, max };
        let life = Life::default();
        let mut machine =
            Machine { life, policy, processes: 0, broken: false, now_ms: 1_000_000, due_ms: None };
        for act in acts {
            machine.run(act);
            machine.check();
        }
    }
}

#[test]
fn waits_double_and_begin_anew_after_a_lasting_run() {
    let policy = Restart { when: RestartWhen::Always, max: 0 };
    let mut life = Life::default();
    life.wanted_set(true);
    let mut now = 0;
    let mut end = |life: &mut Life, ran_ms: i64| {
        life.started(1, true, now);
        now += ran_ms;
        let wait = life.ended(Ok(Exit { code: Some(0), at_ms: now, ..Exit::default() }), &policy, now);
        life.restarting();
        wait.unwrap().as_millis()
    };
    let waits: Vec<u128> = (0..10).map(|_| end(&mut life, 500)).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
    assert_eq!(end(&mut life, 10_000), 100);
    assert_eq!(end(&mut life, 9_999), 200);
    // A person's word counts anew.
    life.wanted_set(true);
    assert_eq!(end(&mut life, 1), 100);
}

#[test]
fn so_often_in_a_row_and_no_more() {
    let policy = Restart { when: RestartWhen::OnFailure, max: 2 };
    let mut life = Life::default();
    life.wanted_set(true);
    let failed = || Ok(Exit { code: Some(1), ..Exit::default() });
    for left in [true, true, false] {
        life.started(1, true, 0);
        let wait = life.ended(failed(), &policy, 0);
        assert_eq!(wait.is_some(), left);
        if left {
            life.restarting();
        }
    }
    assert_eq!(life.kept.error.as_ref().unwrap().step, "restart_max");
    assert_eq!(life.kept.restarts, 2);
}
