//! What comes from a QEMU that the guest may have taken over.

use std::{io::Write, os::unix::net::UnixStream, time::Instant};

use qemu_supervisor::{
    qmp::{Lines, Qmp},
    words::Words,
};

/// A socket takes so much without anybody reading.
const MOST: usize = 48 << 10;

/// What QEMU says in its monitor and on its standard error.
pub fn words(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST)];
    lines(bytes);
    monitor(bytes);
    last_words(bytes);
}

/// However the lines are cut, they are the same.
fn lines(bytes: &[u8]) {
    let expected: Vec<&[u8]> =
        bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")).collect();
    let at_once = usize::from(bytes.first().copied().unwrap_or_default()) + 1;
    let (mut lines, mut got) = (Lines::default(), 0);
    for piece in bytes.chunks(at_once) {
        lines.push(piece).expect("a short line");
        while let Some(line) = lines.next_line() {
            assert_eq!(Some(&line), expected.get(got));
            got += 1;
        }
    }
    assert_eq!(got, expected.len());
}

fn monitor(bytes: &[u8]) {
    let (mut qemu, socket) = UnixStream::pair().expect("a pair of sockets");
    qemu.write_all(bytes).expect("room in the socket");
    let mut monitor: Qmp<u32> = Qmp::new(socket);
    for tag in 0..3 {
        let _ = monitor.ask("query-status", None, tag, Instant::now());
    }
    let mut heard = Vec::new();
    monitor.read(&mut heard);
    drop(qemu);
    monitor.read(&mut heard);
    let _ = (monitor.lost(), monitor.is_broken(), monitor.is_stuck());
    let late = monitor.expire(Instant::now()).len() + monitor.abandon().len();
    assert!(late <= 3, "no more than what was asked");
}

fn last_words(bytes: &[u8]) {
    let (pipe, writer) = rustix::pipe::pipe().expect("a pipe");
    let mut writer = std::fs::File::from(writer);
    writer.write_all(bytes).expect("room in the pipe");
    drop(writer);
    let Ok(mut words) = Words::new(pipe) else { return };
    let mut log = Vec::new();
    while words.read(&mut log) {}
    assert!(log.len() <= 16 * bytes.len() + 4096, "the log goes by what was said");
}
