//! The question for a password, at a terminal that belongs to the test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use crate::common::Bench;
use crate::terminal::Terminal;
use rustix::process::Pid;

const QUESTION: &str = "Password of ann on localhost: ";
/// Runs the program as a job, so that keys of the terminal reach it alone, and lets the test look before it goes on.
const JOB: &str = r#"set -m; trap : INT; "$0" "$@"; echo "status $?"; read x"#;

/// A daemon of libvirt's protocol that asks for a password and closes the connection when it has one.
struct Guarded {
    uri: String,
    /// The client's process.
    served: JoinHandle<Pid>,
}

impl Guarded {
    fn listen(bench: &Bench) -> Guarded {
        let path = bench.path().join("guarded.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let served = std::thread::spawn(move || serve(&listener.accept().unwrap().0));
        Guarded { uri: format!("qemu+unix:///system?socket={}", path.display()), served }
    }
}

impl Terminal {
    /// Answers what comes first.
    fn ask_for_password(&mut self) {
        self.wait_for("Name on localhost: ");
        self.type_(b"ann\n");
        self.wait_for(QUESTION);
    }
}

const AUTH_LIST: u32 = 66;
const AUTH_SASL_INIT: u32 = 67;

fn serve(mut socket: &UnixStream) -> Pid {
    let client = rustix::net::sockopt::socket_peercred(socket).unwrap().pid;
    let mut length = [0; 4];
    while socket.read_exact(&mut length).is_ok() {
        let mut packet = vec![0; u32::from_be_bytes(length) as usize - 4];
        socket.read_exact(&mut packet).unwrap();
        // Program, version, procedure, type, serial, status.
        let mut words: Vec<u32> =
            packet.chunks_exact(4).take(6).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        words[3] = 1;
        match words[2] {
            // One way, which is SASL.
            AUTH_LIST => words.extend([1, 1]),
            AUTH_SASL_INIT => {
                let mechanisms = b"SCRAM-SHA-256\0\0\0";
                words.push(13);
                words.extend(mechanisms.chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())));
            }
            _ => break,
        }
        let length = u32::try_from(words.len() * 4 + 4).unwrap();
        let reply: Vec<u8> = [length].into_iter().chain(words).flat_map(u32::to_be_bytes).collect();
        socket.write_all(&reply).unwrap();
    }
    client
}

#[test]
fn a_password_is_not_shown_and_the_terminal_is_as_it_was() {
    let bench = Bench::new();
    let guarded = Guarded::listen(&bench);
    let mut terminal = Terminal::controlling(&bench, JOB, &["-c", &guarded.uri, "list"]);
    terminal.ask_for_password();
    assert!(!terminal.echoes());
    terminal.type_(b"secret\n");
    terminal.wait_for("status 4\r\n");
    terminal.is_as_found();
    assert!(!terminal.seen.contains("secret"), "{:?}", terminal.seen);
    terminal.type_(b"\n");
    terminal.gone();
    guarded.served.join().unwrap();
}

#[test]
fn ctrl_c_at_the_question_is_the_end_and_the_terminal_is_as_it_was() {
    let bench = Bench::new();
    for (key, status) in [(b"\x03", "status 130\r\n"), (b"\x1c", "status 131\r\n")] {
        let guarded = Guarded::listen(&bench);
        let mut terminal = Terminal::controlling(&bench, JOB, &["-c", &guarded.uri, "list"]);
        terminal.ask_for_password();
        terminal.type_(key);
        terminal.wait_for(status);
        terminal.is_as_found();
        terminal.type_(b"\n");
        terminal.gone();
        guarded.served.join().unwrap();
        std::fs::remove_file(bench.path().join("guarded.sock")).unwrap();
    }
}

#[test]
fn ctrl_z_at_the_question_gives_the_terminal_back_until_it_is_asked_again() {
    let bench = Bench::new();
    let guarded = Guarded::listen(&bench);
    let script = format!("{JOB}; fg; echo \"status $?\"; read x");
    let mut terminal = Terminal::controlling(&bench, &script, &["-c", &guarded.uri, "list"]);
    terminal.ask_for_password();
    terminal.type_(b"\x1a");
    terminal.wait_for("status 147\r\n");
    terminal.is_as_found();
    terminal.seen.clear();
    terminal.type_(b"\n");
    terminal.wait_for(QUESTION);
    assert!(!terminal.echoes());
    terminal.type_(b"secret\n");
    terminal.wait_for("status 4\r\n");
    terminal.is_as_found();
    terminal.type_(b"\n");
    terminal.gone();
    guarded.served.join().unwrap();
}
