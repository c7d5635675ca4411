//! Domains: what a program does with a guest.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use api::{bulkhead, remote};
use uuid::Uuid;

use crate::{
    Connection, ConsoleFlags, ConsoleStream, CreateFlags, DestroyFlags, DomainInfo, GuestInfo, Reason, Result, State,
    UndefineFlags, XmlFlags, sources, types::time_of,
};

/// A domain of a connection: a handle that keeps the connection open, whether the domain still exists or not.
///
/// ```
/// use libclient::{Connection, CreateFlags, DestroyFlags};
///
/// let connection = Connection::open("test:///default")?;
/// let domain = connection.domain_by_name("test")?;
/// assert_eq!(domain.id(), Some(1));
/// domain.destroy(DestroyFlags::empty())?;
/// assert_eq!(domain.id(), None);
/// domain.start(CreateFlags::empty())?;
/// assert_eq!(domain.info()?.vcpus, 2);
/// # Ok::<(), libclient::Error>(())
/// ```
#[derive(Clone)]
pub struct Domain {
    pub(crate) connection: Connection,
    handle: Arc<Handle>,
}

struct Handle {
    name: String,
    uuid: Uuid,
    /// -1 while it is off, as far as this handle has seen.
    id: AtomicI32,
}

impl Domain {
    pub(crate) fn new(connection: Connection, dom: remote::Domain) -> Domain {
        let handle = Handle { name: dom.name, uuid: Uuid::from_bytes(dom.uuid), id: AtomicI32::new(dom.id) };
        Domain { connection, handle: Arc::new(handle) }
    }

    pub(crate) fn handle(&self) -> remote::Domain {
        remote::Domain {
            name: self.handle.name.clone(),
            uuid: self.handle.uuid.into_bytes(),
            id: self.handle.id.load(Ordering::Relaxed),
        }
    }

    /// The connection it was found on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// Its UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.handle.uuid
    }

    /// Its number while it runs: as it was when the domain was found, or last started or ended by this handle.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        u32::try_from(self.handle.id.load(Ordering::Relaxed)).ok()
    }

    /// What it is doing, and why.
    ///
    /// # Errors
    /// [`ErrorCode::NO_DOMAIN`](crate::ErrorCode::NO_DOMAIN) when it is gone, as every method here.
    pub fn state(&self) -> Result<(State, Reason)> {
        let ret = self.connection.invoke(remote::DomainGetStateArgs { dom: self.handle(), flags: 0 })?;
        let state = State::from_number(ret.state);
        Ok((state, Reason::new(state, ret.reason)))
    }

    /// What it uses.
    ///
    /// # Errors
    /// When it is gone.
    pub fn info(&self) -> Result<DomainInfo> {
        let ret = self.connection.invoke(remote::DomainGetInfoArgs { dom: self.handle() })?;
        Ok(DomainInfo {
            state: State::from_number(ret.state.into()),
            max_memory_kib: ret.max_mem,
            memory_kib: ret.memory,
            vcpus: ret.nr_virt_cpu.into(),
            cpu_time_ns: ret.cpu_time,
        })
    }

    /// What the processes of its guest say.
    ///
    /// # Errors
    /// When it is gone.
    pub fn guest_info(&self) -> Result<GuestInfo> {
        let ret = self.connection.invoke(bulkhead::DomainGuestInfoArgs { dom: self.handle() })?;
        let supervisor_pid = u32::try_from(ret.supervisor_pid).ok().filter(|pid| *pid != 0);
        Ok(GuestInfo {
            supervisor_pid,
            qemu_running: ret.qemu_running,
            accel: ret.accel,
            machine: ret.machine,
            qemu_version: ret.qemu_version,
            uid: ret.uid,
            started: (ret.started_seconds != 0).then(|| time_of(ret.started_seconds, ret.started_nanos)),
        })
    }

    /// Starts it. The files that its definition names are opened here, with the rights of this process, and handed over; one
    /// that this process may not open is left to the daemon, which may if its administrator says so.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`](crate::ErrorCode::OPERATION_INVALID) when it runs already,
    /// [`ErrorCode::SYSTEM_ERROR`](crate::ErrorCode::SYSTEM_ERROR) when a file is missing, or whatever keeps the guest from
    /// starting.
    pub fn start(&self, flags: CreateFlags) -> Result<()> {
        let dom = if self.connection.link().takes_files() {
            let opened = sources::open_document(&self.xml(XmlFlags::INACTIVE)?)?;
            let args = bulkhead::DomainCreateWithSourcesArgs {
                dom: self.handle(),
                flags: flags.bits(),
                sources: opened.sources,
            };
            self.connection.invoke_with_fds(args, opened.fds)?.0.dom
        } else {
            self.connection.invoke(remote::DomainCreateWithFlagsArgs { dom: self.handle(), flags: flags.bits() })?.dom
        };
        self.handle.id.store(dom.id, Ordering::Relaxed);
        Ok(())
    }

    /// Presses the power button. The guest may take its time, or ignore it.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`](crate::ErrorCode::OPERATION_INVALID) when it does not run.
    pub fn shutdown(&self) -> Result<()> {
        self.connection.invoke(remote::DomainShutdownArgs { dom: self.handle() })
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`](crate::ErrorCode::OPERATION_INVALID) when it does not run.
    pub fn destroy(&self, flags: DestroyFlags) -> Result<()> {
        self.connection.invoke(remote::DomainDestroyFlagsArgs { dom: self.handle(), flags: flags.bits() })?;
        self.handle.id.store(-1, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets its definition. A guest that runs goes on and is transient from now on.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`](crate::ErrorCode::OPERATION_INVALID) when it has none.
    pub fn undefine(&self, flags: UndefineFlags) -> Result<()> {
        self.connection.invoke(remote::DomainUndefineFlagsArgs { dom: self.handle(), flags: flags.bits() })
    }

    /// Its document.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_DENIED`](crate::ErrorCode::OPERATION_DENIED) when secrets are asked for on a read-only
    /// connection.
    pub fn xml(&self, flags: XmlFlags) -> Result<String> {
        let args = remote::DomainGetXmlDescArgs { dom: self.handle(), flags: flags.bits() };
        self.connection.invoke(args).map(|ret| ret.xml)
    }

    /// Opens a console: the first one, or the one of an alias (`serial0`, `console1`).
    ///
    /// ```
    /// use libclient::{Connection, ConsoleFlags};
    /// use std::io::{Read, Write};
    ///
    /// let connection = Connection::open("test:///default")?;
    /// let mut console = connection.domain("test")?.open_console(None, ConsoleFlags::empty())?;
    /// console.write_all(b"ping")?;
    /// let mut echo = [0; 4];
    /// console.read_exact(&mut echo)?;
    /// assert_eq!(&echo, b"ping");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_INVALID`](crate::ErrorCode::OPERATION_INVALID) when it does not run,
    /// [`ErrorCode::OPERATION_FAILED`](crate::ErrorCode::OPERATION_FAILED) when somebody else has it and
    /// [`ConsoleFlags::FORCE`] is not given.
    pub fn open_console(&self, device: Option<&str>, flags: ConsoleFlags) -> Result<ConsoleStream> {
        let dev_name = device.map(str::to_owned);
        let args = bulkhead::DomainOpenConsoleArgs { dom: self.handle(), dev_name, flags: flags.bits() };
        self.connection.link().console(args)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("name", &self.name())
            .field("uuid", &self.uuid())
            .field("id", &self.id())
            .finish()
    }
}
