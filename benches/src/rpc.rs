//! libvirt's protocol: the same client, over the same kind of socket, against our gateway and against libvirtd, in turn.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use api::{Call, Operation, remote};
use bulkhead_tests::Libvirtd;
use wire::{client::Client, transport::Unix};

use crate::{gateway::Gateway, recorded, stats::Samples, write_definition};

const URI: &str = "qemu:///system";
const OUR_URI: &str = "qemu:///session";
const CALLS: usize = 5_000;
const OPENS: usize = 1_000;
const CLIENTS: usize = 8;
const BURST: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const LISTS: usize = 5;
const GUESTS: usize = 100;
const STATS: usize = 10;
/// State, processors, balloon, virtual processors, interfaces, disks: what both sides have.
const GROUPS: u32 = 0x3f;
/// At least twice as fast as libvirtd.
const HALF: f64 = 0.5;

/// One of the two sides.
#[derive(Clone, Copy)]
struct Side<'a> {
    socket: &'a Path,
    uri: &'a str,
}

impl Side<'_> {
    fn connect(&self) -> Client {
        let client = Client::new(Box::new(Unix::new(UnixStream::connect(self.socket).unwrap()))).unwrap();
        client.login(None, Duration::from_secs(10)).unwrap();
        let open = remote::ConnectOpenArgs { name: Some(self.uri.into()), flags: 0 };
        client.call(&open.into_call(), Vec::new()).unwrap();
        client
    }

    fn virsh_uri(&self) -> String {
        self.uri.replacen("qemu:", "qemu+unix:", 1) + "?socket=" + &self.socket.to_string_lossy()
    }
}

/// All rows. `root`: this bench's own.
pub fn run(root: &Path) {
    let Some(libvirtd) = Libvirtd::start("the rows beside libvirtd") else { return };
    let _daemon = libclient::Connection::open(crate::URI).unwrap();
    let _gateway = Gateway::start();
    let (our_socket, their_socket) = (Gateway::socket(root), libvirtd.socket());
    let ours = Side { socket: &our_socket, uri: OUR_URI };
    let theirs = Side { socket: &their_socket, uri: URI };
    latency(ours, theirs);
    by_libvirts_library(ours, theirs);
    opens(ours, theirs);
    for clients in [1, CLIENTS] {
        crowd(clients, "calls", ours, theirs, |client, _| drop(client.call(&cheap(), Vec::new()).unwrap()));
    }
    crowd(CLIENTS, "opens", ours, theirs, |_, side| open_and_close(side));
    running_guests(ours, theirs);
    drop(libvirtd);
    ten_thousand(ours);
}

/// The last row alone.
pub fn run_list(root: &Path) {
    let _daemon = libclient::Connection::open(crate::URI).unwrap();
    let _gateway = Gateway::start();
    ten_thousand(Side { socket: &Gateway::socket(root), uri: OUR_URI });
}

fn cheap() -> Call {
    remote::ConnectGetLibVersionArgs.into_call()
}

/// Either side for itself for a while, in turn: calls that alternate between the two would find each other's caches, and
/// each side asleep.
fn in_turn(rounds: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    for _ in 0..10 {
        (0..rounds / 10).for_each(|_| theirs());
        (0..rounds / 10).for_each(|_| ours());
    }
}

fn latency(ours: Side<'_>, theirs: Side<'_>) {
    let (us, them) = (ours.connect(), theirs.connect());
    let call = |client: &Client| drop(client.call(&cheap(), Vec::new()).unwrap());
    let (mut a, mut b) = (Samples::new("one call, gateway"), Samples::new("one call, libvirtd"));
    in_turn(CALLS, || a.time(|| call(&us)), || b.time(|| call(&them)));
    a.beside(&b, HALF);
    let (mut a, mut b) = (Samples::new("alternating calls, gateway"), Samples::new("alternating calls, libvirtd"));
    for _ in 0..CALLS {
        b.time(|| call(&them));
        a.time(|| call(&us));
    }
    a.beside(&b, HALF);
}

/// The same call by libvirt's own library, as every program has it that links with it.
fn by_libvirts_library(ours: Side<'_>, theirs: Side<'_>) {
    const SCRIPT: &str = "import libvirt, sys, time\n\
        connection = libvirt.open(sys.argv[1])\n\
        begin = time.perf_counter()\n\
        for _ in range(5000): connection.getLibVersion()\n\
        print((time.perf_counter() - begin) / 5000)\n";
    let seconds = |side: Side<'_>| {
        let mut command = Command::new("/usr/bin/python3");
        let output = command.args(["-c", SCRIPT, &side.virsh_uri()]).stderr(Stdio::inherit()).output().unwrap();
        Duration::from_secs_f64(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap())
    };
    let (mut a, mut b) = (Samples::new("libvirt.so's call, gateway"), Samples::new("libvirt.so's call, libvirtd"));
    for _ in 0..LISTS {
        b.add(seconds(theirs));
        a.add(seconds(ours));
    }
    a.beside(&b, HALF);
}

fn open_and_close(side: Side<'_>) {
    drop(side.connect().call(&remote::ConnectCloseArgs.into_call(), Vec::new()));
}

fn opens(ours: Side<'_>, theirs: Side<'_>) {
    let (mut a, mut b) = (Samples::new("open and close, gateway"), Samples::new("open and close, libvirtd"));
    in_turn(OPENS, || a.time(|| open_and_close(ours)), || b.time(|| open_and_close(theirs)));
    a.beside(&b, HALF);
}

/// Some clients at once, each with a connection of its own, all doing the same as often as they can.
fn crowd(clients: usize, what: &str, ours: Side<'_>, theirs: Side<'_>, work: impl Fn(&Client, Side<'_>) + Sync) {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (them, us) = (per_second(clients, theirs, &work), per_second(clients, ours, &work));
        println!("{clients} clients, {what} a second: libvirtd {them:>8.0}   gateway {us:>8.0}   {:.2} ×", us / them);
        ratios.push(us / them);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{clients} clients, {what} a second, median of {ROUNDS}: {:.2} × libvirtd (aim 2)", ratios[ROUNDS / 2]);
}

fn per_second(clients: usize, side: Side<'_>, work: &(impl Fn(&Client, Side<'_>) + Sync)) -> f64 {
    let barrier = Barrier::new(clients);
    let counts: usize = thread::scope(|scope| {
        let begin_one = |_| {
            scope.spawn(|| {
                let client = side.connect();
                barrier.wait();
                let begin = Instant::now();
                let mut count = 0;
                while begin.elapsed() < BURST {
                    work(&client, side);
                    count += 1;
                }
                count
            })
        };
        let clients: Vec<_> = (0..clients).map(begin_one).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    counts as f64 / BURST.as_secs_f64()
}

fn guest(index: usize) -> String {
    format!(
        "<domain type='qemu'><name>stats-{index}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><serial type='pty'/></devices></domain>"
    )
}

/// Guests on either side, of which one and then all are asked about.
fn running_guests(ours: Side<'_>, theirs: Side<'_>) {
    let (us, them) = (ours.connect(), theirs.connect());
    let mut all = Vec::new();
    for client in [&them, &us] {
        let mut doms = Vec::new();
        for index in 0..GUESTS {
            let create = remote::DomainCreateXmlArgs { xml_desc: guest(index), flags: 0 };
            let (reply, _) = client.call_within(&create.into_call(), Vec::new(), Duration::from_secs(60)).unwrap();
            doms.push(remote::DomainCreateXmlArgs::ret_of(reply).unwrap().dom);
        }
        all.push((client, doms));
    }
    let info = |side: usize| {
        let (client, doms) = &all[side];
        client.call(&remote::DomainGetInfoArgs { dom: doms[0].clone() }.into_call(), Vec::new()).unwrap()
    };
    let (mut a, mut b) = (Samples::new("info of a running guest, gateway"), Samples::new("the same, libvirtd"));
    in_turn(CALLS, || drop(a.time(|| info(1))), || drop(b.time(|| info(0))));
    a.beside(&b, HALF);
    let statistics = remote::ConnectGetAllDomainStatsArgs { doms: Vec::new(), stats: GROUPS, flags: 0 }.into_call();
    let fields = |client: &Client| {
        let (reply, _) = client.call(&statistics, Vec::new()).unwrap();
        let records = remote::ConnectGetAllDomainStatsArgs::ret_of(reply).unwrap().ret_stats;
        assert_eq!(records.len(), GUESTS);
        records.iter().map(|record| record.params.len()).sum::<usize>()
    };
    println!("figures of {GUESTS} guests: libvirtd {}, gateway {}", fields(&them), fields(&us));
    let (mut a, mut b) = (Samples::new("statistics of 100, gateway"), Samples::new("statistics of 100, libvirtd"));
    for _ in 0..STATS {
        b.time(|| them.call(&statistics, Vec::new()).unwrap());
        a.time(|| us.call(&statistics, Vec::new()).unwrap());
    }
    a.beside(&b, 0.05);
    for (client, doms) in all {
        for dom in doms {
            client.call(&remote::DomainDestroyArgs { dom }.into_call(), Vec::new()).unwrap();
        }
    }
}

/// `virsh list --all` as a whole, with ten thousand definitions on either side.
fn ten_thousand(ours: Side<'_>) {
    let us = ours.connect();
    let define = |definitions: &Path| {
        for index in 0..crate::DEFINITIONS {
            let xml = write_definition(definitions, index);
            us.call(&remote::DomainDefineXmlArgs { xml }.into_call(), Vec::new()).unwrap();
        }
    };
    let Some(libvirtd) = Libvirtd::knowing("the list beside libvirtd", define) else { return };
    let socket = libvirtd.socket();
    let theirs = Side { socket: &socket, uri: URI };
    drop(theirs.connect());
    let recorded = recorded::beside(ours.socket);
    let nobody = Side { socket: &recorded, ..ours };
    list(nobody);
    let (mut a, mut b) = (Samples::new("virsh list --all, gateway"), Samples::new("virsh list --all, libvirtd"));
    let mut least = Samples::new("virsh list --all, recorded answers");
    for _ in 0..LISTS {
        b.time(|| list(theirs));
        a.time(|| list(ours));
        least.time(|| list(nobody));
    }
    a.beside(&b, HALF);
    // How much of it is virsh's own: see the module.
    least.beside(&b, 0.0);
}

fn list(side: Side<'_>) {
    let status =
        Command::new("virsh").args(["-c", &side.virsh_uri(), "list", "--all"]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}
