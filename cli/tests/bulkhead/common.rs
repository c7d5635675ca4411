//! The real program in an environment of its own: no daemon, no configuration, no time zone of the host.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Where one test runs.
pub struct Bench {
    dir: TempDir,
}

/// What one run of the program gave.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in the directory of the test, and its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The program, connected to the mock hypervisor unless the arguments say otherwise.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.wrapped(&[], arguments)
    }

    /// The same by another program, which gets these arguments, the program and its arguments.
    pub fn wrapped(&self, by: &[&str], arguments: &[&str]) -> Command {
        let mut words = by.iter().chain(&[env!("CARGO_BIN_EXE_bulkhead")]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("BULKHEAD_ROOT", self.dir.path().join("root"))
            .env("BULKHEAD_URI", "test:///default")
            .env("EDITOR", "true")
            // No test of this crate may start a daemon.
            .env("BULKHEAD_QEMUD", "/dev/null")
            .env("TZ", "UTC");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Run {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Run::of(&child.wait_with_output().unwrap())
    }

    /// The result of a run that must succeed, as JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let run = self.run(&[&["--output", "json"], arguments].concat());
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }
}

impl Run {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// Succeeded with these words and no others.
    #[track_caller]
    pub fn gave(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), (Some(0), stdout, ""));
    }

    /// Failed with these words and no others.
    #[track_caller]
    pub fn failed(&self, code: i32, stderr: &str) {
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), (Some(code), "", stderr));
    }
}

/// The rows of the table of verbs.
pub fn verbs() -> Vec<serde_json::Value> {
    let help = Bench::new().json(&["help"]);
    let groups = help["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["verbs"].as_array().unwrap().clone()).collect()
}

/// The text without its first line break, and without the margin that makes it look good in a test.
pub fn text(indented: &str) -> String {
    let body = indented.strip_prefix('\n').unwrap_or(indented).trim_end_matches(' ');
    let margin = body.lines().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
    let margin = margin.min().unwrap_or(0);
    body.lines().map(|line| format!("{}\n", line.get(margin..).unwrap_or(""))).collect()
}
