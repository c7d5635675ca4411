//! The verbs that reach into a running guest: keys, interrupts, power.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use libclient::Domain;
use libclient::api::remote;

use crate::commands::dom;
use crate::commands::lifecycle::simple;
use crate::error::CliError;
use crate::table::{Arg, Done, Names, Verb};
use crate::values::Values;

/// libvirt's sets of key codes, by number.
const CODESETS: [&str; 10] = ["linux", "xt", "atset1", "atset2", "atset3", "os_x", "xt_kbd", "usb", "win32", "qnum"];
/// How to sleep, by number.
const TARGETS: [&str; 3] = ["mem", "disk", "hybrid"];

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    simple(
        "send-key",
        "Press keys of a running domain at once and let them go",
        "\
Keys are numbers of the code set, or names of Linux such as KEY_A, KEY_LEFTCTRL, KEY_F1, KEY_ENTER:
  bulkhead send-key web KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE",
        &[
            Arg::domain(Names::Running),
            Arg::word("keycode", "KEY", "A key").many().parsed(|| ValueParser::new(key)),
            Arg::option("codeset", "SET", "The set of codes").default("linux").parsed(|| number_in(&CODESETS)),
            Arg::option("holdtime", "MS", "Hold the keys for this long")
                .default("0")
                .parsed(|| clap::value_parser!(u32).into()),
        ],
        send_key,
        &[Done::always("send-key", "received the keys")],
    )
    .what("send keys to")
    .example("test KEY_ENTER"),
    simple(
        "inject-nmi",
        "Send a non-maskable interrupt to running domains",
        "",
        &[Arg::domains(Names::Running)],
        |domain, _| Ok(domain.connection().invoke(remote::DomainInjectNmiArgs { dom: dom(domain), flags: 0 })?),
        &[Done::always("inject-nmi", "received a non-maskable interrupt")],
    )
    .what("interrupt"),
    simple(
        "domjobabort",
        "Abort the jobs of domains",
        "",
        &[Arg::domains(Names::Active)],
        |domain, _| Ok(domain.connection().invoke(remote::DomainAbortJobArgs { dom: dom(domain) })?),
        &[Done::always("domjobabort", "aborts its job")],
    )
    .what("abort the job of"),
    simple(
        "dompmsuspend",
        "Ask the guest agent of a domain to put the guest to sleep",
        "",
        &[
            Arg::domain(Names::Running),
            Arg::word("target", "TARGET", "Where to sleep").parsed(|| number_in(&TARGETS)),
            Arg::word("duration", "SECONDS", "Wake up after this long; never if it is 0 or left out")
                .optional()
                .parsed(|| clap::value_parser!(u64).into()),
        ],
        |domain, values| {
            let (target, duration) = (number(values, "target"), values.value("duration").unwrap_or_default());
            let args = remote::DomainPmSuspendForDurationArgs { dom: dom(domain), target, duration, flags: 0 };
            Ok(domain.connection().invoke(args)?)
        },
        &[Done::always("dompmsuspend", "is going to sleep")],
    )
    .what("put to sleep")
    .example("test mem"),
    simple(
        "dompmwakeup",
        "Wake domains that sleep",
        "",
        &[Arg::domains(Names::Active)],
        |domain, _| Ok(domain.connection().invoke(remote::DomainPmWakeupArgs { dom: dom(domain), flags: 0 })?),
        &[Done::always("dompmwakeup", "was woken up")],
    )
    .what("wake"),
];

/// One of these words, as its number.
fn number_in<const N: usize>(words: &'static [&'static str; N]) -> ValueParser {
    let number =
        |word: String| words.iter().zip(0u32..).find(|(known, _)| **known == word).map_or(0, |(_, number)| number);
    PossibleValuesParser::new(*words).map(number).into()
}

fn number(values: &Values<'_>, name: &str) -> u32 {
    values.value(name).unwrap_or_default()
}

fn send_key(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let args = remote::DomainSendKeyArgs {
        dom: dom(domain),
        codeset: number(values, "codeset"),
        holdtime: number(values, "holdtime"),
        keycodes: values.values("keycode"),
        flags: 0,
    };
    Ok(domain.connection().invoke(args)?)
}

/// Linux's names of keys that lie side by side, from the first one's code on.
const ROWS: &[(u32, &[&str])] = &[
    (1, &["ESC", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "MINUS", "EQUAL", "BACKSPACE", "TAB"]),
    (16, &["Q", "W", "E", "R", "T", "Y", "U", "I", "O", "P", "LEFTBRACE", "RIGHTBRACE", "ENTER", "LEFTCTRL"]),
    (30, &["A", "S", "D", "F", "G", "H", "J", "K", "L", "SEMICOLON", "APOSTROPHE", "GRAVE", "LEFTSHIFT", "BACKSLASH"]),
    (44, &["Z", "X", "C", "V", "B", "N", "M", "COMMA", "DOT", "SLASH", "RIGHTSHIFT", "KPASTERISK", "LEFTALT", "SPACE"]),
    (58, &["CAPSLOCK", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "NUMLOCK", "SCROLLLOCK"]),
    (87, &["F11", "F12"]),
    (96, &["KPENTER", "RIGHTCTRL", "KPSLASH", "SYSRQ", "RIGHTALT", "LINEFEED", "HOME", "UP", "PAGEUP", "LEFT"]),
    (106, &["RIGHT", "END", "DOWN", "PAGEDOWN", "INSERT", "DELETE"]),
    (116, &["POWER"]),
    (119, &["PAUSE"]),
    (125, &["LEFTMETA", "RIGHTMETA", "COMPOSE"]),
];

/// A key's code: a number, also in hexadecimal, or a name.
fn key(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let named = || {
        let name = text.strip_prefix("KEY_")?;
        ROWS.iter()
            .find_map(|(first, keys)| keys.iter().zip(*first..).find(|(key, _)| **key == name).map(|(_, code)| code))
    };
    number.or_else(named).ok_or_else(|| "is no number and no name of a key, such as KEY_ENTER".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_number_or_a_name() {
        for (text, code) in [
            ("28", 28),
            ("0x1c", 28),
            ("KEY_ENTER", 28),
            ("KEY_LEFTALT", 56),
            ("KEY_SPACE", 57),
            ("KEY_F10", 68),
            ("KEY_DELETE", 111),
            ("KEY_LEFTCTRL", 29),
            ("KEY_BACKSLASH", 43),
        ] {
            assert_eq!(key(text), Ok(code), "{text}");
        }
        assert!(key("ENTER").is_err());
    }
}
