//! What disks, supervisors and deaths at bad moments may not do.

use std::sync::mpsc::{Sender, channel};

use api::consts::{MetadataType, ModificationImpact};

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

fn title(name: &str, title: Option<&str>, flags: u32) -> Call {
    Call::DomainSetMetadata(remote::DomainSetMetadataArgs {
        dom: dom(name),
        r#type: MetadataType::Title as i32,
        metadata: title.map(str::to_owned),
        key: None,
        uri: None,
        flags,
    })
}

fn live_title(name: &str) -> Call {
    Call::DomainGetMetadata(remote::DomainGetMetadataArgs {
        dom: dom(name),
        r#type: MetadataType::Title as i32,
        uri: None,
        flags: ModificationImpact::LIVE.bits(),
    })
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

#[test]
fn a_change_of_the_live_document_outlives_a_lost_connection() {
    let (mut bed, client) = with_running_a();
    bed.launcher.dials = Manner::Refuse;
    bed.process("a").hang_up();
    bed.rest();
    bed.ask(client, &title("a", Some("new"), ModificationImpact::LIVE.bits())).unwrap();
    bed.launcher.dials = Manner::Well;
    bed.later(Duration::from_secs(20));
    assert_eq!(bed.state("a"), DomainState::Running);
    for restarted in [false, true] {
        let client = if restarted {
            bed.restart();
            bed.client()
        } else {
            client
        };
        let Reply::DomainGetMetadata(ret) = bed.ask(client, &live_title("a")).expect("a title") else { panic!() };
        assert_eq!(ret.metadata, "new", "restarted: {restarted}");
    }
}

#[test]
fn a_supervisor_that_hangs_up_again_and_again_is_dialled_less_and_less() {
    let (mut bed, _) = with_running_a();
    let mut times = 0;
    for _ in 0..600 {
        bed.later(Duration::from_millis(100));
        if bed.state("a") == DomainState::Running {
            times += 1;
            bed.process("a").hang_up();
            bed.rest();
        }
    }
    assert!(times < 30, "{times} times in a minute");
}
