//! Descriptors for a QEMU that runs: checked here, handed over its monitor's socket, and taken back by name.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
};

use sandbox::fd::check::{self, Access, CheckError};
use serde_json::{Value, json};
use supervisor::{
    protocol::{
        Answer, Attach, Attached, Failure, MAX_ATTACHED_FDS, MAX_ATTACHMENT_NAME, MAX_ATTACHMENTS,
        qemu::{AttachSpec, FileKind, FileSpec, Place},
    },
    wire::Ticket,
};

use super::{Guest, Tag};

/// The number of the first set that is attached; control numbers those of the argument vector from 0.
const FIRST_SET: u32 = 1 << 16;

/// Something that is attached, or on its way.
#[derive(Debug)]
struct Attachment {
    /// The number of its set; none when it goes by its name.
    set: Option<u32>,
    /// Where the answer goes, while it is on its way.
    ticket: Option<Ticket>,
    /// How many descriptors QEMU has not taken yet.
    left: usize,
}

/// What is attached to one QEMU.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_name: BTreeMap<String, Attachment>,
    /// Descriptors to be handed over. QEMU keeps only the newest that came until a command takes it, so one goes at a time.
    queue: VecDeque<(String, OwnedFd)>,
    /// Whose descriptor is being handed over.
    current: Option<String>,
    sets: u32,
}

impl Attachments {
    /// The number of a set that is not in use. There are far more numbers than attachments.
    fn free_set(&mut self) -> u32 {
        loop {
            self.sets = (self.sets + 1) % FIRST_SET;
            let set = FIRST_SET + self.sets;
            if self.by_name.values().all(|attachment| attachment.set != Some(set)) {
                return set;
            }
        }
    }
}

fn check_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name.len() <= MAX_ATTACHMENT_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && name.bytes().all(allowed)
}

fn check_file(fd: &OwnedFd, spec: FileSpec) -> Result<(), CheckError> {
    let access = if spec.writable { Access::ReadWrite } else { Access::Read };
    match spec.kind {
        FileKind::Disk => check::regular_or_block(fd.as_fd(), access).map(drop),
        FileKind::Character => check::character_device(fd.as_fd(), access),
        FileKind::Socket => check::unix_stream(fd.as_fd()),
    }
}

/// Checks everything about an attachment that does not depend on what is attached already.
fn read(attach: &Attach, fds: &[OwnedFd]) -> Result<AttachSpec, Failure> {
    let bad = |why: String| Failure::BadRequest(why);
    if !check_name(&attach.name) {
        return Err(bad("an attachment's name is a letter, then letters, digits, '.', '-', '_'".to_owned()));
    }
    let spec: AttachSpec = attach.spec.read().map_err(|error| bad(error.to_string()))?;
    let most = if spec.place == Place::Named { 1 } else { MAX_ATTACHED_FDS };
    if spec.files.len() != fds.len() || fds.is_empty() || fds.len() > most {
        let (announced, came) = (spec.files.len(), fds.len());
        return Err(bad(format!("{announced} descriptors are announced, {came} came, {most} are the most")));
    }
    for (number, (fd, file)) in fds.iter().zip(&spec.files).enumerate() {
        check_file(fd, *file).map_err(|error| bad(format!("descriptor {number}: {error}")))?;
    }
    Ok(spec)
}

impl Guest {
    pub(super) fn attach(&mut self, ticket: Ticket, attach: Attach, fds: Vec<OwnedFd>) {
        if !self.lives() {
            return self.refuse(ticket);
        }
        let spec = match read(&attach, &fds) {
            Ok(spec) => spec,
            Err(failure) => return self.wire.answer(ticket, Err(failure), Vec::new()),
        };
        let attachments = &mut self.attachments;
        if attachments.by_name.contains_key(&attach.name) {
            return self.wire.answer(ticket, Err(Failure::AttachedAlready(attach.name)), Vec::new());
        }
        if attachments.by_name.len() >= MAX_ATTACHMENTS {
            let most = u32::try_from(MAX_ATTACHMENTS).unwrap_or(u32::MAX);
            return self.wire.answer(ticket, Err(Failure::Busy(most)), Vec::new());
        }
        let set = (spec.place == Place::Set).then(|| attachments.free_set());
        attachments.queue.extend(fds.into_iter().map(|fd| (attach.name.clone(), fd)));
        let left = spec.files.len();
        attachments.by_name.insert(attach.name, Attachment { set, ticket: Some(ticket), left });
        self.hand_over();
    }

    /// Hands over the next descriptor, if none is on its way.
    fn hand_over(&mut self) {
        while self.attachments.current.is_none() {
            let Some((name, fd)) = self.attachments.queue.pop_front() else { return };
            let Some(attachment) = self.attachments.by_name.get(&name) else { continue };
            let (command, arguments) = match attachment.set {
                Some(set) => ("add-fd", json!({"fdset-id": set, "opaque": name})),
                None => ("getfd", json!({"fdname": name})),
            };
            self.attachments.current = Some(name);
            self.ask_with(command, arguments, fd, Tag::HandOver);
        }
    }

    /// QEMU has taken the descriptor.
    pub(super) fn handed_over(&mut self) {
        let Some(name) = self.attachments.current.take() else { return };
        if let Some(attachment) = self.attachments.by_name.get_mut(&name) {
            attachment.left = attachment.left.saturating_sub(1);
            if attachment.left == 0
                && let Some(ticket) = attachment.ticket.take()
            {
                let reference = attachment.set.map_or(name, |set| format!("/dev/fdset/{set}"));
                self.wire.answer(ticket, Ok(Answer::Attached(Attached { reference })), Vec::new());
            }
        }
        self.hand_over();
    }

    /// QEMU has not: what it has of that attachment, or takes late, is taken back.
    pub(super) fn not_handed_over(&mut self, failure: Failure) {
        let Some(name) = self.attachments.current.take() else { return };
        self.attachments.queue.retain(|(other, _)| *other != name);
        if let Some(attachment) = self.attachments.by_name.remove(&name) {
            let (command, arguments) = removal(&name, attachment.set);
            self.ask(command, Some(arguments), Tag::Cleanup);
            if let Some(ticket) = attachment.ticket {
                self.wire.answer(ticket, Err(failure), Vec::new());
            }
        }
        self.hand_over();
    }

    pub(super) fn detach(&mut self, ticket: Ticket, name: &str) {
        if !self.lives() {
            return self.refuse(ticket);
        }
        match self.attachments.by_name.get(name) {
            Some(attachment) if attachment.ticket.is_none() => {
                let (command, arguments) = removal(name, attachment.set);
                let named = attachment.set.is_none();
                self.attachments.by_name.remove(name);
                self.ask(command, Some(arguments), Tag::Detach(ticket, named));
            }
            _ => {
                let name = name.chars().take(MAX_ATTACHMENT_NAME).collect();
                self.wire.answer(ticket, Err(Failure::NotAttached(name)), Vec::new());
            }
        }
    }

    /// QEMU is gone: nothing is attached to it any more.
    pub(super) fn end_attachments(&mut self, failure: &Failure) {
        let attachments = std::mem::take(&mut self.attachments);
        for ticket in attachments.by_name.into_values().filter_map(|attachment| attachment.ticket) {
            self.wire.answer(ticket, Err(failure.clone()), Vec::new());
        }
    }
}

fn removal(name: &str, set: Option<u32>) -> (&'static str, Value) {
    match set {
        Some(set) => ("remove-fd", json!({"fdset-id": set})),
        None => ("closefd", json!({"fdname": name})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::net::UnixStream};
    use supervisor::protocol::Payload;

    fn attach(name: &str, place: Place, files: &[(FileKind, bool)]) -> Attach {
        let files = files.iter().map(|(kind, writable)| FileSpec { kind: *kind, writable: *writable }).collect();
        Attach { name: name.into(), spec: Payload::new(&AttachSpec { place, files }).unwrap() }
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "disk-vda", "net0.tap_1", &"x".repeat(MAX_ATTACHMENT_NAME)] {
            assert!(check_name(good), "{good}");
        }
        for bad in ["", "0a", "-a", "a b", "a/b", "a\0", "é", &"x".repeat(MAX_ATTACHMENT_NAME + 1)] {
            assert!(!check_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_descriptor_must_be_what_is_said() {
        use FileKind::*;
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
        let readable = || OwnedFd::from(File::open("/proc/self/exe").unwrap());
        let check = |kind, writable, fd: OwnedFd| read(&attach("a", Place::Set, &[(kind, writable)]), &[fd]).is_ok();
        assert!(check(Disk, true, file()) && check(Character, false, null()) && check(Socket, true, socket()));
        assert!(!check(Disk, true, readable()) && check(Disk, false, readable()));
        assert!(!check(Character, true, null()));
        for fd in [null(), socket()] {
            assert!(!check(Disk, false, fd));
        }
        assert!(!check(Socket, true, file()) && !check(Character, false, socket()));
    }

    #[test]
    fn the_number_of_descriptors_must_be_what_is_said() {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let files = |count| vec![(FileKind::Disk, true); count];
        let fds = |count| (0..count).map(|_| file()).collect::<Vec<_>>();
        assert!(read(&attach("a", Place::Set, &files(2)), &fds(2)).is_ok());
        for (place, announced, came) in
            [(Place::Set, 0, 0), (Place::Set, 1, 2), (Place::Set, 2, 1), (Place::Set, 9, 9), (Place::Named, 2, 2)]
        {
            assert!(read(&attach("a", place, &files(announced)), &fds(came)).is_err(), "{announced} {came}");
        }
    }
}
