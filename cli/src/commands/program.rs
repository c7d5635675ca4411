//! The verbs about this program: `help`, `completions`, and `gateway`, which is another one.

use clap::ValueEnum;
use clap::builder::EnumValueParser;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::commands::gateway;
use crate::error::CliError;
use crate::help;
use crate::session::Session;
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::values::Values;

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "gateway",
        aliases: &[],
        about: "Serve libvirt's own clients (virsh, virt-manager, …) until it is ended",
        details: "\
Clients find the host's gateway where gateway.conf puts its sockets, and any other by a URI:
  virsh -c 'qemu+unix:///session?socket=SOCKET' list
-c qemu:///system or -c qemu:///session says whose guests it serves; without it, root's are the host's.",
        args: &[],
        access: Access::Offline,
        json: Json::Raw("it becomes another program"),
        example: "",
        action: Action::Run(gateway::run),
    },
    Verb {
        name: "completions",
        aliases: &["completion"],
        about: "Print the lines that make a shell complete verbs, options and names",
        details: "\
bash:  source <(bulkhead completions bash)
zsh:   source <(bulkhead completions zsh)
fish:  bulkhead completions fish | source",
        args: &[Arg::word("shell", "SHELL", "The shell").parsed(|| EnumValueParser::<Shell>::new().into())],
        access: Access::Offline,
        json: Json::Raw("the lines are for a shell"),
        example: "bash",
        action: Action::Run(completions),
    },
    Verb {
        name: "help",
        aliases: &[],
        about: "Print what there is to know about a verb or a group of verbs",
        details: "",
        args: &[Arg::word("command", "VERB|GROUP", "The verb or the group; everything if left out")
            .optional()
            .of(Names::Verb)],
        access: Access::Offline,
        json: Json::Shape("{\"groups\": [{\"name\", \"title\", \"verbs\"}]}"),
        example: "",
        action: Action::Run(help::run),
    },
];

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn completions(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let shell: &dyn EnvCompleter = match values.value("shell") {
        Some(Shell::Bash) | None => &Bash,
        Some(Shell::Zsh) => &Zsh,
        Some(Shell::Fish) => &Fish,
    };
    shell.write_registration("COMPLETE", "bulkhead", "bulkhead", "bulkhead", &mut session.out)?;
    Ok(())
}
