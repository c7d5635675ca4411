//! The questions to polkit, as the acceptor sees them: who waits for an answer, and the process that gets it.

use std::{
    collections::HashMap,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use api::ErrorCode;
use ipc::{ConnError, edge::Channel};
use mio::{Interest, Registry, Token, unix::SourceFd};

use super::{
    slots::Key,
    workers::{Launcher, Question},
};
use crate::{
    chain,
    edge::{Denied, FromPolkit, ToLauncher, ToPolkit},
};

/// All that are under way.
pub struct Polkit {
    token: Token,
    channel: Option<Channel<ToPolkit, FromPolkit>>,
    waiting: HashMap<u64, Key>,
    last: u64,
}

/// What a worker is to be told.
pub type Word = (Key, Result<(), Denied>);

/// The refusal of somebody whom neither the configuration nor polkit knows.
#[must_use]
pub fn denied(uid: u32) -> Denied {
    let reason = format!(
        "authentication failed: access denied by policy: uid {uid} may not change anything here (gateway.conf: \
         allow_users, allow_groups); a read-only connection is open to everybody"
    );
    Denied { code: ErrorCode::AUTH_FAILED.0, reason }
}

impl Polkit {
    /// Nobody has asked.
    #[must_use]
    pub fn new(token: Token) -> Polkit {
        Polkit { token, channel: None, waiting: HashMap::new(), last: 0 }
    }

    /// Asks, and has the process started that does if there is none. The answer at once when it cannot be asked.
    pub fn ask(&mut self, registry: &Registry, launcher: &mut Launcher, question: Question) -> Option<Word> {
        let Question { key, pid, uid, pidfd } = question;
        self.last += 1;
        let id = self.last;
        let fds: Vec<OwnedFd> = pidfd.into_iter().collect();
        let asked = self.process(registry, launcher).and_then(|channel| {
            let sent = channel.queue(0, &ToPolkit::Ask { id, pid, uid }, fds).and_then(|()| channel.flush());
            sent.map_err(|error| chain(&error))
        });
        match asked {
            Ok(_) => {
                self.waiting.insert(id, key);
                None
            }
            Err(error) => {
                tracing::warn!("polkit cannot be asked: {error}");
                Some((key, Err(denied(uid))))
            }
        }
    }

    /// Nobody waits for this worker's answer any more.
    pub fn forget(&mut self, key: Key) {
        let found = self.waiting.iter().find(|(_, waiting)| **waiting == key).map(|(id, _)| *id);
        if let (Some(id), Some(channel)) = (found, &mut self.channel) {
            self.waiting.remove(&id);
            // A process that is gone has no dialog left to close.
            let _ = channel.queue(0, &ToPolkit::Cancel { id }, Vec::new()).and_then(|()| channel.flush());
        }
    }

    fn process(
        &mut self,
        registry: &Registry,
        launcher: &mut Launcher,
    ) -> Result<&mut Channel<ToPolkit, FromPolkit>, String> {
        let made = match self.channel.take() {
            Some(channel) => channel,
            None => self.start(registry, launcher)?,
        };
        Ok(self.channel.insert(made))
    }

    fn start(&self, registry: &Registry, launcher: &mut Launcher) -> Result<Channel<ToPolkit, FromPolkit>, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        ours.set_nonblocking(true).map_err(|error| error.to_string())?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let watched = registry.register(&mut SourceFd(&ours.as_raw_fd()), self.token, both);
        watched.map_err(|error| error.to_string())?;
        launcher.queue(0, &ToLauncher::Polkit, vec![theirs.into()]).map_err(|error| chain(&error))?;
        Ok(Channel::new(ours))
    }

    /// Takes what the process has said. When it is gone, everybody who waits gets an answer even so.
    pub fn hear(&mut self, registry: &Registry) -> Vec<Word> {
        let mut words = Vec::new();
        if let Err(error) = self.hear_all(&mut words) {
            if !matches!(error, ConnError::Closed) {
                tracing::warn!("the process that asks polkit is given up: {}", chain(&error));
            }
            if let Some(channel) = self.channel.take() {
                let _ = registry.deregister(&mut SourceFd(&channel.conn().socket().as_raw_fd()));
            }
            let reason = "authentication failed: access denied by policy: polkit cannot be asked, and gateway.conf does \
                          not name you (allow_users, allow_groups); a read-only connection is open to everybody";
            let gone = Denied { code: ErrorCode::AUTH_FAILED.0, reason: reason.to_owned() };
            words.extend(self.waiting.drain().map(|(_, key)| (key, Err(gone.clone()))));
        }
        words
    }

    fn hear_all(&mut self, words: &mut Vec<Word>) -> Result<(), ConnError> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        channel.flush()?;
        loop {
            while let Some(message) = channel.next_message()? {
                let FromPolkit::Answer { id, word } = message.value;
                words.extend(self.waiting.remove(&id).map(|key| (key, word)));
            }
            if !channel.fill()? {
                // False is "nothing more" and "gone" alike; the next message tells which.
                return match channel.next_message()? {
                    None => Ok(()),
                    Some(_) => Err(ConnError::Closed),
                };
            }
        }
    }
}
