//! Frames to calls, replies, events and errors, and back.
//!
//! The layout of every operation comes from [`api`]'s table; here is what stands around it: which frame is what, what a
//! server answers to a call that it cannot read, and what a client makes of an answer.

use std::os::fd::OwnedFd;

use api::{
    Call, ErrorCode, ErrorDomain, Event, Op, OpKind, Reply,
    xdr::{Decoder, Encoder, Xdr, XdrError},
};

use crate::{
    conn::{Conn, WireError},
    frame::{Frame, Header, Kind, Status},
    keepalive,
    transport::Transport,
};

/// The most bytes of an error's text: more than a person reads, and less than any client's limit.
const LONGEST_TEXT: usize = 64 << 10;
/// libvirt's daemons number every event so; clients do not look.
const EVENT_SERIAL: u32 = 1;
/// What a refusal of an unknown procedure begins with. Clients test exactly this.
const UNKNOWN_PROCEDURE: &str = "unknown procedure";

/// What a frame is for, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A call, to a server.
    Call,
    /// A reply, to a client.
    Reply,
    /// An event, to a client.
    Event,
    /// A ping or its answer.
    Keepalive,
    /// A packet of a stream.
    Stream,
    /// Nothing that is known: dropped in silence.
    Nothing,
}

impl Header {
    /// What the frame is for.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        match self.kind {
            Kind::Call | Kind::CallWithFds => Meaning::Call,
            Kind::Reply | Kind::ReplyWithFds => Meaning::Reply,
            Kind::Message if self.program == keepalive::PROGRAM => Meaning::Keepalive,
            Kind::Message => Meaning::Event,
            Kind::Stream | Kind::StreamHole => Meaning::Stream,
            Kind::Other(_) => Meaning::Nothing,
        }
    }
}

fn program_of(program: u32) -> Option<u32> {
    match program {
        api::remote::PROGRAM => Some(api::remote::VERSION),
        api::qemu::PROGRAM => Some(api::qemu::VERSION),
        api::lxc::PROGRAM => Some(api::lxc::VERSION),
        api::bulkhead::PROGRAM => Some(api::bulkhead::VERSION),
        _ => None,
    }
}

fn rpc(message: String) -> api::Error {
    api::Error::new(ErrorCode::RPC, ErrorDomain::RPC, message)
}

/// Which operation a call is for.
///
/// # Errors
/// What to answer if there is none, in the words that clients know.
pub fn call_op(header: &Header) -> Result<Op, api::Error> {
    if program_of(header.program) != Some(header.version) {
        return Err(rpc(format!("Cannot find program {} version {}", header.program, header.version)));
    }
    if header.status != Status::Ok {
        return Err(rpc(format!("Unexpected message status {}", i32::from(header.status))));
    }
    let op = u32::try_from(header.procedure).ok().and_then(|number| Op::from_wire(header.program, number));
    op.filter(|op| op.info().kind == OpKind::Call)
        .ok_or_else(|| rpc(format!("{UNKNOWN_PROCEDURE}: {}", header.procedure)))
}

/// Reads a call. Bytes behind its arguments are ignored, as libvirt does.
///
/// # Errors
/// What to answer to a call that cannot be read.
pub fn decode_call(frame: &Frame) -> Result<Call, api::Error> {
    let op = call_op(&frame.header)?;
    let info = op.info();
    if !info.fds_in.allows(frame.fds.len()) {
        return Err(rpc(format!("{} came with {} file descriptors", info.api, frame.fds.len())));
    }
    match Call::decode(op, &mut Decoder::new(&frame.payload)) {
        Ok(Some(call)) => Ok(call),
        Ok(None) => Err(rpc(format!("{UNKNOWN_PROCEDURE}: {}", frame.header.procedure))),
        Err(error) => Err(rpc(format!("cannot decode the arguments of {}", info.api)).with_cause(error)),
    }
}

/// What a reply holds.
#[derive(Debug)]
pub enum Answer {
    /// The call succeeded.
    Done(Reply),
    /// The call failed.
    Failed(api::Error),
}

/// Reads the reply to a call of `op`.
///
/// # Errors
/// When it is none, or cannot be read.
pub fn decode_reply(op: Op, frame: &Frame) -> Result<Answer, XdrError> {
    if frame.header.status == Status::Error {
        return decode_error(&frame.payload).map(Answer::Failed);
    }
    match Reply::decode(op, &mut Decoder::new(&frame.payload))? {
        Some(reply) => Ok(Answer::Done(reply)),
        None => Err(XdrError::UnknownArm { union: "Reply", found: frame.header.procedure }),
    }
}

/// Reads an error. One that says that the server does not know the procedure becomes what it means: not supported.
///
/// # Errors
/// When it cannot be read.
pub fn decode_error(payload: &[u8]) -> Result<api::Error, XdrError> {
    let mut error = api::Error::from(api::remote::Error::decode(&mut Decoder::new(payload))?);
    if error.code == ErrorCode::RPC && error.message.starts_with(UNKNOWN_PROCEDURE) {
        error.code = ErrorCode::NO_SUPPORT;
    }
    Ok(error)
}

/// Reads an event; `None` for one that is not known here, which clients ignore.
///
/// # Errors
/// When it cannot be read.
pub fn decode_event(frame: &Frame) -> Result<Option<Event>, XdrError> {
    let header = &frame.header;
    if program_of(header.program) != Some(header.version) {
        return Ok(None);
    }
    let op = u32::try_from(header.procedure).ok().and_then(|number| Op::from_wire(header.program, number));
    match op {
        Some(op) if op.info().kind == OpKind::Event => Event::decode(op, &mut Decoder::new(&frame.payload)),
        _ => Ok(None),
    }
}

/// Writes an error as it travels: the message with its causes. A text that no client would take is cut.
///
/// # Errors
/// Never for an error whose text could be cut to fit; the type is the encoder's.
pub fn encode_error(error: &api::Error, out: &mut Encoder) -> Result<(), XdrError> {
    let mut wire = api::remote::Error::from(error);
    for text in [&mut wire.message, &mut wire.str2].into_iter().flatten() {
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    api::Encoder::put(out, &wire)
}

/// The header that belongs to an operation.
#[must_use]
pub fn header(op: Op, kind: Kind, serial: u32) -> Header {
    let info = op.info();
    Header {
        program: info.program,
        version: program_of(info.program).unwrap_or(1),
        procedure: info.procedure.cast_signed(),
        kind,
        serial,
        status: Status::Ok,
    }
}

/// Calls, replies, errors and events onto a connection. None of them waits: [`Conn::flush`] sends.
impl<T: Transport> Conn<T> {
    /// Queues a call.
    ///
    /// # Errors
    /// When it cannot be encoded or carried; nothing is queued then.
    pub fn queue_call(&mut self, serial: u32, call: &Call, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        self.queue(&header(call.op(), Kind::Call, serial), fds, |out| call.encode(out))
    }

    /// Queues the reply to the call with this header.
    ///
    /// # Errors
    /// When it cannot be encoded or carried; nothing is queued then.
    pub fn queue_reply(&mut self, call: &Header, reply: &Reply, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        self.queue(&call.reply(Status::Ok), fds, |out| reply.encode(out))
    }

    /// Queues the failure of the call with this header.
    ///
    /// # Errors
    /// As [`Conn::queue`]; in fact none, since every error can be written.
    pub fn queue_error(&mut self, call: &Header, error: &api::Error) -> Result<(), WireError> {
        self.queue(&call.reply(Status::Error), Vec::new(), |out| encode_error(error, out))
    }

    /// Queues the answer to the call with this header. An answer that cannot be carried becomes an error that says so: no
    /// call stays without an answer.
    ///
    /// # Errors
    /// As [`Conn::queue_error`].
    pub fn queue_answer(
        &mut self,
        call: &Header,
        answer: &Result<Reply, api::Error>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        let error = match answer {
            Err(error) => return self.queue_error(call, error),
            Ok(reply) => match self.queue_reply(call, reply, fds) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
        };
        let text = "the answer cannot be sent to the client";
        let error = api::Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, text).with_cause(error);
        self.queue_error(call, &error)
    }

    /// Queues an event.
    ///
    /// # Errors
    /// When it cannot be encoded; nothing is queued then.
    pub fn queue_event(&mut self, event: &Event) -> Result<(), WireError> {
        self.queue(&header(event.op(), Kind::Message, EVENT_SERIAL), Vec::new(), |out| event.encode(out))
    }

    /// Queues a frame that is a header and nothing else: a ping, or the answer to one.
    ///
    /// # Errors
    /// As [`Conn::queue`]; in fact none.
    pub fn queue_empty(&mut self, header: &Header) -> Result<(), WireError> {
        self.queue(header, Vec::new(), |_| Ok(()))
    }
}
