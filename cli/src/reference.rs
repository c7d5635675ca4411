//! The man page and the tables of `docs/cli.md`, made from the table of verbs.
//!
//! `REGENERATE_REFERENCE=1 cargo test -p cli` writes them anew; review what changed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::args::{EXIT_CODES, GLOBAL};
use crate::help::usage;
use crate::table::{Access, Arg, GROUPS, Json, Place, Verb};

const BEGIN: &str = "<!-- Made from the table of verbs: REGENERATE_REFERENCE=1 cargo test -p cli -->\n";
const END: &str = "<!-- End of what is made from the table -->\n";

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// An argument as it is typed.
fn spelled(arg: &Arg) -> String {
    let short = arg.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    match arg.place {
        Place::Word => format!("{}{}", arg.value, if arg.many { "…" } else { "" }),
        Place::Option => format!("{short}--{} {}", arg.name, arg.value),
        Place::Flag => format!("{short}--{}", arg.name),
    }
}

fn explained(arg: &Arg) -> String {
    let default = arg.default.map(|default| format!(" (default: {default})")).unwrap_or_default();
    let many = if arg.many && arg.place != Place::Word { " (may be repeated)" } else { "" };
    format!("{}{default}{many}", arg.help)
}

fn read_only(access: Access) -> &'static str {
    match access {
        Access::Look => "Works on a read-only connection.",
        Access::Change => "A read-only connection refuses it.",
        Access::Both => "A read-only connection refuses changes.",
        Access::Offline => "Makes no connection.",
    }
}

/// What JSON there is, in Markdown.
fn json(json: Json) -> String {
    match json {
        Json::Action => "`{\"action\", \"domain\"}`".to_owned(),
        Json::Shape(shape) => format!("`{shape}`"),
        Json::Lines(shape) => format!("`{shape}`, one a line"),
        Json::Raw(reason) => format!("none: {reason}"),
    }
}

/// Verbs, options and JSON shapes for `docs/cli.md`.
fn markdown() -> String {
    let mut text = String::from(BEGIN);
    for group in GROUPS {
        let _ = write!(text, "\n### {} (`{}`)\n", group.title, group.name);
        for verb in group.verbs() {
            text.push_str(&verb_markdown(verb));
        }
    }
    text.push('\n');
    text + END
}

fn verb_markdown(verb: &Verb) -> String {
    let mut text = format!("\n#### `{}`\n\n{}.\n", usage(verb), verb.about);
    for alias in verb.aliases {
        let _ = write!(text, "\n`{alias}` is the same.\n");
    }
    for paragraph in paragraphs(verb.details) {
        match paragraph {
            Paragraph::Prose(prose) => _ = write!(text, "\n{}\n", prose.replace('<', "\\<")),
            Paragraph::Example(lines) => _ = write!(text, "\n```sh\n{lines}```\n"),
        }
    }
    if !verb.args.is_empty() {
        text.push_str("\n| argument | meaning |\n|---|---|\n");
    }
    for arg in verb.args {
        let cell = |text: String| text.replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {} |", cell(spelled(arg)), cell(explained(arg)));
    }
    let _ = write!(text, "\nJSON: {}. {}\n", json(verb.json), read_only(verb.access));
    text
}

enum Paragraph {
    Prose(String),
    Example(String),
}

/// Details as paragraphs; indented lines, and lines that begin with a shell's name, are examples.
fn paragraphs(details: &str) -> Vec<Paragraph> {
    let mut made = Vec::new();
    for line in details.lines() {
        let example = line.starts_with("  ") || line.contains(":  ");
        let line = line.trim();
        match (made.last_mut(), example) {
            _ if line.is_empty() => made.push(Paragraph::Prose(String::new())),
            (Some(Paragraph::Example(lines)), true) => _ = writeln!(lines, "{line}"),
            (_, true) => made.push(Paragraph::Example(format!("{line}\n"))),
            (Some(Paragraph::Prose(prose)), false) => {
                if !prose.is_empty() {
                    prose.push('\n');
                }
                prose.push_str(line);
            }
            (_, false) => made.push(Paragraph::Prose(line.to_owned())),
        }
    }
    made.retain(|paragraph| !matches!(paragraph, Paragraph::Prose(prose) if prose.is_empty()));
    made
}

/// Text for roff: no line may begin with a request, a dash is a dash that can be copied, and all is ASCII.
fn roff(text: &str) -> String {
    let letter = |letter: char| match letter {
        '\\' => "\\e".to_owned(),
        '-' => "\\-".to_owned(),
        letter if !letter.is_ascii() => format!("\\[u{:04X}]", u32::from(letter)),
        letter => letter.to_string(),
    };
    let escaped: String = text.chars().map(letter).collect();
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The man page.
fn man_page() -> String {
    let mut page = String::from(
        ".\\\" Made from the table of verbs: REGENERATE_REFERENCE=1 cargo test -p cli\n\
         .TH BULKHEAD 1\n.SH NAME\nbulkhead \\- runs and watches virtual machines from the shell\n\
         .SH SYNOPSIS\n.B bulkhead\n[\\fIOPTIONS\\fR] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n\
         .SH DESCRIPTION\nVerbs and their options are virsh's where virsh has them.\n\
         A domain is named by id, UUID or name, tried in this order.\n\
         An argument without dashes can be given by its name as well, as virsh has it:\n\
         .B bulkhead start \\-\\-domain web\n.SH OPTIONS\n",
    );
    for arg in GLOBAL {
        page.push_str(&argument_roff(arg));
    }
    for group in GROUPS {
        let _ = writeln!(page, ".SH {}", group.title.to_uppercase());
        for verb in group.verbs() {
            page.push_str(&verb_roff(verb));
        }
    }
    for section in EXIT_CODES.split("\n\n") {
        let (title, body) = section.split_once(":\n").unwrap_or(("", section));
        let _ = write!(page, ".SH {}\n.nf\n{}\n.fi\n", title.to_uppercase(), roff(body));
    }
    page + ".SH SEE ALSO\n.BR virsh (1)\n"
}

fn argument_roff(arg: &Arg) -> String {
    format!(".TP\n.B {}\n{}.\n", roff(&spelled(arg)), roff(&explained(arg)))
}

fn verb_roff(verb: &Verb) -> String {
    let mut page = format!(".SS {}\n{}.\n", roff(&usage(verb)), roff(verb.about));
    for alias in verb.aliases {
        let _ = writeln!(page, ".B {}\nis the same.", roff(alias));
    }
    for paragraph in paragraphs(verb.details) {
        match paragraph {
            Paragraph::Prose(prose) => _ = write!(page, ".PP\n{}\n", roff(&prose)),
            Paragraph::Example(lines) => _ = write!(page, ".PP\n.RS\n.nf\n{}\n.fi\n.RE\n", roff(lines.trim_end())),
        }
    }
    for arg in verb.args {
        page.push_str(&argument_roff(arg));
    }
    let _ = write!(page, ".PP\n{}\n", read_only(verb.access));
    page
}

/// Compares a file with what it must be, or writes it.
fn check(path: &Path, wanted: &str) {
    if std::env::var_os("REGENERATE_REFERENCE").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == wanted, "{}: run with REGENERATE_REFERENCE=1 if the change is meant", path.display());
}

#[test]
fn the_man_page_is_the_table() {
    check(&docs("bulkhead.1"), &man_page());
}

#[test]
fn the_reference_in_the_documentation_is_the_table() {
    let path = docs("cli.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark where it begins");
    let (_, after) = rest.split_once(END).expect("the mark where it ends");
    check(&path, &format!("{before}{}{after}", markdown()));
}
