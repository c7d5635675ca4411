//! Clients that define, start, suspend, resume, look at, destroy and undefine guests at random.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bulkhead_tests::{Guest, Instance, Output, run};

use crate::random::Random;

/// Exit codes of calls that a fault may cause to fail: failed, not found, cannot connect, deadline.
const MAY_FAIL: [i32; 5] = [0, 1, 3, 4, 6];

const VERBS: [(&str, u64); 9] = [
    ("start", 30),
    ("suspend", 12),
    ("resume", 14),
    ("console", 8),
    ("destroy", 14),
    ("define", 16),
    ("undefine", 4),
    ("list", 4),
    ("dumpxml", 4),
];

/// What a guest's definition may be.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The revisions that it may have; `None` is no definition. A call that was cut off leaves two.
    pub possible: BTreeSet<Option<u32>>,
    /// A call was cut off: control was killed between the file and the event, and may have told of neither or one.
    pub cut_off: bool,
}

/// A guest with this revision in its document.
pub fn document(name: &str, revision: u32) -> String {
    let uuid = uuid(name);
    let head = format!("<uuid>{uuid}</uuid>\n  <description>revision {revision}</description>\n  <memory");
    Guest::tiny(name).xml().replacen("<memory", &head, 1)
}

/// Always the same, so that a definition is changed rather than refused.
fn uuid(name: &str) -> String {
    let sum = name.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    format!("fa017000-0000-4000-8000-{:012x}", sum & 0xffff_ffff_ffff)
}

/// What all clients share.
pub struct Load<'a> {
    pub instance: &'a Instance,
    pub names: Vec<String>,
    /// The gateway's URI, through which some of the calls go.
    pub gateway: String,
    pub over: AtomicBool,
    /// How often each verb ended in which way.
    pub tally: Mutex<BTreeMap<String, usize>>,
}

impl Load<'_> {
    /// One client. It alone defines and undefines the guests of `own`, so it knows what their definitions must be.
    pub fn client(&self, mut random: Random, own: &[&String]) -> BTreeMap<String, Definition> {
        let first = || Definition { possible: BTreeSet::from([Some(0)]), cut_off: false };
        let mut known: BTreeMap<String, Definition> = own.iter().map(|name| ((*name).clone(), first())).collect();
        let mut revision = 0;
        while !self.over.load(Ordering::Relaxed) {
            let verb = random.weighted(&VERBS);
            let name = random.one_of(&self.names);
            let own = *random.one_of(own);
            match verb {
                "define" => {
                    revision += 1;
                    let output = self.define(own, revision);
                    settle(known.get_mut(own).unwrap(), Some(revision), &output);
                }
                "undefine" => {
                    let output = self.call(&["undefine", own], false);
                    settle(known.get_mut(own).unwrap(), None, &output);
                }
                "console" => self.console(name),
                "list" => drop(self.call(&["list", "--all"], random.within(0..2) == 0)),
                verb => drop(self.call(&[verb, name], random.within(0..4) == 0)),
            }
        }
        known
    }

    fn define(&self, name: &str, revision: u32) -> Output {
        let path = self.instance.file(&format!("{name}.xml"), document(name, revision).as_bytes());
        self.call(&["define", path.to_str().unwrap()], false)
    }

    /// A call, straight to the daemon or through the gateway.
    fn call(&self, arguments: &[&str], through_gateway: bool) -> Output {
        let mut command = self.instance.command(arguments);
        if through_gateway {
            command = std::process::Command::new(self.instance.program("bulkhead"));
            command.args(["-c", &self.gateway]).args(arguments);
            self.instance.prepare(&mut command, self.instance.uid());
        }
        let output = run(command);
        assert!(MAY_FAIL.contains(&output.code), "{arguments:?}: {output:?}");
        let way = if through_gateway { "gateway " } else { "" };
        self.count(format!("{way}{} {} {}", arguments[0], output.code, reason(&output.stderr)));
        output
    }

    /// Looks at a console for a moment, then leaves without a word.
    fn console(&self, name: &str) {
        let console = self.instance.console(name);
        let came = console.output.wait(Duration::from_millis(150), |bytes| (!bytes.is_empty()).then_some(()));
        self.count(format!("console {}", if came.is_some() { "said something" } else { "opened" }));
    }

    fn count(&self, what: String) {
        *self.tally.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// Takes in how a change of a definition ended.
fn settle(known: &mut Definition, wanted: Option<u32>, output: &Output) {
    let gone = wanted.is_none() && output.code == 3;
    assert!(!gone || known.possible.contains(&None), "a definition is lost: {known:?}, but {output:?}");
    if output.code == 0 || gone {
        known.possible.clear();
    } else {
        known.cut_off = true;
    }
    known.possible.insert(wanted);
}

/// An error's text without what differs between two of a kind.
fn reason(stderr: &str) -> String {
    let text = stderr.lines().filter(|line| !line.starts_with("hint:")).collect::<Vec<_>>().join("; ");
    let plain: String = text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    let mut short = plain.replace("##", "#").replace("##", "#").replace("##", "#");
    short.truncate(short.char_indices().nth(200).map_or(short.len(), |(at, _)| at));
    short
}
