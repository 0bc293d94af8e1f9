//! Tests of `reach`.

use super::*;

fn path() -> Path {
    Path::Endpoint("127.0.0.1:80".parse().unwrap())
}

#[test]
fn only_what_failed_is_remembered() {
    let tracks = Tracks::default();
    tracks.record(&path(), Event::Succeeded);
    assert!(tracks.snapshot().shown().is_empty());
    tracks.record(&path(), Event::Failed);
    assert!(matches!(tracks.snapshot().track(&path()), Track::Down { .. }));
    tracks.record(&path(), Event::ProbePassed);
    assert!(matches!(tracks.snapshot().track(&path()), Track::HoldDown { .. }));
}

#[test]
fn a_new_peer_needs_no_probe_and_a_lost_one_does() {
    let tracks = Tracks::default();
    let peer: ClusterId = "b".parse().unwrap();
    let service = Path::Service(peer.clone(), "ns/web".parse().unwrap(), Protocol::Tcp, 80);
    let stands = || tracks.standing(&tracks.snapshot(), &peer, &service).reason;
    assert_eq!(stands(), Reason::Unreachable);
    tracks.reached(&peer, Reach::Unreachable);
    tracks.reached(&peer, Reach::Reachable);
    assert_eq!(stands(), Reason::Healthy);
    tracks.reached(&peer, Reach::Suspect);
    assert_eq!(stands(), Reason::Suspect);
    tracks.reached(&peer, Reach::Reachable);
    assert_eq!(stands(), Reason::Healthy);
    tracks.reached(&peer, Reach::Unreachable);
    tracks.reached(&peer, Reach::Reachable);
    assert_eq!(stands(), Reason::HoldDown);
}
