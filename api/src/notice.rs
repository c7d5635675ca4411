//! What happens to a domain besides the changes of its life: as Bulkhead numbers it ([`DomainNoticeMsg`]), as libvirt's
//! clients are told ([`Event`], one message for each kind and style), and as a program reads it ([`Notice`]).

use serde::{Deserialize, Serialize};

use crate::{Event, bulkhead::DomainNoticeMsg, consts::DomainEventId, remote};

/// Something that happened to a domain. Actions, reasons and types are libvirt's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// The machine has been reset: by the guest, or from outside.
    Reboot,
    /// The guest has set its clock.
    RtcChange {
        /// How far the guest's clock is from the one that it started with, in seconds.
        offset: i64,
    },
    /// The watchdog fired.
    Watchdog {
        /// What is done about it.
        action: i32,
    },
    /// A disk failed.
    IoError {
        /// The path of its source.
        path: String,
        /// Its alias.
        device: String,
        /// What is done about it.
        action: i32,
        /// Why, if there is a word for it: `enospc`.
        reason: String,
    },
    /// The tray of a drive was opened or closed.
    TrayChange {
        /// The drive's alias.
        device: String,
        /// Which of the two.
        reason: i32,
    },
    /// The guest woke up.
    PmWakeup,
    /// The guest sleeps, its state is in memory.
    PmSuspend,
    /// The guest sleeps, its state is on disk.
    PmSuspendDisk,
    /// The balloon has another size.
    BalloonChange {
        /// What it leaves to the guest, in KiB.
        kib: u64,
    },
    /// What is noted down about the domain was changed.
    MetadataChange {
        /// Which of the notes.
        kind: i32,
        /// The name space, when it is an element.
        uri: Option<String>,
    },
}

/// The kinds that have a message, each once: whoever registers for all of these is told everything, and nothing twice.
pub const KINDS: [DomainEventId; 10] = [
    DomainEventId::Reboot,
    DomainEventId::RtcChange,
    DomainEventId::Watchdog,
    DomainEventId::IoErrorReason,
    DomainEventId::TrayChange,
    DomainEventId::PmWakeup,
    DomainEventId::PmSuspend,
    DomainEventId::BalloonChange,
    DomainEventId::PmSuspendDisk,
    DomainEventId::MetadataChange,
];

/// A notice as it is numbered and written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// libvirt's number of the kind.
    pub kind: i32,
    /// The number of the table at the head of the row.
    pub number: i64,
    /// The texts of the same table.
    pub texts: Vec<String>,
}

fn number(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(-1)
}

impl Notice {
    /// Reads a notice. None when its kind is not known here; texts that are missing are empty, as libvirt's own would be.
    #[must_use]
    pub fn from_parts(parts: Parts) -> Option<Notice> {
        let mut texts = parts.texts.into_iter();
        let mut text = move || texts.next();
        Some(match DomainEventId::try_from(parts.kind).ok()? {
            DomainEventId::Reboot => Notice::Reboot,
            DomainEventId::RtcChange => Notice::RtcChange { offset: parts.number },
            DomainEventId::Watchdog => Notice::Watchdog { action: number(parts.number) },
            DomainEventId::IoError => Notice::IoError {
                path: text().unwrap_or_default(),
                device: text().unwrap_or_default(),
                action: number(parts.number),
                reason: text().unwrap_or_default(),
            },
            DomainEventId::TrayChange => {
                Notice::TrayChange { device: text().unwrap_or_default(), reason: number(parts.number) }
            }
            DomainEventId::PmWakeup => Notice::PmWakeup,
            DomainEventId::PmSuspend => Notice::PmSuspend,
            DomainEventId::PmSuspendDisk => Notice::PmSuspendDisk,
            DomainEventId::BalloonChange => Notice::BalloonChange { kib: u64::try_from(parts.number).unwrap_or(0) },
            DomainEventId::MetadataChange => Notice::MetadataChange { kind: number(parts.number), uri: text() },
            _ => return None,
        })
    }

    /// The other way round.
    #[must_use]
    pub fn into_parts(self) -> Parts {
        let kind = self.kind() as i32;
        let (number, texts) = match self {
            Notice::Reboot | Notice::PmWakeup | Notice::PmSuspend | Notice::PmSuspendDisk => (0, Vec::new()),
            Notice::RtcChange { offset } => (offset, Vec::new()),
            Notice::Watchdog { action } => (action.into(), Vec::new()),
            Notice::IoError { path, device, action, reason } => (action.into(), vec![path, device, reason]),
            Notice::TrayChange { device, reason } => (reason.into(), vec![device]),
            Notice::BalloonChange { kib } => (i64::try_from(kib).unwrap_or(i64::MAX), Vec::new()),
            Notice::MetadataChange { kind, uri } => (kind.into(), uri.into_iter().collect()),
        };
        Parts { kind, number, texts }
    }

    /// Reads a message of our own program.
    #[must_use]
    pub fn of(msg: &DomainNoticeMsg) -> Option<Notice> {
        Notice::from_parts(Parts { kind: msg.kind, number: msg.number, texts: msg.texts.clone() })
    }

    /// libvirt's kind of it; a disk's failure is [`DomainEventId::IoErrorReason`] too.
    #[must_use]
    pub fn kind(&self) -> DomainEventId {
        match self {
            Notice::Reboot => DomainEventId::Reboot,
            Notice::RtcChange { .. } => DomainEventId::RtcChange,
            Notice::Watchdog { .. } => DomainEventId::Watchdog,
            Notice::IoError { .. } => DomainEventId::IoError,
            Notice::TrayChange { .. } => DomainEventId::TrayChange,
            Notice::PmWakeup => DomainEventId::PmWakeup,
            Notice::PmSuspend => DomainEventId::PmSuspend,
            Notice::PmSuspendDisk => DomainEventId::PmSuspendDisk,
            Notice::BalloonChange { .. } => DomainEventId::BalloonChange,
            Notice::MetadataChange { .. } => DomainEventId::MetadataChange,
        }
    }

    /// The message for one who registered for events of the number `wanted` the new way. None when this is no such event.
    #[must_use]
    pub fn event(&self, dom: &remote::Domain, wanted: i32, callback_id: i32) -> Option<Event> {
        let (old, reason) = match self {
            Notice::MetadataChange { kind, uri } if wanted == DomainEventId::MetadataChange as i32 => {
                return Some(Event::DomainEventCallbackMetadataChange(remote::DomainEventCallbackMetadataChangeMsg {
                    callback_id,
                    dom: dom.clone(),
                    r#type: *kind,
                    nsuri: uri.clone(),
                }));
            }
            _ => (self.old_event(dom, wanted)?, 0),
        };
        Some(match old {
            Event::DomainEventReboot(msg) => {
                Event::DomainEventCallbackReboot(remote::DomainEventCallbackRebootMsg { callback_id, msg })
            }
            Event::DomainEventRtcChange(msg) => {
                Event::DomainEventCallbackRtcChange(remote::DomainEventCallbackRtcChangeMsg { callback_id, msg })
            }
            Event::DomainEventWatchdog(msg) => {
                Event::DomainEventCallbackWatchdog(remote::DomainEventCallbackWatchdogMsg { callback_id, msg })
            }
            Event::DomainEventIoError(msg) => {
                Event::DomainEventCallbackIoError(remote::DomainEventCallbackIoErrorMsg { callback_id, msg })
            }
            Event::DomainEventIoErrorReason(msg) => {
                Event::DomainEventCallbackIoErrorReason(remote::DomainEventCallbackIoErrorReasonMsg {
                    callback_id,
                    msg,
                })
            }
            Event::DomainEventTrayChange(msg) => {
                Event::DomainEventCallbackTrayChange(remote::DomainEventCallbackTrayChangeMsg { callback_id, msg })
            }
            Event::DomainEventPmwakeup(msg) => {
                Event::DomainEventCallbackPmwakeup(remote::DomainEventCallbackPmwakeupMsg { callback_id, reason, msg })
            }
            Event::DomainEventPmsuspend(msg) => {
                Event::DomainEventCallbackPmsuspend(remote::DomainEventCallbackPmsuspendMsg {
                    callback_id,
                    reason,
                    msg,
                })
            }
            Event::DomainEventPmsuspendDisk(msg) => {
                Event::DomainEventCallbackPmsuspendDisk(remote::DomainEventCallbackPmsuspendDiskMsg {
                    callback_id,
                    reason,
                    msg,
                })
            }
            Event::DomainEventBalloonChange(msg) => {
                Event::DomainEventCallbackBalloonChange(remote::DomainEventCallbackBalloonChangeMsg {
                    callback_id,
                    msg,
                })
            }
            _ => return None,
        })
    }

    /// The message for one who registered for events of the number `wanted` the old way, which has no number of the
    /// registration in it. None when this is no such event.
    #[must_use]
    pub fn old_event(&self, dom: &remote::Domain, wanted: i32) -> Option<Event> {
        let wanted = DomainEventId::try_from(wanted).ok()?;
        let dom = dom.clone();
        Some(match (wanted, self) {
            (DomainEventId::Reboot, Notice::Reboot) => Event::DomainEventReboot(remote::DomainEventRebootMsg { dom }),
            (DomainEventId::RtcChange, Notice::RtcChange { offset }) => {
                Event::DomainEventRtcChange(remote::DomainEventRtcChangeMsg { dom, offset: *offset })
            }
            (DomainEventId::Watchdog, Notice::Watchdog { action }) => {
                Event::DomainEventWatchdog(remote::DomainEventWatchdogMsg { dom, action: *action })
            }
            (DomainEventId::IoError, Notice::IoError { path, device, action, .. }) => {
                Event::DomainEventIoError(remote::DomainEventIoErrorMsg {
                    dom,
                    src_path: path.clone(),
                    dev_alias: device.clone(),
                    action: *action,
                })
            }
            (DomainEventId::IoErrorReason, Notice::IoError { path, device, action, reason }) => {
                Event::DomainEventIoErrorReason(remote::DomainEventIoErrorReasonMsg {
                    dom,
                    src_path: path.clone(),
                    dev_alias: device.clone(),
                    action: *action,
                    reason: reason.clone(),
                })
            }
            (DomainEventId::TrayChange, Notice::TrayChange { device, reason }) => {
                let dev_alias = device.clone();
                Event::DomainEventTrayChange(remote::DomainEventTrayChangeMsg { dom, dev_alias, reason: *reason })
            }
            (DomainEventId::PmWakeup, Notice::PmWakeup) => {
                Event::DomainEventPmwakeup(remote::DomainEventPmwakeupMsg { dom })
            }
            (DomainEventId::PmSuspend, Notice::PmSuspend) => {
                Event::DomainEventPmsuspend(remote::DomainEventPmsuspendMsg { dom })
            }
            (DomainEventId::PmSuspendDisk, Notice::PmSuspendDisk) => {
                Event::DomainEventPmsuspendDisk(remote::DomainEventPmsuspendDiskMsg { dom })
            }
            (DomainEventId::BalloonChange, Notice::BalloonChange { kib }) => {
                Event::DomainEventBalloonChange(remote::DomainEventBalloonChangeMsg { dom, actual: *kib })
            }
            _ => return None,
        })
    }

    /// Reads what a daemon of libvirt's tells, in either style; none when it is something else.
    #[must_use]
    pub fn from_event(event: Event) -> Option<(remote::Domain, Notice)> {
        let io_error = |path, device, action, reason| Notice::IoError { path, device, action, reason };
        Some(match event {
            Event::DomainEventReboot(msg)
            | Event::DomainEventCallbackReboot(remote::DomainEventCallbackRebootMsg { msg, .. }) => {
                (msg.dom, Notice::Reboot)
            }
            Event::DomainEventRtcChange(msg)
            | Event::DomainEventCallbackRtcChange(remote::DomainEventCallbackRtcChangeMsg { msg, .. }) => {
                (msg.dom, Notice::RtcChange { offset: msg.offset })
            }
            Event::DomainEventWatchdog(msg)
            | Event::DomainEventCallbackWatchdog(remote::DomainEventCallbackWatchdogMsg { msg, .. }) => {
                (msg.dom, Notice::Watchdog { action: msg.action })
            }
            Event::DomainEventIoError(msg)
            | Event::DomainEventCallbackIoError(remote::DomainEventCallbackIoErrorMsg { msg, .. }) => {
                (msg.dom, io_error(msg.src_path, msg.dev_alias, msg.action, String::new()))
            }
            Event::DomainEventIoErrorReason(msg)
            | Event::DomainEventCallbackIoErrorReason(remote::DomainEventCallbackIoErrorReasonMsg { msg, .. }) => {
                (msg.dom, io_error(msg.src_path, msg.dev_alias, msg.action, msg.reason))
            }
            Event::DomainEventTrayChange(msg)
            | Event::DomainEventCallbackTrayChange(remote::DomainEventCallbackTrayChangeMsg { msg, .. }) => {
                (msg.dom, Notice::TrayChange { device: msg.dev_alias, reason: msg.reason })
            }
            Event::DomainEventPmwakeup(msg)
            | Event::DomainEventCallbackPmwakeup(remote::DomainEventCallbackPmwakeupMsg { msg, .. }) => {
                (msg.dom, Notice::PmWakeup)
            }
            Event::DomainEventPmsuspend(msg)
            | Event::DomainEventCallbackPmsuspend(remote::DomainEventCallbackPmsuspendMsg { msg, .. }) => {
                (msg.dom, Notice::PmSuspend)
            }
            Event::DomainEventPmsuspendDisk(msg)
            | Event::DomainEventCallbackPmsuspendDisk(remote::DomainEventCallbackPmsuspendDiskMsg { msg, .. }) => {
                (msg.dom, Notice::PmSuspendDisk)
            }
            Event::DomainEventBalloonChange(msg)
            | Event::DomainEventCallbackBalloonChange(remote::DomainEventCallbackBalloonChangeMsg { msg, .. }) => {
                (msg.dom, Notice::BalloonChange { kib: msg.actual })
            }
            Event::DomainEventCallbackMetadataChange(msg) => {
                (msg.dom, Notice::MetadataChange { kind: msg.r#type, uri: msg.nsuri })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, arbitrary::Source};

    fn samples() -> Vec<Notice> {
        let io = |reason: &str| Notice::IoError {
            path: "/d/a.img".into(),
            device: "virtio-disk-vda".into(),
            action: 1,
            reason: reason.into(),
        };
        vec![
            Notice::Reboot,
            Notice::RtcChange { offset: -3600 },
            Notice::Watchdog { action: 2 },
            io("enospc"),
            io(""),
            Notice::TrayChange { device: "ide-disk-hdc".into(), reason: 1 },
            Notice::PmWakeup,
            Notice::PmSuspend,
            Notice::PmSuspendDisk,
            Notice::BalloonChange { kib: 65_536 },
            Notice::MetadataChange { kind: 0, uri: None },
            Notice::MetadataChange { kind: 2, uri: Some("urn:k".into()) },
        ]
    }

    fn dom() -> remote::Domain {
        remote::Domain { name: "web".into(), uuid: [7; 16], id: 3 }
    }

    #[test]
    fn what_is_written_down_reads_back() {
        for notice in samples() {
            assert_eq!(Notice::from_parts(notice.clone().into_parts()), Some(notice));
        }
    }

    #[test]
    fn each_kind_has_the_message_that_its_registration_asks_for() {
        for notice in samples() {
            let mut told = Vec::new();
            for wanted in -1..40 {
                for (old, event) in [(true, notice.old_event(&dom(), wanted)), (false, notice.event(&dom(), wanted, 9))]
                {
                    let Some(event) = event else { continue };
                    // What the table says that the message is registered for by.
                    let id = event.op().info().event.unwrap();
                    assert_eq!((id.family, id.id, id.legacy), (Family::Domain, wanted, old), "{notice:?}");
                    let (about, mut back) = Notice::from_event(event).unwrap();
                    if let (Notice::IoError { reason, .. }, 4) = (&mut back, wanted) {
                        "enospc".clone_into(reason);
                        if notice.clone().into_parts().texts[2].is_empty() {
                            reason.clear();
                        }
                    }
                    assert_eq!((about, back), (dom(), notice.clone()));
                    told.push((wanted, old));
                }
            }
            let kind = notice.kind() as i32;
            let expected = match notice {
                Notice::IoError { .. } => vec![(4, true), (4, false), (6, true), (6, false)],
                Notice::MetadataChange { .. } => vec![(23, false)],
                _ => vec![(kind, true), (kind, false)],
            };
            assert_eq!(told, expected, "{notice:?}");
        }
    }

    #[test]
    fn whoever_registers_for_all_kinds_is_told_each_once() {
        for notice in samples() {
            let told = KINDS.iter().filter(|kind| notice.event(&dom(), **kind as i32, 1).is_some()).count();
            assert_eq!(told, 1, "{notice:?}");
        }
    }

    #[test]
    fn whatever_a_peer_says_is_understood_or_passed_over() {
        let mut source = Source::new(11);
        for turn in 0..4000 {
            let mut msg: DomainNoticeMsg = crate::arbitrary::Arbitrary::arbitrary(&mut source);
            msg.kind = if turn % 4 == 0 { msg.kind } else { turn % 32 };
            let Some(notice) = Notice::of(&msg) else { continue };
            let again = Notice::from_parts(notice.clone().into_parts());
            assert_eq!(again, Some(notice), "{msg:?}");
        }
    }

    #[test]
    fn a_number_that_is_no_number_of_libvirts_names_nothing() {
        let parts = |kind, number| Parts { kind, number, texts: Vec::new() };
        assert_eq!(Notice::from_parts(parts(3, 1 << 40)), Some(Notice::Watchdog { action: -1 }));
        assert_eq!(Notice::from_parts(parts(13, -1)), Some(Notice::BalloonChange { kib: 0 }));
        for kind in [-1, 0, 5, 6, 7, 22, 1000] {
            assert_eq!(Notice::from_parts(parts(kind, 0)), None, "{kind}");
        }
    }
}
