//! Starts the guests that are marked for it: once for each boot of the host, a few at a time. If control dies meanwhile, the
//! next one starts the rest.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    Control,
    start::{Start, Started},
    store::{self, definitions::Definitions},
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
    /// It is noted that nothing is left.
    over: bool,
}

impl Control {
    /// Begins, or goes on where an earlier control was interrupted. A guest that was stopped since its autostart is not started
    /// again.
    pub(super) fn autostart(&mut self) {
        let path = self.autostarted();
        let shown = path.display().to_string();
        self.hand(
            store::of_definitions,
            move |_| read_list(&path),
            move |control, read| match read {
                Ok(done) => control.autostart_all_but(done.as_deref()),
                // Without the list each control would start all of them again, also those that were stopped on purpose.
                Err(error) => tracing::error!("{shown} cannot be read, no guest is autostarted: {error}"),
            },
        );
    }

    fn autostart_all_but(&mut self, done: Option<&str>) {
        // An earlier release leaves an empty file, which means: all of them.
        if done.is_some_and(|done| done.is_empty() || done.lines().any(|line| line == ALL)) {
            return;
        }
        let known: HashSet<&str> = done.unwrap_or_default().lines().collect();
        // The list may have been removed. A guest that the journal, which begins with the host's boot, has seen run was started.
        let ran: HashSet<Uuid> = match done {
            Some(_) => HashSet::new(),
            None => self.journal.after(0).1.filter(|entry| entry.id.is_some()).map(|entry| entry.uuid).collect(),
        };
        let off = self.objects.inactive().filter(|object| object.autostart() && !ran.contains(&object.uuid()));
        let wanted = off.map(registry::Object::uuid);
        self.autostart.left = wanted.filter(|uuid| !known.contains(uuid.to_string().as_str())).collect();
        // Those that run need no start: the control that was interrupted, or a user, has started them.
        let running = self.objects.active().filter(|object| object.autostart()).map(registry::Object::uuid);
        let running: Vec<Uuid> = running.filter(|uuid| !known.contains(uuid.to_string().as_str())).collect();
        running.into_iter().for_each(|uuid| self.note(&uuid.to_string(), |_| {}));
        self.autostart_more();
    }

    fn autostarted(&self) -> PathBuf {
        self.instance.journal().with_file_name("autostarted")
    }

    /// Notes what was done, so that it is not done again, and then does `then`. If the note fails, autostart ends.
    fn note(&mut self, line: &str, then: fn(&mut Control)) {
        let (path, line) = (self.autostarted(), format!("{line}\n"));
        let shown = path.display().to_string();
        let note = move |_: &mut Definitions| {
            OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
        };
        self.hand(store::of_definitions, note, move |control, noted: io::Result<()>| match noted {
            Ok(()) => then(control),
            Err(error) => {
                control.autostart.left.clear();
                tracing::error!("{shown} cannot be written, nothing more is autostarted: {error}");
            }
        });
    }

    fn autostart_more(&mut self) {
        while self.autostart.running < AT_ONCE {
            let Some(uuid) = self.autostart.left.pop_front() else {
                if self.autostart.running == 0 && !std::mem::replace(&mut self.autostart.over, true) {
                    self.note(ALL, |_| {});
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
            control.note(&uuid.to_string(), Control::autostart_more);
        };
        self.start_defined(&uuid, Start { paused: false, owner: None, given: Vec::new(), then: Box::new(then) });
    }
}

/// The list of those that were started since the host's boot; none if none was.
fn read_list(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(data) if data.len() > MAX_LIST => Err(io::Error::other("it is too long")),
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The line that ends the list.
const ALL: &str = "all";
