//! libvirt's own clients, from Debian's packages: which of them are here, and how a test starts one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    instance::{Instance, Output, run},
    terminal::Terminal,
    wait::{LONG, skip, wait_until},
};

/// What virsh says when it waits for a command.
const PROMPT: &str = "virsh # ";
/// The same at a connection that only reads.
const READING_PROMPT: &str = "virsh > ";

/// A program that nobody here wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// libvirt's command line.
    Virsh,
    /// libvirt for Python.
    Python,
    /// `Sys::Virt`, libvirt for Perl.
    Perl,
    /// libvirt on a bus, and what it takes to have a bus of one's own.
    Dbus,
    /// libvirt's figures for Prometheus.
    Exporter,
    /// libvirt's daemon.
    Libvirtd,
    /// A realm of Kerberos, and what libvirt's daemon needs to belong to one.
    Kerberos,
}

impl Client {
    /// Programs that must be there, and the package that has them.
    fn needs(self) -> (&'static [&'static str], &'static str) {
        match self {
            Client::Virsh => (&["/usr/bin/virsh"], "libvirt-clients"),
            Client::Python => (&["/usr/bin/python3", "/usr/lib/python3/dist-packages/libvirt.py"], "python3-libvirt"),
            Client::Perl => (&["/usr/bin/perl"], "libsys-virt-perl"),
            Client::Dbus => {
                (&["/usr/sbin/libvirt-dbus", "/usr/bin/dbus-daemon", "/usr/bin/dbus-send"], "libvirt-dbus and dbus")
            }
            Client::Exporter => (&["/usr/bin/prometheus-libvirt-exporter"], "prometheus-libvirt-exporter"),
            Client::Libvirtd => (&["/usr/sbin/libvirtd"], "libvirt-daemon"),
            Client::Kerberos => (
                &["/usr/sbin/krb5kdc", "/usr/sbin/kadmin.local", "/usr/bin/kinit", "/usr/bin/nsenter"],
                "krb5-kdc, krb5-admin-server, krb5-user or libsasl2-modules-gssapi-mit",
            ),
        }
    }

    /// Whether it is installed; if not, the test is marked as skipped.
    #[must_use]
    pub fn is_here(self, test: &str) -> bool {
        let (files, package) = self.needs();
        let mut here = files.iter().all(|file| Path::new(file).exists());
        if here && self == Client::Perl {
            // Where a module is depends on Perl's version and on the architecture.
            let found = Command::new("/usr/bin/perl").args(["-MSys::Virt", "-e", "1"]).stderr(Stdio::null()).status();
            here = found.is_ok_and(|status| status.success());
        }
        if here && self == Client::Kerberos {
            let module = format!("/usr/lib/{}-linux-gnu/sasl2/libgssapiv2.so", std::env::consts::ARCH);
            here = Path::new(&module).exists();
        }
        if !here {
            skip(test, &format!("{package} is not installed"));
        }
        here
    }
}

/// Whether a program of libvirt's is of the release whose words are compared; if not, the test is marked as skipped.
#[must_use]
pub fn is_libvirt_9_0_0(program: &str, test: &str) -> bool {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let right = said.ends_with("9.0.0");
    if !right {
        skip(test, &format!("what libvirt 9.0.0 says is compared, and {program} is '{said}'"));
    }
    right
}

/// A program of `tests/clients`, to be run as the instance's user with the instance's environment.
///
/// # Panics
/// When its name tells of no interpreter.
#[must_use]
pub fn client_program(instance: &Instance, name: &str, arguments: &[&str]) -> Command {
    let interpreter = match name.rsplit('.').next() {
        Some("py") => "/usr/bin/python3",
        Some("pl") => "/usr/bin/perl",
        Some("sh") => "/bin/sh",
        _ => panic!("nothing runs {name}"),
    };
    let mut command = Command::new(interpreter);
    command.arg(clients_dir().join(name)).args(arguments);
    instance.prepare(&mut command, instance.uid());
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command
}

/// Where our programs for libvirt's libraries are.
pub(crate) fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// virsh at a URI.
#[derive(Clone, Debug)]
pub struct Virsh<'a> {
    instance: &'a Instance,
    uri: String,
    uid: u32,
}

impl Virsh<'_> {
    /// virsh, as the instance's user starts it.
    #[must_use]
    pub fn at(instance: &Instance, uri: impl Into<String>) -> Virsh<'_> {
        Virsh { instance, uri: uri.into(), uid: instance.uid() }
    }

    /// The same as another user.
    #[must_use]
    pub fn by(self, uid: u32) -> Self {
        Virsh { uid, ..self }
    }

    /// A command.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/virsh");
        command.args(["-c", &self.uri]).args(arguments);
        self.instance.prepare(&mut command, self.uid);
        // No colours, no control sequences of a line editor, and lines that it need not shorten; messages as they are written in libvirt's sources.
        command.env("TERM", "dumb").env("LC_ALL", "C.UTF-8").env("COLUMNS", "4000");
        command
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    /// Runs a command that must succeed, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "virsh {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a command that must fail, and returns its messages.
    ///
    /// # Panics
    /// When it succeeds.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 1, "virsh {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stderr
    }

    /// Starts a command that goes on, on a pseudo-terminal.
    #[must_use]
    pub fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::on_pty(self.command(arguments))
    }

    /// Starts an interactive session.
    #[must_use]
    pub fn shell(&self) -> Shell {
        Shell::start(self.command(&[]))
    }
}

/// virsh with a prompt, as a person uses it for hours.
#[derive(Debug)]
pub struct Shell {
    /// Where it is typed.
    pub terminal: Terminal,
    prompt: &'static str,
}

impl Shell {
    /// Starts a command that is such a virsh.
    #[must_use]
    pub fn start(command: Command) -> Shell {
        let mut terminal = Terminal::on_pty(command);
        terminal.expect(PROMPT);
        Shell { terminal, prompt: PROMPT }
    }

    /// Types a command that opens a console, and leaves that by its key; returns what comes up to the next prompt.
    ///
    /// # Panics
    /// When neither a console is opened nor an error shown.
    pub fn console(&mut self, line: &str) -> String {
        let from = self.terminal.output.len();
        self.terminal.line(line);
        let opened = self.terminal.output.wait(LONG, |bytes| {
            let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
            (text.contains("Escape character is") || text.contains("error:")).then(|| text.contains("Escape"))
        });
        assert!(opened.is_some(), "no console: {}", self.terminal.output.text());
        if opened == Some(true) {
            // It says so before the key counts.
            assert!(wait_until(LONG, || self.terminal.is_passing_through()), "{}", self.terminal.output.text());
            self.terminal.send(b"\x1d");
        }
        self.terminal.expect(self.prompt).replace("\r\n", "\n")
    }

    /// Types a command, and returns what comes up to the next prompt, with lines that end in "\n".
    pub fn command(&mut self, line: &str) -> String {
        self.terminal.line(line);
        let seen = self.terminal.expect(self.prompt).replace("\r\n", "\n");
        let text = seen.trim_end_matches(self.prompt);
        // The line editor shows what is typed.
        text.split_once('\n').filter(|(echo, _)| echo.ends_with(line)).map_or(text, |(_, rest)| rest).to_owned()
    }

    /// Goes on at another URI, as one who may change things or only read.
    pub fn connect(&mut self, uri: &str, read_only: bool) {
        self.prompt = if read_only { READING_PROMPT } else { PROMPT };
        self.command(&format!("connect {}{uri}", if read_only { "--readonly " } else { "" }));
    }

    /// Leaves.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn quit(mut self) {
        self.terminal.line("quit");
        assert_eq!(self.terminal.exit(), 0);
    }
}

/// Makes two tests of a function that takes an instance and its gateway: `NAME::session` and `NAME::system`. Each is marked
/// as skipped where its instance or the client program cannot be.
#[macro_export]
macro_rules! on_session_and_system {
    ($client:expr, $name:ident) => {
        mod $name {
            use bulkhead_tests::{Client, Gateway, Instance};

            #[test]
            fn session() {
                if $client.is_here(concat!(stringify!($name), " (session)")) {
                    let instance = Instance::session();
                    let gateway = Gateway::start(&instance);
                    super::$name(&instance, &gateway);
                }
            }

            #[test]
            fn system() {
                const TEST: &str = concat!(stringify!($name), " (system)");
                if $client.is_here(TEST)
                    && let Some(instance) = Instance::system(TEST)
                {
                    let gateway = Gateway::start(&instance);
                    super::$name(&instance, &gateway);
                }
            }
        }
    };
}
