//! Streams: bytes beside the calls, in packets that carry the numbers of the call that began them.
//!
//! | status | client to server | server to client |
//! |---|---|---|
//! | continue, with bytes | data | data |
//! | continue, without | nothing | end of the data; the stream stays open |
//! | ok | finish, confirmed by the same | the confirmation of a finish or an abort |
//! | error | abort, without payload, confirmed by ok | the stream failed and is over; the payload is the error |
//!
//! There is no flow control but the byte stream below: whoever sends looks at [`Conn::backlog`] and stops reading its
//! source while the peer does not read.

use api::{
    Call, Op,
    xdr::{Decoder, Xdr, XdrError},
};
use thiserror::Error;

use crate::{
    codec,
    conn::{Conn, WireError},
    frame::{Frame, Header, Kind, MAX_STREAM_DATA, Status},
    transport::Transport,
};

/// Which stream: the numbers of the call that began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// The program's number.
    pub program: u32,
    /// The program's version.
    pub version: u32,
    /// The operation that began it.
    pub procedure: i32,
    /// The call that began it.
    pub serial: u32,
}

impl From<&Header> for StreamId {
    /// Of the call that begins a stream as of every packet.
    fn from(header: &Header) -> Self {
        let Header { program, version, procedure, serial, .. } = *header;
        Self { program, version, procedure, serial }
    }
}

impl StreamId {
    fn header(self, kind: Kind, status: Status) -> Header {
        let Self { program, version, procedure, serial } = self;
        Header { program, version, procedure, kind, serial, status }
    }
}

/// Does the call ask for a stream that may have holes?
#[must_use]
pub fn is_sparse(call: &Call) -> bool {
    let flags = match call {
        Call::StorageVolUpload(args) => args.flags,
        Call::StorageVolDownload(args) => args.flags,
        _ => 0,
    };
    call.op().info().sparse_flag.is_some_and(|flag| flags & flag != 0)
}

/// Which way the bytes of a stream of this operation go, if it begins one.
#[must_use]
pub fn flow(op: Op) -> Option<api::Stream> {
    op.info().stream
}

/// Why a packet is none, or none that is due. The connection cannot be trusted to be in step any more.
#[derive(Debug, Error)]
pub enum StreamError {
    /// A payload that cannot be read.
    #[error("a packet of a stream cannot be read")]
    Payload(#[from] XdrError),
    /// A hole of less than nothing.
    #[error("a hole of {0} bytes")]
    HoleLength(i64),
    /// A hole with flags, of which none are known.
    #[error("a hole with the unknown flags {0:#x}")]
    HoleFlags(u32),
    /// A status that a packet does not have.
    #[error("a packet of a stream with status {}", i32::from(*.0))]
    Status(Status),
    /// A hole in a stream that was not asked to have any.
    #[error("a hole in a stream that has none")]
    NotSparse,
    /// Data against the direction of the stream.
    #[error("data against the direction of the stream")]
    Direction,
}

/// One packet of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Bytes, at least one.
    Data(Vec<u8>),
    /// So many zero bytes that are not sent.
    Hole(u64),
    /// The end of the data.
    End,
    /// Finish, or the confirmation of a finish or an abort.
    Finish,
    /// Abort.
    Abort,
    /// The stream failed.
    Failed(api::Error),
}

impl Packet {
    /// Reads a packet from a frame whose [`Meaning`](codec::Meaning) is a stream.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(frame: Frame) -> Result<Self, StreamError> {
        match (frame.header.kind, frame.header.status) {
            (Kind::StreamHole, Status::Continue) => hole(&frame.payload),
            (Kind::StreamHole, status) => Err(StreamError::Status(status)),
            (_, Status::Continue) if frame.payload.is_empty() => Ok(Self::End),
            (_, Status::Continue) => Ok(Self::Data(frame.payload)),
            (_, Status::Ok) => Ok(Self::Finish),
            (_, Status::Error) if frame.payload.is_empty() => Ok(Self::Abort),
            (_, Status::Error) => Ok(Self::Failed(codec::decode_error(&frame.payload)?)),
            (_, status @ Status::Other(_)) => Err(StreamError::Status(status)),
        }
    }
}

fn hole(payload: &[u8]) -> Result<Packet, StreamError> {
    let mut input = Decoder::new(payload);
    let length = i64::decode(&mut input)?;
    let flags = u32::decode(&mut input)?;
    if flags != 0 {
        return Err(StreamError::HoleFlags(flags));
    }
    u64::try_from(length).map(Packet::Hole).map_err(|_| StreamError::HoleLength(length))
}

/// Packets onto a connection.
impl<T: Transport> Conn<T> {
    /// Queues bytes of a stream, in as many packets as they need.
    ///
    /// # Errors
    /// As [`Conn::queue`]; in fact none.
    pub fn queue_data(&mut self, id: StreamId, bytes: &[u8]) -> Result<(), WireError> {
        let header = id.header(Kind::Stream, Status::Continue);
        for piece in bytes.chunks(MAX_STREAM_DATA) {
            self.queue_raw(&header, piece)?;
        }
        Ok(())
    }

    /// Queues one packet.
    ///
    /// # Errors
    /// As [`Conn::queue`]; in fact none.
    pub fn queue_packet(&mut self, id: StreamId, packet: &Packet) -> Result<(), WireError> {
        let (kind, status) = match packet {
            Packet::Data(bytes) => return self.queue_data(id, bytes),
            Packet::Hole(_) => (Kind::StreamHole, Status::Continue),
            Packet::End => (Kind::Stream, Status::Continue),
            Packet::Finish => (Kind::Stream, Status::Ok),
            Packet::Abort | Packet::Failed(_) => (Kind::Stream, Status::Error),
        };
        self.queue(&id.header(kind, status), Vec::new(), |out| match packet {
            Packet::Hole(length) => {
                i64::try_from(*length).unwrap_or(i64::MAX).encode(out);
                0u32.encode(out);
                Ok(())
            }
            Packet::Failed(error) => codec::encode_error(error, out),
            _ => Ok(()),
        })
    }
}

/// What a client's packet means to a server.
#[derive(Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Write these bytes.
    Data(Vec<u8>),
    /// Leave out so many bytes.
    Hole(u64),
    /// Write what is left, then [`ServerEnd::confirm`] or [`ServerEnd::fail`].
    Finish,
    /// Drop what is left, then [`ServerEnd::confirm`].
    Abort,
    /// Nothing.
    Nothing,
}

/// A server's end of a stream: what may come and what may be sent.
#[derive(Debug)]
pub struct ServerEnd {
    id: StreamId,
    flow: api::Stream,
    sparse: bool,
    /// The end of the data has been sent.
    ended: bool,
    /// The client has asked to finish or abort.
    closing: bool,
    over: bool,
}

impl ServerEnd {
    /// The stream that a call begins. It begins with the call's reply: no packet may be queued before that.
    #[must_use]
    pub fn new(id: StreamId, flow: api::Stream, sparse: bool) -> Self {
        Self { id, flow, sparse, ended: false, closing: false, over: false }
    }

    /// Its numbers.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// May data be sent now?
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.flow != api::Stream::Write && !self.ended && !self.closing && !self.over
    }

    /// Is it over? What still comes for it is dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes a packet of the client.
    ///
    /// # Errors
    /// When it may not come. For [`StreamError::Direction`] the stream may be failed; after the others the connection ends.
    pub fn take(&mut self, packet: Packet) -> Result<FromClient, StreamError> {
        if self.over || self.closing {
            return Ok(FromClient::Nothing);
        }
        let writes = self.flow != api::Stream::Read;
        match packet {
            Packet::Hole(_) if !self.sparse => Err(StreamError::NotSparse),
            Packet::Data(_) | Packet::Hole(_) if !writes => Err(StreamError::Direction),
            Packet::Data(bytes) => Ok(FromClient::Data(bytes)),
            Packet::Hole(length) => Ok(FromClient::Hole(length)),
            Packet::End => Ok(FromClient::Nothing),
            Packet::Finish => {
                self.closing = true;
                Ok(FromClient::Finish)
            }
            Packet::Abort | Packet::Failed(_) => {
                self.closing = true;
                Ok(FromClient::Abort)
            }
        }
    }

    /// Queues data, if it may be sent now.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn data<T: Transport>(&mut self, conn: &mut Conn<T>, bytes: &[u8]) -> Result<(), WireError> {
        if self.may_send() { conn.queue_data(self.id, bytes) } else { Ok(()) }
    }

    /// Queues a hole, if something may be sent now.
    ///
    /// # Errors
    /// [`WireError::NotSparse`] if the client did not ask for holes.
    pub fn hole<T: Transport>(&mut self, conn: &mut Conn<T>, length: u64) -> Result<(), WireError> {
        if !self.sparse {
            return Err(WireError::NotSparse);
        }
        if self.may_send() { conn.queue_packet(self.id, &Packet::Hole(length)) } else { Ok(()) }
    }

    /// Queues the end of the data, once.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn end<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        if !self.may_send() {
            return Ok(());
        }
        self.ended = true;
        conn.queue_packet(self.id, &Packet::End)
    }

    /// Queues the confirmation of a finish or an abort. The stream is over then.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn confirm<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        conn.queue_packet(self.id, &Packet::Finish)
    }

    /// Queues the failure of the stream. It is over then.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn fail<T: Transport>(&mut self, conn: &mut Conn<T>, error: &api::Error) -> Result<(), WireError> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        conn.queue_packet(self.id, &Packet::Failed(error.clone()))
    }
}

/// What a server's packet means to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Bytes.
    Data(Vec<u8>),
    /// So many zero bytes.
    Hole(u64),
    /// No more data will come; the stream is to be finished.
    End,
    /// What was asked for, finish or abort, is done; the stream is over.
    Confirmed,
    /// The stream failed and is over.
    Failed(api::Error),
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Open,
    Closing,
    Over,
}

/// A client's end of a stream: what may come and what may be sent.
#[derive(Debug)]
pub struct ClientEnd {
    id: StreamId,
    flow: api::Stream,
    sparse: bool,
    state: ClientState,
}

impl ClientEnd {
    /// The stream that a call begins. What comes for it belongs to it even before the call's reply has been looked at.
    #[must_use]
    pub fn new(id: StreamId, flow: api::Stream, sparse: bool) -> Self {
        Self { id, flow, sparse, state: ClientState::Open }
    }

    /// The same with the serial that the call got.
    #[must_use]
    pub fn with_serial(mut self, serial: u32) -> Self {
        self.id.serial = serial;
        self
    }

    /// Its numbers.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// May data be sent now?
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.flow != api::Stream::Read && self.state == ClientState::Open
    }

    /// Is it open: neither over nor asked to be?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == ClientState::Open
    }

    /// Is it over?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == ClientState::Over
    }

    /// Takes a packet of the server.
    ///
    /// # Errors
    /// When it may not come; the connection ends.
    pub fn take(&mut self, packet: Packet) -> Result<FromServer, StreamError> {
        if self.is_over() {
            return Ok(FromServer::Nothing);
        }
        match packet {
            Packet::Hole(_) if !self.sparse => Err(StreamError::NotSparse),
            Packet::Data(_) | Packet::Hole(_) if self.flow == api::Stream::Write => Err(StreamError::Direction),
            // What was on its way when this side stopped caring.
            Packet::Data(_) | Packet::Hole(_) | Packet::End if !self.is_open() => Ok(FromServer::Nothing),
            Packet::Data(bytes) => Ok(FromServer::Data(bytes)),
            Packet::Hole(length) => Ok(FromServer::Hole(length)),
            Packet::End => Ok(FromServer::End),
            Packet::Finish => {
                self.state = ClientState::Over;
                Ok(FromServer::Confirmed)
            }
            Packet::Abort => {
                self.state = ClientState::Over;
                let text = "the server ended the stream without saying why";
                Ok(FromServer::Failed(api::Error::new(api::ErrorCode::RPC, api::ErrorDomain::STREAMS, text)))
            }
            Packet::Failed(error) => {
                self.state = ClientState::Over;
                Ok(FromServer::Failed(error))
            }
        }
    }

    /// Queues data, if it may be sent now.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn data<T: Transport>(&mut self, conn: &mut Conn<T>, bytes: &[u8]) -> Result<(), WireError> {
        if self.may_send() { conn.queue_data(self.id, bytes) } else { Ok(()) }
    }

    /// Queues a hole, if something may be sent now.
    ///
    /// # Errors
    /// [`WireError::NotSparse`] if the call did not ask for holes.
    pub fn hole<T: Transport>(&mut self, conn: &mut Conn<T>, length: u64) -> Result<(), WireError> {
        if !self.sparse {
            return Err(WireError::NotSparse);
        }
        if self.may_send() { conn.queue_packet(self.id, &Packet::Hole(length)) } else { Ok(()) }
    }

    /// Queues the wish to finish. What the server still says about it comes through [`ClientEnd::take`].
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn finish<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        self.close(conn, &Packet::Finish)
    }

    /// Queues the wish to abort.
    ///
    /// # Errors
    /// As [`Conn::queue`].
    pub fn abort<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        self.close(conn, &Packet::Abort)
    }

    fn close<T: Transport>(&mut self, conn: &mut Conn<T>, packet: &Packet) -> Result<(), WireError> {
        if !self.is_open() {
            return Ok(());
        }
        self.state = ClientState::Closing;
        conn.queue_packet(self.id, packet)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::transport::Unix;

    const ID: StreamId = StreamId { program: 0x2000_8086, version: 1, procedure: 209, serial: 4 };

    fn conn() -> Conn<Unix> {
        Conn::new(Unix::new(UnixStream::pair().unwrap().0))
    }

    fn frame(kind: Kind, status: Status, payload: &[u8]) -> Frame {
        Frame { header: ID.header(kind, status), payload: payload.to_vec(), fds: Vec::new() }
    }

    #[test]
    fn packets_are_told_by_kind_status_and_length() {
        let of = |kind, status, payload: &[u8]| Packet::decode(frame(kind, status, payload)).unwrap();
        assert_eq!(of(Kind::Stream, Status::Continue, b"abc"), Packet::Data(b"abc".to_vec()));
        assert_eq!(of(Kind::Stream, Status::Continue, b""), Packet::End);
        assert_eq!(of(Kind::Stream, Status::Ok, b""), Packet::Finish);
        assert_eq!(of(Kind::Stream, Status::Error, b""), Packet::Abort);
        assert_eq!(of(Kind::StreamHole, Status::Continue, b"\0\0\0\x01\0\0\0\0\0\0\0\0"), Packet::Hole(1 << 32));
    }

    #[test]
    fn packets_that_make_no_sense_are_refused() {
        let of = |kind, status, payload: &[u8]| Packet::decode(frame(kind, status, payload)).unwrap_err();
        let negative = [0xff; 8].into_iter().chain([0; 4]).collect::<Vec<u8>>();
        assert!(matches!(of(Kind::StreamHole, Status::Continue, &negative), StreamError::HoleLength(-1)));
        let flags = b"\0\0\0\0\0\0\0\x01\0\0\0\x02";
        assert!(matches!(of(Kind::StreamHole, Status::Continue, flags), StreamError::HoleFlags(2)));
        assert!(matches!(of(Kind::StreamHole, Status::Continue, b"\0\0\0"), StreamError::Payload(_)));
        assert!(matches!(of(Kind::StreamHole, Status::Ok, b""), StreamError::Status(Status::Ok)));
        assert!(matches!(of(Kind::Stream, Status::Error, b"\0\0"), StreamError::Payload(_)));
        assert!(matches!(of(Kind::Stream, Status::Other(9), b""), StreamError::Status(Status::Other(9))));
    }

    #[test]
    fn what_is_queued_is_what_the_other_end_reads() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Conn::new(Unix::new(a)), Conn::new(Unix::new(b)));
        let error = api::Error::new(api::ErrorCode::OPERATION_FAILED, api::ErrorDomain::STREAMS, "no");
        let packets = [
            Packet::Data(b"abcde".to_vec()),
            Packet::Hole(77),
            Packet::End,
            Packet::Finish,
            Packet::Abort,
            Packet::Failed(error),
        ];
        for packet in &packets {
            a.queue_packet(ID, packet).unwrap();
        }
        assert!(a.flush().unwrap());
        for packet in packets {
            b.fill().unwrap();
            let frame = b.next_frame().unwrap().unwrap();
            assert_eq!(StreamId::from(&frame.header), ID);
            assert_eq!(Packet::decode(frame).unwrap(), packet);
        }
    }

    #[test]
    fn long_data_goes_in_several_packets() {
        let mut conn = conn();
        conn.queue_data(ID, &vec![0; 2 * MAX_STREAM_DATA + 1]).unwrap();
        assert_eq!(conn.backlog(), 2 * MAX_STREAM_DATA + 1 + 3 * 28);
    }

    #[test]
    fn a_server_takes_only_what_the_stream_is_for() {
        let hole = || Packet::Hole(1);
        let data = || Packet::Data(b"x".to_vec());
        let end = |flow, sparse| ServerEnd::new(ID, flow, sparse);
        assert!(matches!(end(api::Stream::Read, false).take(data()), Err(StreamError::Direction)));
        assert!(matches!(end(api::Stream::Read, true).take(hole()), Err(StreamError::Direction)));
        assert!(matches!(end(api::Stream::Write, false).take(hole()), Err(StreamError::NotSparse)));
        assert_eq!(end(api::Stream::Write, true).take(hole()).unwrap(), FromClient::Hole(1));
        assert_eq!(end(api::Stream::Both, false).take(data()).unwrap(), FromClient::Data(b"x".to_vec()));
        assert_eq!(end(api::Stream::Both, false).take(Packet::End).unwrap(), FromClient::Nothing);
        assert!(!end(api::Stream::Write, false).may_send());
    }

    #[test]
    fn a_server_says_the_last_word_once() {
        let mut conn = conn();
        let mut end = ServerEnd::new(ID, api::Stream::Both, false);
        end.end(&mut conn).unwrap();
        end.end(&mut conn).unwrap();
        assert_eq!(conn.backlog(), 28);
        assert_eq!(end.take(Packet::Finish).unwrap(), FromClient::Finish);
        // What comes behind it, and what would go out.
        assert_eq!(end.take(Packet::Data(b"x".to_vec())).unwrap(), FromClient::Nothing);
        end.data(&mut conn, b"x").unwrap();
        end.confirm(&mut conn).unwrap();
        end.confirm(&mut conn).unwrap();
        let error = api::Error::new(api::ErrorCode::OPERATION_FAILED, api::ErrorDomain::STREAMS, "no");
        end.fail(&mut conn, &error).unwrap();
        assert_eq!(conn.backlog(), 2 * 28);
        assert!(end.is_over());
    }

    #[test]
    fn a_client_waits_for_the_confirmation_and_drops_what_comes_before_it() {
        let mut conn = conn();
        let mut end = ClientEnd::new(ID, api::Stream::Both, false);
        assert_eq!(end.take(Packet::Data(b"x".to_vec())).unwrap(), FromServer::Data(b"x".to_vec()));
        end.abort(&mut conn).unwrap();
        end.finish(&mut conn).unwrap();
        assert_eq!(conn.backlog(), 28, "one wish is enough");
        assert!(!end.may_send() && !end.is_over());
        assert_eq!(end.take(Packet::Data(b"x".to_vec())).unwrap(), FromServer::Nothing);
        assert_eq!(end.take(Packet::Finish).unwrap(), FromServer::Confirmed);
        assert_eq!(end.take(Packet::Hole(1)).unwrap(), FromServer::Nothing);
        assert!(end.is_over());
    }
}
