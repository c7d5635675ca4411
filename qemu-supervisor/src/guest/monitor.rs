//! What control passes on to QEMU's monitor as it is: a command of a person who knows what it does.

use serde_json::{Value, json};
use supervisor::{
    protocol::{Answer, Failure, MAX_COMMAND, MAX_SAID},
    wire::Ticket,
};

use super::{Guest, Tag};
use crate::qmp::Refusal;

/// A command of QMP: its name and its arguments.
type Command = (String, Option<Value>);

/// Takes a command apart. What only a monitor's own client may say (an id, control of a session) is refused.
fn parse(text: &str) -> Result<Command, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let Value::Object(mut fields) = value else { return Err("it is no JSON object".to_owned()) };
    let command = match fields.remove("execute") {
        Some(Value::String(command)) => command,
        _ => return Err("'execute' does not name a command".to_owned()),
    };
    let arguments = match fields.remove("arguments") {
        Some(Value::Object(arguments)) => Some(Value::Object(arguments)),
        None => None,
        Some(_) => return Err("'arguments' is no JSON object".to_owned()),
    };
    match fields.keys().next() {
        Some(other) => Err(format!("'{other}' does not belong in it")),
        None => Ok((command, arguments)),
    }
}

impl Guest {
    /// Passes a command on.
    pub(super) fn monitor(&mut self, ticket: Ticket, command: &str, human: bool) {
        if !self.lives() {
            return self.refuse(ticket);
        }
        let refuse = |why: String| Err(Failure::BadRequest(why));
        if command.len() > MAX_COMMAND {
            let why = format!("a command of {} bytes is too long", command.len());
            return self.wire.answer(ticket, refuse(why), Vec::new());
        }
        let parsed = if human {
            Ok(("human-monitor-command".to_owned(), Some(json!({"command-line": command}))))
        } else {
            parse(command)
        };
        match parsed {
            Ok((command, arguments)) => {
                // It may set how often the guest's driver is asked for its figures.
                self.balloon.polled |= command == "qom-set" || human;
                self.ask_any(&command, arguments, Tag::Monitor(ticket, human));
            }
            Err(why) => self.wire.answer(ticket, refuse(why), Vec::new()),
        }
    }

    /// QEMU has answered, with a refusal perhaps: that is an answer too.
    pub(super) fn monitor_answered(&mut self, ticket: Ticket, human: bool, result: Result<Value, Refusal>) {
        let text = match result {
            Ok(Value::String(text)) if human => text,
            Ok(value) => json!({"return": value}).to_string(),
            Err(Refusal { class, desc }) => json!({"error": {"class": class, "desc": desc}}).to_string(),
        };
        let answer = if text.len() <= MAX_SAID {
            Ok(Answer::Said(text))
        } else {
            Err(Failure::Qmp(format!("an answer of {} bytes is too long", text.len())))
        };
        self.wire.answer(ticket, answer, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_apart() {
        let parsed = parse(r#"{"execute":"balloon","arguments":{"value":1}}"#);
        assert_eq!(parsed, Ok(("balloon".to_owned(), Some(json!({"value": 1})))));
        assert_eq!(parse(r#" {"execute":"query-status"} "#), Ok(("query-status".to_owned(), None)));
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_reason() {
        for (text, why) in [
            ("garbage", "no JSON"),
            ("[]", "no JSON object"),
            (r#"{"execute":1}"#, "'execute'"),
            (r#"{"exec-oob":"x"}"#, "'execute'"),
            (r#"{"execute":"x","arguments":[]}"#, "'arguments'"),
            (r#"{"execute":"x","id":"mine"}"#, "'id'"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
