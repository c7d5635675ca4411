//! The blocking client: thread-safe, pipelining, without a thread of its own.
//!
//! A thread that waits for an answer reads the socket for all: the first waiting thread becomes the reader, hands each reply
//! to the thread whose serial it carries and each event to the queue, and passes the reading on when its own answer has
//! come. A single thread that makes one call after the other costs two system calls each and no thread switch.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use api::{Call, Event, Reply, look::Look};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use thiserror::Error;

use crate::{
    codec::{self, CodecError},
    conn::{Conn, ConnError, Incoming},
    edge,
    frame::{Caps, Kind},
    hello::{Hello, NoCommonVersion},
};

/// The versions of the calls' edge that this build speaks.
pub const VERSIONS: (u16, u16) = (1, 1);
/// The longest silence after a call: every daemon ends its calls by a shorter deadline of its own, so silence this long
/// means that the daemon itself is stuck.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a daemon may take to make room for another connection in its listener's queue, and then to answer the hello. A
/// running one takes less than a second; a stopped one never does.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody listens, or the caller may not connect.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The listener accepts nothing: its process is stopped or stuck.
    #[error("{} has not accepted a connection for {} seconds", path.display(), patience.as_secs_f32())]
    NotAccepted {
        /// The socket.
        path: PathBuf,
        /// How long it was tried.
        patience: Duration,
    },
    /// The socket could not be prepared.
    #[error("cannot set up the connection's socket")]
    Socket(#[source] io::Error),
    /// The first exchange failed.
    #[error("the daemon did not complete the hello")]
    Hello(#[source] ConnError),
    /// The daemon refuses the connection and says why.
    #[error("the daemon refuses the connection")]
    Refused(#[source] api::Error),
    /// The two sides speak different versions.
    #[error("no common protocol version")]
    Version(#[from] NoCommonVersion),
}

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The daemon's answer: the call failed.
    #[error("the call failed")]
    Failed(#[source] api::Error),
    /// The connection is lost; this and every later call fail.
    #[error("the connection to the daemon is lost")]
    Lost(#[source] Arc<ConnError>),
    /// The call cannot be sent; the connection is as good as before.
    #[error("the call cannot be sent")]
    Send(#[source] ConnError),
    /// The daemon answered something that is no answer to this call.
    #[error("the daemon's answer cannot be read")]
    Answer(#[source] CodecError),
    /// The daemon is silent.
    #[error("the daemon has not answered for {} seconds", .0.as_secs())]
    Silent(Duration),
}

struct State {
    next_serial: u64,
    /// Calls that wait; `Some` once the answer is here.
    waiting: HashMap<u64, Option<Incoming>>,
    events: VecDeque<Event>,
    /// A thread is reading for all.
    reading: bool,
    lost: Option<Arc<ConnError>>,
}

/// A connection to a daemon that answers the calls of the operation table.
pub struct Client {
    reader: Mutex<Conn>,
    writer: Mutex<Conn>,
    state: Mutex<State>,
    arrived: Condvar,
    daemon: Hello,
    look: Look,
    /// The same socket once more, to lend to an event loop without a lock.
    socket: UnixStream,
}

/// Connects to the socket at `path` and sends nothing.
///
/// A plain `connect` sleeps for as long as the listener's queue is full, which for a stopped daemon is for ever. Linux bounds
/// that sleep by the socket's send timeout.
///
/// # Errors
/// When nothing listens, the caller may not connect, or the queue stays full for `patience`.
pub fn connect_socket(path: &Path, patience: Duration) -> Result<UnixStream, ConnectError> {
    let failed = |errno: Errno| ConnectError::Connect { path: path.to_path_buf(), source: errno.into() };
    let unprepared = |errno: Errno| ConnectError::Socket(errno.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(unprepared)?;
    let begin = Instant::now();
    loop {
        let left = patience.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(ConnectError::NotAccepted { path: path.to_path_buf(), patience });
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left)).map_err(unprepared)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            // A signal: the queue may still empty in the time that is left.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    // The timeout was for connecting; later writes have their own.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None).map_err(unprepared)?;
    Ok(socket.into())
}

/// A lock whose holder panicked is taken all the same: every critical section here leaves the state whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Connects to the daemon that listens at `path` and exchanges hellos.
    ///
    /// # Errors
    /// When nobody listens, the daemon refuses, or no version is common.
    pub fn connect(path: &Path, program: &str) -> Result<Client, ConnectError> {
        Client::over(connect_socket(path, CONNECT_PATIENCE)?, program)
    }

    /// Exchanges hellos over a socket that is connected already.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(socket: UnixStream, program: &str) -> Result<Client, ConnectError> {
        Client::within(CONNECT_PATIENCE, socket, program)
    }

    fn within(patience: Duration, socket: UnixStream, program: &str) -> Result<Client, ConnectError> {
        let may_be_silent =
            |time| socket.set_read_timeout(Some(time)).and_then(|()| socket.set_write_timeout(Some(time)));
        may_be_silent(patience).map_err(ConnectError::Socket)?;
        let mut writer = Conn::new(socket.try_clone().map_err(ConnectError::Socket)?, Caps::FROM_DAEMON);
        let mut reader = Conn::new(socket.try_clone().map_err(ConnectError::Socket)?, Caps::FROM_DAEMON);
        let ours = Hello::new(program, VERSIONS.0, VERSIONS.1);
        writer
            .queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(&ours, out))
            .map_err(ConnectError::Hello)?;
        // A daemon that refuses may have closed its end before this is written; its reason is still there to be read.
        let written = writer.flush_all();
        let first = match (reader.recv(), written) {
            (Ok(frame), _) => frame,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(ConnectError::Hello(error)),
        };
        if first.kind == Kind::Error {
            let error = codec::decode_error(&first.body).map_err(|e| ConnectError::Hello(e.into()))?;
            return Err(ConnectError::Refused(error));
        }
        let daemon = edge::decode_hello(&first).map_err(ConnectError::Hello)?;
        ours.agree(&daemon)?;
        may_be_silent(SILENCE).map_err(ConnectError::Socket)?;
        Ok(Client {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            state: Mutex::new(State {
                next_serial: 1,
                waiting: HashMap::new(),
                events: VecDeque::new(),
                reading: false,
                lost: None,
            }),
            arrived: Condvar::new(),
            daemon,
            look: Look::default(),
            socket,
        })
    }

    /// What the daemon said of itself.
    #[must_use]
    pub fn daemon(&self) -> &Hello {
        &self.daemon
    }

    /// Makes one call and waits for its answer. Any number of threads may call at once.
    ///
    /// # Errors
    /// The daemon's own error, or that the connection is lost.
    pub fn call(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        let serial = {
            let mut state = lock(&self.state);
            if let Some(error) = &state.lost {
                return Err(CallError::Lost(Arc::clone(error)));
            }
            let serial = state.next_serial;
            state.next_serial += 1;
            state.waiting.insert(serial, None);
            serial
        };
        let answer = self.send(serial, call, fds).and_then(|()| self.wait(serial));
        lock(&self.state).waiting.remove(&serial);
        let frame = answer?;
        match frame.kind {
            Kind::Error => Err(CallError::Failed(codec::decode_error(&frame.body).map_err(CallError::Answer)?)),
            _ => Ok((codec::decode_reply(&frame.body).map_err(CallError::Answer)?, frame.fds)),
        }
    }

    /// Events that have arrived, oldest first.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        lock(&self.state).events.drain(..).collect()
    }

    /// Waits up to `timeout` (for ever without one) until events are here, and takes them. Empty when the time is over.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn wait_events(&self, timeout: Option<Duration>) -> Result<Vec<Event>, CallError> {
        let deadline = timeout.map(|timeout| Instant::now().checked_add(timeout));
        // Even no time at all is enough to take what is there.
        let mut tried = false;
        let mut state = lock(&self.state);
        loop {
            if !state.events.is_empty() {
                return Ok(state.events.drain(..).collect());
            }
            if let Some(error) = &state.lost {
                return Err(CallError::Lost(Arc::clone(error)));
            }
            // A moment too far away to express is none.
            let left = deadline.flatten().map(|at| at.saturating_duration_since(Instant::now()));
            if tried && left.is_some_and(|left| left.is_zero()) {
                return Ok(Vec::new());
            }
            tried = true;
            state = if state.reading {
                match left {
                    Some(left) => self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                    None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            } else {
                self.read_for_all(state, Some(left))?
            };
        }
    }

    fn send(&self, serial: u64, call: &Call, fds: Vec<OwnedFd>) -> Result<(), CallError> {
        let mut writer = lock(&self.writer);
        writer.queue_call(serial, call, fds).map_err(CallError::Send)?;
        let sent = writer.flush_all();
        drop(writer);
        // The daemon may have written why it hangs up; the waiting side will read it.
        sent.map_err(|error| CallError::Lost(self.lose(error)))
    }

    fn wait(&self, serial: u64) -> Result<Incoming, CallError> {
        let mut state = lock(&self.state);
        loop {
            if let Some(Some(frame)) = state.waiting.get_mut(&serial).map(Option::take) {
                return Ok(frame);
            }
            if let Some(error) = &state.lost {
                return Err(CallError::Lost(Arc::clone(error)));
            }
            state = if state.reading {
                self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.read_for_all(state, None)?
            };
        }
    }

    /// Reads one frame and all that came whole with it, and hands each to its call or to the event queue. `wait`: how long to
    /// wait for the first at most (`None`: the silence that a call allows; `Some(None)`: for ever).
    fn read_for_all<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wait: Option<Option<Duration>>,
    ) -> Result<MutexGuard<'a, State>, CallError> {
        state.reading = true;
        drop(state);
        let mut rest = Vec::new();
        let (frame, behind) = {
            let mut reader = lock(&self.reader);
            let frame = match wait {
                None => recv(&mut reader, &self.look).map(Some),
                Some(left) => recv_within(&mut reader, left),
            };
            let came = matches!(frame, Ok(Some(_)));
            (frame, if came { take_whole(&mut reader, &mut rest) } else { Ok(()) })
        };
        let mut state = lock(&self.state);
        state.reading = false;
        self.arrived.notify_all();
        match frame {
            Ok(frame) => {
                let delivered = frame.into_iter().chain(rest).try_for_each(|frame| state.deliver(frame));
                delivered.and(behind).map_err(|error| CallError::Lost(state.lose(error)))?;
            }
            Err(ConnError::Timeout) => return Err(CallError::Silent(SILENCE)),
            Err(error) => return Err(CallError::Lost(state.lose(error))),
        }
        Ok(state)
    }

    fn lose(&self, error: ConnError) -> Arc<ConnError> {
        let lost = lock(&self.state).lose(error);
        self.arrived.notify_all();
        lost
    }
}

impl State {
    fn deliver(&mut self, frame: Incoming) -> Result<(), ConnError> {
        match frame.kind {
            Kind::Reply | Kind::Error => {
                // A reply whose caller has given up waiting is dropped.
                if let Some(slot) = self.waiting.get_mut(&frame.serial) {
                    *slot = Some(frame);
                }
                Ok(())
            }
            Kind::Event => {
                self.events.push_back(codec::decode_event(&frame.body)?);
                Ok(())
            }
            found @ (Kind::Hello | Kind::Call) => Err(ConnError::Unexpected { found, expected: "a reply or an event" }),
        }
    }

    fn lose(&mut self, error: ConnError) -> Arc<ConnError> {
        Arc::clone(self.lost.get_or_insert_with(|| Arc::new(error)))
    }
}

impl AsFd for Client {
    /// The socket, for an event loop: when it is readable, [`Client::wait_events`] with no time has something to do. Events
    /// that came with an answer do not make it readable: [`Client::take_events`] after each call.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The next frame, which is due at once if the daemon is quick.
fn recv(reader: &mut Conn, look: &Look) -> Result<Incoming, ConnError> {
    let found = look.look(|| {
        if let Some(frame) = reader.next_frame()? {
            return Ok::<_, ConnError>(Some(frame));
        }
        reader.fill_now()?;
        reader.next_frame()
    })?;
    found.map_or_else(|| reader.recv(), Ok)
}

/// Takes the frames that are here whole: polling the socket no longer shows them.
fn take_whole(reader: &mut Conn, frames: &mut Vec<Incoming>) -> Result<(), ConnError> {
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame);
    }
    Ok(())
}

fn recv_within(reader: &mut Conn, left: Option<Duration>) -> Result<Option<Incoming>, ConnError> {
    if let Some(frame) = reader.next_frame()? {
        return Ok(Some(frame));
    }
    let timeout = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    let ready = {
        let mut fds = [PollFd::new(&*reader, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            Err(error) => return Err(ConnError::Io(error)),
        }
    };
    if !ready {
        return Ok(None);
    }
    reader.fill()?;
    reader.next_frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for_as_for_an_answer() {
        let (near, _far) = UnixStream::pair().unwrap();
        let greeted = Client::within(Duration::from_millis(20), near, "test");
        assert!(matches!(greeted, Err(ConnectError::Hello(ConnError::Timeout))));
    }
}
