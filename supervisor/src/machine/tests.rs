use super::*;
use podrun::spec::health::OnUnhealthy;
use podrun::spec::restart::RestartPolicy;
use proptest::prelude::*;
use std::collections::HashMap;

const TERM: i32 = 15;

fn with_policy(restart: RestartPolicy) -> Machine {
    let settings = Settings { restart, ..Settings::default() };
    Machine::resume("c".into(), &settings, Status::Created, Restarts::default(), Memory::default())
}

fn machine() -> Machine {
    with_policy(RestartPolicy::No)
}

fn init_ended(ending: Ending) -> Event {
    Event::InitEnded { ending: Some(ending), ran: Some(Duration::ZERO) }
}

fn running() -> Machine {
    started(machine())
}

fn started(mut machine: Machine) -> Machine {
    assert_eq!(machine.on(Event::Start { ticket: Ticket(0), again: false }), [Action::OpenGate]);
    let actions = machine.on(Event::Gate(Ok(())));
    assert_eq!(actions, [Action::Running(vec![Ticket(0)])]);
    machine
}

fn record() -> Box<ExitRecord> {
    Box::new(ExitRecord::unknown(None, "").ended(Ending::Exited(0)))
}

#[test]
fn a_kill_that_ends_the_container_is_answered_after_the_record() {
    let mut machine = running();
    machine.on(Event::Signal { ticket: Ticket(1), signal: TERM, all: false });
    let sender = Sender::Client(Ticket(1));
    let delivered = Event::Delivered { sender, signal: TERM, delivery: Delivery::Fatal };
    assert_eq!(machine.on(delivered), []);
    let ended = machine.on(init_ended(Ending::Signaled { signal: 9, core: false }));
    let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!(verdict.ending, Some(Ending::Signaled { signal: TERM, core: false }));
    assert!(!verdict.killed_by_other);
    let answers = machine.on(Event::Recorded(record()));
    assert_eq!(answers, [Action::Answer(Ticket(1), Reply::Done), Action::Finish]);
}

#[test]
fn a_sigkill_from_elsewhere_is_told_apart() {
    let ended = running().on(init_ended(Ending::Signaled { signal: 9, core: false }));
    let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
    assert!(verdict.killed_by_other);
}

#[test]
fn stop_sends_its_signal_once_and_then_kills() {
    let mut machine = running();
    let first = machine.on(Event::Stop { ticket: Ticket(1), timeout: None });
    assert_eq!(first.len(), 2);
    assert_eq!(machine.on(Event::Terminate), [], "SIGTERM to the shim does not send it again");
    assert_eq!(machine.on(Event::TimeUp), [Action::KillAll]);
}

#[test]
fn a_running_container_is_deleted_only_by_force() {
    let mut machine = running();
    let refused = machine.on(Event::Delete { ticket: Ticket(1), force: false });
    assert!(matches!(&refused[..], [Action::Answer(_, Reply::Refused(_))]), "{refused:?}");
    assert_eq!(machine.on(Event::Delete { ticket: Ticket(2), force: true }), [Action::KillAll]);
    assert_eq!(machine.deleters(), [Ticket(2)]);
}

#[test]
fn a_paused_container_refuses_exec_and_is_thawed_to_be_stopped() {
    let mut machine = running();
    assert_eq!(machine.on(Event::Pause(Ticket(1))), [Action::Freeze]);
    assert_eq!(machine.on(Event::Pause(Ticket(2))), []);
    let done = |ticket| Action::Answer(Ticket(ticket), Reply::Done);
    assert_eq!(machine.on(Event::Frozen(Ok(()))), [Action::Paused(true), done(1), done(2)]);
    let refused = machine.on(Event::Exec(Ticket(3)));
    assert!(matches!(&refused[..], [Action::Answer(_, Reply::Refused(_))]), "{refused:?}");
    let stop = machine.on(Event::Stop { ticket: Ticket(4), timeout: None });
    assert_eq!(stop[..2], [Action::Thaw, Action::Paused(false)]);
}

fn any_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        (0..4u32).prop_map(|most| RestartPolicy::OnFailure { most: most.try_into().ok() }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let ending = prop_oneof![
        (0..256).prop_map(Ending::Exited),
        (1..65).prop_map(|signal| Ending::Signaled { signal, core: false }),
    ];
    prop_oneof![
        4 => Just(Event::Start { ticket: Ticket(0), again: false }),
        2 => Just(Event::Gate(Ok(()))),
        1 => Just(Event::Gate(Err(Error::failed("a", "b")))),
        2 => (1..65).prop_map(|signal| Event::Signal { ticket: Ticket(0), signal, all: false }),
        2 => Just(Event::Stop { ticket: Ticket(0), timeout: None }),
        2 => Just(Event::Wait(Ticket(0))),
        1 => any::<bool>().prop_map(|force| Event::Delete { ticket: Ticket(0), force }),
        1 => Just(Event::Exec(Ticket(0))),
        2 => Just(Event::Pause(Ticket(0))),
        2 => Just(Event::Resume(Ticket(0))),
        2 => Just(Event::Frozen(Ok(()))),
        1 => Just(Event::Frozen(Err(Error::failed("a", "b")))),
        1 => Just(Event::Update(Ticket(0))),
        1 => Just(Event::TimeUp),
        1 => Just(Event::RunTimeOver),
        1 => Just(Event::Terminate),
        3 => ending.prop_map(init_ended),
        2 => Just(Event::Due),
        1 => prop::sample::select(vec![OnUnhealthy::Restart, OnUnhealthy::Stop, OnUnhealthy::Kill])
            .prop_map(Event::Unhealthy),
    ]
}

#[test]
fn between_two_runs_a_waiter_waits_and_a_stop_is_the_end() {
    let mut machine = started(with_policy(RestartPolicy::Always));
    machine.on(Event::Wait(Ticket(1)));
    let ended = machine.on(init_ended(Ending::Exited(0)));
    let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
    assert_ne!(verdict.next, Next::End);
    assert_eq!(machine.on(Event::Recorded(record())), [Action::Rest(Duration::from_millis(100))]);
    let refused = machine.on(Event::Delete { ticket: Ticket(2), force: false });
    assert!(matches!(&refused[..], [Action::Answer(_, Reply::Refused(_))]), "{refused:?}");
    assert_eq!(machine.on(Event::Due), [Action::Launch]);
    assert_eq!(machine.on(Event::Launched(Ok(()))), [Action::OpenGate]);
    assert_eq!(machine.on(Event::Gate(Ok(()))), [Action::Running(vec![])]);
    machine.on(init_ended(Ending::Exited(0)));
    assert_eq!(machine.on(Event::Recorded(record())), [Action::Rest(Duration::from_millis(200))]);
    assert_eq!(machine.on(Event::Stop { ticket: Ticket(3), timeout: None }), [Action::Conclude]);
    let last = machine.on(Event::Recorded(record()));
    let answers = [Action::Answer(Ticket(1), Reply::Ended(record())), Action::Answer(Ticket(3), Reply::Done)];
    assert_eq!(last[..2], answers);
    assert_eq!(last[2..], [Action::Finish]);
}

#[test]
fn a_kill_that_means_the_end_is_the_end_and_another_signal_is_not() {
    let policy = RestartPolicy::UnlessStopped;
    for (signal, next_is_end) in [(TERM, true), (9, true), (2, true), (10, false), (1, false)] {
        let mut machine = started(with_policy(policy));
        machine.on(Event::Signal { ticket: Ticket(1), signal, all: false });
        let sent = Delivery::Sent;
        machine.on(Event::Delivered { sender: Sender::Client(Ticket(1)), signal, delivery: sent });
        let ended = machine.on(init_ended(Ending::Exited(1)));
        let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!(verdict.next == Next::End, next_is_end, "{signal}");
    }
}

proptest! {
    /// Whatever comes in whatever order: the gate of each run opens once, one record is written of each,
    /// nothing is sent to an ended init, a run begins only after the one before is recorded, the last
    /// record is followed by the end, and every request is answered once, `Start` after the end excepted.
    #[test]
    fn any_sequence_keeps_the_invariants(
        events in prop::collection::vec(any_event(), 0..80), fatal: bool, policy in any_policy(),
        launches in prop::collection::vec(prop::bool::weighted(0.8), 80),
    ) {
        let mut machine = with_policy(policy);
        let (mut runs, mut records, mut finished) = (1, 0, 0);
        let mut opened = false;
        let (mut lives, mut at_gate) = (true, false);
        let mut launches = launches.into_iter();
        let mut owed: HashMap<Ticket, bool> = HashMap::new();
        let mut next = 1;
        let end = [Event::Terminate, init_ended(Ending::Exited(0))];
        for mut event in events.into_iter().chain(end) {
            if let Event::Gate(_) = event && !std::mem::take(&mut at_gate) { continue; }
            match &mut event {
                Event::Start { ticket, .. } | Event::Wait(ticket) | Event::Exec(ticket)
                | Event::Pause(ticket) | Event::Resume(ticket) | Event::Update(ticket)
                | Event::Signal { ticket, .. } | Event::Stop { ticket, .. } | Event::Delete { ticket, .. } => {
                    *ticket = Ticket(next);
                    next += 1;
                }
                _ => {}
            }
            let answered = match &event {
                Event::Start { ticket, .. } => (finished == 0).then_some(*ticket),
                Event::Wait(ticket) | Event::Exec(ticket) | Event::Signal { ticket, .. } => Some(*ticket),
                Event::Pause(ticket) | Event::Resume(ticket) | Event::Update(ticket) => Some(*ticket),
                Event::Stop { ticket, .. } => Some(*ticket),
                _ => None,
            };
            owed.extend(answered.map(|ticket| (ticket, true)));
            let mut queue = machine.on(event);
            while !queue.is_empty() {
                let mut more = Vec::new();
                for action in queue.drain(..) {
                    match action {
                        Action::OpenGate => {
                            prop_assert!(lives);
                            prop_assert!(!std::mem::replace(&mut opened, true), "the gate is opened once a run");
                            at_gate = true;
                        }
                        Action::Deliver { sender, signal, .. } => {
                            prop_assert!(lives, "a signal after the end");
                            let delivery = if fatal { Delivery::Fatal } else { Delivery::Sent };
                            more.extend(machine.on(Event::Delivered { sender, signal, delivery }));
                        }
                        Action::KillAll => prop_assert!(lives, "a kill after the end"),
                        Action::Record(_) => {
                            records += 1;
                            (lives, at_gate) = (false, false);
                            more.extend(machine.on(Event::Recorded(record())));
                        }
                        Action::Launch => {
                            prop_assert!(!lives, "two runs at once");
                            // A shim may die as soon as there is an init at its gate.
                            prop_assert!(machine.memory().starting);
                            runs += 1;
                            opened = false;
                            lives = launches.next().unwrap_or(true);
                            let failed = || Error::failed("a", "b");
                            let outcome = if lives { Ok(()) } else { Err(failed()) };
                            more.extend(machine.on(Event::Launched(outcome)));
                        }
                        Action::Conclude => {
                            prop_assert!(!lives);
                            more.extend(machine.on(Event::Recorded(record())));
                        }
                        Action::Rest(_) => prop_assert!(!lives && finished == 0),
                        Action::Answer(ticket, _) => { owed.remove(&ticket); }
                        Action::Exec(ticket) => {
                            prop_assert!(lives);
                            owed.remove(&ticket);
                        }
                        Action::Update(ticket) => { owed.remove(&ticket); }
                        Action::Finish => finished += 1,
                        Action::Freeze => prop_assert!(lives, "a freeze after the end"),
                        Action::Running(starters) => {
                            for ticket in starters {
                                owed.remove(&ticket);
                            }
                        }
                        Action::Arm(_) | Action::Thaw | Action::Paused(_) => {}
                    }
                }
                queue = more;
            }
        }
        prop_assert_eq!((records, finished), (runs, 1));
        prop_assert!(owed.is_empty(), "unanswered: {:?}", owed);
    }
}
