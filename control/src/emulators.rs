//! What each QEMU binary can do: asked once over QMP in a compartment of its own, kept on disk by the binary's identity.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use api::Error;
use serde::{Deserialize, Serialize};
use supervisor::protocol::{Abilities, Answer, Payload, Request, qemu::ProbeSpec};
use uuid::Uuid;

use qemud::{
    chain,
    edge::{Found, FromLauncher, Launch, Life, Purpose, Refusal, ToLauncher},
};

use super::{
    Control, Then, errors,
    launcher_link::Done,
    link::{GuestError, Link, SupervisorReply},
    store,
};
use crate::qemu::plan;

/// Give up on a capability probe after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before an emulator whose probe failed is probed again: the cause may have been a full disk.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a call waits for the disk that emulators are on.
const LOOKING: Duration = Duration::from_secs(10);
/// No cached description is larger.
const MAX_CACHED: u64 = 4 << 20;

/// What is known of the emulators.
pub struct Emulators {
    dir: PathBuf,
    known: HashMap<String, (Identity, Rc<Abilities>)>,
    /// Those whose probe failed, and when: they are not probed again at once.
    silent: HashMap<String, (Identity, Instant, Error)>,
    asking: HashMap<String, Vec<Then<Known>>>,
}

/// The emulators that run without a guest at this moment, by run. They are no domains, and no client sees them.
#[derive(Default)]
pub struct Probes {
    running: HashMap<u32, Probing>,
}

struct Probing {
    emulator: String,
    /// None once it has answered, or is of no use.
    identity: Option<Identity>,
}

impl Probes {
    /// Whether a run is one of them.
    #[must_use]
    pub fn is_running(&self, run: u32) -> bool {
        self.running.contains_key(&run)
    }
}

/// What an emulator can do, or why its probe failed.
pub type Known = Result<Rc<Abilities>, Error>;

/// What tells one state of a binary, and of KVM, from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    kvm: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    emulator: String,
    identity: Identity,
    abilities: Abilities,
}

impl Emulators {
    /// Empty: abilities come from the cache directory or a probe when they are asked for.
    pub fn new(cache: &Path) -> Emulators {
        Emulators {
            dir: cache.join("capabilities"),
            known: HashMap::new(),
            silent: HashMap::new(),
            asking: HashMap::new(),
        }
    }

    fn lookup_silent(&self, emulator: &str, identity: &Identity, now: Instant) -> Option<Error> {
        let (known, since, error) = self.silent.get(emulator)?;
        (known == identity && now.saturating_duration_since(*since) < SILENCE).then(|| error.clone())
    }

    /// The abilities of an emulator in this state, if they are in memory.
    fn lookup(&self, emulator: &str, identity: &Identity) -> Option<Rc<Abilities>> {
        let (known, abilities) = self.known.get(emulator)?;
        (known == identity).then(|| Rc::clone(abilities))
    }

    /// The version of a running guest's emulator, as far as it is known.
    pub fn version(&self, domain: Option<&model::Domain>) -> String {
        let emulator = domain.and_then(|domain| domain.devices.emulator.as_deref()).unwrap_or_default();
        let known = self.known.get(emulator).map(|(_, abilities)| abilities.version);
        known.map(|(major, minor, micro)| format!("{major}.{minor}.{micro}")).unwrap_or_default()
    }

    fn learn(&mut self, emulator: &str, identity: Identity, abilities: Rc<Abilities>) -> Rc<Abilities> {
        self.known.insert(emulator.into(), (identity, Rc::clone(&abilities)));
        abilities
    }

    fn path(&self, emulator: &str) -> PathBuf {
        // A path as a file name; the name inside is compared, so two that collide only take turns.
        let name: String =
            emulator.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        self.dir.join(format!("{}.json", name.chars().take(120).collect::<String>()))
    }
}

/// An emulator on the disk: its state, and the cached abilities for this state unless they are in memory already.
struct Seen {
    identity: Identity,
    abilities: Option<Abilities>,
}

fn see(emulator: &str, kvm: Option<String>, cache: &Path, known: Option<&Identity>) -> io::Result<Seen> {
    let data = fs::metadata(emulator)?;
    let identity = Identity {
        device: data.dev(),
        inode: data.ino(),
        size: data.size(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
        kvm,
    };
    let abilities = if known == Some(&identity) { None } else { read_cached(cache, emulator, &identity) };
    Ok(Seen { identity, abilities })
}

fn read_cached(path: &Path, emulator: &str, identity: &Identity) -> Option<Abilities> {
    if fs::metadata(path).ok()?.len() > MAX_CACHED {
        return None;
    }
    let cached: Cached = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (cached.emulator == emulator && cached.identity == *identity).then_some(cached.abilities)
}

fn write_cached(path: &Path, cached: &Cached) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(cached)?)?;
    // No fsync: a cache that is torn by a power cut is asked for again.
    fs::rename(temporary, path)
}

impl Control {
    /// Where emulators are looked for, the likeliest place first.
    fn emulator_roots(&self) -> Vec<PathBuf> {
        let roots = &self.config.emulator_roots;
        if roots.is_empty() { vec!["/usr/bin".into()] } else { roots.clone() }
    }

    /// Where the emulator of a target may be.
    fn places(&self, target: &str) -> Vec<PathBuf> {
        let name = format!("qemu-system-{target}");
        self.emulator_roots().into_iter().map(|root| root.join(&name)).collect()
    }

    /// Does `then` with those of the targets that have an emulator on this host, and where it is. When a directory does not
    /// answer, nobody knows what is in it, nor which emulator comes first: that is an error, and not a host without.
    pub(super) fn with_installed(
        &mut self,
        targets: impl IntoIterator<Item = &'static str>,
        then: impl FnOnce(&mut Control, Result<Vec<(&'static str, String)>, Error>) + 'static,
    ) {
        let wanted: Vec<_> = targets.into_iter().map(|target| (target, self.places(target))).collect();
        let look = move || {
            let found = |places: Vec<PathBuf>| places.into_iter().find(|path| path.exists()).map(|path| shown(&path));
            wanted.into_iter().filter_map(|(target, places)| Some((target, found(places)?))).collect()
        };
        let roots = self.emulator_roots();
        self.look_within(LOOKING, look, move |control, found: Option<_>| {
            then(control, found.ok_or_else(|| errors::emulators_unseen(&roots, LOOKING)));
        });
    }

    /// Does `then` with where the emulator of a target is, or would be.
    pub(super) fn with_emulator(
        &mut self,
        target: &'static str,
        then: impl FnOnce(&mut Control, Result<String, Error>) + 'static,
    ) {
        let otherwise = self.places(target).first().map(|path| shown(path)).unwrap_or_default();
        self.with_installed([target], move |control, found| {
            let first = |found: Vec<(_, String)>| found.into_iter().next().map_or(otherwise, |(_, emulator)| emulator);
            then(control, found.map(first));
        });
    }

    /// Does `then` with what the emulator of a target can do.
    pub(super) fn with_abilities_of(&mut self, target: &'static str, then: Then<Known>) {
        self.with_emulator(target, move |control, emulator| match emulator {
            Ok(emulator) => control.with_abilities(&emulator, then),
            Err(error) => then(control, Err(error)),
        });
    }

    /// Does `then` with what an emulator can do, asking it first if that is not known.
    pub(super) fn with_abilities(&mut self, emulator: &str, then: Then<Known>) {
        let (path, kvm, cache) = (emulator.to_owned(), self.host.kvm_identity.clone(), self.emulators.path(emulator));
        let known = self.emulators.known.get(emulator).map(|(identity, _)| identity.clone());
        let emulator = emulator.to_owned();
        let look = move || see(&path, kvm, &cache, known.as_ref());
        self.look_within(LOOKING, look, move |control, seen| match seen {
            Some(Ok(seen)) => control.with_seen(emulator, seen, then),
            Some(Err(error)) => {
                let refusal = Refusal::Emulator { path: emulator, why: error.to_string() };
                then(control, Err(errors::emulator_refused(&refusal)));
            }
            None => then(control, Err(errors::emulator_unseen(&emulator, LOOKING))),
        });
    }

    fn with_seen(&mut self, emulator: String, seen: Seen, then: Then<Known>) {
        let Seen { identity, abilities } = seen;
        let abilities = match abilities {
            Some(abilities) => Some(self.emulators.learn(&emulator, identity.clone(), Rc::new(abilities))),
            None => self.emulators.lookup(&emulator, &identity),
        };
        if let Some(abilities) = abilities {
            return then(self, Ok(abilities));
        }
        if let Some(error) = self.emulators.lookup_silent(&emulator, &identity, self.now()) {
            return then(self, Err(error));
        }
        let then = self.in_the_same_name(then);
        let waiting = self.emulators.asking.entry(emulator.clone()).or_default();
        waiting.push(then);
        if waiting.len() == 1 {
            self.probe(emulator, identity);
        }
    }

    /// Starts the emulator without a guest, in a compartment like any guest's.
    fn probe(&mut self, emulator: String, identity: Identity) {
        let deadline_ms = u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX);
        let question = Payload::new(&ProbeSpec { argv: plan::probe_argv(&emulator), deadline_ms });
        let prepared = UnixStream::pair().map_err(|error| error.to_string()).and_then(|(ours, theirs)| {
            let request = Request::Examine(question.map_err(|error| chain(&error))?);
            let mut link = Link::new(ours).map_err(|error| chain(&error))?;
            link.order(&request, Vec::new()).map_err(|error| chain(&error))?;
            Ok((link, theirs))
        });
        let (link, theirs) = match prepared {
            Ok(prepared) => prepared,
            Err(cause) => return self.learn(&emulator, &identity, Err(cause)),
        };
        let launch = Launch {
            purpose: Purpose::Probe,
            uuid: Uuid::new_v4(),
            name: "capabilities".into(),
            emulator: emulator.clone(),
            kvm: self.host.kvm_identity.is_some(),
            disks: Vec::new(),
        };
        let probing = Probing { emulator: emulator.clone(), identity: Some(identity.clone()) };
        let launched = move |control: &mut Control, done: Done| control.probe_launched(probing, link, done);
        let late = move |control: &mut Control, refusal: Refusal| {
            control.learn(&emulator, &identity, Err(refusal.to_string()));
        };
        let fds = vec![theirs.into()];
        self.ask_launcher_however_long(&ToLauncher::Launch(launch), fds, Box::new(launched), Box::new(late));
    }

    fn probe_launched(&mut self, probing: Probing, link: Link, done: Done) {
        let run = match done {
            Ok((FromLauncher::Launched { run, .. }, _)) => Ok(run),
            Ok(_) => Err("the launcher gave another answer".to_owned()),
            Err(refusal) => Err(refusal.to_string()),
        };
        let run = match (run, &probing.identity) {
            (Ok(run), _) => run,
            (Err(why), Some(identity)) => return self.learn(&probing.emulator, identity, Err(why)),
            (Err(_), None) => return,
        };
        self.probes.running.insert(run, probing);
        if let Err(error) = self.connect(run, link) {
            return self.probed(run, Err(GuestError::Gone(Some(chain(&error)))));
        }
        let late = move |control: &mut Control, ()| control.probed(run, Err(GuestError::Silent(PATIENCE)));
        self.after(PATIENCE, Box::new(late));
        self.hear_supervisor(run);
    }

    /// What came of a probe. The process is of no more use.
    pub(super) fn probed(&mut self, run: u32, reply: SupervisorReply) {
        let Some(probing) = self.probes.running.get_mut(&run) else { return };
        let Some(identity) = probing.identity.take() else { return };
        let emulator = probing.emulator.clone();
        let result = match reply {
            Ok((Answer::Payload(payload), _)) => payload.read::<Abilities>().map_err(|error| chain(&error)),
            Ok(_) => Err("the supervisor gave another answer".into()),
            Err(error) => Err(error.to_string()),
        };
        self.launcher.tell(&ToLauncher::Kill { run });
        self.learn(&emulator, &identity, result);
    }

    /// Whether a run that has ended was a probe's. If it gave no answer, the calls that wait for it fail.
    pub(super) fn probe_ended(&mut self, run: u32, how: Option<&str>) -> bool {
        let known = self.probes.running.contains_key(&run);
        self.probed(run, Err(GuestError::Gone(how.map(str::to_owned))));
        self.probes.running.remove(&run);
        known
    }

    /// A probe that an earlier control has left behind serves nobody.
    pub(super) fn adopt_probe(&mut self, found: &Found) {
        let tell = match found.life {
            Life::Gone => ToLauncher::Retire { run: found.run },
            Life::Alive | Life::Unknown { .. } => {
                self.probes.running.insert(found.run, Probing { emulator: String::new(), identity: None });
                ToLauncher::Kill { run: found.run }
            }
        };
        self.launcher.tell(&tell);
    }

    /// Keeps the outcome of a probe for this state of the emulator, and answers the calls that wait for it.
    fn learn(&mut self, emulator: &str, identity: &Identity, result: Result<Abilities, String>) {
        let result: Known = match result {
            Ok(abilities) => {
                self.cache(Cached {
                    emulator: emulator.into(),
                    identity: identity.clone(),
                    abilities: abilities.clone(),
                });
                Ok(self.emulators.learn(emulator, identity.clone(), Rc::new(abilities)))
            }
            Err(cause) => {
                let error = errors::emulator_silent(emulator, &cause);
                let silent = (identity.clone(), self.now(), error.clone());
                self.emulators.silent.insert(emulator.into(), silent);
                Err(error)
            }
        };
        for then in self.emulators.asking.remove(emulator).unwrap_or_default() {
            then(self, result.clone());
        }
    }

    fn cache(&mut self, cached: Cached) {
        let (path, emulator) = (self.emulators.path(&cached.emulator), cached.emulator.clone());
        let write = move || write_cached(&path, &cached);
        self.look_within(store::PATIENCE, write, move |_, written| {
            if let Some(Err(error)) = written {
                tracing::warn!("what {emulator} can do is not kept on disk: {error}");
            }
        });
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
