//! `edit`: a definition in the user's editor.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libclient::{DefineFlags, XmlFlags};

use crate::commands::lifecycle::failed;
use crate::error::CliError;
use crate::session::Session;
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::values::Values;

/// The row.
pub(crate) const VERBS: &[Verb] = &[Verb {
    name: "edit",
    aliases: &[],
    about: "Change the definition of a domain in an editor",
    details: "\
The editor is $VISUAL, or $EDITOR, or vi. It gets the definition with passwords, in a file that only you can read. A changed \
definition replaces the old one when the editor ends; one that the daemon refuses stays in the file.",
    args: &[Arg::domain(Names::Persistent)],
    access: Access::Change,
    json: Json::Action,
    example: "test",
    action: Action::Run(edit),
}];

fn edit(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let domain = session.domain(values.need("domain"))?;
    let old = domain.xml(XmlFlags::INACTIVE | XmlFlags::SECURE).map_err(failed("dump", &domain))?;
    let draft = Draft::new(&old).map_err(|source| CliError::Edit { source })?;
    let new = draft.edited().map_err(|source| CliError::Edit { source })?;
    if new == old {
        draft.remove();
        return session.acted("unchanged", &domain, format_args!("Domain '{}' is unchanged", domain.name()));
    }
    let defined = domain.connection().define_xml(&new, DefineFlags::VALIDATE).map_err(|source| CliError::Document {
        what: "define",
        from: format!("'{}'", draft.path.display()),
        source,
    })?;
    draft.remove();
    session.acted("edit", &defined, format_args!("Domain '{}' has a new definition", defined.name()))
}

/// A document in a file of the user's own.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(text: &str) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("bulkhead-{}.xml", uuid::Uuid::new_v4().simple()));
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let draft = Self { path };
        file.write_all(text.as_bytes()).inspect_err(|_| draft.remove())?;
        Ok(draft)
    }

    /// Runs the editor and reads what it leaves.
    fn edited(&self) -> io::Result<String> {
        let ended = editor(&self.path).status().inspect_err(|_| self.remove())?;
        if !ended.success() {
            self.remove();
            return Err(io::Error::other(format!("the editor failed: {ended}")));
        }
        fs::read_to_string(&self.path)
    }

    fn remove(&self) {
        // A file that stays is in the user's own temporary directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// The editor by way of the shell: its variable may hold options.
fn editor(file: &Path) -> Command {
    let named = ["VISUAL", "EDITOR"].iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    let editor = named.unwrap_or_else(|| "vi".to_owned());
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file);
    command
}
