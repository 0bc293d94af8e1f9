//! Tests of `peer`.

use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules {
    transport: Transport::Auto,
    http2_delay: 300,
    probe_every: 5_000,
    trial: 3_000,
    backoff: Backoff::ONLY_PATH,
};

fn now(at: Millis) -> Now {
    Now { at, draw: 0.5 }
}

/// Runs the events and gives the last state and all actions.
fn run(mut state: State, events: &[(Millis, Event)]) -> (State, Vec<Action>) {
    let mut all = Vec::new();
    for (at, event) in events {
        let (next, actions) = step(state, *event, &RULES, now(*at));
        state = next;
        all.extend(actions);
    }
    (state, all)
}

fn first() -> State {
    State::first(&RULES, now(0))
}

#[test]
fn quic_wins_alone_when_it_is_quick() {
    let (state, actions) = run(first(), &[(0, Event::Tick), (40, Event::Dialled(Lane::Quic))]);
    assert_eq!(actions, [Action::Dial(Lane::Quic), Action::Adopt]);
    assert!(matches!(state, State::Up { lane: Lane::Quic, back: WayBack::None, .. }));
}

#[test]
fn a_failed_quic_dial_starts_http2_at_once() {
    let (_, actions) = run(first(), &[(0, Event::Tick), (10, Event::Failed(Lane::Quic))]);
    assert_eq!(actions, [Action::Dial(Lane::Quic), Action::Dial(Lane::Http2)]);
}

#[test]
fn silent_udp_is_overtaken_by_http2_and_quic_comes_back_on_trial() {
    let (state, actions) =
        run(first(), &[(0, Event::Tick), (300, Event::Tick), (350, Event::Dialled(Lane::Http2))]);
    assert_eq!(actions, [Action::Dial(Lane::Quic), Action::Dial(Lane::Http2), Action::Adopt]);
    let (state, actions) = run(state, &[(400, Event::Dialled(Lane::Quic)), (3_300, Event::Tick)]);
    assert_eq!(actions, [Action::Try]);
    let (state, actions) = run(state, &[(3_400, Event::Tick)]);
    assert_eq!(actions, [Action::Adopt]);
    assert!(matches!(state, State::Up { lane: Lane::Quic, .. }));
}

#[test]
fn a_trial_that_dies_waits_twice_as_long() {
    let up = State::Up { lane: Lane::Http2, since: 0, back: WayBack::Trial(100), attempt: 0 };
    let (state, actions) = run(up, &[(200, Event::TrialLost)]);
    assert!(actions.is_empty());
    assert_eq!(state, State::Up { lane: Lane::Http2, since: 0, back: WayBack::At(10_200), attempt: 0 });
}

#[test]
fn doubt_about_quic_dials_both_lanes_at_once_and_relief_gives_them_up() {
    let up = State::Up { lane: Lane::Quic, since: 0, back: WayBack::None, attempt: 0 };
    let (state, actions) = run(up, &[(9_000, Event::Doubt)]);
    assert_eq!(actions, [Action::Dial(Lane::Quic), Action::Dial(Lane::Http2)]);
    let (state, actions) = run(state, &[(9_100, Event::Relief)]);
    assert_eq!(actions, [Action::Abandon(Lane::Quic), Action::Abandon(Lane::Http2)]);
    assert!(matches!(state, State::Up { lane: Lane::Quic, .. }));
}

#[test]
fn going_away_finds_a_replacement_before_the_old_one_is_gone() {
    let up = State::Up { lane: Lane::Quic, since: 0, back: WayBack::None, attempt: 0 };
    let (state, actions) = run(up, &[(9_000, Event::GoingAway), (9_050, Event::Dialled(Lane::Quic))]);
    assert_eq!(actions, [Action::Dial(Lane::Quic), Action::Adopt]);
    assert!(matches!(state, State::Up { lane: Lane::Quic, .. }));
}

#[test]
fn a_tunnel_refused_right_after_the_handshake_is_not_dialled_in_a_circle() {
    let up = State::Up { lane: Lane::Quic, since: 1_000, back: WayBack::None, attempt: 0 };
    let (state, actions) = run(up, &[(1_010, Event::Lost)]);
    assert!(actions.is_empty());
    assert_eq!(state.due(&RULES), Some(1_310));
}

#[test]
fn one_lane_alone_when_the_peer_says_so() {
    let rules = Rules { transport: Transport::Http2, ..RULES };
    let (state, actions) = step(State::first(&rules, now(0)), Event::Tick, &rules, now(0));
    assert_eq!(actions, [Action::Dial(Lane::Http2)]);
    let (state, _) = step(state, Event::Dialled(Lane::Http2), &rules, now(50));
    assert_eq!(state.due(&rules), None);
}

/// `state` after the rules allow `transport` alone.
fn changed(state: State, transport: Transport, at: Millis) -> (State, Vec<Action>) {
    let rules = Rules { transport, ..RULES };
    step(state, Event::Rules, &rules, now(at))
}

#[test]
fn a_lane_that_is_no_longer_allowed_is_left_whatever_was_begun() {
    let trial = State::Up { lane: Lane::Http2, since: 0, back: WayBack::Trial(100), attempt: 0 };
    let (state, actions) = changed(trial, Transport::Http2, 200);
    assert_eq!(actions, [Action::Discard]);
    assert!(matches!(state, State::Up { lane: Lane::Http2, back: WayBack::None, .. }));
    let probing = State::Up { lane: Lane::Http2, since: 0, back: WayBack::Probing, attempt: 0 };
    let (state, actions) = changed(probing, Transport::Http2, 200);
    assert_eq!(actions, [Action::Abandon(Lane::Quic)]);
    assert!(matches!(state, State::Up { lane: Lane::Http2, back: WayBack::None, .. }));
    let (racing, _) = run(first(), &[(0, Event::Tick)]);
    let (_, actions) = changed(racing, Transport::Http2, 100);
    assert_eq!(actions, [Action::Abandon(Lane::Quic), Action::Dial(Lane::Http2)]);
    let quic = State::Up { lane: Lane::Quic, since: 0, back: WayBack::None, attempt: 0 };
    let (state, actions) = changed(quic, Transport::Http2, 200);
    assert_eq!(actions, [Action::Dial(Lane::Http2)]);
    // It is in use no more, however well it is.
    let rules = Rules { transport: Transport::Http2, ..RULES };
    assert_eq!(step(state, Event::Relief, &rules, now(210)).0, state);
}

fn event() -> impl Strategy<Value = Event> {
    let lane = prop_oneof![Just(Lane::Quic), Just(Lane::Http2)];
    prop_oneof![
        lane.clone().prop_map(Event::Dialled),
        lane.prop_map(Event::Failed),
        Just(Event::Doubt),
        Just(Event::Relief),
        Just(Event::GoingAway),
        Just(Event::Lost),
        Just(Event::TrialLost),
        Just(Event::Rules),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens, something is always in use, under way, or due: a peer is never forgotten.
    #[test]
    fn never_idle_and_never_dialling_a_lane_twice(events in prop::collection::vec((event(), 0u64..2_000), 0..60)) {
        let (mut state, mut at) = (first(), 0);
        let mut running = std::collections::BTreeSet::new();
        for (event, dt) in events {
            at += dt;
            match event {
                // A dial ends only if it runs.
                Event::Dialled(lane) | Event::Failed(lane) if !running.remove(&lane) => continue,
                _ => {}
            }
            let (next, actions) = step(state, event, &RULES, now(at));
            state = next;
            for action in actions {
                match action {
                    Action::Dial(lane) => prop_assert!(running.insert(lane), "{lane:?} twice"),
                    Action::Abandon(lane) => prop_assert!(running.remove(&lane)),
                    _ => {}
                }
            }
            let up = matches!(state, State::Up { .. });
            prop_assert!(up || !running.is_empty() || state.due(&RULES).is_some());
        }
    }
}
