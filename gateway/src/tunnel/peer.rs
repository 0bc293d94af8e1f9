//! What to do about one wanted tunnel to one gateway of a peer: a pure state machine.
//!
//! Asked by the driver in `slot`: [`step`] takes an event and returns the next state and the actions
//! to carry out. It races QUIC with HTTP/2, replaces a tunnel that is silent or going away before it
//! is gone, and comes back from HTTP/2 to QUIC by itself. Never waits, dials or looks at a clock.

use hansa_core::Millis;
use hansa_core::backoff::Backoff;
use hansa_core::mesh::Transport;

/// Which protocol carries a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// HTTP/3 over QUIC.
    Quic,
    /// HTTP/2 over TLS over TCP.
    Http2,
}

impl Lane {
    /// The label used in metrics, reports and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Http2 => "http2",
        }
    }
}

/// How patient the machine is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rules {
    /// Which lanes may be used.
    pub(crate) transport: Transport,
    /// How much later than QUIC the HTTP/2 dial begins.
    pub(crate) http2_delay: Millis,
    /// On HTTP/2: time between two tries of QUIC.
    pub(crate) probe_every: Millis,
    /// How long a QUIC tunnel must live beside the HTTP/2 one before it takes over.
    pub(crate) trial: Millis,
    /// Waits between failed dials.
    pub(crate) backoff: Backoff,
}

impl Rules {
    /// Whether a tunnel may be on this lane.
    pub(crate) fn allows(&self, lane: Lane) -> bool {
        match self.transport {
            Transport::Auto => true,
            Transport::Quic => lane == Lane::Quic,
            Transport::Http2 => lane == Lane::Http2,
        }
    }
}

/// A tunnel that lived for less than this counts as a failed dial: the other side refused us after
/// the handshake.
const PROVEN: Millis = 1_000;

/// One dial of the race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// Not allowed.
    Off,
    /// Begins then.
    At(Millis),
    /// Under way.
    Running,
    /// Over, without success.
    Failed,
}

/// On HTTP/2: the way back to QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// Not wanted: on QUIC already, or QUIC is not allowed.
    None,
    /// The next try.
    At(Millis),
    /// A QUIC dial is under way.
    Probing,
    /// A QUIC tunnel stands beside ours since then, without requests.
    Trial(Millis),
}

/// Where a wanted tunnel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A tunnel is looked for. `held` is one that still stands but must not get new requests.
    Seeking { held: Option<Lane>, quic: Leg, http2: Leg, attempt: u32 },
    /// A tunnel is in use.
    Up { lane: Lane, since: Millis, back: WayBack, attempt: u32 },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A dial succeeded.
    Dialled(Lane),
    /// A dial failed.
    Failed(Lane),
    /// The tunnel in use is silent.
    Doubt,
    /// The tunnel in use was silent and is heard again.
    Relief,
    /// The tunnel in use takes no new requests: GOAWAY, or it is too old.
    GoingAway,
    /// The tunnel in use, or the held one, is closed.
    Lost,
    /// The tunnel on trial is silent or closed.
    TrialLost,
    /// Other lanes are allowed than before.
    Rules,
    /// Time passed.
    Tick,
}

/// What the driver does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin a dial.
    Dial(Lane),
    /// Give a running dial up.
    Abandon(Lane),
    /// The tunnel just dialled (or on trial) is the one in use; the one before gets no new requests.
    Adopt,
    /// Keep the tunnel just dialled aside, on trial.
    Try,
    /// Close the tunnel just dialled (or on trial).
    Discard,
}

/// When something happens, and the random draw in [0, 1) that goes with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Millis,
    pub(crate) draw: f64,
}

impl State {
    /// The first state: both legs of the race are due.
    pub(crate) fn first(rules: &Rules, now: Now) -> Self {
        seek(None, 0, rules, (now.at, now.at + rules.http2_delay))
    }

    /// When [`Event::Tick`] has something to do.
    pub(crate) fn due(&self, rules: &Rules) -> Option<Millis> {
        let at = |leg: Leg| if let Leg::At(at) = leg { Some(at) } else { None };
        match *self {
            State::Seeking { quic, http2, .. } => match (at(quic), at(http2)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            State::Up { back: WayBack::At(at), .. } => Some(at),
            State::Up { back: WayBack::Trial(since), .. } => Some(since + rules.trial),
            State::Up { .. } => None,
        }
    }
}

/// The next state and what to do.
pub(crate) fn step(state: State, event: Event, rules: &Rules, now: Now) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    let next = match state {
        _ if event == Event::Rules => anew(state, rules, now, &mut actions),
        State::Seeking { .. } => seeking(state, event, (rules, now), &mut actions),
        State::Up { .. } => up(state, event, (rules, now), &mut actions),
    };
    (fire(next, now, &mut actions), actions)
}

/// A race with QUIC and HTTP/2 due at these times, as far as they are allowed.
fn seek(held: Option<Lane>, attempt: u32, rules: &Rules, due: (Millis, Millis)) -> State {
    let (quic, http2) = match rules.transport {
        Transport::Auto => (Leg::At(due.0), Leg::At(due.1)),
        Transport::Quic => (Leg::At(due.0), Leg::Off),
        Transport::Http2 => (Leg::Off, Leg::At(due.0)),
    };
    State::Seeking { held, quic, http2, attempt }
}

/// Starts what is due.
fn fire(state: State, now: Now, actions: &mut Vec<Action>) -> State {
    let mut start = |leg: Leg, lane: Lane| match leg {
        Leg::At(at) if at <= now.at => {
            actions.push(Action::Dial(lane));
            Leg::Running
        }
        other => other,
    };
    match state {
        State::Seeking { held, quic, http2, attempt } => {
            let (quic, http2) = (start(quic, Lane::Quic), start(http2, Lane::Http2));
            State::Seeking { held, quic, http2, attempt }
        }
        State::Up { lane, since, back: WayBack::At(at), attempt } if at <= now.at => {
            actions.push(Action::Dial(Lane::Quic));
            State::Up { lane, since, back: WayBack::Probing, attempt }
        }
        up => up,
    }
}

/// What was begun under other rules is given up; a tunnel that may stay does.
fn anew(state: State, rules: &Rules, now: Now, actions: &mut Vec<Action>) -> State {
    let due = (now.at, now.at + rules.http2_delay);
    match state {
        State::Seeking { held, quic, http2, .. } => {
            let running = [(quic, Lane::Quic), (http2, Lane::Http2)];
            let running = running.into_iter().filter(|(leg, _)| *leg == Leg::Running);
            actions.extend(running.map(|(_, lane)| Action::Abandon(lane)));
            seek(held, 0, rules, due)
        }
        State::Up { lane, since, back, attempt } => {
            match back {
                WayBack::Probing => actions.push(Action::Abandon(Lane::Quic)),
                WayBack::Trial(_) => actions.push(Action::Discard),
                WayBack::None | WayBack::At(_) => {}
            }
            match rules.allows(lane) {
                true => State::Up { lane, since, back: way_back(lane, rules, now), attempt },
                false => seek(Some(lane), 0, rules, due),
            }
        }
    }
}

fn seeking(state: State, event: Event, (rules, now): (&Rules, Now), actions: &mut Vec<Action>) -> State {
    let State::Seeking { held, quic, http2, attempt } = state else { return state };
    match event {
        Event::Dialled(lane) => {
            actions.push(Action::Adopt);
            let mut back = WayBack::None;
            match lane {
                Lane::Quic if http2 == Leg::Running => actions.push(Action::Abandon(Lane::Http2)),
                Lane::Quic => {}
                // The slower QUIC dial goes on: if it succeeds, it stands on trial.
                Lane::Http2 if quic == Leg::Running => back = WayBack::Probing,
                Lane::Http2 if quic != Leg::Off => back = WayBack::At(now.at + rules.probe_every),
                Lane::Http2 => {}
            }
            State::Up { lane, since: now.at, back, attempt }
        }
        Event::Failed(lane) => {
            let (mut quic, mut http2) = (quic, http2);
            match lane {
                Lane::Quic => quic = Leg::Failed,
                Lane::Http2 => http2 = Leg::Failed,
            }
            match (quic, http2) {
                (Leg::Failed, Leg::At(at)) => http2 = Leg::At(at.min(now.at)),
                (Leg::Failed | Leg::Off, Leg::Failed | Leg::Off) => {
                    let at = now.at + rules.backoff.wait(attempt, now.draw);
                    return seek(held, attempt.saturating_add(1), rules, (at, at + rules.http2_delay));
                }
                _ => {}
            }
            State::Seeking { held, quic, http2, attempt }
        }
        Event::Relief if held.is_some_and(|lane| rules.allows(lane)) => {
            let lane = held.unwrap_or(Lane::Quic);
            let mut back = way_back(lane, rules, now);
            match (quic, lane) {
                (Leg::Running, Lane::Http2) => back = WayBack::Probing,
                (Leg::Running, Lane::Quic) => actions.push(Action::Abandon(Lane::Quic)),
                _ => {}
            }
            if http2 == Leg::Running {
                actions.push(Action::Abandon(Lane::Http2));
            }
            State::Up { lane, since: now.at, back, attempt }
        }
        Event::Lost => State::Seeking { held: None, quic, http2, attempt },
        _ => state,
    }
}

fn way_back(lane: Lane, rules: &Rules, now: Now) -> WayBack {
    match (lane, rules.transport) {
        (Lane::Http2, Transport::Auto) => WayBack::At(now.at + rules.probe_every),
        _ => WayBack::None,
    }
}

fn up(state: State, event: Event, (rules, now): (&Rules, Now), actions: &mut Vec<Action>) -> State {
    let State::Up { lane, since, back, attempt } = state else { return state };
    let with = |back| State::Up { lane, since, back, attempt };
    match (event, back) {
        (Event::Dialled(Lane::Quic), WayBack::Probing) => {
            actions.push(Action::Try);
            with(WayBack::Trial(now.at))
        }
        (Event::Dialled(_), _) => {
            actions.push(Action::Discard);
            state
        }
        (Event::Failed(Lane::Quic), WayBack::Probing) => with(WayBack::At(now.at + rules.probe_every)),
        // It came and went: QUIC is shaky here, so the next try is later.
        (Event::TrialLost, WayBack::Trial(_)) => with(WayBack::At(now.at + 2 * rules.probe_every)),
        (Event::Tick, WayBack::Trial(begun)) if now.at >= begun + rules.trial => {
            actions.push(Action::Adopt);
            State::Up { lane: Lane::Quic, since: now.at, back: WayBack::None, attempt: 0 }
        }
        (Event::Doubt | Event::GoingAway | Event::Lost, WayBack::Trial(_)) => {
            actions.push(Action::Adopt);
            State::Up { lane: Lane::Quic, since: now.at, back: WayBack::None, attempt: 0 }
        }
        (Event::Doubt | Event::GoingAway | Event::Lost, _) => replace(state, event, rules, now),
        _ => state,
    }
}

/// Looks for another tunnel, at once unless the last one did not prove itself.
fn replace(state: State, event: Event, rules: &Rules, now: Now) -> State {
    let State::Up { lane, since, back, attempt } = state else { return state };
    let held = (event != Event::Lost).then_some(lane);
    let young = event == Event::Lost && now.at < since + PROVEN;
    let (attempt, wait) = match young {
        true => (attempt.saturating_add(1), rules.backoff.wait(attempt, now.draw)),
        false => (0, 0),
    };
    // QUIC just fell silent: UDP may be blocked, so TCP gets its chance at once.
    let blocked = event == Event::Doubt && lane == Lane::Quic;
    let delay = if blocked { 0 } else { rules.http2_delay };
    let mut next = seek(held, attempt, rules, (now.at + wait, now.at + wait + delay));
    if let (State::Seeking { quic, .. }, WayBack::Probing) = (&mut next, back) {
        *quic = Leg::Running;
    }
    next
}

#[cfg(test)]
mod tests;
