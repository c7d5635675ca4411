//! What a daemon does not know is not gone: sockets, records and marks that are lost while guests run, supervisors that do
//! not answer, and many who start and end one guest at the same time.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::{Guest, Handle, Instance, LONG, Role, wait_for_no_entries};
use rustix::process::Signal;
use serde_json::Value;

/// An ordinary user without an entry in any database.
const SOMEBODY: u32 = 23_456;
/// Less than anything that waits for a deadline of the daemon.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The only run's directory.
fn run_dir(instance: &Instance) -> PathBuf {
    let mut dirs = fs::read_dir(instance.guests_dir()).unwrap().map(|entry| entry.unwrap().path());
    let dir = dirs.next().expect("a run");
    assert_eq!(dirs.next(), None, "one run");
    dir
}

fn qemus(instance: &Instance) -> usize {
    instance.role(Role::Qemu).len()
}

/// Ends the daemon, loses something, and lets the next command start another daemon.
fn restart_after(instance: &Instance, lose: impl FnOnce(&Instance)) {
    instance.stop_daemon();
    lose(instance);
    instance.ok(&["list", "--all"]);
}

/// The guest is listed as active, is not started a second time, and its end is a real one.
fn still_there(instance: &Instance, name: &str, qemu: &Handle) {
    assert!(qemu.is_alive());
    let listed = instance.list();
    let guest = listed.iter().find(|domain| domain.id.is_some()).expect("it is listed as active").clone();
    instance.fails(&["start", name], 1);
    assert_eq!(qemus(instance), 1, "no second QEMU");
    instance.ok(&["destroy", &guest.name]);
    assert!(!qemu.is_alive(), "destroyed is what it says");
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "nothing of the run is left");
    instance.ok(&["start", name]);
    assert_eq!(qemus(instance), 1);
    instance.ok(&["destroy", name]);
}

fn started(instance: &Instance) -> Handle {
    instance.define(&Guest::tiny("guest"));
    instance.ok(&["start", "guest"]);
    instance.qemu("guest")
}

#[test]
fn a_guest_whose_socket_is_lost_is_not_lost() {
    let instance = Instance::session();
    let qemu = started(&instance);
    restart_after(&instance, |instance| fs::remove_file(run_dir(instance).join("supervisor.sock")).unwrap());
    still_there(&instance, "guest", &qemu);
}

#[test]
fn a_guest_whose_record_is_another_release_s_is_not_lost() {
    for key in ["uuid", "name", "pid", "start_time", "version", "boot"] {
        let instance = Instance::session();
        let qemu = started(&instance);
        restart_after(&instance, |instance| {
            let path = run_dir(instance).join("record");
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let value = record.as_object_mut().unwrap().remove(key).expect(key);
            record[format!("{key}_of_another_release")] = value;
            fs::write(&path, record.to_string()).unwrap();
        });
        still_there(&instance, "guest", &qemu);
    }
}

#[test]
fn a_guest_whose_record_is_torn_or_gone_is_not_lost() {
    for torn in [Some(""), Some("{\"uuid\":\"3"), None] {
        let instance = Instance::session();
        let qemu = started(&instance);
        restart_after(&instance, |instance| {
            let path = run_dir(instance).join("record");
            match torn {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
        });
        still_there(&instance, "guest", &qemu);
    }
}

/// Neither its record nor its socket says which process a guest's supervisor is.
fn lose_the_process(instance: &Instance) {
    let dir = run_dir(instance);
    let mut record: Value = serde_json::from_slice(&fs::read(dir.join("record")).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("pid").expect("pid");
    fs::write(dir.join("record"), record.to_string()).unwrap();
    fs::remove_file(dir.join("supervisor.sock")).unwrap();
}

#[test]
fn a_guest_whose_process_is_lost_is_found_by_its_uid() {
    let Some(instance) = Instance::system("a_guest_whose_process_is_lost_is_found_by_its_uid") else { return };
    let qemu = started(&instance);
    restart_after(&instance, lose_the_process);
    still_there(&instance, "guest", &qemu);
}

#[test]
fn a_guest_that_nobody_can_find_is_not_called_killed() {
    // All of an ordinary user's guests have its uid.
    let Some(instance) = Instance::session_as(SOMEBODY, "a_guest_that_nobody_can_find_is_not_called_killed") else {
        return;
    };
    let qemu = started(&instance);
    let pid = instance.list()[0].supervisor_pid.expect("its supervisor");
    let supervisor = Handle::open(pid).expect("its supervisor lives");
    restart_after(&instance, lose_the_process);
    let begun = Instant::now();
    let refused = instance.fails(&["destroy", "guest"], 1);
    assert!(refused.stderr.contains("its supervisor lives"), "{}", refused.stderr);
    assert!(begun.elapsed() < AT_ONCE, "there is nothing to wait for");
    assert!(qemu.is_alive());
    // What the error tells to do.
    supervisor.signal(Signal::KILL);
    assert!(qemu.wait_for_end(LONG));
    // The daemon, which asks again and again, may have found that out before.
    let ended = instance.bulkhead(&["destroy", "guest"]);
    assert!(ended.code == 0 || ended.stderr.contains("domain is not running"), "{}", ended.stderr);
    instance.ok(&["start", "guest"]);
    instance.ok(&["destroy", "guest"]);
}

#[test]
fn a_guest_of_whom_nobody_knows_the_uid_keeps_it_to_itself() {
    let Some(instance) = Instance::system("a_guest_of_whom_nobody_knows_the_uid_keeps_it_to_itself") else { return };
    let qemu = started(&instance);
    restart_after(&instance, |instance| fs::write(run_dir(instance).join("record"), "").unwrap());
    let uid = |pid| fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    for other in ["b", "c"] {
        instance.define(&Guest::tiny(other));
        instance.ok(&["start", other]);
        assert_ne!(uid(instance.qemu(other).pid), uid(qemu.pid));
        instance.ok(&["destroy", other]);
    }
    let name = instance.list().into_iter().find(|domain| domain.id.is_some()).expect("it is listed").name;
    instance.ok(&["destroy", &name]);
    assert!(!qemu.is_alive());
}

#[test]
fn a_boot_mark_that_is_gone_is_no_new_boot() {
    let instance = Instance::session();
    let qemu = started(&instance);
    restart_after(&instance, |instance| fs::remove_file(instance.runtime_dir().join("boot_id")).unwrap());
    assert!(instance.events_since(0).iter().any(|event| event.kind == "Started"), "the journal goes on");
    still_there(&instance, "guest", &qemu);
}

#[test]
fn a_log_with_a_number_beyond_all_others_harms_nobody() {
    let instance = Instance::session();
    let qemu = started(&instance);
    restart_after(&instance, |instance| {
        let mut log = fs::OpenOptions::new().append(true).open(run_dir(instance).join("events")).unwrap();
        let line = r#"{"sequence":18446744073709551615,"seconds":1,"nanos":0,"event":3,"detail":0,"state":3,"reason":1,"text":null}"#;
        writeln!(log, "{line}").unwrap();
    });
    assert_eq!(instance.state("guest"), "running (booted)");
    qemu.kill();
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG));
    instance.ok(&["start", "guest"]);
    assert_eq!(instance.state("guest"), "running (booted)");
    instance.ok(&["destroy", "guest"]);
}

#[test]
fn a_supervisor_that_does_not_answer_keeps_its_guest_and_holds_up_nobody() {
    let instance = Instance::session();
    let qemu = started(&instance);
    let supervisor = instance.supervisor("guest");
    supervisor.signal(Signal::STOP);
    for _ in 0..4 {
        instance.stop_daemon();
        let begun = Instant::now();
        assert_eq!(instance.domain("guest").state, "nostate");
        assert!(begun.elapsed() < LONG / 2, "clients were served after {:?}", begun.elapsed());
    }
    supervisor.signal(Signal::CONT);
    // Its answer is taken whenever it comes.
    instance.ok(&["suspend", "guest"]);
    assert_eq!(instance.state("guest"), "paused (user)");
    supervisor.signal(Signal::STOP);
    let begun = Instant::now();
    instance.ok(&["destroy", "guest"]);
    assert!(!qemu.is_alive());
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

#[test]
fn one_document_that_is_started_three_times_at_once_runs_once() {
    let instance = Instance::session();
    // What the emulator can do is known, so that all three come to the start itself.
    instance.create(&Guest::tiny("first"));
    let path = instance.document(&Guest::tiny("same"));
    let path = path.to_str().unwrap();
    let codes: Vec<i32> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| instance.bulkhead(&["create", path]).code)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(instance.list().iter().filter(|domain| domain.name == "same").count(), 1);
    assert_eq!(qemus(&instance), 2);
}

#[test]
fn many_who_start_and_end_one_guest_leave_one_or_none() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("guest"));
    for threads in [2, 6] {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..8 {
                        for verb in ["start", "destroy"] {
                            // Either may find that another was faster.
                            let output = instance.bulkhead(&[verb, "guest"]);
                            assert!([0, 1].contains(&output.code), "{verb}: {output:?}");
                        }
                    }
                });
            }
        });
        let active = instance.list().iter().filter(|domain| domain.id.is_some()).count();
        assert_eq!(qemus(&instance), active, "{:?}", instance.list());
        if active == 1 {
            instance.ok(&["destroy", "guest"]);
        }
        assert_eq!((qemus(&instance), instance.list().len()), (0, 1));
    }
    let stops = instance.events_since(0).into_iter().filter(|event| event.kind == "Stopped");
    let crashed: Vec<_> = stops.filter(|event| event.detail == "Crashed").collect();
    assert!(crashed.is_empty(), "a destroy is no crash: {crashed:?}");
    let starts = instance.events_since(0).iter().filter(|event| event.kind == "Started").count();
    let stops = instance.events_since(0).iter().filter(|event| event.kind == "Stopped").count();
    assert_eq!(starts, stops, "each run starts and stops once");
}

#[test]
fn the_first_guest_of_a_fresh_host_has_number_one() {
    let instance = Instance::session();
    assert_eq!(instance.create(&Guest::tiny("first")).id, Some(1));
    assert!(instance.list().iter().all(|domain| domain.name != "capabilities"));
}

#[test]
fn a_shutdown_is_asked_for_twice_and_is_one_job() {
    let instance = Instance::session();
    let qemu = started(&instance);
    for _ in 0..3 {
        // A guest without a system heeds no button.
        instance.ok(&["shutdown", "guest"]);
    }
    instance.ok(&["reboot", "guest"]);
    assert_eq!(instance.state("guest"), "running (booted)");
    restart_after(&instance, |_| {});
    instance.ok(&["shutdown", "guest"]);
    assert!(qemu.is_alive());
    instance.ok(&["destroy", "guest"]);
    assert!(!qemu.is_alive());
}
