//! Images on storage that does not answer: they delay the starts that need them, each up to a deadline, and nobody else's.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use api::{Call, remote};
use bulkhead_tests::{Guest, Instance, Role, skip, wait_until};
use ipc::client::Client;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A FUSE file system that greets the kernel and then answers nothing.
struct Silent {
    device: Option<File>,
    place: PathBuf,
    server: Option<thread::JoinHandle<()>>,
}

/// What becomes of the requests of a [`Silent`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// They stay in the kernel's queue: whoever waits for them can be killed.
    Unread,
    /// They are read: whoever waits for them cannot.
    Read,
}

impl Silent {
    /// Mounts one; `None`, and the test is marked as skipped, when this host has none for us.
    fn mount(place: &Path, requests: Requests, test: &str) -> Option<Silent> {
        fs::create_dir_all(place).unwrap();
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            skip(test, "needs /dev/fuse");
            return None;
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if mount("silent", place, "fuse", flags, options.as_c_str()).is_err() {
            skip(test, "needs to mount");
            return None;
        }
        greet(&device);
        // A copy of the descriptor has the same connection, and a read ends with the mount.
        let server = (requests == Requests::Read).then(|| {
            let mut device = device.try_clone().unwrap();
            thread::spawn(move || while device.read(&mut vec![0; 1 << 17]).is_ok_and(|bytes| bytes > 0) {})
        });
        Some(Silent { device: Some(device), place: place.to_owned(), server })
    }
}

/// The first exchange of the protocol: the kernel says what it can, we say how old we are.
fn greet(device: &File) {
    let mut request = vec![0; 1 << 17];
    let mut device = device;
    let bytes = device.read(&mut request).unwrap();
    assert!(bytes >= 40 && request[4..8] == 26u32.to_ne_bytes(), "INIT is the first request");
    let mut answer = Vec::new();
    answer.extend(80u32.to_ne_bytes());
    answer.extend(0i32.to_ne_bytes());
    answer.extend_from_slice(&request[8..16]);
    for word in [7u32, 31, 1 << 16, 0, 0, 1 << 16] {
        answer.extend(word.to_ne_bytes());
    }
    answer.resize(80, 0);
    device.write_all(&answer).unwrap();
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Ends every request of it with an error, and so all who wait.
        let _ = unmount(&self.place, UnmountFlags::FORCE | UnmountFlags::DETACH);
        drop(self.device.take());
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Starts a transient guest without opening its files for it, as libvirt's clients do.
fn create(instance: &Instance, guest: &Guest) -> Result<(), String> {
    let client = Client::connect(&instance.socket(), "test").unwrap();
    let call = Call::DomainCreateXml(remote::DomainCreateXmlArgs { xml_desc: guest.xml(), flags: 0 });
    client.call(&call, Vec::new()).map(drop).map_err(|error| format!("{error:?}"))
}

const DEADLINE: &str = "open_deadline_ms = 1500";

/// A start on silent storage fails by its deadline; another one takes the time that it always takes.
fn a_start_is_delayed_alone(instance: &Instance, silent: &Path, name: &'static str) -> Duration {
    let begin = Instant::now();
    let before = waiting(instance);
    thread::scope(|scope| {
        let stuck = scope.spawn(|| create(instance, &Guest::tiny(name).disk(&silent.join(name), "raw")));
        // Until it has come as far as its disk.
        let busy = || waiting(instance) > before;
        assert!(wait_until(Duration::from_secs(5), busy), "no opener waits for the file system");
        let other = Instant::now();
        create(instance, &Guest::tiny("other").disk(&instance.file("other.img", &[0; 4096]), "raw")).unwrap();
        let took = other.elapsed();
        assert!(instance.list().iter().any(|domain| domain.name == "other"));
        instance.ok(&["destroy", "other"]);
        assert!(!stuck.is_finished(), "the deadline is not over after {:?}", begin.elapsed());
        let error = stuck.join().unwrap().unwrap_err();
        assert!(error.contains("1.5 s") && error.contains("storage does not answer"), "{error}");
        let waited = begin.elapsed();
        assert!((Duration::from_millis(1450)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
        took
    })
}

/// How many openers wait for the file system.
fn waiting(instance: &Instance) -> usize {
    let waits = |pid: u32| {
        let at = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        at.contains("fuse") || at.contains("request_wait")
    };
    instance.role(Role::Opener).iter().filter(|opener| waits(opener.pid)).count()
}

#[test]
fn storage_that_does_not_answer_delays_its_own_starts_only() {
    let test = "storage_that_does_not_answer_delays_its_own_starts_only";
    let instance = Instance::session_with(DEADLINE);
    instance.ok(&["list"]);
    create(&instance, &Guest::tiny("first")).unwrap();
    let place = instance.root().join("silent");
    let Some(_silent) = Silent::mount(&place, Requests::Unread, test) else { return };
    let took = a_start_is_delayed_alone(&instance, &place, "stuck");
    println!("a start beside a stuck one took {took:?}");
    // The kernel lets it be killed, so nothing is left of it.
    assert!(
        wait_until(Duration::from_secs(5), || instance.role(Role::Opener).len() == 1),
        "{:?}",
        instance.processes()
    );
}

#[test]
fn openers_that_cannot_be_killed_are_few_and_keep_nobody_waiting() {
    let test = "openers_that_cannot_be_killed_are_few_and_keep_nobody_waiting";
    let instance = Instance::session_with(DEADLINE);
    instance.ok(&["list"]);
    create(&instance, &Guest::tiny("first")).unwrap();
    let place = instance.root().join("silent");
    let Some(silent) = Silent::mount(&place, Requests::Read, test) else { return };
    a_start_is_delayed_alone(&instance, &place, "stuck");
    assert_eq!(waiting(&instance), 1, "the kernel cannot end it");
    a_start_is_delayed_alone(&instance, &place, "again");
    assert_eq!(waiting(&instance), 2);
    let begin = Instant::now();
    let error = create(&instance, &Guest::tiny("third").disk(&place.join("disk"), "raw")).unwrap_err();
    assert!(error.contains("2 processes hang"), "{error}");
    assert!(begin.elapsed() < Duration::from_millis(1000), "{:?}", begin.elapsed());
    create(&instance, &Guest::tiny("well").disk(&instance.file("well.img", &[0; 4096]), "raw")).unwrap();
    // They end as soon as the kernel lets them.
    drop(silent);
    assert!(
        wait_until(Duration::from_secs(5), || instance.role(Role::Opener).len() == 1),
        "{:?}",
        instance.processes()
    );
}
