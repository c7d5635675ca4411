//! A guest's console: its last output, any number of readers, and one writer.
//!
//! The guest's side is always drained, so a guest never waits because nobody reads its console. Each client has a socket of
//! its own and its own place in the output; one that is too slow loses the oldest bytes, and costs nobody else anything.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use thiserror::Error;

use crate::poll::{Interest, Ready};

/// How much of a console's output is kept.
pub const RING: usize = 128 << 10;
/// How many clients may read one console.
pub const MAX_CLIENTS: u8 = 16;
/// How much is read from the guest at once.
const CHUNK: usize = 16 << 10;
/// How much of the writer's input waits for the guest before the writer waits.
const INPUT_MAX: usize = 4 << 10;

/// Why a client can't be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Somebody else writes.
    #[error("another client writes to the console")]
    Busy,
    /// There are [`MAX_CLIENTS`] already.
    #[error("the console has its limit of {MAX_CLIENTS} clients")]
    Full,
    /// The guest has closed the console.
    #[error("the console is closed")]
    Closed,
    /// There is no socket for it.
    #[error("cannot make a socket for the client")]
    Socket(#[source] io::Error),
}

/// One end of what a console waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The guest.
    Guest,
    /// The client with this number; no number is used twice.
    Client(u32),
}

/// The newest bytes of an endless stream. Memory grows only as it is used.
#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How many bytes came before the oldest that is kept.
    dropped: u64,
}

impl Ring {
    fn end(&self) -> u64 {
        self.dropped + self.bytes.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.get(bytes.len().saturating_sub(RING)..).unwrap_or_default();
        let excess = (self.bytes.len() + kept.len()).saturating_sub(RING);
        self.bytes.drain(..excess);
        self.dropped += (excess + bytes.len() - kept.len()) as u64;
        let wanted = self.bytes.len() + kept.len();
        if self.bytes.capacity() < wanted {
            // Not left to the collection: the last doubling would be to twice the limit.
            let capacity = wanted.next_power_of_two().min(RING);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend(kept);
    }

    /// The bytes from `cursor` on that lie together; the cursor moves on when what it pointed to is gone.
    fn from(&self, cursor: &mut u64) -> &[u8] {
        *cursor = (*cursor).max(self.dropped);
        let at = usize::try_from(*cursor - self.dropped).unwrap_or(usize::MAX);
        let (older, newer) = self.bytes.as_slices();
        match older.get(at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => newer.get(at.saturating_sub(older.len())..).unwrap_or_default(),
        }
    }
}

#[derive(Debug)]
struct Client {
    id: u32,
    socket: UnixStream,
    /// What it has read of the output.
    cursor: u64,
    writes: bool,
    /// Its socket took nothing more; the poll tells when it does again.
    blocked: bool,
}

/// One console. See the module's page.
#[derive(Debug)]
pub struct Console {
    guest: Option<UnixStream>,
    ring: Ring,
    input: VecDeque<u8>,
    clients: Vec<Client>,
    next_id: u32,
}

impl Console {
    /// A console over the supervisor's end of the guest's socket.
    #[must_use]
    pub fn new(guest: UnixStream) -> Console {
        Console { guest: Some(guest), ring: Ring::default(), input: VecDeque::new(), clients: Vec::new(), next_id: 0 }
    }

    /// Attaches a client and returns its end of the stream: first what is kept of the output, then what comes.
    ///
    /// # Errors
    /// When another client writes and `force` is not given, or there is no room.
    pub fn attach(&mut self, read_only: bool, force: bool) -> Result<OwnedFd, AttachError> {
        if self.guest.is_none() {
            return Err(AttachError::Closed);
        }
        let present = self.clients.iter().position(|client| client.writes);
        match present {
            Some(_) if !read_only && !force => return Err(AttachError::Busy),
            Some(at) if !read_only => drop(self.clients.remove(at)),
            _ if self.clients.len() >= usize::from(MAX_CLIENTS) => return Err(AttachError::Full),
            _ => {}
        }
        let (ours, theirs) = UnixStream::pair().map_err(AttachError::Socket)?;
        let mut client = Client { id: self.next_id, socket: ours, cursor: 0, writes: !read_only, blocked: false };
        self.next_id = self.next_id.wrapping_add(1);
        if client.catch_up(&self.ring) {
            self.clients.push(client);
        }
        Ok(theirs.into())
    }

    /// Names everything that the console waits for.
    pub fn sources(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>, Interest)> {
        let guest = self
            .guest
            .as_ref()
            .map(|guest| (Part::Guest, guest.as_fd(), Interest { read: true, write: !self.input.is_empty() }));
        let clients = self.clients.iter().map(|client| {
            // A client that only reads is never read from: its socket fills, and it waits.
            let read = client.writes && self.input.len() < INPUT_MAX;
            (Part::Client(client.id), client.socket.as_fd(), Interest { read, write: client.blocked })
        });
        guest.into_iter().chain(clients)
    }

    /// Does what a source has become ready for.
    pub fn ready(&mut self, part: Part, ready: Ready) {
        match part {
            Part::Guest => {
                if ready.write {
                    self.send_input();
                }
                if ready.read {
                    self.read_output();
                }
            }
            Part::Client(id) => self.client_ready(id, ready),
        }
    }

    /// The guest has ended: takes what it has left, gives the clients what their sockets take, and closes everything.
    pub fn finish(&mut self) {
        // What a socket can hold is less than this many chunks.
        for _ in 0..256 {
            if !self.read_output() {
                break;
            }
        }
        self.guest = None;
        self.clients.clear();
    }

    /// Reads once from the guest; false when there was nothing.
    fn read_output(&mut self) -> bool {
        let Some(guest) = &self.guest else { return false };
        let mut chunk = [0; CHUNK];
        match rustix::net::recv(guest, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, count)) if count > 0 => {
                self.ring.push(chunk.get(..count).unwrap_or_default());
                let ring = &self.ring;
                self.clients.retain_mut(|client| client.blocked || client.catch_up(ring));
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // The guest has closed it; the clients see the end.
            Ok(_) | Err(_) => {
                self.guest = None;
                self.clients.clear();
                false
            }
        }
    }

    fn send_input(&mut self) {
        let Some(guest) = &self.guest else { return };
        while !self.input.is_empty() {
            match rustix::net::send(guest, self.input.as_slices().0, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(Errno::INTR) => {}
                // That the guest is gone is noticed by reading.
                Err(_) => return,
            }
        }
    }

    fn client_ready(&mut self, id: u32, ready: Ready) {
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let Some(client) = self.clients.get_mut(at) else { return };
        let mut heard = false;
        if ready.read && client.writes && self.input.len() < INPUT_MAX {
            let mut chunk = [0; INPUT_MAX];
            match rustix::net::recv(&client.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => {
                    self.input.extend(chunk.get(..count).unwrap_or_default());
                    heard = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // It will write no more, and may go on reading.
                Ok(_) | Err(_) => client.writes = false,
            }
        }
        // The last words of a client that left are taken as far as the guest takes them.
        let stays = if ready.hangup { heard } else { !ready.write || client.catch_up(&self.ring) };
        if !stays {
            self.clients.remove(at);
        }
        self.send_input();
    }
}

impl Client {
    /// Sends what it has not had; false when it is gone.
    fn catch_up(&mut self, ring: &Ring) -> bool {
        self.blocked = false;
        loop {
            let bytes = ring.from(&mut self.cursor);
            if bytes.is_empty() {
                debug_assert_eq!(self.cursor, ring.end());
                return true;
            }
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.cursor += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.blocked = true;
                    return true;
                }
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn console() -> (Console, UnixStream) {
        let (ours, guest) = UnixStream::pair().unwrap();
        (Console::new(ours), guest)
    }

    fn attach(console: &mut Console, read_only: bool, force: bool) -> UnixStream {
        let stream = UnixStream::from(console.attach(read_only, force).unwrap());
        stream.set_nonblocking(true).unwrap();
        stream
    }

    const READABLE: Ready = Ready { key: 0, read: true, write: false, hangup: false };
    const WRITABLE: Ready = Ready { key: 0, read: false, write: true, hangup: false };

    fn say(console: &mut Console, guest: &mut UnixStream, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            guest.write_all(chunk).unwrap();
            console.ready(Part::Guest, READABLE);
        }
    }

    /// Everything that waits in the socket; true when its end has been reached.
    fn take(stream: &mut UnixStream) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).is_ok();
        (bytes, end)
    }

    #[test]
    fn a_reader_gets_what_was_said_before_and_what_comes() {
        let (mut console, mut guest) = console();
        say(&mut console, &mut guest, b"login: ");
        let mut reader = attach(&mut console, true, false);
        assert_eq!(take(&mut reader).0, b"login: ");
        say(&mut console, &mut guest, b"root");
        assert_eq!(take(&mut reader), (b"root".to_vec(), false));
        console.finish();
        assert!(take(&mut reader).1);
    }

    #[test]
    fn the_writer_is_one_and_a_forced_one_takes_its_place() {
        let (mut console, mut guest) = console();
        let mut first = attach(&mut console, false, false);
        assert!(matches!(console.attach(false, false), Err(AttachError::Busy)));
        let mut second = attach(&mut console, false, true);
        assert!(take(&mut first).1, "the first one sees the end");
        second.write_all(b"ls\n").unwrap();
        console.ready(Part::Client(1), READABLE);
        let mut got = [0; 3];
        guest.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ls\n");
    }

    #[test]
    fn a_writer_that_stops_writing_goes_on_reading_and_frees_the_place() {
        let (mut console, mut guest) = console();
        let mut first = attach(&mut console, false, false);
        first.write_all(b"x").unwrap();
        first.shutdown(std::net::Shutdown::Write).unwrap();
        console.ready(Part::Client(0), READABLE);
        console.ready(Part::Client(0), READABLE);
        attach(&mut console, false, false);
        say(&mut console, &mut guest, b"still here");
        assert_eq!(take(&mut first).0, b"still here");
    }

    #[test]
    fn the_last_words_of_a_writer_that_left_reach_the_guest() {
        let (mut console, mut guest) = console();
        let mut writer = attach(&mut console, false, false);
        writer.write_all(b"halt\n").unwrap();
        drop(writer);
        let gone = Ready { key: 0, read: true, write: false, hangup: true };
        console.ready(Part::Client(0), gone);
        console.ready(Part::Client(0), gone);
        assert!(console.clients.is_empty());
        let mut got = [0; 5];
        guest.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"halt\n");
    }

    #[test]
    fn the_number_of_clients_is_limited() {
        let (mut console, _guest) = console();
        let readers: Vec<_> = (0..MAX_CLIENTS).map(|_| attach(&mut console, true, false)).collect();
        assert!(matches!(console.attach(true, false), Err(AttachError::Full)));
        drop(readers);
        console.ready(Part::Client(3), Ready { key: 0, read: true, write: false, hangup: true });
        attach(&mut console, true, false);
    }

    #[test]
    fn a_flood_keeps_memory_flat_and_a_slow_reader_gets_the_newest() {
        let (mut console, mut guest) = console();
        let mut slow = attach(&mut console, true, false);
        let mut fast = attach(&mut console, true, false);
        let block: Vec<u8> = (0..CHUNK).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let blocks = (256usize << 20) / CHUNK;
        let mut fast_got = 0;
        for _ in 0..blocks {
            say(&mut console, &mut guest, &block);
            fast_got += take(&mut fast).0.len();
        }
        assert_eq!(fast_got, blocks * CHUNK, "a slow reader costs a fast one nothing");
        assert!(console.ring.bytes.capacity() <= RING);
        assert_eq!(console.ring.end(), (blocks * CHUNK) as u64);
        // Far less than the flood, and its end is the newest output.
        let mut slow_got = Vec::new();
        while console.clients[0].blocked {
            slow_got.extend(take(&mut slow).0);
            console.ready(Part::Client(0), WRITABLE);
        }
        slow_got.extend(take(&mut slow).0);
        assert!(slow_got.len() < 4 << 20);
        assert!(slow_got.ends_with(&block));
    }

    #[test]
    fn the_ring_grows_only_as_it_is_used() {
        let mut ring = Ring::default();
        ring.push(b"short");
        assert!(ring.bytes.capacity() < 1024);
        ring.push(&vec![b'x'; RING - 1]);
        assert_eq!(ring.bytes.len(), RING);
        ring.push(&vec![b'y'; 3 * RING]);
        assert_eq!((ring.bytes.len(), ring.end()), (RING, 5 + RING as u64 - 1 + 3 * RING as u64));
        assert!(ring.bytes.capacity() <= RING);
        let mut cursor = 0;
        assert!(ring.from(&mut cursor).iter().all(|byte| *byte == b'y'));
        assert_eq!(cursor, ring.dropped);
    }

    #[test]
    fn input_that_the_guest_does_not_take_makes_the_writer_wait() {
        let (mut console, guest) = console();
        let mut writer = attach(&mut console, false, false);
        let mut sent = 0;
        // Until the writer's socket is full: nothing is taken from it once the guest takes nothing.
        for _ in 0..10_000 {
            match writer.write(&[b'k'; 1024]) {
                Ok(count) => sent += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
            let waits = console.sources().any(|(part, _, interest)| part == Part::Client(0) && interest.read);
            if waits {
                console.ready(Part::Client(0), READABLE);
            }
        }
        assert!(sent < 10_000 * 1024, "the writer never had to wait");
        assert!(console.input.len() < 2 * INPUT_MAX);
        drop(guest);
    }
}
