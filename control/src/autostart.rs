//! Starting the guests that are to start with the host: once for each boot of the host, a few at a time, and whoever is left
//! when control dies is started by the next one.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use uuid::Uuid;

use super::{
    Control,
    start::{Start, Started},
};

/// Guests that are started at the same time.
const AT_ONCE: usize = 4;
/// No list is longer: a line for each of more definitions than a host has.
const MAX_LIST: u64 = 8 << 20;

/// What is left to start.
#[derive(Default)]
pub struct Autostart {
    left: VecDeque<Uuid>,
    running: usize,
}

impl Control {
    /// Begins, or goes on where an earlier control was interrupted. A guest that somebody has stopped since its autostart
    /// is not started again.
    pub(super) fn autostart(&mut self) {
        let done = match fs::metadata(self.autostarted()) {
            Ok(data) if data.len() > MAX_LIST => return tracing::error!("the list of autostarted guests is too long"),
            Ok(_) => fs::read_to_string(self.autostarted()).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            // Without the list they would be started again and again, also those that somebody has stopped.
            Err(error) => {
                return tracing::error!(
                    "{} cannot be read, no guest is autostarted: {error}",
                    self.autostarted().display()
                );
            }
        };
        // What an earlier release has left is an empty file that says: all of them.
        if done.is_empty() && self.autostarted().exists() || done.lines().any(|line| line == ALL) {
            return;
        }
        let known = |uuid: &Uuid| done.lines().any(|line| line == uuid.to_string());
        let wanted = self.objects.inactive().filter(|object| object.autostart()).map(registry::Object::uuid);
        self.autostart.left = wanted.filter(|uuid| !known(uuid)).collect();
        self.autostart_more();
    }

    fn autostarted(&self) -> PathBuf {
        self.instance.journal().with_file_name("autostarted")
    }

    /// Notes what was done, so that it is not done again. False when it cannot be noted, and so must not be done.
    fn note(&self, line: &str) -> bool {
        let file = OpenOptions::new().append(true).create(true).open(self.autostarted());
        let noted = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        noted
            .inspect_err(|error| {
                tracing::error!(
                    "{} cannot be written, nothing more is autostarted: {error}",
                    self.autostarted().display()
                );
            })
            .is_ok()
    }

    fn autostart_more(&mut self) {
        while self.autostart.running < AT_ONCE {
            let Some(uuid) = self.autostart.left.pop_front() else {
                if self.autostart.running == 0 {
                    self.note(ALL);
                }
                return;
            };
            self.autostart_one(uuid);
        }
    }

    fn autostart_one(&mut self, uuid: Uuid) {
        let Some(name) = self.objects.get(&uuid).map(|object| object.name().to_owned()) else { return };
        self.autostart.running += 1;
        let then = move |control: &mut Control, started: Started| {
            match started {
                Ok(_) => tracing::info!("domain '{name}' autostarted"),
                Err(error) => tracing::error!("domain '{name}' is not autostarted: {}", error.full_text()),
            }
            control.autostart.running = control.autostart.running.saturating_sub(1);
            if !control.note(&uuid.to_string()) {
                control.autostart.left.clear();
            }
            control.autostart_more();
        };
        self.start_defined(&uuid, Start { paused: false, given: Vec::new(), then: Box::new(then) });
    }
}

/// The line that ends the list.
const ALL: &str = "all";
