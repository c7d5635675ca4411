//! Every rule of every role, in a child under the real filter.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_long};

use sandbox::pidfd::Exit;
use sandbox::policy::{Argument, Condition, Otherwise, Role, Rule, Verdict};

use crate::support::{myself, output};
use crate::{Outcome, Test};

pub const TESTS: &[Test] = &[
    ("filters::allowed_calls_are_made", allowed_calls_are_made),
    ("filters::wrong_arguments_kill", wrong_arguments_kill),
    ("filters::unlisted_calls_kill", unlisted_calls_kill),
    ("filters::gateway_s_leaves_reach_no_socket_that_they_were_not_handed", reach_no_socket),
    ("filters::refused_calls_fail_with_their_error", refused_calls_fail_with_their_error),
    ("filters::qemu_makes_threads_and_no_child", qemu_makes_threads_and_no_child),
    ("filters::only_the_code_generator_executes_what_it_writes", only_the_code_generator_executes_what_it_writes),
    ("filters::qemu_is_told_that_newer_calls_do_not_exist", qemu_is_told_that_newer_calls_do_not_exist),
    ("filters::attacks_die_or_fail_for_every_leaf", attacks_die_or_fail_for_every_leaf),
    ("filters::qemu_has_no_socket_but_those_that_it_was_handed", qemu_has_no_socket_but_those_that_it_was_handed),
    ("filters::x32_numbers_are_no_way_around", x32_numbers_are_no_way_around),
    ("filters::control_makes_threads", control_makes_threads),
    ("filters::panic_dies_as_a_panic", panic_dies_as_a_panic),
    ("filters::abort_dies_of_sigabrt", abort_dies_of_sigabrt),
];

/// An argument that no call can use.
const BAD: c_long = -1;

/// Runs `action` in a fork under the role's filter; its result becomes the exit code.
fn under(role: Role, action: impl FnOnce() -> c_int) -> Exit {
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match role.install() {
            Ok(()) => action(),
            Err(_) => 250,
        };
        // SAFETY: takes no memory and does not return.
        unsafe { libc::_exit(code) };
    }
    let pidfd = sandbox::pidfd::open(pid).unwrap();
    sandbox::pidfd::wait(&pidfd).unwrap()
}

/// Makes a call; 0 or its error.
fn call(number: c_long, args: [c_long; 6]) -> c_int {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the arguments are useless on purpose: every address is one that the kernel refuses.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

fn killed(exit: Exit) -> bool {
    matches!(exit, Exit::Signal { number: libc::SIGSYS, .. })
}

/// Arguments that pass one set of tests, all others bad.
fn passing(all: &[Argument]) -> [c_long; 6] {
    let mut args = [BAD; 6];
    for argument in all {
        args[usize::from(argument.index)] = match argument.condition {
            Condition::Is(value) => value.into(),
            Condition::Masked { mask, value } => (!mask | value).into(),
        };
    }
    args
}

/// Whether one set of the rule's tests accepts these arguments.
fn accepted(rule: &Rule, args: &[c_long; 6]) -> bool {
    let passes = |argument: &Argument| {
        let low = args[usize::from(argument.index)].cast_unsigned() & u64::from(u32::MAX);
        match argument.condition {
            Condition::Is(wanted) => low == u64::from(wanted),
            Condition::Masked { mask, value: wanted } => low & u64::from(mask) == u64::from(wanted),
        }
    };
    rule.any.iter().any(|all| all.iter().all(passes))
}

/// For each tested argument a value that no set of the rule accepts, the others passing.
fn failing(rule: &Rule) -> Vec<[c_long; 6]> {
    let mut cases = Vec::new();
    for all in rule.any {
        for argument in *all {
            let mut args = passing(all);
            args[usize::from(argument.index)] = match argument.condition {
                Condition::Is(_) => 0x7ead_beef,
                // Each bit of the mask by itself makes it wrong; the lowest and the highest stand for them.
                Condition::Masked { mask, value } => (value ^ (1 << mask.trailing_zeros())).into(),
            };
            cases.push(args);
            if let Condition::Masked { mask, value } = argument.condition {
                args[usize::from(argument.index)] = (value ^ (1 << mask.ilog2())).into();
                cases.push(args);
            }
        }
    }
    cases.retain(|args| !accepted(rule, args));
    cases
}

fn leaves() -> impl Iterator<Item = Role> {
    Role::ALL.into_iter().filter(|role| role.otherwise() == Otherwise::Kill)
}

fn allowed_calls_are_made() -> Outcome {
    // They do not return, or (clone) would start a thread on a bad stack; other tests make them.
    const ELSEWHERE: [c_long; 4] = [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn, libc::SYS_clone];
    for role in leaves() {
        for rule in role.rules().filter(|rule| rule.verdict == Verdict::Allow && !ELSEWHERE.contains(&rule.number)) {
            let sets: &[&[Argument]] = if rule.any.is_empty() { &[&[]] } else { rule.any };
            for all in sets {
                let args = passing(all);
                let exit = under(role, || call(rule.number, args));
                assert!(matches!(exit, Exit::Code(..134)), "{} {rule} {args:?}: {exit}", role.name());
            }
        }
    }
    Outcome::Passed
}

fn wrong_arguments_kill() -> Outcome {
    let mut cases = 0;
    for role in leaves() {
        for rule in role.rules().filter(|rule| rule.verdict == Verdict::Allow) {
            for args in failing(rule) {
                let exit = under(role, || call(rule.number, args));
                assert!(killed(exit), "{} {rule} {args:x?}: {exit}", role.name());
                cases += 1;
            }
        }
    }
    assert!(cases > 20, "only {cases} cases");
    Outcome::Passed
}

/// Calls that no leaf may make.
#[rustfmt::skip]
const FORBIDDEN: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root,
    libc::SYS_chroot, libc::SYS_unshare, libc::SYS_setns, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_reboot, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter,
    libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_setuid, libc::SYS_setresuid, libc::SYS_setgroups,
    libc::SYS_capset, libc::SYS_personality, libc::SYS_memfd_create, libc::SYS_swapon, libc::SYS_settimeofday,
    libc::SYS_clock_settime, libc::SYS_mknodat, libc::SYS_fanotify_init, libc::SYS_bind, libc::SYS_open_by_handle_at,
    libc::SYS_seccomp, libc::SYS_pidfd_getfd, libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen,
    libc::SYS_mount_setattr, libc::SYS_openat2, libc::SYS_linkat, libc::SYS_fchownat, libc::SYS_sethostname, libc::SYS_acct,
    libc::SYS_prlimit64, libc::SYS_process_madvise, libc::SYS_accept, libc::SYS_shmget, libc::SYS_mq_open, libc::SYS_sync,
];

#[cfg(target_arch = "x86_64")]
const FORBIDDEN_ARCH: &[c_long] =
    &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_ARCH: &[c_long] = &[];

/// Calls that would reach another process: control speaks over what the launcher handed to it.
const FORBIDDEN_TO_CONTROL: &[c_long] =
    &[libc::SYS_kill, libc::SYS_pidfd_send_signal, libc::SYS_socket, libc::SYS_connect];

/// Calls that only control may make.
const FORBIDDEN_TO_SUPERVISOR: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_mkdirat,
    libc::SYS_renameat2,
    libc::SYS_getdents64,
    libc::SYS_fchmod,
    libc::SYS_flock,
];

const GATEWAY: [Role; 4] = [Role::GatewayAcceptor, Role::GatewayWorker, Role::GatewayPolkit, Role::GatewayMockHost];

/// Calls that no process of a gateway's but its launcher may make.
const FORBIDDEN_TO_GATEWAY: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_sendmmsg,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
];

fn unlisted_calls_kill() -> Outcome {
    let everywhere = || FORBIDDEN.iter().chain(FORBIDDEN_ARCH);
    for (role, number) in
        GATEWAY.iter().flat_map(|role| everywhere().chain(FORBIDDEN_TO_GATEWAY).map(move |n| (*role, *n)))
    {
        let exit = under(role, || call(number, [BAD; 6]));
        assert!(killed(exit), "{}, call {number}: {exit}", role.name());
    }
    let control = everywhere().chain(FORBIDDEN_TO_CONTROL).map(|&call| (Role::Control, call));
    let supervisor = everywhere().chain(FORBIDDEN_TO_SUPERVISOR).map(|&call| (Role::Supervisor, call));
    for (role, number) in control.chain(supervisor) {
        let exit = under(role, || call(number, [BAD; 6]));
        assert!(killed(exit), "{}, call {number}: {exit}", role.name());
    }
    Outcome::Passed
}

/// What a taken-over process would try with a socket of its uid's: the bus, an agent, a daemon's.
fn reach_no_socket() -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let (stream, datagram) = (dir.path().join("stream"), dir.path().join("datagram"));
    let listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    let mailbox = std::os::unix::net::UnixDatagram::bind(&datagram).unwrap();
    listener.set_nonblocking(true).unwrap();
    mailbox.set_nonblocking(true).unwrap();
    let error = |error: std::io::Error| error.raw_os_error().unwrap_or(249);
    for role in GATEWAY {
        let connects = || std::os::unix::net::UnixStream::connect(&stream).map_or_else(error, |_| 0);
        assert!(killed(under(role, connects)), "{} connects", role.name());
        // Without a socket call: from a pair of its own, if it may make one.
        let sends = || {
            let pair = std::os::unix::net::UnixDatagram::pair();
            pair.and_then(|(one, _)| one.send_to(b"x", &datagram)).map_or_else(error, |_| 0)
        };
        assert!(killed(under(role, sends)), "{} sends", role.name());
        if matches!(role, Role::GatewayPolkit | Role::GatewayWorker) {
            let pairs = || std::os::unix::net::UnixStream::pair().map_or_else(error, |_| 0);
            assert!(killed(under(role, pairs)), "{} makes a pair", role.name());
            continue;
        }
        let address = rustix::net::SocketAddrUnix::new(&datagram).unwrap();
        let sends = || {
            let Ok((one, _other)) = std::os::unix::net::UnixStream::pair() else { return 248 };
            let sent = rustix::net::sendto(&one, b"x", rustix::net::SendFlags::NOSIGNAL, &address);
            sent.map_or_else(|errno| errno.raw_os_error(), |_| 0)
        };
        assert_eq!(under(role, sends), Exit::Code(libc::EISCONN), "{}: a stream goes where it goes", role.name());
    }
    assert!(listener.accept().is_err() && mailbox.recv(&mut [0]).is_err(), "something came");
    Outcome::Passed
}

fn refused_calls_fail_with_their_error() -> Outcome {
    for role in Role::ALL {
        for rule in role.rules() {
            let Verdict::Errno(errno) = rule.verdict else { continue };
            let sets: &[&[Argument]] = if rule.any.is_empty() { &[&[]] } else { rule.any };
            for all in sets {
                let exit = under(role, || call(rule.number, passing(all)));
                assert_eq!(exit, Exit::Code(errno), "{} {rule}", role.name());
            }
        }
    }
    Outcome::Passed
}

const QEMUS: [Role; 2] = [Role::QemuKvm, Role::QemuTcg];

fn qemu_makes_threads_and_no_child() -> Outcome {
    for role in QEMUS {
        let exit =
            under(role, || c_int::from(std::thread::spawn(|| vec![1; 1 << 20].len()).join().ok() != Some(1 << 20)));
        assert_eq!(exit, Exit::Code(0), "{}", role.name());
        let exit = under(role, || {
            // SAFETY: this process has one thread; a child would end at once.
            match unsafe { libc::fork() } {
                // SAFETY: takes no memory and does not return.
                0 => unsafe { libc::_exit(0) },
                _ => 0,
            }
        });
        assert!(killed(exit), "{}: {exit}", role.name());
    }
    Outcome::Passed
}

fn only_the_code_generator_executes_what_it_writes() -> Outcome {
    let both = c_long::from(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    let anonymous = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let map = || call(libc::SYS_mmap, [0, 4096, both, anonymous, BAD, 0]);
    assert!(killed(under(Role::QemuKvm, map)));
    assert_eq!(under(Role::QemuTcg, map), Exit::Code(0));
    Outcome::Passed
}

fn qemu_is_told_that_newer_calls_do_not_exist() -> Outcome {
    for role in QEMUS {
        for number in [449, 462, 600, 100_000] {
            assert_eq!(under(role, || call(number, [BAD; 6])), Exit::Code(libc::ENOSYS), "{}, {number}", role.name());
        }
        assert!(killed(under(role, || call(BAD, [BAD; 6]))), "{}", role.name());
    }
    Outcome::Passed
}

/// What somebody who has taken a process over would try next.
fn attacks() -> Vec<(&'static str, c_long, [c_long; 6])> {
    let socket = |name, family: c_int, kind: c_int| (name, libc::SYS_socket, [family.into(), kind.into(), 0, 0, 0, 0]);
    let clone = |name, flag: c_int| (name, libc::SYS_clone, [c_long::from(flag | libc::SIGCHLD), 0, 0, 0, 0, 0]);
    let plain = |name, number| (name, number, [0; 6]);
    let parent = c_long::from(std::os::unix::process::parent_id().cast_signed());
    vec![
        socket("socket of IPv4", libc::AF_INET, libc::SOCK_STREAM),
        socket("socket of IPv6", libc::AF_INET6, libc::SOCK_DGRAM),
        socket("socket to the hypervisor", libc::AF_VSOCK, libc::SOCK_STREAM),
        socket("socket to the kernel", libc::AF_NETLINK, libc::SOCK_RAW),
        socket("socket of raw packets", libc::AF_PACKET, libc::SOCK_RAW),
        socket("socket of the kernel's ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET),
        plain("inotify_init1", libc::SYS_inotify_init1),
        plain("fanotify_init", libc::SYS_fanotify_init),
        plain("userfaultfd", libc::SYS_userfaultfd),
        plain("perf_event_open", libc::SYS_perf_event_open),
        plain("bpf", libc::SYS_bpf),
        plain("keyctl", libc::SYS_keyctl),
        plain("add_key", libc::SYS_add_key),
        ("ptrace", libc::SYS_ptrace, [c_long::from(libc::PTRACE_SEIZE), parent, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [parent, 0, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [8, 0, 0, 0, 0, 0]),
        plain("mount", libc::SYS_mount),
        plain("umount2", libc::SYS_umount2),
        plain("open_tree", libc::SYS_open_tree),
        plain("move_mount", libc::SYS_move_mount),
        plain("fsopen", libc::SYS_fsopen),
        plain("mount_setattr", libc::SYS_mount_setattr),
        plain("pivot_root", libc::SYS_pivot_root),
        plain("chroot", libc::SYS_chroot),
        plain("setns", libc::SYS_setns),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]),
        clone("clone with a user namespace", libc::CLONE_NEWUSER),
        clone("clone with a mount namespace", libc::CLONE_NEWNS),
        clone("clone with a network namespace", libc::CLONE_NEWNET),
        clone("clone with a pid namespace", libc::CLONE_NEWPID),
        plain("clone3", libc::SYS_clone3),
        plain("kexec_load", libc::SYS_kexec_load),
        plain("init_module", libc::SYS_init_module),
        plain("reboot", libc::SYS_reboot),
        plain("setuid", libc::SYS_setuid),
        plain("mknodat", libc::SYS_mknodat),
        plain("open_by_handle_at", libc::SYS_open_by_handle_at),
        plain("personality", libc::SYS_personality),
        plain("process_madvise", libc::SYS_process_madvise),
        plain("memfd_secret", libc::SYS_memfd_secret),
        plain("bind", libc::SYS_bind),
        plain("shmget", libc::SYS_shmget),
        plain("splice", libc::SYS_splice),
    ]
}

fn attacks_die_or_fail_for_every_leaf() -> Outcome {
    for role in leaves() {
        for (name, number, args) in attacks() {
            let exit = under(role, || call(number, args));
            let refused = matches!(exit, Exit::Code(libc::EPERM | libc::EACCES | libc::ENOSYS));
            assert!(killed(exit) || refused, "{}, {name}: {exit}", role.name());
        }
    }
    Outcome::Passed
}

fn qemu_has_no_socket_but_those_that_it_was_handed() -> Outcome {
    for role in QEMUS {
        let socket = || call(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0]);
        assert_eq!(under(role, socket), Exit::Code(libc::EACCES), "{}", role.name());
        for number in [libc::SYS_connect, libc::SYS_socketpair, libc::SYS_listen, libc::SYS_accept4] {
            assert!(killed(under(role, || call(number, [BAD; 6]))), "{}, {number}", role.name());
        }
    }
    Outcome::Passed
}

#[cfg(target_arch = "x86_64")]
fn x32_numbers_are_no_way_around() -> Outcome {
    const X32: c_long = 0x4000_0000;
    for role in Role::ALL {
        let exit = under(role, || call(X32 | libc::SYS_mount, [BAD; 6]));
        match role.otherwise() {
            Otherwise::Kill => assert!(killed(exit), "{}: {exit}", role.name()),
            Otherwise::Allow => assert_eq!(exit, Exit::Code(libc::ENOSYS), "{}", role.name()),
        }
    }
    Outcome::Passed
}

#[cfg(not(target_arch = "x86_64"))]
fn x32_numbers_are_no_way_around() -> Outcome {
    Outcome::Skipped("only x86-64 has x32 numbers")
}

fn control_makes_threads() -> Outcome {
    let exit = under(Role::Control, || {
        let threads: Vec<_> = (0..4).map(|number| std::thread::spawn(move || vec![number; 1 << 20].len())).collect();
        let total: usize = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
        c_int::from(total != 4 << 20)
    });
    assert_eq!(exit, Exit::Code(0));
    Outcome::Passed
}

/// Each role, with and without the backtrace that an environment may ask for.
fn deaths() -> BTreeSet<(&'static str, &'static str)> {
    Role::ALL.into_iter().flat_map(|role| [(role.name(), "0"), (role.name(), "1")]).collect()
}

fn panic_dies_as_a_panic() -> Outcome {
    for (role, backtrace) in deaths() {
        let (text, exit) = output(myself(&["die", role, "panic"]).env("RUST_BACKTRACE", backtrace));
        assert!(text.contains("last words"), "{role}: {text}");
        assert_eq!(exit, Exit::Code(101), "{role}, backtrace {backtrace}: {text}");
    }
    Outcome::Passed
}

fn abort_dies_of_sigabrt() -> Outcome {
    for (role, backtrace) in deaths() {
        let (text, exit) = output(myself(&["die", role, "abort"]).env("RUST_BACKTRACE", backtrace));
        assert!(text.contains("last words"), "{role}: {text}");
        assert!(
            matches!(exit, Exit::Signal { number: libc::SIGABRT, .. }),
            "{role}, backtrace {backtrace}: {exit} {text}"
        );
    }
    Outcome::Passed
}

/// The mode `die ROLE HOW`: a panic under the role's filter, unwinding or where it can't unwind.
pub fn die(args: &[String]) -> ! {
    extern "C" fn cannot_unwind() {
        panic!("last words");
    }
    let role = Role::ALL.into_iter().find(|role| role.name() == args[2]).unwrap();
    role.install().unwrap();
    match args[3].as_str() {
        "abort" => cannot_unwind(),
        _ => panic!("last words"),
    }
    unreachable!("both ways end the process")
}
