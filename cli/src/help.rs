//! `bulkhead help`, and the list of verbs that `--help` has.

use serde_json::{Value, json};

use crate::error::CliError;
use crate::parser;
use crate::session::Session;
use crate::shown::{Shown, Text};
use crate::table::{self, Access, Arg, GROUPS, Group, Json, Place, Verb};
use crate::values::Values;

/// How `--help` is laid out: clap knows no groups of verbs.
pub(crate) fn template() -> String {
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}\nOptions:\n{{options}}{{after-help}}",
        list(GROUPS)
    )
}

/// The groups with one line a verb.
fn list(groups: &[Group]) -> String {
    let width = groups.iter().flat_map(Group::verbs).map(|verb| verb.name.len()).max().unwrap_or(0);
    let section = |group: &Group| {
        let rows = group.verbs().map(|verb| format!("  {:<width$}  {}\n", verb.name, verb.about));
        format!("{} ({}):\n{}", group.title, group.name, rows.collect::<String>())
    };
    groups.iter().map(section).collect::<Vec<_>>().join("\n")
}

/// `help [VERB|GROUP]`.
pub(crate) fn run(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let Some(word) = values.text("command") else {
        let text = parser::command().render_help().to_string();
        return session.show(&Shown::new(
            json!({ "groups": GROUPS.iter().map(group_json).collect::<Vec<_>>() }),
            Text::Lines(text),
        ));
    };
    if let Some(verb) = table::find(word) {
        return session.show(&Shown::new(verb_json(verb), Text::Lines(of_verb(verb))));
    }
    let group = GROUPS.iter().find(|group| group.name == word);
    let group = group.ok_or_else(|| CliError::NoTopic { topic: word.to_owned() })?;
    session.show(&Shown::new(group_json(group), Text::Lines(list(std::slice::from_ref(group)))))
}

/// What `bulkhead VERB --help` prints.
fn of_verb(verb: &Verb) -> String {
    let mut command = parser::command();
    command.build();
    command.find_subcommand_mut(verb.name).map(|command| command.render_help().to_string()).unwrap_or_default()
}

fn group_json(group: &Group) -> Value {
    json!({ "name": group.name, "title": group.title, "verbs": group.verbs().map(verb_json).collect::<Vec<_>>() })
}

fn verb_json(verb: &Verb) -> Value {
    json!({
        "name": verb.name,
        "aliases": verb.aliases,
        "about": verb.about,
        "details": verb.details,
        "usage": usage(verb),
        "arguments": verb.args.iter().map(argument_json).collect::<Vec<_>>(),
        "read_only": verb.access.word(),
        "json": verb.json.shape(),
        "example": verb.example,
    })
}

fn argument_json(arg: &Arg) -> Value {
    json!({
        "name": arg.name,
        "value": Some(arg.value).filter(|value| !value.is_empty()),
        "help": arg.help,
        "positional": arg.place == Place::Word,
        "required": !arg.optional,
        "repeated": arg.many,
        "default": arg.default,
    })
}

/// The verb with its words.
pub(crate) fn usage(verb: &Verb) -> String {
    let words = verb.words().map(|arg| {
        let many = if arg.many { "…" } else { "" };
        if arg.optional { format!(" [{}{many}]", arg.value) } else { format!(" {}{many}", arg.value) }
    });
    format!("{}{}", verb.name, words.collect::<String>())
}

impl Access {
    /// What a read-only connection does, in a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Look => "works",
            Self::Change => "refused",
            Self::Both => "refuses changes",
            Self::Offline => "offline",
        }
    }
}

impl Json {
    /// The shape of the JSON form; None if there is none.
    pub(crate) fn shape(self) -> Option<&'static str> {
        match self {
            Self::Action => Some("{\"action\", \"domain\": {\"id\", \"name\", \"uuid\"}}"),
            Self::Shape(shape) | Self::Lines(shape) => Some(shape),
            Self::Raw(_) => None,
        }
    }
}
