//! One client's session: the rules of libvirt's protocol that are a connection's own.
//!
//! Login, opening, features, keepalive, events, streams and closing are answered here. Every other call is the driver's:
//! it is decoded, submitted, and its answer encoded, whatever it is. Nothing here waits or opens anything; the process
//! around it polls what [`Session::sources`] says and tells [`Session::ready`].

use std::{
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use api::{Call, Error, ErrorCode, ErrorDomain, Op, Reply, bulkhead, consts::Feature, remote};
use ipc::paths::Mode;
use libclient::driven::{Done, Target};
use rustix::event::{PollFd, PollFlags};
use wire::{
    Conn, Frame, Header, Transport,
    codec::{self, Meaning},
    frame::{MAX_MESSAGE, MAX_MESSAGE_BEFORE_LOGIN},
    keepalive::{self, Action, Keepalive},
    stream::{Packet, StreamId},
};

mod flow;
mod over;
mod registering;

pub use self::over::Over;
use self::{flow::Flow, over::Fault};
use super::{
    events::{Cursor, Registrations},
    link::{Kept, Link, News},
    login::LoginState,
    streams::{self, Streams},
};
use crate::edge::{Client, Daemon, Denied, Dial, KeepaliveSettings, Peer, Rights, Share};

/// Bytes that may wait for a client before it is given up: two of the largest answers. Nothing is fetched for it beyond its
/// share, so only what was under way by then comes to more.
const BACKLOG_DROP: usize = 64 << 20;
/// Bytes of calls that may wait for the driver before the client is not read any more.
const LINK_PAUSE: usize = 1 << 20;
/// While a client is not read, a sign of life goes to it so often, because its pings are not seen either.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// The byte stream to a client.
pub type ClientStream = Box<dyn Transport + Send>;

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not logged in.
    Unknown,
    /// It has.
    Known,
    /// It has asked for a driver.
    Opening,
    /// It has one.
    Open,
}

/// What a submitted call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The client asked, and gets the answer as it is.
    Answer,
    /// It opens the driver.
    Open,
    /// Its answer brings a descriptor, which becomes a stream of this call.
    Stream(Op),
    /// The session itself wants events.
    Subscribe,
    /// The client wants numbered events, from behind this one on.
    ClientSubscribe(Option<u64>),
    /// The session wants none any more.
    Unsubscribe,
}

/// A submitted call.
struct Pending {
    token: u64,
    /// The client's call, if it is one.
    header: Option<Header>,
    purpose: Purpose,
}

/// One client's session. See the module's page.
pub struct Session {
    conn: Conn<ClientStream>,
    link: Link,
    kept: Option<Kept>,
    rights: Rights,
    mode: Mode,
    login: LoginState,
    stage: Stage,
    pending: Vec<Pending>,
    last_token: u64,
    done: Vec<Done>,
    registrations: Registrations,
    flow: Flow,
    streams: Streams,
    keepalive: Option<Keepalive>,
    keepalive_settings: KeepaliveSettings,
    close_callback: bool,
    /// How long a client may take for what it has to do.
    patience: Duration,
    share: Share,
    /// Until when it must have logged in; not counted while it waits for polkit, which may ask a person.
    login_until: Option<Instant>,
    /// It has come by network, and the acceptor counts it apart until it has logged in.
    by_network: bool,
    /// The acceptor is to be told that the client has logged in, before the client is.
    became_known: bool,
    /// The acceptor is to ask polkit.
    question: bool,
    /// The client is not read; when the next sign of life is due.
    paused: Option<Instant>,
    /// The client has closed its session: the queue is still sent, until the client has read nothing of it for so long.
    closing: Option<Instant>,
    /// No call could have left anything behind in the driver's connection.
    only_read: bool,
    over: Option<Over>,
}

fn internal(text: &str) -> Error {
    Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, format!("internal error: {text}"))
}

impl Session {
    /// A session with a client that has said nothing yet.
    pub(super) fn new(
        client: &Client,
        transport: ClientStream,
        login: LoginState,
        kept: Option<Kept>,
        now: Instant,
    ) -> Session {
        let mut conn = Conn::new(transport);
        conn.set_max_message(MAX_MESSAGE_BEFORE_LOGIN);
        Session {
            conn,
            link: Link::new(),
            kept,
            rights: client.rights,
            mode: client.mode.into(),
            login,
            stage: Stage::Unknown,
            pending: Vec::new(),
            last_token: 0,
            done: Vec::new(),
            registrations: Registrations::new(),
            flow: Flow::default(),
            streams: Streams::default(),
            keepalive: None,
            keepalive_settings: client.keepalive,
            close_callback: false,
            patience: client.patience,
            share: client.share,
            login_until: Some(now + client.patience),
            by_network: matches!(client.peer, Peer::Remote(_)),
            became_known: false,
            question: false,
            paused: None,
            closing: None,
            only_read: true,
            over: None,
        }
    }

    /// Does all that can be done without waiting, and sends all that came of it.
    ///
    /// # Errors
    /// When the session is over.
    pub fn work(&mut self, now: Instant) -> Result<(), Over> {
        if let Some(over) = self.over.take() {
            return Err(over);
        }
        loop {
            self.work_once(now)?;
            // What was sent has made room again, and nothing else would tell of it.
            if self.paused.is_none() || !self.may_take() {
                break;
            }
            self.paused = None;
        }
        match self.conn.backlog() {
            0 if self.closing.is_some() && !self.conn.wants_write() => Err(Over::Left),
            backlog if backlog > BACKLOG_DROP => Err(Over::Broken(Fault::Backlog(backlog).into())),
            _ => Ok(()),
        }
    }

    fn work_once(&mut self, now: Instant) -> Result<(), Over> {
        loop {
            self.take_done()?;
            self.take_events()?;
            self.take_frames()?;
            let more = self.may_take() && self.conn.may_have_more();
            if more {
                self.fill(now)?;
            } else if self.done.is_empty() {
                break;
            }
        }
        self.tick(now)?;
        self.link.flush();
        if self.became_known {
            return Ok(());
        }
        Ok(self.conn.flush().map(drop)?)
    }

    /// Ends the session. What it leaves may serve the next one of the same user.
    #[must_use]
    pub fn end(self, over: &Over) -> Option<Kept> {
        let clean = matches!(over, Over::Left) && self.only_read && !self.flow.used && self.pending.is_empty();
        // One that was not opened has not touched what it was given.
        let kept = self.kept;
        self.link.keep().filter(|_| clean).or(kept)
    }

    /// A question for the acceptor: a connection to a driver's daemon.
    pub fn take_dial(&mut self) -> Option<Dial> {
        self.link.take_dial()
    }

    /// A question for the acceptor: what does polkit say of this client?
    pub fn take_question(&mut self) -> bool {
        mem::take(&mut self.question)
    }

    /// The client has logged in since this was asked last. It is answered only then.
    pub fn take_known(&mut self) -> bool {
        mem::take(&mut self.became_known)
    }

    /// Polkit's word.
    pub fn authorized(&mut self, word: Result<(), Denied>) {
        let Some(header) = self.login.take_word(word.is_ok()) else { return };
        let answered = match word {
            Ok(()) => {
                tracing::info!("polkit lets it change things");
                self.is_known();
                let reply = Reply::AuthPolkit(remote::AuthPolkitRet { complete: 1 });
                self.conn.queue_answer(&header, &Ok(reply), Vec::new())
            }
            Err(Denied { code, reason }) => {
                tracing::info!("{reason}");
                // The domain is what makes virsh start an agent and try again.
                self.conn.queue_error(&header, &Error::new(ErrorCode(code), ErrorDomain::POLKIT, reason))
            }
        };
        if let Err(error) = answered {
            self.over.get_or_insert(error.into());
        }
    }

    /// The acceptor's answer.
    pub fn dialed(&mut self, answer: Result<UnixStream, Error>) {
        // Who has been told of events before counts on being told of the next one; anybody else has an answer to wait for.
        let cursors = [self.flow.registrations, self.flow.client];
        let lost = answer.is_err() && cursors.into_iter().flatten().any(|cursor| cursor.last().is_some());
        let first = (answer.is_ok() && self.wants_events()).then(|| self.subscription());
        self.link.dialed(answer, first, &mut self.done);
        if lost && self.stage == Stage::Open {
            self.end_without_events();
        }
    }

    /// Appends what to poll. The first is the client, the second the driver if there is one, then the streams.
    pub fn sources<'a>(&'a self, sources: &mut Vec<PollFd<'a>>) {
        let flags = |read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            flags
        };
        let client = flags(self.paused.is_none() && self.closing.is_none(), self.conn.wants_write());
        sources.push(PollFd::from_borrowed_fd(self.conn.as_fd(), client));
        if let Some((fd, write)) = self.link.source() {
            // What its client does not read waits in qemud, where it counts for its user.
            sources.push(PollFd::from_borrowed_fd(fd, flags(self.has_room(), write)));
        }
        let room = self.has_room();
        let streams = self.streams.interests(room);
        sources.extend(streams.map(|(_, fd, read, write)| PollFd::from_borrowed_fd(fd, flags(read, write))));
    }

    /// When [`Session::work`] has something to do even if nothing is ready.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let keepalive = self.keepalive.as_ref().map(Keepalive::deadline);
        [self.login_until, self.closing, self.paused, keepalive].into_iter().flatten().min()
    }

    /// Takes what the poll has told of [`Session::sources`], in their order.
    pub fn ready(&mut self, told: &[PollFlags], now: Instant) {
        let mut told = told.iter().copied();
        let client = told.next().unwrap_or(PollFlags::empty());
        let driver = self.link.source().is_some().then(|| told.next()).flatten();
        // The same as were polled: nothing has happened since.
        let room = self.has_room();
        let places: Vec<usize> = self.streams.interests(room).map(|(place, ..)| place).collect();
        let told = places.into_iter().zip(told);
        let result = self.ready_client(client, now).and_then(|()| self.ready_streams(told));
        if let Err(over) = result {
            self.over.get_or_insert(over);
        }
        if driver.is_some_and(|flags| !flags.is_empty()) {
            self.drive();
        }
    }

    fn ready_client(&mut self, told: PollFlags, now: Instant) -> Result<(), Over> {
        if told.contains(PollFlags::OUT) {
            // It has taken some of what it left: while it is not read, this is how it shows that it lives.
            if let Some(keepalive) = &mut self.keepalive {
                keepalive.on_received(now);
            }
            if let Some(until) = &mut self.closing {
                *until = now + self.patience;
            }
        }
        if told.contains(PollFlags::IN) {
            self.fill(now)
        } else if told.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            // Told whether it was asked for or not: whatever is under way, nobody waits for it.
            Err(Over::Left)
        } else {
            Ok(())
        }
    }

    fn ready_streams(&mut self, told: impl Iterator<Item = (usize, PollFlags)>) -> Result<(), Over> {
        for (place, flags) in told {
            if flags.is_empty() {
                continue;
            }
            let gone = flags.intersects(PollFlags::HUP | PollFlags::ERR);
            self.streams.ready(
                place,
                flags.contains(PollFlags::IN) || gone,
                flags.contains(PollFlags::OUT),
                &mut self.conn,
            )?;
        }
        self.streams.forget_over();
        Ok(())
    }

    fn fill(&mut self, now: Instant) -> Result<(), Over> {
        if self.conn.fill()?
            && let Some(keepalive) = &mut self.keepalive
        {
            keepalive.on_received(now);
        }
        Ok(())
    }

    /// Lets the driver do what it can.
    fn drive(&mut self) {
        match self.link.ready(&mut self.done) {
            News::None => {}
            News::Lost(error) => {
                tracing::info!("{} is lost: {}", self.link.daemon(), error.full_text());
                self.flow.subscribing = false;
                // A listener makes no call that would connect again.
                if self.wants_events() {
                    self.link.dial_now(true);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), Over> {
        let over = |until: Option<Instant>| until.is_some_and(|at| at <= now);
        if over(self.login_until) {
            return Err(Over::Broken(Fault::Silent.into()));
        }
        if over(self.closing) {
            return Err(Over::Broken(Fault::Unread.into()));
        }
        if self.stage == Stage::Unknown && self.login.is_failed() {
            // What it was answered still goes.
            self.close(now);
        }
        if self.may_take() {
            self.paused = None;
        } else if self.paused.is_none_or(|at| at <= now) {
            if self.paused.is_some() {
                self.conn.queue_empty(&keepalive::PONG_HEADER)?;
            }
            self.paused = Some(now + SIGN_OF_LIFE);
        }
        let Some(keepalive) = &mut self.keepalive else { return Ok(()) };
        if self.paused.is_some() && !self.conn.wants_write() {
            // Its answers to pings are not read now, and it has taken all that there was.
            keepalive.on_received(now);
        }
        match keepalive.tick(now) {
            Action::Nothing => Ok(()),
            // It would wait behind what the client does not take.
            Action::SendPing if self.paused.is_some() => Ok(()),
            Action::SendPing => Ok(self.conn.queue_empty(&keepalive::PING_HEADER)?),
            Action::Dead => Err(Over::Broken(Fault::Dead.into())),
        }
    }

    /// Nothing more is taken from the client.
    fn close(&mut self, now: Instant) {
        self.closing.get_or_insert(now + self.patience);
    }

    /// The client has not left more unread than its share.
    fn has_room(&self) -> bool {
        self.conn.backlog() < self.share.unread
    }

    /// May the client be given more to do now?
    fn may_take(&self) -> bool {
        self.closing.is_none()
            && self.pending.len() < self.share.calls
            && self.has_room()
            && self.link.backlog() < LINK_PAUSE
            && !self.streams.full()
    }

    fn take_frames(&mut self) -> Result<(), Over> {
        while self.may_take() {
            let Some(frame) = self.conn.next_frame()? else { return Ok(()) };
            match frame.header.meaning() {
                Meaning::Call => self.take_call(frame)?,
                Meaning::Keepalive => {
                    if let Some(pong) = keepalive::answer(&frame.header) {
                        self.conn.queue_empty(&pong)?;
                    }
                }
                Meaning::Stream => {
                    let id = StreamId::from(&frame.header);
                    // What is of no stream, or of one that is over, is nobody's.
                    if self.streams.has(id) {
                        self.streams.take(id, Packet::decode(frame)?, &mut self.conn)?;
                    }
                }
                Meaning::Reply | Meaning::Event | Meaning::Nothing => {}
            }
        }
        Ok(())
    }

    // Calls.

    fn take_call(&mut self, frame: Frame) -> Result<(), Over> {
        let header = frame.header;
        let _in_call = tracing::debug_span!("call", procedure = header.procedure, serial = header.serial).entered();
        match self.call(frame) {
            Ok(Some(reply)) => self.conn.queue_answer(&header, &Ok(reply), Vec::new())?,
            Ok(None) => {}
            Err(error) => self.conn.queue_error(&header, &error)?,
        }
        Ok(())
    }

    /// The answer to a call, if it is there at once.
    fn call(&mut self, frame: Frame) -> Result<Option<Reply>, Error> {
        let header = frame.header;
        let op = codec::call_op(&header)?;
        if self.stage == Stage::Unknown && op.info().needs_auth {
            return Err(Error::new(ErrorCode::RPC, ErrorDomain::RPC, "authentication required"));
        }
        let call = codec::decode_call(&frame)?;
        self.link.weigh(frame.payload.len());
        match call {
            Call::AuthList(_) => Ok(Some(self.log_in())),
            Call::AuthSaslInit(_) => self.login.mechanisms().map(|ret| Some(Reply::AuthSaslInit(ret))),
            Call::AuthSaslStart(args) => self.login.start(&args).map(|ret| Some(Reply::AuthSaslStart(ret))),
            Call::AuthSaslStep(args) => {
                let (ret, name) = self.login.step(&args)?;
                if let Some(name) = name {
                    tracing::info!("logged in as {name:?}");
                    self.is_known();
                }
                Ok(Some(Reply::AuthSaslStep(ret)))
            }
            Call::AuthPolkit(_) => {
                self.login.ask_polkit(header)?;
                self.question = true;
                self.login_until = None;
                Ok(None)
            }
            Call::ConnectOpen(args) => self.open(header, &args),
            Call::ConnectClose(_) => {
                self.close(Instant::now());
                Ok(Some(Reply::ConnectClose(())))
            }
            Call::ConnectSupportsFeature(args) => self.feature(header, args),
            call if self.stage != Stage::Open => {
                tracing::debug!("{} before an open", call.op());
                Err(internal("hypervisor connection not open"))
            }
            call => self.call_of_open(header, call, frame.fds),
        }
    }

    fn call_of_open(&mut self, header: Header, call: Call, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Error> {
        api::check_access(&call, self.link.read_only())?;
        if let Some(answer) = self.registration(header, &call) {
            return answer;
        }
        match call {
            Call::ConnectRegisterCloseCallback(_) => {
                self.close_callback = true;
                Ok(Some(Reply::ConnectRegisterCloseCallback(())))
            }
            Call::ConnectUnregisterCloseCallback(_) => {
                self.close_callback = false;
                Ok(Some(Reply::ConnectUnregisterCloseCallback(())))
            }
            Call::BulkheadEventsSubscribe(ref args) => {
                let purpose = Purpose::ClientSubscribe(args.since);
                self.flow.used = true;
                self.submit(Some(header), purpose, call, fds)
            }
            Call::BulkheadEventsUnsubscribe(_) => {
                self.flow.client = None;
                if self.registrations.any() {
                    return Ok(Some(Reply::BulkheadEventsUnsubscribe(())));
                }
                self.submit(Some(header), Purpose::Answer, call, fds)
            }
            call if call.op().info().stream.is_some() => self.stream(header, call, fds),
            call => self.submit(Some(header), Purpose::Answer, call, fds),
        }
    }

    fn log_in(&mut self) -> Reply {
        // Asked for nothing, who asks is in; asked for something, it is what is asked for, also after it was given.
        let kind = self.login.kind();
        if kind == remote::AuthType::NONE {
            self.is_known();
        }
        Reply::AuthList(remote::AuthListRet { types: vec![kind] })
    }

    fn is_known(&mut self) {
        if self.stage == Stage::Unknown {
            self.stage = Stage::Known;
            self.became_known = self.by_network;
            self.login_until = None;
            self.conn.set_max_message(MAX_MESSAGE);
        }
    }

    fn open(&mut self, header: Header, args: &remote::ConnectOpenArgs) -> Result<Option<Reply>, Error> {
        if self.stage != Stage::Known {
            return Err(internal("connection already open"));
        }
        // Every other bit is a client's private matter.
        let read_only = self.rights == Rights::ReadOnly || args.flags & 1 != 0;
        let daemon = self.daemon(args.name.as_deref().unwrap_or_default())?;
        self.link.open(daemon, read_only, self.kept.take());
        if self.link.is_second_hand() {
            // Opened for the session before this one, as for this one.
            if self.link.ready(&mut self.done) == News::None {
                self.stage = Stage::Open;
                return Ok(Some(Reply::ConnectOpen(())));
            }
            // The daemon went away between two sessions: this one is none the worse for it.
            self.link.dial_now(false);
        }
        self.stage = Stage::Opening;
        let flags = u32::from(self.link.read_only());
        let open = Call::ConnectOpen(remote::ConnectOpenArgs { name: None, flags });
        self.submit(Some(header), Purpose::Open, open, Vec::new()).map(|_| None).inspect_err(|_| {
            self.link.close();
            self.stage = Stage::Known;
        })
    }

    /// Whose driver a name stands for.
    fn daemon(&self, name: &str) -> Result<Daemon, Error> {
        let target = if name.is_empty() { Target::Qemu(self.mode) } else { Target::of(name)? };
        match target {
            Target::Qemu(mode) if mode != self.mode => {
                let text = format!("unexpected QEMU URI path '/{}', try qemu:///{}", mode.name(), self.mode.name());
                Err(internal(&text))
            }
            // It would be a file of this host, opened with another's rights than the client's.
            Target::TestFile(path) => {
                let text = format!("the test driver's file '{}' is not read for a client", path.display());
                Err(Error::new(ErrorCode::OPERATION_UNSUPPORTED, ErrorDomain::TEST, text)
                    .with_hint("test:///default is there for everybody"))
            }
            Target::Qemu(_) => Ok(Daemon::Qemud),
            Target::TestDefault => Ok(Daemon::MockHost),
        }
    }

    fn feature(&mut self, header: Header, args: remote::ConnectSupportsFeatureArgs) -> Result<Option<Reply>, Error> {
        let passes_fds = self.conn.transport().passes_fds();
        let supported = match Feature::try_from(args.feature) {
            Ok(Feature::FdPassing) => passes_fds,
            Ok(Feature::RemoteEventCallback | Feature::RemoteCloseCallback) => true,
            Ok(Feature::Remote) => false,
            Ok(Feature::ProgramKeepalive) => {
                let KeepaliveSettings { seconds, count } = self.keepalive_settings;
                if seconds > 0 && self.keepalive.is_none() {
                    let interval = Duration::from_secs(seconds.into());
                    self.keepalive = Some(Keepalive::new(interval, count, Instant::now()));
                }
                true
            }
            _ if self.stage == Stage::Open => {
                return self.submit(Some(header), Purpose::Answer, Call::ConnectSupportsFeature(args), Vec::new());
            }
            _ => return Err(internal("hypervisor connection not open")),
        };
        let ret = remote::ConnectSupportsFeatureRet { supported: i32::from(supported) };
        Ok(Some(Reply::ConnectSupportsFeature(ret)))
    }

    /// A call that begins a stream. The driver gives a descriptor where libvirt's protocol has packets.
    fn stream(&mut self, header: Header, call: Call, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Error> {
        let op = call.op();
        if self.streams.count() >= streams::MOST {
            let text = format!("a connection may have {} streams at most", streams::MOST);
            return Err(Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::STREAMS, text));
        }
        let call = match call {
            Call::DomainOpenConsole(remote::DomainOpenConsoleArgs { dom, dev_name, flags }) => {
                Call::BulkheadDomainOpenConsole(bulkhead::DomainOpenConsoleArgs { dom, dev_name, flags })
            }
            // Not one that our drivers have a descriptor for: they say so themselves.
            call => return self.submit(Some(header), Purpose::Answer, call, fds),
        };
        self.submit(Some(header), Purpose::Stream(op), call, fds)
    }

    fn submit(
        &mut self,
        header: Option<Header>,
        purpose: Purpose,
        call: Call,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Error> {
        self.only_read &= api::check_access(&call, true).is_ok();
        let token = self.token();
        self.link.submit(token, call, fds)?;
        self.pending.push(Pending { token, header, purpose });
        Ok(None)
    }

    fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    // Answers.

    fn take_done(&mut self) -> Result<(), Over> {
        for Done { token, result } in mem::take(&mut self.done) {
            let Some(at) = self.pending.iter().position(|pending| pending.token == token) else { continue };
            let Pending { header, purpose, .. } = self.pending.swap_remove(at);
            match (purpose, header) {
                (Purpose::Answer, Some(header)) => self.answer(&header, result)?,
                (Purpose::Open, Some(header)) => self.opened(header, result)?,
                (Purpose::Stream(op), Some(header)) => self.stream_opened(&header, op, result)?,
                (Purpose::ClientSubscribe(since), Some(header)) => {
                    if let Ok((Reply::BulkheadEventsSubscribe(ret), _)) = &result {
                        let mut cursor = Cursor::since(since);
                        // The client learns of a loss from the answer itself.
                        cursor.subscribed(ret);
                        self.flow.client = Some(cursor);
                    }
                    self.answer(&header, result)?;
                }
                (Purpose::Subscribe, _) => self.subscribed(result)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, header: &Header, result: Result<(Reply, Vec<OwnedFd>), Error>) -> Result<(), Over> {
        match result {
            Ok((reply, fds)) => self.conn.queue_answer(header, &Ok(reply), fds)?,
            Err(error) => self.conn.queue_error(header, &error)?,
        }
        Ok(())
    }

    fn opened(&mut self, header: Header, result: Result<(Reply, Vec<OwnedFd>), Error>) -> Result<(), Over> {
        if result.is_ok() {
            self.stage = Stage::Open;
        } else {
            self.stage = Stage::Known;
            self.link.close();
        }
        self.answer(&header, result)
    }

    fn stream_opened(
        &mut self,
        header: &Header,
        op: Op,
        result: Result<(Reply, Vec<OwnedFd>), Error>,
    ) -> Result<(), Over> {
        let fd = match result {
            Ok((_, mut fds)) => fds.pop().ok_or_else(|| internal("the driver opened no stream")),
            Err(error) => Err(error),
        };
        match (fd, op.info().stream) {
            (Ok(fd), Some(flow)) => {
                self.conn.queue_answer(header, &Ok(Reply::DomainOpenConsole(())), Vec::new())?;
                if let Err(error) = self.streams.begin(StreamId::from(header), flow, fd) {
                    self.conn.queue_packet(StreamId::from(header), &Packet::Failed(error))?;
                }
            }
            (Ok(_), None) => self.conn.queue_error(header, &internal("the call has no stream"))?,
            (Err(error), _) => self.conn.queue_error(header, &error)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
