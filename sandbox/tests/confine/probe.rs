//! The mode `probe`: tries from inside what a confined program must not do, and says how each attempt ended. It waits for the
//! end of its standard input, so that the test can look at it from outside meanwhile.

use std::ffi::{CStr, c_long};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::ExitCode;

/// Runs `attempt` and prints `name=ok` or `name=ERRNO`.
fn attempt<T>(name: &str, attempt: impl FnOnce() -> io::Result<T>) {
    match attempt() {
        Ok(_) => println!("{name}=ok"),
        Err(error) => println!("{name}={}", error.raw_os_error().unwrap_or(0)),
    }
}

fn call(number: c_long, args: [c_long; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = args;
    // SAFETY: the arguments are numbers or addresses of static strings.
    if unsafe { libc::syscall(number, a, b, c, d, e) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn address(text: &'static CStr) -> c_long {
    text.as_ptr() as c_long
}

pub fn run() -> ExitCode {
    identity();
    files();
    network();
    processes();
    power();
    io::stdout().flush().unwrap();
    println!("done=ok");
    let _ = io::stdin().read_to_end(&mut vec![]);
    ExitCode::SUCCESS
}

fn identity() {
    println!("pid={}", std::process::id());
    println!("parent={}", std::os::unix::process::parent_id());
    println!("uid={}", rustix::process::getuid().as_raw());
    println!("gid={}", rustix::process::getgid().as_raw());
    println!("groups={}", rustix::process::getgroups().unwrap().len());
    println!("hostname={}", rustix::system::uname().nodename().to_str().unwrap());
    println!("environment={}", std::env::vars().map(|(name, value)| format!("{name}={value},")).collect::<String>());
    let descriptors = (0..4096).filter(|&fd| {
        // SAFETY: F_GETFD takes any number and only reads.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    });
    println!("descriptors={:?}", descriptors.collect::<Vec<_>>());
    println!("umask={:o}", rustix::process::umask(rustix::fs::Mode::empty()).as_raw_mode());
}

fn files() {
    for path in ["/etc/passwd", "/proc", "/proc/self/status", "/sys", "/home", "/root", "/var", "/run", "/.."] {
        attempt(path, || std::fs::read_dir(path).map(drop).or_else(|_| std::fs::File::open(path).map(drop)));
    }
    let mut root: Vec<String> =
        std::fs::read_dir("/").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    root.sort();
    println!("root={}", root.join(","));
    attempt("write-root", || std::fs::write("/file", "x"));
    attempt("write-lib", || std::fs::write("/usr/lib/written", "x"));
    attempt("write-dev", || std::fs::write("/dev/file", "x"));
    attempt("write-tmp", || std::fs::write("/tmp/file", "x"));
    attempt("exec-tmp", || {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write("/tmp/program", "#!/nonexistent")?;
        std::fs::set_permissions("/tmp/program", std::fs::Permissions::from_mode(0o755))?;
        Err::<(), _>(rustix_exec(c"/tmp/program"))
    });
    attempt("fill-tmp", || std::fs::write("/tmp/file", vec![1; 2 << 20]));
    attempt("null", || std::fs::write("/dev/null", "x"));
    attempt("zero", || std::fs::File::open("/dev/zero")?.read_exact(&mut [0; 8]));
    attempt("kvm", || std::fs::File::open("/dev/kvm"));
}

fn rustix_exec(path: &'static CStr) -> io::Error {
    call(libc::SYS_execve, [address(path), 0, 0, 0, 0]).err().unwrap_or_else(|| io::Error::other("executed"))
}

fn network() {
    let tcp = std::env::args().nth(2).unwrap();
    let unix = std::env::args().nth(3).unwrap();
    attempt("tcp", || TcpStream::connect(&tcp));
    attempt("unix", || UnixStream::connect(&unix));
    attempt("abstract", || {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(unix.as_bytes())?;
        UnixDatagram::unbound()?.connect_addr(&address)
    });
    // SAFETY: the list is freed below; its end has index 0.
    let interfaces = unsafe {
        let list = libc::if_nameindex();
        let count = if list.is_null() { 0 } else { (0..).take_while(|&n| (*list.add(n)).if_index != 0).count() };
        libc::if_freenameindex(list);
        count
    };
    println!("interfaces={interfaces}");
}

fn processes() {
    let sibling: c_long = std::env::args().nth(4).unwrap().parse().unwrap();
    attempt("kill-sibling", || call(libc::SYS_kill, [sibling, 0, 0, 0, 0]));
    attempt("ptrace-sibling", || call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_SEIZE), sibling, 0, 0, 0]));
}

fn power() {
    attempt("setuid", || call(libc::SYS_setresuid, [0, 0, 0, 0, 0]));
    attempt("setuid-other", || call(libc::SYS_setresuid, [1, 1, 1, 0, 0]));
    attempt("setgroups", || call(libc::SYS_setgroups, [0, 0, 0, 0, 0]));
    attempt("capabilities", || {
        let all = rustix::thread::CapabilitySet::all();
        let sets = rustix::thread::CapabilitySets { effective: all, permitted: all, inheritable: all };
        rustix::thread::set_capabilities(None, sets).map_err(Into::into)
    });
    attempt("mknod", || call(libc::SYS_mknodat, [libc::AT_FDCWD.into(), address(c"/tmp/node"), 0o20666, 0x103, 0]));
    attempt("mount", || call(libc::SYS_mount, [address(c"x"), address(c"/tmp"), address(c"tmpfs"), 0, 0]));
    attempt("chroot", || call(libc::SYS_chroot, [address(c"/tmp"), 0, 0, 0, 0]));
    attempt("hostname-set", || call(libc::SYS_sethostname, [address(c"x"), 1, 0, 0, 0]));
}
