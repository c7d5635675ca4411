//! The verbs that change what a domain is doing.

use clap::Args;
use clap_complete::ArgValueCompleter;
use libclient::{DestroyFlags, Domain};

use crate::commands::console;
use crate::complete;
use crate::error::CliError;
use crate::session::Session;

/// Start a domain that is defined and off
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::inactive_domain))]
    domain: String,
    /// Leave its virtual CPUs stopped
    #[arg(long)]
    paused: bool,
    /// Attach its console
    #[arg(long)]
    console: bool,
}

impl Start {
    /// Starts it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        let flags = console::start_flags(self.paused, self.console);
        domain.start(flags).map_err(failed("start", &domain))?;
        after_start(session, &domain, self.paused, self.console, "start", format!("Domain '{}' started", domain.name()))
    }
}

/// Says that a domain was started, and goes on with its console if that is wanted.
pub(crate) fn after_start(
    session: &mut Session,
    domain: &Domain,
    paused: bool,
    console: bool,
    action: &str,
    sentence: String,
) -> Result<(), CliError> {
    if console {
        session.note(sentence);
        return console::open_then_run(session, domain, paused);
    }
    session.acted(action, domain, sentence)
}

/// Wraps an error of the library in what was tried.
pub(crate) fn failed(what: &'static str, domain: &Domain) -> impl FnOnce(libclient::Error) -> CliError {
    let name = domain.name().to_owned();
    move |source| CliError::Domain { what, name, source }
}

/// Declares a verb of one domain and no options, that is one call.
macro_rules! simple_verb {
    ($(#[doc = $doc:literal])+ $verb:ident, $completer:ident, $method:ident, $action:literal, $done:literal) => {
        $(#[doc = $doc])+
        #[derive(Debug, Args)]
        pub(crate) struct $verb {
            /// Name, UUID or id
            #[arg(add = ArgValueCompleter::new(complete::$completer))]
            domain: String,
        }

        impl $verb {
            /// Does it.
            pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
                let domain = session.domain(&self.domain)?;
                domain.$method().map_err(failed($action, &domain))?;
                session.acted($action, &domain, format_args!(concat!("Domain '{}' ", $done), domain.name()))
            }
        }
    };
}

simple_verb!(
    /// Stop the virtual CPUs of a domain
    Suspend, running_domain, suspend, "suspend", "suspended"
);
simple_verb!(
    /// Let the virtual CPUs of a domain run again
    Resume, paused_domain, resume, "resume", "resumed"
);
simple_verb!(
    /// Ask a domain to shut itself down
    Shutdown, active_domain, shutdown, "shutdown", "is being shutdown"
);
simple_verb!(
    /// Ask a domain to reboot itself
    Reboot, active_domain, reboot, "reboot", "is being rebooted"
);
simple_verb!(
    /// Reset a domain, as its reset button would
    Reset, active_domain, reset, "reset", "was reset"
);

/// End a domain at once, as pulling its plug would
#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::active_domain))]
    domain: String,
    /// Only ask its process to end; fail if it does not
    #[arg(long)]
    graceful: bool,
}

impl Destroy {
    /// Ends it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        let flags = if self.graceful { DestroyFlags::GRACEFUL } else { DestroyFlags::empty() };
        domain.destroy(flags).map_err(failed("destroy", &domain))?;
        session.acted("destroy", &domain, format_args!("Domain '{}' destroyed", domain.name()))
    }
}

/// Start a domain with the host, or not
#[derive(Debug, Args)]
pub(crate) struct Autostart {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::persistent_domain))]
    domain: String,
    /// No longer
    #[arg(long)]
    disable: bool,
}

impl Autostart {
    /// Sets it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        domain.set_autostart(!self.disable).map_err(failed("set autostart of", &domain))?;
        let (action, not) = if self.disable { ("no-autostart", "not ") } else { ("autostart", "") };
        session.acted(action, &domain, format_args!("Domain '{}' will {not}start with the host", domain.name()))
    }
}
