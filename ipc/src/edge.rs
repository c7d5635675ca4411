//! Typed channels for the edges inside the house.
//!
//! A `Channel<Out, In>` can send nothing but `Out` and receive nothing but `In`: what an edge may not carry cannot be
//! expressed on it. The enums live with the edge they belong to; this module only frames them.

use std::{
    marker::PhantomData,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{self, CodecError},
    conn::{Conn, ConnError, Incoming, OutputLimit},
    frame::{Caps, Kind, MAX_HELLO},
    hello::Hello,
};

/// A message that has arrived on a [`Channel`].
#[derive(Debug)]
pub struct Message<In> {
    /// Which request it belongs to; 0 for news.
    pub serial: u64,
    /// The message.
    pub value: In,
    /// The descriptors that came with it; none if they are lost.
    pub fds: Vec<OwnedFd>,
    /// It came with descriptors for which this process's table has no room. Only this message's request fails for it.
    pub lost_fds: bool,
}

/// One end of an edge that sends `Out` and receives `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    conn: Conn,
    types: PhantomData<fn(Out) -> In>,
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// A channel over `socket`, with the caps of an edge inside the house.
    #[must_use]
    pub fn new(socket: UnixStream) -> Channel<Out, In> {
        Channel { conn: Conn::new(socket, Caps::INTERNAL), types: PhantomData }
    }

    /// The connection below, for readiness, credentials and backlog.
    #[must_use]
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// The connection below, to set its budgets: [`Conn::set_caps`], [`Conn::set_output_limit`].
    pub fn conn_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// A channel to a peer that is less trusted than this process: it may send messages of at most `caps`, and no more than
    /// `limit` is queued for it ([`ConnError::Full`]).
    #[must_use]
    pub fn bounded(socket: UnixStream, caps: Caps, limit: OutputLimit) -> Channel<Out, In> {
        let mut conn = Conn::new(socket, caps);
        conn.set_output_limit(limit);
        Channel { conn, types: PhantomData }
    }

    /// Begins a turn in which at most `bytes` are read. [`Channel::may_have_more`] says at its end whether the peer has to
    /// have another one.
    pub fn begin_turn(&mut self, bytes: usize) {
        self.conn.begin_turn(bytes);
    }

    /// Whether something may be left to read that the poll does not tell of again.
    #[must_use]
    pub fn may_have_more(&self) -> bool {
        self.conn.may_have_more()
    }

    /// Queues this side's hello.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn queue_hello(&mut self, hello: &Hello) -> Result<(), ConnError> {
        self.conn.queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(hello, out))
    }

    /// Queues a message and its descriptors.
    ///
    /// # Errors
    /// When it cannot be encoded, carries too many descriptors, or too much waits for the peer already; nothing is queued then.
    pub fn queue(&mut self, serial: u64, message: &Out, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        self.conn.queue_with(Kind::Call, serial, fds, |out| codec::encode_into(message, out))
    }

    /// Sends what the socket takes; true when nothing is left.
    ///
    /// # Errors
    /// When the socket failed or the peer is gone.
    pub fn flush(&mut self) -> Result<bool, ConnError> {
        self.conn.flush()
    }

    /// Queues a message and sends it, waiting for a blocking socket.
    ///
    /// # Errors
    /// As [`Channel::queue`] and [`Channel::flush`].
    pub fn send(&mut self, serial: u64, message: &Out, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        self.queue(serial, message, fds)?;
        self.conn.flush_all()
    }

    /// Reads once what has arrived. False when there was nothing or the peer is gone.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn fill(&mut self) -> Result<bool, ConnError> {
        self.conn.fill()
    }

    /// The next message that is here whole, if any.
    ///
    /// # Errors
    /// When the peer is gone or sent something that is not an `In`.
    pub fn next_message(&mut self) -> Result<Option<Message<In>>, ConnError> {
        self.conn.next_frame()?.map(decode_message).transpose()
    }

    /// The next message, waiting for a blocking socket.
    ///
    /// # Errors
    /// As [`Channel::next_message`].
    pub fn recv(&mut self) -> Result<Message<In>, ConnError> {
        self.conn.recv().and_then(decode_message)
    }

    /// The peer's hello if it is here whole; it is the first frame of every edge.
    ///
    /// # Errors
    /// When the peer is gone or its first frame is something else.
    pub fn next_hello(&mut self) -> Result<Option<Hello>, ConnError> {
        self.conn.next_frame()?.as_ref().map(decode_hello).transpose()
    }

    /// The peer's hello, waiting for a blocking socket.
    ///
    /// # Errors
    /// As [`Channel::next_hello`].
    pub fn recv_hello(&mut self) -> Result<Hello, ConnError> {
        self.conn.recv().and_then(|frame| decode_hello(&frame))
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conn.as_fd()
    }
}

fn decode_message<In: DeserializeOwned>(frame: Incoming) -> Result<Message<In>, ConnError> {
    if frame.kind != Kind::Call {
        return Err(ConnError::Unexpected { found: frame.kind, expected: "a message" });
    }
    Ok(Message { serial: frame.serial, value: codec::decode(&frame.body)?, fds: frame.fds, lost_fds: frame.lost_fds })
}

/// Reads a hello out of the first frame of an edge.
///
/// # Errors
/// When the frame is another kind, carries descriptors, is too long, or is no hello.
pub fn decode_hello(frame: &Incoming) -> Result<Hello, ConnError> {
    if frame.kind != Kind::Hello {
        return Err(ConnError::Unexpected { found: frame.kind, expected: "a hello" });
    }
    if !frame.fds.is_empty() {
        return Err(ConnError::FdCount { announced: 0, came: frame.fds.len() });
    }
    if frame.body.len() > MAX_HELLO as usize {
        return Err(CodecError::TooLong { found: frame.body.len(), max: MAX_HELLO as usize }.into());
    }
    Ok(codec::decode(&frame.body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Ask {
        Open(String),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Answer {
        Opened,
    }

    #[test]
    fn hello_then_messages_both_ways() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut asker: Channel<Ask, Answer> = Channel::new(a);
        let mut answerer: Channel<Answer, Ask> = Channel::new(b);
        asker.queue_hello(&Hello::new("asker", 1, 1)).unwrap();
        asker.send(7, &Ask::Open("disk".into()), vec![]).unwrap();
        assert!(answerer.recv_hello().unwrap().software.starts_with("asker "));
        let message = answerer.recv().unwrap();
        assert_eq!((message.serial, message.value), (7, Ask::Open("disk".into())));
        answerer.send(7, &Answer::Opened, vec![]).unwrap();
        assert_eq!(asker.recv().unwrap().value, Answer::Opened);
    }

    #[test]
    fn a_hello_without_end_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut asker: Channel<Ask, Answer> = Channel::new(a);
        let mut answerer: Channel<Answer, Ask> = Channel::new(b);
        let hello = Hello { features: vec!["x".repeat(100); 50], ..Hello::new("asker", 1, 1) };
        asker.queue_hello(&hello).unwrap();
        asker.flush().unwrap();
        assert!(matches!(answerer.recv_hello(), Err(ConnError::Codec(CodecError::TooLong { .. }))));
    }

    #[test]
    fn a_bounded_channel_refuses_what_would_wait_for_ever() {
        let (a, _stopped) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let limit = OutputLimit { bytes: 100_000, messages: 1000 };
        let mut asker: Channel<Ask, Answer> = Channel::bounded(a, Caps { body: 1 << 20, fds: 4 }, limit);
        let question = Ask::Open("x".repeat(1000));
        let refused = (0..100_000).find_map(|serial| {
            asker.flush().unwrap();
            asker.queue(serial, &question, vec![]).err()
        });
        assert!(matches!(refused, Some(ConnError::Full { .. })), "{refused:?}");
        assert!(asker.conn().backlog() <= 100_000);
    }

    #[test]
    fn a_message_over_the_caps_of_its_channel_is_refused_by_its_header() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut answerer: Channel<Answer, Ask> = Channel::new(a);
        let limit = OutputLimit { bytes: 1000, messages: 10 };
        let mut asker: Channel<Answer, Ask> = Channel::bounded(b, Caps { body: 1000, fds: 0 }, limit);
        let mut sender: Channel<Ask, Answer> = Channel::new(answerer.conn_mut().socket().try_clone().unwrap());
        sender.send(1, &Ask::Open("x".repeat(2000)), vec![]).unwrap();
        assert!(matches!(asker.recv(), Err(ConnError::Frame(_))));
        assert!(asker.conn().input_size() <= 8 << 10);
    }

    #[test]
    fn a_message_before_the_hello_is_a_protocol_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut asker: Channel<Ask, Answer> = Channel::new(a);
        let mut answerer: Channel<Answer, Ask> = Channel::new(b);
        asker.send(1, &Ask::Open(String::new()), vec![]).unwrap();
        assert!(matches!(answerer.recv_hello(), Err(ConnError::Unexpected { found: Kind::Call, .. })));
    }
}
