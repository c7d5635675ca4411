//! `completions`: what a shell must be told so that it asks this program.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::error::CliError;
use crate::session::Session;

/// Print the lines that make a shell complete verbs, options and names of domains
#[derive(Debug, Args)]
#[command(after_help = "\
bash:  source <(bulkhead completions bash)
zsh:   source <(bulkhead completions zsh)
fish:  bulkhead completions fish | source")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// Prints them.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let shell: &dyn EnvCompleter = match self.shell {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
        };
        shell.write_registration("COMPLETE", "bulkhead", "bulkhead", "bulkhead", &mut session.out)?;
        Ok(())
    }
}
