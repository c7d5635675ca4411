//! What is done to a running guest from outside: keys, interrupts, and commands for its QEMU's monitor.

use api::{Answer, Error, ErrorCode, Outcome, Reply, consts::MonitorFlags, qemu, remote};
use supervisor::protocol::{Answer as Said, MAX_COMMAND, MAX_KEYS, Request};

use super::{
    Control,
    driver::{Asked, only},
    errors,
    guests::{GuestError, SupervisorReply},
};

/// libvirt's numbers of the sets of key codes that can be told apart here.
const LINUX: u32 = 0;
const XT: u32 = 1;
/// libvirt's name for what QEMU counts keys by.
const QNUM: u32 = 9;

/// Linux's codes up to here are QEMU's too: both began with the PC's keyboard.
const SAME: u32 = 83;
/// Those that are not, of keys that keyboards have.
const LINUX_TO_QNUM: [(u32, u32); 29] = [
    (85, 0x76),
    (86, 0x56),
    (87, 0x57),
    (88, 0x58),
    (89, 0x73),
    (90, 0x78),
    (91, 0x77),
    (92, 0x79),
    (93, 0x70),
    (94, 0x7b),
    (96, 0x9c),
    (97, 0x9d),
    (98, 0xb5),
    (99, 0x54),
    (100, 0xb8),
    (102, 0xc7),
    (103, 0xc8),
    (104, 0xc9),
    (105, 0xcb),
    (106, 0xcd),
    (107, 0xcf),
    (108, 0xd0),
    (109, 0xd1),
    (110, 0xd2),
    (111, 0xd3),
    (119, 0xc6),
    (125, 0xdb),
    (126, 0xdc),
    (127, 0xdd),
];

/// QEMU's number of a key.
fn qnum(codeset: u32, code: u32) -> Option<u32> {
    match codeset {
        LINUX if (1..=SAME).contains(&code) => Some(code),
        LINUX => LINUX_TO_QNUM.iter().find(|(linux, _)| *linux == code).map(|(_, qnum)| *qnum),
        XT if (1..=0x7f).contains(&code) => Some(code),
        QNUM if (1..=0xff).contains(&code) => Some(code),
        _ => None,
    }
}

fn keys(codeset: u32, codes: &[u32]) -> Result<Vec<u32>, Error> {
    if codes.is_empty() || codes.len() > MAX_KEYS {
        return Err(errors::invalid(format!("{} keys cannot be pressed together", codes.len())));
    }
    if ![LINUX, XT, QNUM].contains(&codeset) {
        return Err(errors::unsupported_operation(format!("key codes of set {codeset} cannot be translated"))
            .with_hint("use the set 'linux', 'xt' or 'qnum'"));
    }
    let known = |code: &u32| {
        let text = || format!("internal error: cannot translate keycode {code} to qnum keycode");
        qnum(codeset, *code).ok_or_else(|| errors::told(ErrorCode::INTERNAL_ERROR, text()))
    };
    codes.iter().map(known).collect()
}

impl Control {
    pub(super) fn send_key(&mut self, cx: &mut Asked, args: &remote::DomainSendKeyArgs) -> Answer<()> {
        only(args.flags, 0, "virDomainSendKey")?;
        let codes = keys(args.codeset, &args.keycodes)?;
        let id = self.running(&args.dom)?;
        let request = Request::SendKeys { codes, hold_ms: args.holdtime };
        self.guest_job(cx, id, "press keys of", request, Reply::DomainSendKey, |_| {});
        Ok(Outcome::Pending)
    }

    pub(super) fn inject_nmi(&mut self, cx: &mut Asked, args: &remote::DomainInjectNmiArgs) -> Answer<()> {
        only(args.flags, 0, "virDomainInjectNMI")?;
        let id = self.running(&args.dom)?;
        self.guest_job(cx, id, "interrupt", Request::InjectNmi, Reply::DomainInjectNmi, |_| {});
        Ok(Outcome::Pending)
    }

    /// Passes a command on to QEMU's monitor as it is. Nobody answers for the guest any more then, and it says so.
    pub(super) fn monitor_command(
        &mut self,
        cx: &mut Asked,
        args: &qemu::DomainMonitorCommandArgs,
    ) -> Answer<qemu::DomainMonitorCommandRet> {
        only(args.flags, MonitorFlags::all().bits(), "virDomainQemuMonitorCommand")?;
        let id = self.running(&args.dom)?;
        if args.cmd.len() > MAX_COMMAND {
            return Err(errors::invalid(format!("a command of {} bytes is too long", args.cmd.len())));
        }
        self.taint(id);
        let human = MonitorFlags::from_bits_truncate(args.flags).contains(MonitorFlags::HMP);
        let (asked, name) = (cx.later(), args.dom.name.clone());
        let then = move |control: &mut Control, told: SupervisorReply| {
            let result = match told {
                Ok((Said::Said(result), _)) => {
                    Ok((Reply::QemuDomainMonitorCommand(qemu::DomainMonitorCommandRet { result }), Vec::new()))
                }
                Ok(_) => Err(GuestError::another_answer()),
                Err(error) => Err(error),
            };
            control.answer(&asked, result.map_err(|error| errors::guest("speak to the monitor of", &name, &error)));
        };
        self.ask_guest(id, &Request::Monitor { command: args.cmd.clone(), human }, Vec::new(), Box::new(then));
        Ok(Outcome::Pending)
    }

    fn taint(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id).filter(|guest| !guest.tainted) else { return };
        guest.tainted = true;
        tracing::warn!("domain '{}' is tainted: custom monitor control commands issued", guest.name);
        self.keep_record(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_linux_become_qemu_s() {
        // Ctrl, Alt, Delete; Enter of the number pad; the left one with the flag on it.
        assert_eq!(keys(LINUX, &[29, 56, 111]).unwrap(), [29, 56, 0xd3]);
        assert_eq!(keys(LINUX, &[96, 125]).unwrap(), [0x9c, 0xdb]);
        assert_eq!(keys(QNUM, &[0xd3]).unwrap(), [0xd3]);
    }

    #[test]
    fn keys_that_nobody_has_are_refused() {
        for (codeset, codes, code) in [
            (LINUX, vec![9999], ErrorCode::INTERNAL_ERROR),
            (LINUX, vec![0], ErrorCode::INTERNAL_ERROR),
            (XT, vec![0x80], ErrorCode::INTERNAL_ERROR),
            (QNUM, vec![0x100], ErrorCode::INTERNAL_ERROR),
            (77, vec![1], ErrorCode::OPERATION_UNSUPPORTED),
            (LINUX, vec![], ErrorCode::INVALID_ARG),
            (LINUX, vec![1; MAX_KEYS + 1], ErrorCode::INVALID_ARG),
        ] {
            assert_eq!(keys(codeset, &codes).unwrap_err().code, code, "{codeset} {codes:?}");
        }
    }
}
