//! qemud at the far end of a socket.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Op, Reply};
use ipc::{Caps, Conn, ConnError, Hello, Incoming, Kind, client::VERSIONS, codec, edge};

use super::{Done, Lost};
use crate::{Result, error};

/// A call that waits.
struct Waiting {
    serial: u64,
    token: u64,
    op: Op,
}

/// One connection. Calls are answered in any order.
pub(super) struct QemuDriven {
    conn: Conn,
    read_only: bool,
    hello: Hello,
    /// The daemon's hello has come and fits.
    greeted: bool,
    last_serial: u64,
    /// Oldest first. Few enough to look through: a worker serves one client, and the oldest is mostly the next answered.
    waiting: VecDeque<Waiting>,
    events: Vec<Event>,
    lost: Option<Lost>,
}

impl QemuDriven {
    pub(super) fn new(socket: UnixStream, read_only: bool) -> Result<QemuDriven> {
        socket.set_nonblocking(true).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot set up the connection to qemud")
                .with_cause(source)
        })?;
        let mut conn = Conn::new(socket, Caps::FROM_DAEMON);
        let hello = Hello::new("libclient", VERSIONS.0, VERSIONS.1);
        conn.queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(&hello, out))
            .map_err(|failure| Error::from(error::lost_connection(failure)))?;
        Ok(QemuDriven {
            conn,
            read_only,
            hello,
            greeted: false,
            last_serial: 0,
            waiting: VecDeque::new(),
            events: Vec::new(),
            lost: None,
        })
    }

    pub(super) fn submit(&mut self, token: u64, call: &Call, fds: Vec<OwnedFd>) -> Result<()> {
        api::check_access(call, self.read_only)?;
        if let Some(lost) = &self.lost {
            return Err(lost.error().clone());
        }
        let op = call.op();
        let serial = self.last_serial + 1;
        self.conn.queue_call(serial, call, fds).map_err(|failure| error::not_sent(failure, op))?;
        self.last_serial = serial;
        self.waiting.push_back(Waiting { serial, token, op });
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        // A failure is told by reading: the daemon may have said why it hangs up.
        let _ = self.conn.flush();
    }

    pub(super) fn ready(&mut self, done: &mut Vec<Done>) -> Result<(), Lost> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        if self.conn.backlog() > 0 {
            self.flush();
        }
        self.read(done).inspect_err(|lost| {
            for waiting in self.waiting.drain(..) {
                done.push(Done { token: waiting.token, result: Err(error::lost_during(lost, waiting.op)) });
            }
            self.lost = Some(lost.clone());
        })
    }

    /// Reads until there is no more.
    fn read(&mut self, done: &mut Vec<Done>) -> Result<(), Lost> {
        loop {
            self.conn.fill_now().map_err(error::lost_connection)?;
            while let Some(frame) = self.conn.next_frame().map_err(error::lost_connection)? {
                self.take(frame, done)?;
            }
            if !self.conn.may_have_more() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, frame: Incoming, done: &mut Vec<Done>) -> Result<(), Lost> {
        if !self.greeted {
            return self.greet(&frame);
        }
        match frame.kind {
            Kind::Reply | Kind::Error => {
                // A reply to nothing is dropped, as everywhere.
                let at = self.waiting.iter().position(|waiting| waiting.serial == frame.serial);
                if let Some(waiting) = at.and_then(|at| self.waiting.remove(at)) {
                    done.push(Done { token: waiting.token, result: answer(frame, waiting.op) });
                }
                Ok(())
            }
            Kind::Event => {
                let event =
                    codec::decode_event(&frame.body).map_err(|failure| error::lost_connection(failure.into()))?;
                self.events.push(event);
                Ok(())
            }
            found @ (Kind::Hello | Kind::Call) => {
                Err(error::lost_connection(ConnError::Unexpected { found, expected: "a reply or an event" }))
            }
        }
    }

    fn greet(&mut self, frame: &Incoming) -> Result<(), Lost> {
        if frame.kind == Kind::Error {
            let reason = codec::decode_error(&frame.body);
            return Err(reason.map_or_else(|failure| error::lost_connection(failure.into()), Lost::new));
        }
        let daemon = edge::decode_hello(frame).map_err(error::lost_connection)?;
        self.hello.agree(&daemon).map_err(error::no_common_version)?;
        self.greeted = true;
        Ok(())
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn backlog(&self) -> usize {
        self.conn.backlog()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.conn.as_fd()
    }
}

fn answer(frame: Incoming, op: Op) -> Result<(Reply, Vec<OwnedFd>)> {
    if frame.kind == Kind::Error {
        return Err(codec::decode_error(&frame.body).unwrap_or_else(|failure| error::strange_bytes(failure, op)));
    }
    let reply = codec::decode_reply(&frame.body).map_err(|failure| error::strange_bytes(failure, op))?;
    if reply.op() != op {
        return Err(error::strange_answer(op, "it is of another call"));
    }
    if !op.info().fds_out.allows(frame.fds.len()) {
        return Err(error::strange_answer(op, "it has the wrong number of file descriptors"));
    }
    Ok((reply, frame.fds))
}
