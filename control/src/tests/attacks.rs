//! What disks, supervisors and deaths at bad moments may not do.

use std::sync::mpsc::{Sender, channel};

use super::*;

/// Holds up one of the store's threads until what it returns is dropped.
fn hang<S: Send + 'static>(bed: &mut Bed, place: store::Place<S>) -> Sender<()> {
    let (release, hang) = channel::<()>();
    let hangs = move |_: &mut S| {
        let _ = hang.recv();
    };
    bed.control.hand(place, hangs, |_, ()| {});
    release
}

#[test]
fn a_run_is_retired_when_its_end_is_in_the_journal() {
    let (mut bed, _) = with_running_a();
    let run = bed.run("a");
    let release = hang(&mut bed, store::of_lines);
    bed.launcher.die(run);
    bed.turns(50);
    // Its log cannot be read either.
    bed.put_forward(Duration::from_secs(6));
    bed.turns(50);
    assert_eq!(bed.state("a"), DomainState::Shutoff);
    bed.restart_at_once();
    let client = bed.client();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    bed.rest();
    let stops = bed.heard(client, "a").into_iter().filter(|(event, _)| *event == 5).count();
    drop(release);
    assert_eq!(stops, 1, "the end of the run is told by the control that finds it");
}
