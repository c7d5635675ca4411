//! The acceptor's side of the mock host: it starts the process at first need and gives workers their connections to it.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use api::ErrorCode;
use ipc::{ConnError, edge::Channel};
use mio::{Interest, Registry, Token, unix::SourceFd};
use thiserror::Error;

use super::workers::Launcher;
use crate::{
    chain,
    edge::{FromMockHost, Limits, Peer, Rights, ToLauncher, ToMockHost, ToWorker},
};

/// With this much unread, the process gets no further client: each one in the queue holds a descriptor here.
const STUCK: usize = 16 << 10;

type ToProcess = Channel<ToMockHost, FromMockHost>;

/// Why a worker has no connection to the mock host.
#[derive(Debug, Error)]
enum MockHostError {
    #[error("cannot make a socket pair")]
    Pair(#[source] io::Error),
    #[error("cannot watch its channel")]
    Watch(#[source] io::Error),
    #[error("cannot have it started")]
    Start(#[source] ConnError),
    #[error("it is stuck: it has stopped reading")]
    Stuck,
    #[error("cannot hand it a client")]
    Tell(#[source] ConnError),
}

/// The process, if there is one.
pub struct MockHost {
    token: Token,
    connections: usize,
    connections_per_user: usize,
    channel: Option<ToProcess>,
}

impl MockHost {
    /// Not started yet. The process may have twice as many connections as there may be clients: it may not have noticed yet that
    /// a client has left. It counts clients from the network as one user.
    #[must_use]
    pub fn new(token: Token, limits: &Limits) -> MockHost {
        let twice = |number: usize| number.saturating_mul(2);
        let one_user = limits.connections_per_uid.max(limits.remote);
        let (connections, connections_per_user) = (twice(limits.connections), twice(one_user));
        MockHost { token, connections, connections_per_user, channel: None }
    }

    /// A connection for a client. Starts the process if there is none.
    ///
    /// # Errors
    /// The error for the worker, if there is no connection.
    pub fn connect(
        &mut self,
        registry: &Registry,
        launcher: &mut Launcher,
        peer: Peer,
        rights: Rights,
    ) -> Result<OwnedFd, ToWorker> {
        let pair = UnixStream::pair().map_err(MockHostError::Pair);
        let connected = pair.and_then(|(ours, theirs)| {
            self.serve(registry, launcher, peer, rights, ours.into())?;
            Ok(theirs.into())
        });
        connected.map_err(|error| {
            let reason = format!("cannot connect to the mock host: {}", chain(&error));
            tracing::warn!("{reason}");
            ToWorker::NotDialed { code: ErrorCode::SYSTEM_ERROR.0, reason, hint: None }
        })
    }

    fn serve(
        &mut self,
        registry: &Registry,
        launcher: &mut Launcher,
        peer: Peer,
        rights: Rights,
        client: OwnedFd,
    ) -> Result<(), MockHostError> {
        // The process may have died since the last poll.
        self.hear(registry);
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.start(registry, launcher)?,
        };
        let channel = self.channel.insert(channel);
        if channel.conn().backlog() > STUCK {
            return Err(MockHostError::Stuck);
        }
        let told = channel.queue(0, &ToMockHost::Serve { peer, rights }, vec![client]);
        told.and_then(|()| channel.flush()).map(drop).map_err(MockHostError::Tell)
    }

    fn start(&self, registry: &Registry, launcher: &mut Launcher) -> Result<ToProcess, MockHostError> {
        let (ours, theirs) = UnixStream::pair().map_err(MockHostError::Pair)?;
        ours.set_nonblocking(true).map_err(MockHostError::Pair)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&ours.as_raw_fd()), self.token, both).map_err(MockHostError::Watch)?;
        launcher.queue(0, &ToLauncher::MockHost, vec![theirs.into()]).map_err(MockHostError::Start)?;
        let mut channel = ToProcess::new(ours);
        let (connections, connections_per_user) = (self.connections, self.connections_per_user);
        let begin = ToMockHost::Begin { connections, connections_per_user };
        channel.queue(0, &begin, Vec::new()).map_err(MockHostError::Start)?;
        Ok(channel)
    }

    /// Sends what is queued, and notices the end of the process: the next client starts another one.
    pub fn hear(&mut self, registry: &Registry) {
        let Some(channel) = &mut self.channel else { return };
        if let Err(error) = hear(channel) {
            tracing::warn!("the mock host is lost, and its guests with it: {}", chain(&error));
            let _ = registry.deregister(&mut SourceFd(&channel.conn().socket().as_raw_fd()));
            self.channel = None;
        }
    }
}

fn hear(channel: &mut ToProcess) -> Result<(), ConnError> {
    channel.flush()?;
    while channel.fill()? {}
    // The process has no messages: only its end can arrive.
    match channel.next_message()? {
        Some(message) => match message.value {},
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        acceptor::admission::tests::settings,
        edge::{FromLauncher, InstanceMode, Trusted},
    };
    use mio::Poll;

    type Process = Channel<FromMockHost, ToMockHost>;

    struct Rig {
        poll: Poll,
        mock_host: MockHost,
        launcher: Launcher,
        far: Channel<FromLauncher, ToLauncher>,
    }

    fn rig() -> Rig {
        let (near, far) = UnixStream::pair().unwrap();
        let limits = settings(InstanceMode::System, Trusted::default()).limits;
        let (mock_host, launcher) = (MockHost::new(Token(3), &limits), Channel::new(near));
        Rig { poll: Poll::new().unwrap(), mock_host, launcher, far: Channel::new(far) }
    }

    impl Rig {
        fn connect(&mut self, rights: Rights) -> Result<OwnedFd, ToWorker> {
            let peer = Peer::Local { uid: 7, gid: 7, pid: 7 };
            self.mock_host.connect(self.poll.registry(), &mut self.launcher, peer, rights)
        }

        /// The process that the launcher is asked to start.
        fn started(&mut self) -> Process {
            self.launcher.flush().unwrap();
            let message = self.far.recv().unwrap();
            assert_eq!(message.value, ToLauncher::MockHost);
            let mut process = Process::new(UnixStream::from(message.fds.into_iter().next().unwrap()));
            assert!(matches!(process.recv().unwrap().value, ToMockHost::Begin { .. }));
            process
        }
    }

    fn rights(process: &mut Process) -> Rights {
        match process.recv().unwrap().value {
            ToMockHost::Serve { peer: Peer::Local { uid: 7, .. }, rights } => rights,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_process_serves_all_and_knows_what_each_may_do() {
        let mut rig = rig();
        rig.connect(Rights::ReadOnly).unwrap();
        rig.connect(Rights::Full).unwrap();
        let mut process = rig.started();
        assert_eq!([rights(&mut process), rights(&mut process)], [Rights::ReadOnly, Rights::Full]);
    }

    #[test]
    fn after_its_end_the_next_client_starts_another_one() {
        let mut rig = rig();
        for _ in 0..3 {
            rig.connect(Rights::Full).unwrap();
            let mut process = rig.started();
            assert_eq!(rights(&mut process), Rights::Full);
        }
    }

    #[test]
    fn a_stuck_process_gets_no_further_client() {
        let mut rig = rig();
        let mut kept = vec![rig.connect(Rights::Full).unwrap()];
        let _process = rig.started();
        let refused = (0..100_000).find_map(|_| match rig.connect(Rights::Full) {
            Ok(socket) => {
                kept.push(socket);
                kept.truncate(8);
                None
            }
            Err(word) => Some(word),
        });
        assert!(matches!(refused, Some(ToWorker::NotDialed { reason, .. }) if reason.contains("stuck")));
    }
}
