//! The verbs that change what a domain is doing.

use libclient::api::remote;
use libclient::{CreateFlags, DestroyFlags, Domain};

use crate::commands::agent::modes;
use crate::commands::{console, dom};
use crate::error::CliError;
use crate::session::Session;
use crate::table::{Access, Action, Arg, DomainCall, Done, Json, Names, Verb};
use crate::values::Values;

/// A row of one call without flags.
pub(crate) const fn simple(
    name: &'static str,
    about: &'static str,
    details: &'static str,
    args: &'static [Arg],
    call: DomainCall,
    done: &'static [Done],
) -> Verb {
    Verb {
        name,
        aliases: &[],
        about,
        details,
        args,
        access: Access::Change,
        json: Json::Action,
        example: "test",
        action: Action::Each { what: name, call, done },
    }
}

const MODE: Arg =
    Arg::option("mode", "MODE,…", "Ways: acpi, agent, initctl, signal, paravirt; the driver's if left out")
        .parsed(modes);

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "start",
        aliases: &[],
        about: "Start domains that are defined and off",
        details: "\
The files that a document names are opened by this program, with your rights, and handed to the daemon. A file that you \
may not open the daemon may open, if its administrator configured the directory.",
        args: &[
            Arg::domains(Names::Inactive),
            Arg::bits("paused", CreateFlags::PAUSED.bits(), "Leave the virtual CPUs stopped"),
            Arg::flag("console", "Attach the console; for one domain only"),
            Arg::bits(
                "bypass-cache",
                CreateFlags::BYPASS_CACHE.bits(),
                "Do not fill the host's cache with a saved state",
            ),
            Arg::bits("force-boot", CreateFlags::FORCE_BOOT.bits(), "Boot anew, and forget a saved state"),
            Arg::bits("reset-nvram", CreateFlags::RESET_NVRAM.bits(), "Reset the firmware's variables"),
        ],
        access: Access::Change,
        json: Json::Action,
        example: "test",
        action: Action::Run(start),
    },
    simple(
        "suspend",
        "Stop the virtual CPUs of domains",
        "",
        &[Arg::domains(Names::Running)],
        |domain, _| Ok(domain.suspend()?),
        &[Done::always("suspend", "suspended")],
    ),
    simple(
        "resume",
        "Let the virtual CPUs of domains run again",
        "",
        &[Arg::domains(Names::Paused)],
        |domain, _| Ok(domain.resume()?),
        &[Done::always("resume", "resumed")],
    ),
    simple(
        "shutdown",
        "Ask domains to shut themselves down",
        "Presses the power button and returns. What the guest makes of it, events report.",
        &[Arg::domains(Names::Active), MODE],
        |domain, values| match values.value("mode") {
            Some(flags) => {
                Ok(domain.connection().invoke(remote::DomainShutdownFlagsArgs { dom: dom(domain), flags })?)
            }
            None => Ok(domain.shutdown()?),
        },
        &[Done::always("shutdown", "is being shutdown")],
    ),
    simple(
        "reboot",
        "Ask domains to reboot themselves",
        "Returns at once. What the guest makes of it, events report.",
        &[Arg::domains(Names::Active), MODE],
        |domain, values| match values.value("mode") {
            Some(flags) => Ok(domain.connection().invoke(remote::DomainRebootArgs { dom: dom(domain), flags })?),
            None => Ok(domain.reboot(0)?),
        },
        &[Done::always("reboot", "is being rebooted")],
    ),
    simple(
        "reset",
        "Reset domains, as their reset buttons would",
        "",
        &[Arg::domains(Names::Active)],
        |domain, _| Ok(domain.reset(0)?),
        &[Done::always("reset", "was reset")],
    ),
    simple(
        "destroy",
        "End domains at once, as pulling their plugs would",
        "\
Ends a guest also when QEMU no longer answers. With --graceful, QEMU is asked to end and nothing is killed: a guest that is \
still there after 15 s goes on, and the command fails.",
        &[
            Arg::domains(Names::Active),
            Arg::bits("remove-logs", DestroyFlags::REMOVE_LOGS.bits(), "Remove the logs of the guest's helpers too"),
            Arg::bits("graceful", DestroyFlags::GRACEFUL.bits(), "Only ask the process to end; fail if it does not"),
        ],
        |domain, values| Ok(domain.destroy(DestroyFlags::from_bits_truncate(values.bits()))?),
        &[Done::always("destroy", "destroyed")],
    ),
    Verb {
        name: "autostart",
        aliases: &[],
        about: "Start domains with the host, or no longer",
        details: "The daemon starts these domains when it comes up for the first time since the boot.",
        args: &[Arg::domains(Names::Persistent), Arg::flag("disable", "Disable autostart")],
        access: Access::Change,
        json: Json::Action,
        example: "test",
        action: Action::Each {
            what: "set autostart of",
            call: |domain, values| Ok(domain.set_autostart(!values.flag("disable"))?),
            done: &[
                Done::always("autostart", "will start with the host"),
                Done::with("disable", "no-autostart", "will not start with the host"),
            ],
        },
    },
];

fn start(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let names = values.texts("domain");
    let (paused, console) = (values.flag("paused"), values.flag("console"));
    if console && names.len() > 1 {
        return Err(CliError::ManyConsoles);
    }
    session.each(&names, |session, domain| {
        let flags = CreateFlags::from_bits_truncate(values.bits()) | console::start_flags(paused, console);
        domain.start(flags).map_err(failed("start", domain))?;
        after_start(session, domain, (paused, console), "start", format!("Domain '{}' started", domain.name()))
    })
}

/// Says that a domain was started, and goes on with its console if that is wanted.
pub(crate) fn after_start(
    session: &mut Session,
    domain: &Domain,
    (paused, console): (bool, bool),
    action: &'static str,
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
