//! The real `qemu-supervisor` with a real QEMU, without a compartment around them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers are part of the test")]

mod edge;
mod measure;
mod rig;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
};

use api::consts::DomainEventId;
use rig::{QEMU, Rig, guest, linux, program, read_until};
use rustix::process::Signal;
use supervisor::{
    events::Recorded,
    lifecycle::{Kind, State},
    protocol::{Action, Answer, Boot, Failure, OpenConsole, Probe, Request, Status},
};

/// Powers off: SLP_EN with the type of S5 into PM1a_CNT, where SeaBIOS puts it.
const POWER_OFF: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd];
/// Resets through the chip set's reset register.
const RESET: &[u8] = &[0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd];
/// Tells the pvpanic device of a crash.
const PANIC: &[u8] = &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd];
/// Enables the power button's status (0x602), says so at port 0xe9, waits for the button (0x600), and powers off.
const HEED_BUTTON: &[u8] = &[
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // PM1a_EN = PWRBTN
    0xb0, b'R', 0xe6, 0xe9, // "R" to the debug console
    0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa, // until PM1a_STS has PWRBTN
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd,
];
/// Port 0xe9 is the first console.
const DEBUG_CONSOLE: [&str; 4] = ["-chardev", "socket,id=con,fd=4", "-device", "isa-debugcon,iobase=0xe9,chardev=con"];

fn state(status: &Status) -> State {
    State { state: status.state, reason: status.reason }
}

fn open(console: u8, read_only: bool, force: bool) -> Request {
    Request::OpenConsole(OpenConsole { console, read_only, force })
}

fn attach(rig: &mut Rig, request: &Request) -> UnixStream {
    let serial = rig.control.send(request, Vec::new());
    let (answer, mut fds) = rig.control.answer(serial);
    assert_eq!(answer, Ok(Answer::Done));
    assert_eq!(fds.len(), 1);
    UnixStream::from(fds.remove(0))
}

#[test]
fn a_guest_starts_pauses_goes_on_is_reset_and_ends() {
    let mut rig = Rig::launch(&Request::Boot(guest(&[])), Vec::new());
    let Ok(Answer::Status(status)) = rig.control.answer(1).0 else { panic!("{}", rig.log()) };
    assert_eq!((state(&status), status.name.as_str()), (State::RUNNING_BOOTED, "test"));
    assert!(status.started_seconds > 1_700_000_000 && status.cpu_time_ns > 0 && !status.stuck);
    rig.control.event(Kind::STARTED_BOOTED);

    let running = Failure::WrongState { state: "running".into() };
    assert_eq!(rig.control.ask(&Request::Resume), Err(running.clone()));
    assert_eq!(rig.control.ask(&Request::Boot(guest(&[]))), Err(running));
    rig.control.done(&Request::Suspend);
    let event = rig.control.event(Kind::SUSPENDED_PAUSED);
    assert_eq!(State { state: event.state, reason: event.reason }, State::PAUSED_USER);
    rig.control.done(&Request::Suspend);
    assert_eq!(state(&rig.control.status()), State::PAUSED_USER);
    rig.control.done(&Request::Resume);
    rig.control.event(Kind::RESUMED_UNPAUSED);
    assert_eq!(state(&rig.control.status()), State::RUNNING_UNPAUSED);
    rig.control.done(&Request::Reset);
    // The firmware may make more of it.
    assert_eq!(rig.control.notice(DomainEventId::Reboot as i32).sequence, 4);
    assert_eq!(rig.control.ask(&Request::Record), Ok(Answer::Record("what control wants to know".into())));

    rig.control.done(&Request::Destroy);
    let stopped = rig.control.event(Kind::STOPPED_DESTROYED);
    assert_eq!(stopped.text, None);
    rig.control.closed();
    assert!(rig.ended().success());
    let kinds = [Kind::STARTED_BOOTED, Kind::SUSPENDED_PAUSED, Kind::RESUMED_UNPAUSED, Kind::STOPPED_DESTROYED];
    assert_eq!(rig.recorded_kinds(), kinds);
    let numbers: Vec<u64> = rig.everything_recorded().iter().map(Recorded::sequence).collect();
    assert_eq!(numbers, (1..=stopped.sequence).collect::<Vec<_>>(), "notices and events have one sequence");
}

#[test]
fn a_guest_can_start_paused() {
    let mut rig = Rig::boot(Boot { paused: true, ..guest(&["-S"]) });
    assert_eq!(state(&rig.control.status()), State::PAUSED_USER);
    rig.control.done(&Request::Resume);
    rig.control.event(Kind::RESUMED_UNPAUSED);
    assert_eq!(rig.recorded_kinds(), [Kind::STARTED_BOOTED, Kind::SUSPENDED_PAUSED, Kind::RESUMED_UNPAUSED]);
}

#[test]
fn a_killed_qemu_is_a_crash() {
    let mut rig = Rig::boot(guest(&[]));
    rig.signal_qemu(Signal::KILL);
    let event = rig.control.event(Kind::STOPPED_CRASHED);
    assert_eq!(event.text.as_deref(), Some("QEMU was killed by signal 9"));
    assert!(rig.ended().success());
    assert_eq!(rig.recorded().last(), Some(&event));
}

#[test]
fn a_terminated_qemu_has_shut_down() {
    let mut rig = Rig::boot(guest(&[]));
    rig.signal_qemu(Signal::TERM);
    rig.control.event(Kind::SHUTDOWN_HOST);
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());
}

#[test]
fn a_stopped_qemu_delays_only_its_own_calls_and_each_has_an_end() {
    let mut rig = Rig::boot(Boot { deadline_ms: 1000, ..guest(&[]) });
    rig.signal_qemu(Signal::STOP);
    let serial = rig.control.send(&Request::Suspend, Vec::new());
    let status = rig.control.send(&Request::Status, Vec::new());
    assert!(matches!(rig.control.answer(status).0, Ok(Answer::Status(_))), "answered while the other call waits");
    let (answer, _) = rig.control.answer(serial);
    assert_eq!(answer, Err(Failure::Deadline { command: "stop".into(), deadline_ms: 1000 }));
    assert!(rig.control.status().stuck);
    rig.signal_qemu(Signal::CONT);
    // QEMU does it late, which is told; its late answer confuses nothing.
    rig.control.event(Kind::SUSPENDED_PAUSED);
    rig.control.done(&Request::Resume);
    assert!(!rig.control.status().stuck);
    rig.signal_qemu(Signal::STOP);
    rig.control.done(&Request::Destroy);
    assert!(rig.ended().success());
}

#[test]
fn a_new_control_takes_the_place_of_the_old_one_and_misses_nothing() {
    let mut rig = Rig::boot(guest(&[]));
    rig.control.done(&Request::Suspend);
    let mut second = rig.connect();
    rig.control.closed();
    assert_eq!(state(&second.status()), State::PAUSED_USER);
    assert!(second.events.is_empty(), "not before it says what it has");
    second.done(&Request::Events { after: 1 });
    assert_eq!(second.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2]);
    second.done(&Request::Resume);
    assert_eq!(second.event(Kind::RESUMED_UNPAUSED).sequence, 3);
    drop(second);
    // Nobody is there; the guest lives on.
    let mut third = rig.connect();
    third.done(&Request::Events { after: 3 });
    assert!(third.events.is_empty());
    third.done(&Request::Destroy);
    assert_eq!(third.event(Kind::STOPPED_DESTROYED).sequence, 4);
    assert!(rig.ended().success());
}

#[test]
fn garbage_costs_its_sender_the_connection_and_nobody_else_anything() {
    let mut rig = Rig::boot(guest(&[]));
    // Before a hello: the present control stays.
    let mut stranger = rig.connect_raw();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n").unwrap();
    assert_eq!(stranger.read(&mut [0; 16]).unwrap_or(0), 0);
    // One that says nothing at all, and one that takes its place.
    let mut silent = rig.connect_raw();
    let _another = rig.connect_raw();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    rig.control.done(&Request::Suspend);
    // After a hello.
    let raw = rig.connect_raw();
    let mut bad = rig::Control::new(raw.try_clone().unwrap());
    bad.hear_hello();
    (&raw).write_all(b"BLKH\x01\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\xff").unwrap();
    assert_eq!((&raw).read(&mut [0; 16]).unwrap_or(0), 0);
    let mut good = rig.connect();
    assert_eq!(state(&good.status()), State::PAUSED_USER);
    // A descriptor that belongs to nothing is refused, and the connection stays.
    let file = std::fs::File::open("/dev/null").unwrap();
    let serial = good.send(&Request::Status, vec![file.into()]);
    assert!(matches!(good.answer(serial).0, Err(Failure::BadRequest(_))));
    good.done(&Request::Destroy);
}

#[test]
fn a_console_keeps_its_output_and_has_one_writer() {
    let mut boot = guest(&["-chardev", "socket,id=con,fd=4", "-mon", "chardev=con,mode=readline"]);
    boot.consoles = 1;
    let mut rig = Rig::boot(boot);
    let mut first = attach(&mut rig, &open(0, false, false));
    // Said before anybody was there.
    read_until(&mut first, "(qemu) ");
    first.write_all(b"info version\n").unwrap();
    read_until(&mut first, "7.2");
    assert_eq!(rig.control.ask(&open(0, false, false)), Err(Failure::ConsoleBusy));
    assert_eq!(rig.control.ask(&open(1, true, false)), Err(Failure::NoSuchConsole { console: 1, have: 1 }));
    let mut reader = attach(&mut rig, &open(0, true, false));
    read_until(&mut reader, "info version");
    let mut second = attach(&mut rig, &open(0, false, true));
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    second.write_all(b"info name\n").unwrap();
    read_until(&mut second, "info name");
    read_until(&mut reader, "info name");
    rig.control.done(&Request::Destroy);
    reader.read_to_end(&mut rest).unwrap();
    second.read_to_end(&mut rest).unwrap();
}

#[test]
fn qemus_own_words_say_why_it_did_not_start() {
    let mut rig = Rig::launch(&Request::Boot(guest(&["-device", "no-such-device"])), Vec::new());
    match rig.control.answer(1).0 {
        Err(Failure::Exited { ended, last_words }) => {
            assert_eq!(ended, "exited with status 1");
            assert!(last_words.contains("'no-such-device' is not a valid device model name"), "{last_words}");
        }
        other => panic!("{other:?}"),
    }
    assert!(rig.ended().success());
    assert!(rig.log().contains("qemu: qemu-system-x86_64: -device no-such-device"), "{}", rig.log());
    assert_eq!(rig.recorded_kinds(), [Kind::STOPPED_FAILED]);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut boot = guest(&[]);
    boot.argv[0] = "/nowhere/qemu".into();
    let mut rig = Rig::launch(&Request::Boot(boot), Vec::new());
    match rig.control.answer(1).0 {
        Err(Failure::Spawn { cause, .. }) => assert!(cause.contains("No such file"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.ended().success());
}

#[test]
fn an_unacceptable_request_starts_nothing() {
    let mut rig = Rig::launch(&Request::Boot(Boot { files: 3, ..guest(&[]) }), Vec::new());
    assert!(matches!(rig.control.answer(1).0, Err(Failure::BadRequest(_))));
    assert!(rig.ended().success());
    let mut rig = Rig::launch(&Request::Suspend, Vec::new());
    assert!(matches!(rig.control.answer(1).0, Err(Failure::WrongState { .. })));
    assert!(rig.ended().success());
}

/// A program that never says a word.
fn mute(deadline_ms: u32) -> Boot {
    let argv = ["/bin/sleep", "1000"].map(String::from).to_vec();
    Boot { argv, deadline_ms, ..guest(&[]) }
}

#[test]
fn a_qemu_that_says_nothing_is_given_up() {
    let mut rig = Rig::launch(&Request::Boot(mute(300)), Vec::new());
    assert!(matches!(rig.control.answer(1).0, Err(Failure::Deadline { deadline_ms: 300, .. })));
    assert!(rig.ended().success());
    assert_eq!(rig.recorded_kinds(), [Kind::STOPPED_FAILED]);
}

#[test]
fn a_guest_whose_start_nobody_waits_for_any_more_ends() {
    let mut rig = Rig::launch(&Request::Boot(mute(60_000)), Vec::new());
    // The control that started it is gone; its place is taken by one end of a pair that leads nowhere.
    rig.control = rig::Control::new(UnixStream::pair().unwrap().0);
    assert!(rig.ended().success());
    assert_eq!(rig.recorded_kinds(), [Kind::STOPPED_FAILED]);
}

#[test]
fn a_guest_that_is_being_started_can_be_asked_and_ended() {
    let mut rig = Rig::launch(&Request::Boot(mute(60_000)), Vec::new());
    let mut other = rig.connect();
    assert_eq!(state(&other.status()), State::PAUSED_STARTING_UP);
    assert_eq!(other.ask(&Request::Suspend), Err(Failure::WrongState { state: "starting up".into() }));
    other.done(&Request::Destroy);
    assert!(rig.ended().success());
    assert_eq!(rig.recorded_kinds(), [Kind::STOPPED_DESTROYED]);
}

#[test]
fn a_guest_powers_off() {
    let (boot, _disk) = program(POWER_OFF, &[]);
    let mut rig = Rig::boot(boot);
    rig.control.event(Kind::SHUTDOWN_GUEST);
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());
}

#[test]
fn a_guest_that_powers_off_can_be_kept_or_started_anew() {
    let (boot, _disk) = program(POWER_OFF, &[]);
    let mut rig = Rig::boot(Boot { on_poweroff: Action::Preserve, ..boot });
    rig.control.event(Kind::SHUTDOWN_GUEST);
    assert_eq!(state(&rig.control.status()), State::SHUTTING_DOWN);
    assert_eq!(rig.control.ask(&Request::Resume), Err(Failure::WrongState { state: "in shutdown".into() }));
    rig.control.done(&Request::Reset);
    rig.control.event(Kind::SUSPENDED_PAUSED);
    rig.control.done(&Request::Resume);
    rig.control.event(Kind::SHUTDOWN_GUEST);
    rig.control.done(&Request::Destroy);

    let (boot, _disk) = program(POWER_OFF, &[]);
    let mut rig = Rig::boot(Boot { on_poweroff: Action::Restart, on_reboot: Action::Destroy, ..boot });
    for _ in 0..2 {
        rig.control.event(Kind::SHUTDOWN_GUEST);
        rig.control.event(Kind::RESUMED_UNPAUSED);
    }
    rig.control.done(&Request::Destroy);
}

#[test]
fn the_power_button_reboots_once_or_shuts_down() {
    let (mut boot, _disk) = program(HEED_BUTTON, &DEBUG_CONSOLE);
    boot.consoles = 1;
    let mut rig = Rig::boot(boot);
    let mut console = attach(&mut rig, &open(0, true, false));
    read_until(&mut console, "R");
    rig.control.done(&Request::Reboot);
    rig.control.event(Kind::SHUTDOWN_GUEST);
    rig.control.event(Kind::RESUMED_UNPAUSED);
    assert_eq!(state(&rig.control.status()), State::RUNNING_BOOTED);
    read_until(&mut console, "R");
    rig.control.done(&Request::Shutdown);
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());
}

#[test]
fn a_reset_follows_the_document() {
    // QEMU is told to take a reset for a power-off; then the guest's ends it. The administrator's does not, nor the one that
    // SeaBIOS makes of it.
    let (mut boot, _disk) = program(HEED_BUTTON, &[&["-action", "reboot=shutdown"], &DEBUG_CONSOLE[..]].concat());
    boot.consoles = 1;
    let mut rig = Rig::boot(Boot { on_reboot: Action::Destroy, ..boot });
    let mut console = attach(&mut rig, &open(0, true, false));
    read_until(&mut console, "R");
    rig.control.done(&Request::Reset);
    read_until(&mut console, "R");
    assert_eq!(state(&rig.control.status()), State::RUNNING_BOOTED);
    rig.control.done(&Request::Destroy);

    let (boot, _disk) = program(RESET, &["-action", "reboot=shutdown"]);
    let mut rig = Rig::boot(Boot { on_reboot: Action::Destroy, on_poweroff: Action::Preserve, ..boot });
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());
}

#[test]
fn a_crash_follows_the_document() {
    let pvpanic = ["-device", "pvpanic"];
    let (boot, _disk) = program(PANIC, &pvpanic);
    let mut rig = Rig::boot(boot);
    rig.control.event(Kind::CRASHED_PANICKED);
    rig.control.event(Kind::STOPPED_CRASHED);
    assert!(rig.ended().success());

    let (boot, _disk) = program(PANIC, &pvpanic);
    let mut rig = Rig::boot(Boot { on_crash: Action::Preserve, ..boot });
    rig.control.event(Kind::CRASHED_PANICKED);
    assert_eq!(state(&rig.control.status()), State::CRASHED_PANICKED);
    rig.control.done(&Request::Destroy);

    let (boot, _disk) = program(PANIC, &pvpanic);
    let mut rig = Rig::boot(Boot { on_crash: Action::Restart, ..boot });
    rig.control.event(Kind::CRASHED_PANICKED);
    rig.control.event(Kind::RESUMED_UNPAUSED);
    rig.control.event(Kind::CRASHED_PANICKED);
    rig.control.done(&Request::Destroy);
}

#[test]
fn a_qemu_is_asked_what_it_can_do() {
    let argv = [QEMU, "-machine", "none,accel=kvm:tcg", "-nodefaults", "-display", "none", "-S"];
    let monitor = ["-chardev", "socket,id=mon,fd=3", "-mon", "chardev=mon,mode=control"];
    let argv = argv.iter().chain(&monitor).map(ToString::to_string).collect();
    let mut rig = Rig::launch(&Request::Probe(Probe { argv, deadline_ms: 60_000 }), Vec::new());
    let Ok(Answer::Abilities(abilities)) = rig.control.answer(1).0 else { panic!("{}", rig.log()) };
    assert!(abilities.version.0 >= 7 && abilities.target == "x86_64", "{:?}", abilities.version);
    assert!(abilities.machines.iter().any(|machine| machine.alias.as_deref() == Some("pc")));
    assert!(abilities.cpus.iter().any(|cpu| cpu == "qemu64"));
    assert!(abilities.devices.iter().any(|device| device == "virtio-blk-pci"));
    assert!(abilities.kvm_present);
    assert!(rig.ended().success());
    assert_eq!(rig.recorded(), []);

    let argv = vec![QEMU.to_owned(), "-no-such-option".to_owned()];
    let mut rig = Rig::launch(&Request::Probe(Probe { argv, deadline_ms: 60_000 }), Vec::new());
    assert!(
        matches!(rig.control.answer(1).0, Err(Failure::Exited { last_words, .. }) if last_words.contains("invalid option"))
    );
}

#[test]
fn it_is_not_to_be_started_by_hand() {
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_qemu-supervisor")).args(arguments).output().unwrap();
    for arguments in [&[][..], &["--control-uid"], &["--control-uid", "x"], &["--help"]] {
        let output = run(arguments);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: qemu-supervisor"));
    }
    let output = run(&["--control-uid", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not by hand"), "{output:?}");
    let output = run(&["--dump-policy"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("role supervisor"));
}

#[test]
fn a_linux_guest_boots_and_heeds_its_power_button() {
    let Some((kernel, initrd)) = linux() else {
        return skip("a_linux_guest_boots_and_heeds_its_power_button", "no guest image; see tools/guest-image.sh");
    };
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    let more = ["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 quiet", "-m", "256"];
    let serial = ["-chardev", "socket,id=con,fd=4", "-serial", "chardev:con"];
    let mut rig = Rig::boot(Boot { consoles: 1, ..guest(&[&more[..], &serial[..]].concat()) });
    let mut console = attach(&mut rig, &open(0, false, false));
    read_until(&mut console, "bulkhead guest ready");
    console.write_all(b"echo $((6 * 7)) is the answer\n").unwrap();
    read_until(&mut console, "42 is the answer");
    rig.control.done(&Request::Shutdown);
    rig.control.event(Kind::SHUTDOWN_GUEST);
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());
}

/// Says that a test cannot run here and why: on standard error, and for the summary in the file that `BULKHEAD_SKIP_LOG` names.
fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    eprint!("SKIPPED: {line}");
    if let Some(log) = std::env::var_os("BULKHEAD_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}
