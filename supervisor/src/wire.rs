//! The supervisor's end of the control edge.
//!
//! The first control is there from the start; later ones connect to the listener. The newest one that has said hello is
//! the one: it takes the place of the one before. Nothing that a control does, or does not do, holds the supervisor up or
//! ends it: bad messages end the control's connection, and so does a control that does not read what it is told.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use ipc::{ConnError, Hello, edge::Channel, hello::NoCommonVersion};
use rustix::{io::Errno, net::SocketFlags};
use thiserror::Error;

use crate::{
    events::Recorded,
    poll::{Interest, Ready},
    protocol::{
        Answer, Event, Failure, Happening, Job, Message, NOTICES_SINCE, News, Notice, PAYLOADS_SINCE, Request, VERSIONS,
    },
};

/// How much may wait for a control that does not read before it is dropped: every event that is kept, with room to spare.
const BACKLOG_MAX: usize = 4 << 20;
/// How many connections may wait for the supervisor to accept them.
const LISTEN_BACKLOG: i32 = 8;
/// How long the first control may take to say what it wants; it has said so already when all is well.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// Why the control edge can't be set up.
#[derive(Debug, Error)]
pub enum WireError {
    /// The socket for later controls can't listen.
    #[error("cannot listen on the supervisor's socket")]
    Listen(#[source] io::Error),
    /// The first control's socket can't be set up.
    #[error("cannot set up the socket of the first control")]
    Socket(#[source] io::Error),
    /// The first control did not say what it wants.
    #[error("the control that started this supervisor did not say what to do")]
    First(#[source] ConnError),
    /// The first control is of another age.
    #[error("cannot understand the control that started this supervisor")]
    Version(#[source] NoCommonVersion),
    /// The first control asks for something that its own version does not have.
    #[error("the control that started this supervisor asks for what its version does not have")]
    Request,
}

/// Where an answer goes. When the control that asked is gone, nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    control: u64,
    serial: u64,
}

/// A request that has come.
#[derive(Debug)]
pub struct Asked {
    /// Where its answer goes.
    pub ticket: Ticket,
    /// What is asked.
    pub request: Request,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// One of the things that the edge waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The socket for later controls.
    Listener,
    /// The control with this number; no number is used twice.
    Control(u32),
}

#[derive(Debug)]
struct Control {
    number: u32,
    channel: Channel<Message, Request>,
    /// It is told of events: always when it started the guest, otherwise once it has said which one it has last.
    events: bool,
    /// The version that both speak, once it has said hello.
    version: u16,
    /// The number of the last event or notice that it was told of, or has as it says.
    told: u64,
}

/// The edge. See the module's page.
#[derive(Debug)]
pub struct Wire {
    /// None when no control is let in any more.
    listener: Option<OwnedFd>,
    control_uid: u32,
    hello: Hello,
    control: Option<Control>,
    /// The newest connection, which has not said hello yet.
    newcomer: Option<Control>,
    next_number: u32,
    /// The last accept found no descriptor free; the next one waits until something else has happened.
    starved: bool,
}

impl Wire {
    /// Starts to listen, and takes the first control's hello and request. Peers of later connections must be root, of the
    /// supervisor's own uid or of `control_uid`.
    ///
    /// # Errors
    /// When a socket can't be used or the first control did not say what it wants.
    pub fn new(
        program: &str,
        listener: OwnedFd,
        first: UnixStream,
        control_uid: u32,
    ) -> Result<(Wire, Asked), WireError> {
        rustix::net::listen(&listener, LISTEN_BACKLOG).map_err(|errno| WireError::Listen(errno.into()))?;
        // A control that connects and leaves between poll and accept must not make accept wait.
        rustix::io::ioctl_fionbio(&listener, true).map_err(|errno| WireError::Listen(errno.into()))?;
        let hello = Hello::new(program, VERSIONS.0, VERSIONS.1);
        let mut wire = Wire {
            listener: Some(listener),
            control_uid,
            hello,
            control: None,
            newcomer: None,
            next_number: 1,
            starved: false,
        };
        let asked = wire.meet_first(first)?;
        if wire.control.as_ref().is_some_and(|control| asked.request.since() > control.version) {
            wire.answer(asked.ticket, Err(not_agreed()), Vec::new());
            return Err(WireError::Request);
        }
        Ok((wire, asked))
    }

    fn meet_first(&mut self, socket: UnixStream) -> Result<Asked, WireError> {
        socket.set_read_timeout(Some(FIRST_WORD)).map_err(WireError::Socket)?;
        let mut control = Control { number: 0, channel: Channel::new(socket), events: true, version: 0, told: 0 };
        let theirs = control.channel.recv_hello().map_err(WireError::First)?;
        control.channel.queue_hello(&self.hello).map_err(WireError::First)?;
        let agreed = self.hello.agree(&theirs);
        let sent = control.channel.flush();
        control.version = agreed.map_err(WireError::Version)?;
        sent.map_err(WireError::First)?;
        let message = control.channel.recv().map_err(WireError::First)?;
        control.channel.conn().socket().set_nonblocking(true).map_err(WireError::Socket)?;
        self.control = Some(control);
        let ticket = Ticket { control: 0, serial: message.serial };
        Ok(Asked { ticket, request: message.value, fds: message.fds })
    }

    /// Names everything that the edge waits for.
    pub fn sources(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>, Interest)> {
        let interest = Interest { read: !self.starved, write: false };
        let listener = self.listener.iter().map(move |listener| (Part::Listener, listener.as_fd(), interest));
        let controls = [&self.control, &self.newcomer].into_iter().flatten().map(|control| {
            let interest = Interest { read: true, write: control.channel.conn().backlog() > 0 };
            (Part::Control(control.number), control.channel.as_fd(), interest)
        });
        listener.chain(controls)
    }

    /// Whether a control is connected.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.control.is_some()
    }

    /// Turns away every control from here on, those included that wait to be let in: there is nothing left to be asked.
    pub fn close(&mut self) {
        (self.listener, self.newcomer, self.control) = (None, None, None);
    }

    /// Whether something waits for the control to read it.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.channel.conn().backlog() > 0)
    }

    /// Does what a source has become ready for; requests that have come are appended to `asked`.
    pub fn ready(&mut self, part: Part, ready: Ready, asked: &mut Vec<Asked>) {
        self.starved = false;
        match part {
            Part::Listener => self.accept(),
            Part::Control(number) if self.newcomer.as_ref().is_some_and(|control| control.number == number) => {
                self.hear_newcomer(asked);
            }
            Part::Control(number) if self.control.as_ref().is_some_and(|control| control.number == number) => {
                if ready.write {
                    self.flush();
                }
                if ready.read {
                    self.hear_control(asked);
                }
            }
            // It was dropped by what came before it in the same batch.
            Part::Control(_) => {}
        }
    }

    /// Answers a request.
    pub fn answer(&mut self, ticket: Ticket, answer: Result<Answer, Failure>, fds: Vec<OwnedFd>) {
        if self.control.as_ref().is_some_and(|control| u64::from(control.number) == ticket.control) {
            self.send(ticket.serial, &Message::Answer(answer).bounded(), fds);
        }
    }

    /// Tells the control of an event, if it wants to know.
    pub fn event(&mut self, event: &Event) {
        let Some(control) = self.control.as_mut().filter(|control| control.events) else { return };
        let lost = control.lost_before(event.sequence);
        let message = if control.version >= PAYLOADS_SINCE {
            Message::News(News { lost, what: Happening::Event(event.clone()) })
        } else {
            Message::Event(event.clone())
        };
        self.send(0, &message, Vec::new());
    }

    /// Tells the control of a notice, if it wants to know and knows what that is.
    pub fn notice(&mut self, notice: Notice) {
        let knows = |control: &&mut Control| control.events && control.version >= NOTICES_SINCE;
        let Some(control) = self.control.as_mut().filter(knows) else { return };
        let lost = control.lost_before(notice.sequence);
        let message = if control.version >= PAYLOADS_SINCE {
            Message::News(News { lost, what: Happening::Notice(notice) })
        } else {
            Message::Notice(notice)
        };
        self.send(0, &message, Vec::new());
    }

    /// Tells the control how a job is, if it wants to know and knows what that is.
    pub fn job(&mut self, job: Job) {
        if self.control.as_ref().is_some_and(|control| control.events && control.version >= PAYLOADS_SINCE) {
            self.send(0, &Message::Job(job), Vec::new());
        }
    }

    /// Answers [`Request::Events`]: sends these, which come after number `after`, and, from now on, all new ones. The answer comes
    /// behind them.
    pub fn replay(&mut self, ticket: Ticket, after: u64, recorded: Vec<Recorded>) {
        match &mut self.control {
            Some(control) if u64::from(control.number) == ticket.control => {
                (control.events, control.told) = (true, after);
            }
            _ => return,
        }
        for what in recorded {
            match what {
                Recorded::Event(event) => self.event(&event),
                Recorded::Notice(notice) => self.notice(notice),
            }
        }
        self.answer(ticket, Ok(Answer::Done), Vec::new());
    }

    fn send(&mut self, serial: u64, message: &Message, fds: Vec<OwnedFd>) {
        let Some(control) = &mut self.control else { return };
        if control.channel.queue(serial, message, fds).is_err() {
            self.control = None;
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Some(control) = &mut self.control else { return };
        if control.channel.flush().is_err() || control.channel.conn().backlog() > BACKLOG_MAX {
            self.control = None;
        }
    }

    /// Accepts what waits, as many as can wait at once. The newest takes the place of one that has not said hello yet.
    fn accept(&mut self) {
        for _ in 0..LISTEN_BACKLOG {
            if !self.accept_one() {
                return;
            }
        }
    }

    /// Accepts one connection; false when none waits.
    fn accept_one(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => UnixStream::from(socket),
            Err(Errno::MFILE | Errno::NFILE) => {
                self.newcomer = None;
                self.starved = true;
                return false;
            }
            Err(Errno::INTR | Errno::CONNABORTED) => return true,
            Err(_) => return false,
        };
        if !self.may_connect(&socket) {
            return true;
        }
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        self.newcomer = Some(Control { number, channel: Channel::new(socket), events: false, version: 0, told: 0 });
        true
    }

    fn may_connect(&self, socket: &UnixStream) -> bool {
        sandbox::peer::cred(socket).is_ok_and(|peer| self.allows(peer.uid))
    }

    fn allows(&self, uid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        uid == 0 || uid == own || uid == self.control_uid
    }

    fn hear_newcomer(&mut self, asked: &mut Vec<Asked>) {
        let Some(mut newcomer) = self.newcomer.take() else { return };
        match greet(&mut newcomer, &self.hello) {
            Ok(true) => {
                self.control = Some(newcomer);
                // Its first requests may have come with its hello.
                self.take_requests(asked);
            }
            Ok(false) => self.newcomer = Some(newcomer),
            Err(()) => {}
        }
    }

    fn hear_control(&mut self, asked: &mut Vec<Asked>) {
        let Some(control) = &mut self.control else { return };
        match control.channel.fill() {
            Ok(_) => self.take_requests(asked),
            Err(_) => self.control = None,
        }
    }

    fn take_requests(&mut self, asked: &mut Vec<Asked>) {
        while let Some(control) = &mut self.control {
            match control.channel.next_message() {
                Ok(Some(message)) => {
                    let ticket = Ticket { control: u64::from(control.number), serial: message.serial };
                    if message.value.since() > control.version {
                        self.answer(ticket, Err(not_agreed()), Vec::new());
                        continue;
                    }
                    asked.push(Asked { ticket, request: message.value, fds: message.fds });
                }
                Ok(None) => return,
                Err(_) => self.control = None,
            }
        }
    }
}

impl Control {
    /// How many numbers before this one it is not told of; afterwards it has been told of this one.
    fn lost_before(&mut self, sequence: u64) -> u64 {
        let lost = sequence.saturating_sub(self.told).saturating_sub(1);
        self.told = self.told.max(sequence);
        lost
    }
}

fn not_agreed() -> Failure {
    Failure::BadRequest("it is not in the version that was agreed on".to_owned())
}

/// Reads a newcomer's hello if it is here; true when it is, and is of our age.
fn greet(newcomer: &mut Control, hello: &Hello) -> Result<bool, ()> {
    newcomer.channel.fill().map_err(drop)?;
    let Some(theirs) = newcomer.channel.next_hello().map_err(drop)? else { return Ok(false) };
    // Ours goes out in any case: the other side can tell then what it is that does not fit.
    newcomer.channel.queue_hello(hello).map_err(drop)?;
    newcomer.channel.flush().map_err(drop)?;
    newcomer.version = hello.agree(&theirs).map_err(drop)?;
    Ok(true)
}

/// Control's side of the edge: a connection with its hello said.
///
/// # Errors
/// When the hello can't be queued.
pub fn control_channel(program: &str, socket: UnixStream) -> Result<Channel<Request, Message>, ConnError> {
    let mut channel = Channel::new(socket);
    channel.queue_hello(&Hello::new(program, VERSIONS.0, VERSIONS.1))?;
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Status;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use std::io::Read;

    type Peer = Channel<Request, Message>;

    fn listener(dir: &tempfile::TempDir) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(dir.path().join("socket")).unwrap()).unwrap();
        socket
    }

    fn wire(dir: &tempfile::TempDir) -> (Wire, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut peer = control_channel("test", theirs).unwrap();
        peer.send(1, &Request::Status, Vec::new()).unwrap();
        let (wire, asked) = Wire::new("test", listener(dir), ours, 0).unwrap();
        assert_eq!((asked.request, asked.ticket), (Request::Status, Ticket { control: 0, serial: 1 }));
        peer.recv_hello().unwrap();
        (wire, peer)
    }

    #[test]
    fn a_closed_edge_turns_everybody_away() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, mut first) = wire(&dir);
        let path = dir.path().join("socket");
        let mut waiting = UnixStream::connect(&path).unwrap();
        wire.close();
        assert_eq!(wire.sources().count(), 0);
        assert!(!matches!(waiting.read(&mut [0]), Ok(1..)), "one that waited to be let in");
        assert!(UnixStream::connect(&path).is_err());
        assert!(matches!(first.recv(), Err(ConnError::Closed)));
    }

    const READABLE: Ready = Ready { key: 0, read: true, write: false, hangup: false };

    fn event() -> Event {
        let text = Some("x".repeat(1000));
        Event { sequence: 1, seconds: 0, nanos: 0, event: 2, detail: 0, state: 1, reason: 1, text }
    }

    #[test]
    fn a_control_that_does_not_read_is_dropped_and_costs_no_more_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, mut peer) = wire(&dir);
        let mut sent = 0;
        while wire.has_control() {
            wire.event(&event());
            sent += 1;
            assert!(sent < 100_000, "never dropped");
        }
        assert!(sent > 1024, "every kept event fits");
        while peer.recv().is_ok() {}
    }

    #[test]
    fn a_control_of_another_age_hears_our_hello_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, mut peer) = wire(&dir);
        let mut stranger: Peer = Channel::new(UnixStream::connect(dir.path().join("socket")).unwrap());
        stranger.queue_hello(&Hello::new("stranger", VERSIONS.1 + 1, VERSIONS.1 + 1)).unwrap();
        stranger.flush().unwrap();
        let mut asked = Vec::new();
        wire.ready(Part::Listener, READABLE, &mut asked);
        wire.ready(Part::Control(1), READABLE, &mut asked);
        assert_eq!(stranger.recv_hello().unwrap().newest, VERSIONS.1);
        assert!(matches!(stranger.recv(), Err(ConnError::Closed)));
        wire.event(&event());
        assert!(matches!(peer.recv().unwrap().value, Message::News(_)));
    }

    #[test]
    fn notices_go_to_a_control_that_knows_them_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, mut peer) = wire(&dir);
        let notice = |sequence| Notice { sequence, seconds: 0, nanos: 0, kind: 1, number: 0, texts: Vec::new() };
        wire.notice(notice(2));
        let news = News { lost: 1, what: Happening::Notice(notice(2)) };
        assert_eq!(peer.recv().unwrap().value, Message::News(news));

        let mut older: Peer = Channel::new(UnixStream::connect(dir.path().join("socket")).unwrap());
        older.queue_hello(&Hello::new("older", 1, NOTICES_SINCE - 1)).unwrap();
        older.send(1, &Request::Events { after: 0 }, Vec::new()).unwrap();
        let mut asked = Vec::new();
        wire.ready(Part::Listener, READABLE, &mut asked);
        wire.ready(Part::Control(1), READABLE, &mut asked);
        wire.replay(asked[0].ticket, 0, vec![Recorded::Event(event()), Recorded::Notice(notice(2))]);
        wire.notice(notice(3));
        wire.event(&Event { sequence: 4, ..event() });
        older.recv_hello().unwrap();
        let numbers = [(); 3].map(|()| match older.recv().unwrap().value {
            Message::Event(event) => event.sequence,
            Message::Answer(Ok(Answer::Done)) => 0,
            other => panic!("{other:?}"),
        });
        assert_eq!(numbers, [1, 0, 4]);
    }

    #[test]
    fn a_replay_counts_as_told_and_only_its_own_gaps_are_losses() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, mut peer) = wire(&dir);
        peer.send(7, &Request::Events { after: 1 }, Vec::new()).unwrap();
        let mut asked = Vec::new();
        wire.ready(Part::Control(0), READABLE, &mut asked);
        let numbered = |sequence| Event { sequence, ..event() };
        // Number 4 is one that the rate did not allow.
        wire.replay(asked[0].ticket, 1, [2, 3, 5].map(|sequence| Recorded::Event(numbered(sequence))).into());
        wire.event(&numbered(6));
        let heard = [(); 5].map(|()| match peer.recv().unwrap().value {
            Message::News(News { lost, what: Happening::Event(event) }) => (event.sequence, lost),
            Message::Answer(Ok(Answer::Done)) => (0, 0),
            other => panic!("{other:?}"),
        });
        assert_eq!(heard, [(2, 0), (3, 0), (5, 1), (0, 0), (6, 0)]);
    }

    #[test]
    fn an_answer_for_a_control_that_is_gone_goes_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (mut wire, _peer) = wire(&dir);
        let mut newer = control_channel("newer", UnixStream::connect(dir.path().join("socket")).unwrap()).unwrap();
        newer.send(1, &Request::Suspend, Vec::new()).unwrap();
        let mut asked = Vec::new();
        wire.ready(Part::Listener, READABLE, &mut asked);
        wire.ready(Part::Control(1), READABLE, &mut asked);
        assert_eq!(asked.len(), 1, "what came with the hello is not lost");
        let status = Status {
            name: String::new(),
            state: 1,
            reason: 1,
            cpu_time_ns: 0,
            last_event: 0,
            started_seconds: 0,
            stuck: false,
        };
        // The same serial, but another control's.
        wire.answer(Ticket { control: 0, serial: 1 }, Ok(Answer::Status(status)), Vec::new());
        wire.answer(asked[0].ticket, Ok(Answer::Done), Vec::new());
        newer.recv_hello().unwrap();
        assert_eq!(newer.recv().unwrap().value, Message::Answer(Ok(Answer::Done)));
    }

    #[test]
    fn a_peer_of_another_uid_is_not_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let (wire, _peer) = wire(&dir);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(wire.may_connect(&ours));
        let allowed = |uid| wire.allows(uid);
        assert!(allowed(0) && allowed(rustix::process::geteuid().as_raw()));
        assert!(!allowed(4_000_000) && !allowed(u32::MAX));
    }

    #[test]
    fn a_first_control_that_leaves_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(Wire::new("test", listener(&dir), ours, 0), Err(WireError::First(ConnError::Closed))));
        assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0);
    }
}
