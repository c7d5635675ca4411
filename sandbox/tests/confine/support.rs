//! What the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use sandbox::pidfd::Exit;
use sandbox::spawn::{Child, Program, Spawn};

/// The identity without rights that the tests use.
pub const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a test must not change.
#[derive(PartialEq, Eq, Debug)]
pub struct Leftovers {
    children: bool,
    mounts: usize,
    descriptors: Vec<String>,
}

impl Leftovers {
    pub fn now() -> Leftovers {
        let wait = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        let mut descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|path| path.display().to_string())
            // The directory that is being read, and the program, which is kept open for ever on purpose.
            .filter(|path| !path.contains("/fd") && Path::new(path) != std::env::current_exe().unwrap())
            .collect();
        descriptors.sort();
        Leftovers {
            children: !matches!(wait, Err(rustix::io::Errno::CHILD)),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            descriptors,
        }
    }

    pub fn compare(&self, after: &Leftovers) -> Result<(), String> {
        if self == after { Ok(()) } else { Err(format!("{after:?}, before: {self:?}")) }
    }
}

/// This program in one of its modes, with a pipe as its standard output and error.
pub fn myself<'a>(args: &[&str]) -> Spawn<'a> {
    Spawn::new(Program::OwnExe, "confine").args(args)
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

/// Waits for the end of a child.
pub fn end(child: &Child) -> Exit {
    sandbox::pidfd::wait(&child.pidfd).unwrap()
}

/// Starts `spawn` with its output on a pipe and returns that and how it ended.
pub fn output(spawn: Spawn<'_>) -> (String, Exit) {
    let (out, into) = pipe();
    let child = spawn.fd(1, &into).fd(2, &into).start().unwrap();
    drop(into);
    let text = read_all(out);
    (text, end(&child))
}

/// The `name: value` lines of a process's status file.
pub fn status(pid: i32) -> BTreeMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Mount point and options of every mount that a process sees.
pub fn mounts(pid: i32) -> Vec<(String, String)> {
    const POINT: usize = 4;
    fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut fields = line.split(' ').skip(POINT);
            (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned())
        })
        .collect()
}
