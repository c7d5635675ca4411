//! Connections: where a program begins.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use api::{Error, ErrorCode, Operation, bulkhead, remote};
use uuid::Uuid;

use crate::{
    CallbackId, CreateFlags, DefineFlags, Domain, DomainEvent, DomainRecord, EventStream, ListFlags, NodeInfo, Reason,
    Result, State,
    callbacks::Callbacks,
    dial::Dialer,
    error,
    link::Link,
    qemu::QemuLink,
    remote::{Ask, Asking, Dialer as RemoteDialer, Question, RemoteLink},
    sources,
    test_driver::TestLink,
    uri::{Target, Uri},
};

/// A connection to a hypervisor's driver.
///
/// Clones share one connection, and any number of threads may use it at once. A connection to a daemon that was lost is
/// made again by the next call; the call that was under way fails.
///
/// ```
/// use libclient::{Connection, ListFlags, State};
///
/// let connection = Connection::open("test:///default")?;
/// let running = connection.domains(ListFlags::ACTIVE)?;
/// assert_eq!(running[0].domain.name(), "test");
/// assert_eq!(running[0].state, State::Running);
/// # Ok::<(), libclient::Error>(())
/// ```
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    link: Box<dyn Link>,
    read_only: bool,
    callbacks: Mutex<Option<Arc<Callbacks>>>,
}

/// What a connection is for.
enum How {
    ReadWrite,
    ReadOnly,
    Asking {
        read_only: bool,
        ask: Ask,
    },
    /// To look only, without starting a daemon or asking a person.
    Unfelt,
}

/// A connection that does not keep itself open.
#[derive(Clone)]
pub(crate) struct WeakConnection(Weak<Inner>);

impl WeakConnection {
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(|inner| Connection { inner })
    }
}

impl Connection {
    /// Connects with the right to change things. An empty URI stands for `$BULKHEAD_URI`, `$LIBVIRT_DEFAULT_URI`, the
    /// `uri_default` of `libvirt.conf`, or else `qemu:///system` for root and `qemu:///session` for others; a short name for
    /// the URI that `uri_aliases` there give it.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] for a text that is no URI, [`ErrorCode::NO_CONNECT`] for one that nothing here serves,
    /// [`ErrorCode::SYSTEM_ERROR`] or [`ErrorCode::RPC`] when its daemon cannot be reached or started.
    pub fn open(uri: &str) -> Result<Connection> {
        Connection::open_as(uri, &How::ReadWrite)
    }

    /// Connects to a daemon that may want to know who it is, or to look only. `ask` is asked for what neither the URI nor
    /// libvirt's file of passwords (`auth.conf`) says, once: the answers are kept for when the connection is made again.
    ///
    /// # Errors
    /// As [`Connection::open`]; [`ErrorCode::AUTH_FAILED`] when the daemon does not believe it.
    pub fn open_asking(
        uri: &str,
        read_only: bool,
        ask: impl Fn(Question<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Connection> {
        Connection::open_as(uri, &How::Asking { read_only, ask: Arc::new(ask) })
    }

    /// Connects with the right to look only. Whatever would change something fails with
    /// [`ErrorCode::OPERATION_DENIED`].
    ///
    /// ```
    /// let connection = libclient::Connection::open_read_only("test:///default")?;
    /// let error = connection.domain("test")?.suspend().unwrap_err();
    /// assert_eq!(error.code, libclient::ErrorCode::OPERATION_DENIED);
    /// # Ok::<(), libclient::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_read_only(uri: &str) -> Result<Connection> {
        Connection::open_as(uri, &How::ReadOnly)
    }

    /// Connects with the right to look only, and only to a daemon that runs already: for what must not be felt, such as the
    /// completion of a name in a shell.
    ///
    /// # Errors
    /// As [`Connection::open`], when no daemon runs, and when the daemon is on another host.
    pub fn open_running(uri: &str) -> Result<Connection> {
        Connection::open_as(uri, &How::Unfelt)
    }

    fn open_as(uri: &str, how: &How) -> Result<Connection> {
        let (read_only, asking) = match how {
            How::ReadWrite => (false, Asking::Terminal),
            How::ReadOnly => (true, Asking::Terminal),
            How::Asking { read_only, ask } => (*read_only, Asking::Program(Arc::clone(ask))),
            How::Unfelt => (true, Asking::Nobody),
        };
        let target = if uri.is_empty() {
            let text = Uri::default_text()?;
            Uri::parse(&text)
                .and_then(|uri| Target::of(&uri))
                .map_err(|error| error.with_cause_text(format!("no URI was given; the default is \"{text}\"")))?
        } else {
            Target::of(&Uri::parse(&Uri::of_alias(uri)?)?)?
        };
        let link: Box<dyn Link> = match target {
            Target::Qemu(mode) if matches!(how, How::Unfelt) => {
                Box::new(QemuLink::open(Dialer::without_starter(mode, true)?)?)
            }
            Target::Qemu(mode) => Box::new(QemuLink::open(Dialer::from_env(mode, read_only)?)?),
            // Another host may take its time, which would be felt.
            Target::Remote(address) if matches!(how, How::Unfelt) && !address.is_local() => {
                return Err(Error::new(
                    ErrorCode::NO_CONNECT,
                    api::ErrorDomain::RPC,
                    "another host is not asked in passing",
                ));
            }
            Target::Remote(address) => Box::new(RemoteLink::open(RemoteDialer::new(*address, read_only, asking))?),
            Target::TestDefault => Box::new(TestLink::open_default(read_only)?),
            Target::TestFile(path) => Box::new(TestLink::open_file(&path, read_only)?),
        };
        Ok(Connection::over(link, read_only))
    }

    pub(crate) fn over(link: Box<dyn Link>, read_only: bool) -> Connection {
        Connection { inner: Arc::new(Inner { link, read_only, callbacks: Mutex::new(None) }) }
    }

    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.inner))
    }

    pub(crate) fn link(&self) -> &dyn Link {
        self.inner.link.as_ref()
    }

    /// Whether it was opened to look only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Makes any call of the operation table, those included that have no method of their own here.
    ///
    /// ```
    /// use libclient::{Connection, api::remote::ConnectGetMaxVcpusArgs};
    ///
    /// let connection = Connection::open("test:///default")?;
    /// let answer = connection.invoke(ConnectGetMaxVcpusArgs { r#type: None })?;
    /// assert_eq!(answer.max_vcpus, 32);
    /// # Ok::<(), libclient::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the driver answers; [`ErrorCode::NO_SUPPORT`] when it does not have the operation.
    pub fn invoke<O: Operation>(&self, args: O) -> Result<O::Ret> {
        self.invoke_with_fds(args, Vec::new()).map(|(ret, _)| ret)
    }

    /// As [`Connection::invoke`], for a call that takes or answers descriptors.
    ///
    /// # Errors
    /// As [`Connection::invoke`]; [`ErrorCode::RPC`] when the answer has another number of descriptors than the table says.
    pub fn invoke_with_fds<O: Operation>(&self, args: O, fds: Vec<OwnedFd>) -> Result<(O::Ret, Vec<OwnedFd>)> {
        let (reply, fds) = self.inner.link.call(args.into_call(), fds)?;
        if !O::OP.info().fds_out.allows(fds.len()) {
            return Err(error::strange_answer(O::OP, "it has the wrong number of file descriptors"));
        }
        let ret = O::ret_of(reply).ok_or_else(|| error::strange_answer(O::OP, "it is of another call"))?;
        Ok((ret, fds))
    }

    /// The URI as the driver knows it.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn uri(&self) -> Result<String> {
        self.invoke(remote::ConnectGetUriArgs {}).map(|ret| ret.uri)
    }

    /// The driver's name: `QEMU`, `Test`.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn driver_type(&self) -> Result<String> {
        self.invoke(remote::ConnectGetTypeArgs {}).map(|ret| ret.r#type)
    }

    /// The hypervisor's version: major × 1000000 + minor × 1000 + micro.
    ///
    /// # Errors
    /// When the driver cannot be asked, or finds no hypervisor.
    pub fn version(&self) -> Result<u64> {
        self.invoke(remote::ConnectGetVersionArgs {}).map(|ret| ret.hv_ver)
    }

    /// The version of the daemon, counted in the same way.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn lib_version(&self) -> Result<u64> {
        self.invoke(remote::ConnectGetLibVersionArgs {}).map(|ret| ret.lib_ver)
    }

    /// Whether nobody can read along: on the way to the driver's daemon, and on the daemon's way to the hypervisor.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn is_secure(&self) -> Result<bool> {
        Ok(self.link().security()?.secure && self.daemon_is_secure()?)
    }

    /// Whether what travels to the driver's daemon is encrypted, and the rest of the way secure. A socket of this host is
    /// secure and not encrypted.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn is_encrypted(&self) -> Result<bool> {
        Ok(self.link().security()?.encrypted && self.daemon_is_secure()?)
    }

    fn daemon_is_secure(&self) -> Result<bool> {
        self.invoke(remote::ConnectIsSecureArgs {}).map(|ret| ret.secure != 0)
    }

    /// Asks another host for a sign of life after each `interval` of silence while somebody waits for it, and takes it for
    /// dead after `count` of them without an answer; on this connection and on those of its events and consoles, at once.
    /// No interval, and it is never asked. A host that disappears without a word is noticed by nothing else. Without this
    /// call other hosts are asked after 5 seconds and 5 times; on this host the kernel tells, and nothing is asked.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] when `count` is 0.
    pub fn set_keepalive(&self, interval: Duration, count: u32) -> Result<()> {
        if count == 0 && !interval.is_zero() {
            let message = "invalid argument: a host that may miss no sign of life is dead at once";
            return Err(Error::new(ErrorCode::INVALID_ARG, api::ErrorDomain::NONE, message));
        }
        self.link().set_keepalive((!interval.is_zero()).then_some((interval, count)))
    }

    /// The host's name.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn hostname(&self) -> Result<String> {
        self.invoke(remote::ConnectGetHostnameArgs {}).map(|ret| ret.hostname)
    }

    /// The host's hardware.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn node_info(&self) -> Result<NodeInfo> {
        let ret = self.invoke(remote::NodeGetInfoArgs {})?;
        let count = |number: i32| u32::try_from(number).unwrap_or_default();
        Ok(NodeInfo {
            model: api::chars::to_text(&ret.model),
            memory_kib: ret.memory,
            cpus: count(ret.cpus),
            mhz: count(ret.mhz),
            nodes: count(ret.nodes),
            sockets: count(ret.sockets),
            cores: count(ret.cores),
            threads: count(ret.threads),
        })
    }

    /// What host and hypervisor can do, as a document.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn capabilities(&self) -> Result<String> {
        self.invoke(remote::ConnectGetCapabilitiesArgs {}).map(|ret| ret.capabilities)
    }

    /// Every domain that the flags let through, with what a listing shows: one round trip, however many there are.
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn domains(&self, flags: ListFlags) -> Result<Vec<DomainRecord>> {
        let ret = self.invoke(bulkhead::ListDomainsArgs { flags: flags.bits() })?;
        let records = ret.domains.into_iter().map(|record| {
            let state = State::from_number(record.state);
            DomainRecord {
                domain: Domain::new(self.clone(), record.dom),
                state,
                reason: Reason::new(state, record.reason),
                persistent: record.persistent,
                autostart: record.autostart,
                supervisor_pid: u32::try_from(record.supervisor_pid).ok().filter(|pid| *pid != 0),
                vcpus: record.vcpus,
                memory_kib: record.memory_kib,
            }
        });
        Ok(records.collect())
    }

    /// The domain of a name.
    ///
    /// # Errors
    /// [`ErrorCode::NO_DOMAIN`] when there is none.
    pub fn domain_by_name(&self, name: &str) -> Result<Domain> {
        let ret = self.invoke(remote::DomainLookupByNameArgs { name: name.to_owned() })?;
        Ok(Domain::new(self.clone(), ret.dom))
    }

    /// The domain of a UUID.
    ///
    /// # Errors
    /// [`ErrorCode::NO_DOMAIN`] when there is none.
    pub fn domain_by_uuid(&self, uuid: Uuid) -> Result<Domain> {
        let ret = self.invoke(remote::DomainLookupByUuidArgs { uuid: uuid.into_bytes() })?;
        Ok(Domain::new(self.clone(), ret.dom))
    }

    /// The running domain of a number.
    ///
    /// # Errors
    /// [`ErrorCode::NO_DOMAIN`] when none that runs has it.
    pub fn domain_by_id(&self, id: u32) -> Result<Domain> {
        let Ok(number) = i32::try_from(id) else {
            return Err(no_domain(&format!("no domain with matching id {id}")));
        };
        let ret = self.invoke(remote::DomainLookupByIdArgs { id: number })?;
        Ok(Domain::new(self.clone(), ret.dom))
    }

    /// The domain that a person means: by number, then by UUID, then by name.
    ///
    /// # Errors
    /// [`ErrorCode::NO_DOMAIN`] when it is none of these.
    pub fn domain(&self, what: &str) -> Result<Domain> {
        let digits = !what.is_empty() && what.bytes().all(|byte| byte.is_ascii_digit());
        let by_id = digits.then(|| what.parse().ok()).flatten().map(|id| self.domain_by_id(id));
        if let Some(found) = by_id.and_then(found_or_failed) {
            return found;
        }
        let by_uuid = Uuid::try_parse(what).ok().map(|uuid| self.domain_by_uuid(uuid));
        if let Some(found) = by_uuid.and_then(found_or_failed) {
            return found;
        }
        self.domain_by_name(what)
    }

    /// Keeps a definition, new or instead of the one of the same name and UUID.
    ///
    /// # Errors
    /// [`ErrorCode::XML_ERROR`] and its like when the document is not understood, [`ErrorCode::OPERATION_FAILED`] when name
    /// and UUID belong to different domains.
    pub fn define_xml(&self, xml: &str, flags: DefineFlags) -> Result<Domain> {
        let args = remote::DomainDefineXmlFlagsArgs { xml: xml.to_owned(), flags: flags.bits() };
        Ok(Domain::new(self.clone(), self.invoke(args)?.dom))
    }

    /// Starts a guest from a document; nothing of it is left when it ends. The files that the document names are opened
    /// here, with the rights of this process, and handed over.
    ///
    /// # Errors
    /// As [`Connection::define_xml`] and [`Domain::start`].
    pub fn create_xml(&self, xml: &str, flags: CreateFlags) -> Result<Domain> {
        let dom = if self.link().takes_files() {
            let opened = sources::open_document(xml)?;
            let args = bulkhead::DomainCreateXmlWithSourcesArgs {
                xml: xml.to_owned(),
                flags: flags.bits(),
                sources: opened.sources,
            };
            self.invoke_with_fds(args, opened.fds)?.0.dom
        } else {
            self.invoke(remote::DomainCreateXmlArgs { xml_desc: xml.to_owned(), flags: flags.bits() })?.dom
        };
        Ok(Domain::new(self.clone(), dom))
    }

    /// Listens for what happens to domains: after the event of number `since`, or from now on. Events that happened before
    /// come again as long as the daemon's log holds them, in order and without gaps; [`EventStream::lost`] says when it
    /// does not.
    ///
    /// ```
    /// use libclient::{Connection, EventKind};
    /// use std::time::Duration;
    ///
    /// let connection = Connection::open("test:///default")?;
    /// let mut events = connection.subscribe(None)?;
    /// connection.domain("test")?.suspend()?;
    /// let event = events.next(Some(Duration::from_secs(5)))?;
    /// assert_eq!(event.map(|event| event.kind), Some(EventKind::Suspended));
    /// # Ok::<(), libclient::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the driver cannot be asked.
    pub fn subscribe(&self, since: Option<u64>) -> Result<EventStream> {
        Ok(EventStream::new(self.clone(), self.link().events(since)?))
    }

    /// Calls back for everything that happens to one domain, or to any, from the event loop that
    /// [`event::register_event_impl`](crate::event::register_event_impl) or
    /// [`event::register_default`](crate::event::register_default) has set up, and as long as the connection is open.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`] when no event loop is registered; else when the driver cannot be asked.
    pub fn register_domain_event(
        &self,
        domain: Option<&Domain>,
        callback: Box<dyn FnMut(&DomainEvent) + Send>,
    ) -> Result<CallbackId> {
        let mut callbacks = self.inner.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let callbacks = match callbacks.as_ref() {
            Some(callbacks) => Arc::clone(callbacks),
            None => Arc::clone(callbacks.insert(Callbacks::begin(self)?)),
        };
        Ok(callbacks.add(domain.map(Domain::uuid), callback))
    }

    /// Ends a callback. One that runs in another thread just now may end a moment later.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] when there is no such callback.
    pub fn deregister_domain_event(&self, callback: CallbackId) -> Result<()> {
        let mut callbacks = self.inner.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = callbacks.as_ref().is_some_and(|callbacks| callbacks.remove(callback));
        if !removed {
            return Err(Error::new(
                ErrorCode::INVALID_ARG,
                api::ErrorDomain::NONE,
                format!("there is no event callback {callback}"),
            ));
        }
        // Whom nobody listens to needs no subscription.
        if callbacks.as_ref().is_some_and(|callbacks| callbacks.is_empty()) {
            *callbacks = None;
        }
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("read_only", &self.inner.read_only).finish_non_exhaustive()
    }
}

/// A lookup that found nothing lets the next one try; one that failed in another way is the answer.
fn found_or_failed(result: Result<Domain>) -> Option<Result<Domain>> {
    match result {
        Err(error) if error.code == ErrorCode::NO_DOMAIN => None,
        other => Some(other),
    }
}

fn no_domain(what: &str) -> Error {
    Error::new(ErrorCode::NO_DOMAIN, api::ErrorDomain::DOMAIN, format!("Domain not found: {what}"))
}
