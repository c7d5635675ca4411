//! What QEMU tells that is no change of the guest's life, and that libvirt's clients may listen to.

use api::{
    consts::{IoErrorAction, TrayChangeReason, WatchdogEventAction},
    notice::Notice,
};
use serde_json::Value;

/// Reads an event of QMP; none when there is nothing to tell. A disk is told by QEMU's name for it, without a path: what
/// that is outside, control knows.
#[must_use]
pub fn from_event(name: &str, data: &Value) -> Option<Notice> {
    let text = |key: &str| data.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let named = |keys: &[&str]| keys.iter().find_map(|key| text(key)).unwrap_or_default().to_owned();
    Some(match name {
        "RESET" => Notice::Reboot,
        "RTC_CHANGE" => Notice::RtcChange { offset: data.get("offset").and_then(Value::as_i64)? },
        "WATCHDOG" => Notice::Watchdog { action: watchdog_action(text("action")?)? as i32 },
        "BLOCK_IO_ERROR" => {
            let action = match text("action")? {
                "ignore" => IoErrorAction::None,
                "stop" => IoErrorAction::Pause,
                "report" => IoErrorAction::Report,
                _ => return None,
            };
            let full = data.get("nospace").and_then(Value::as_bool) == Some(true);
            Notice::IoError {
                path: String::new(),
                device: named(&["device", "node-name", "qom-path"]),
                action: action as i32,
                reason: if full { "enospc".to_owned() } else { String::new() },
            }
        }
        "DEVICE_TRAY_MOVED" => {
            let opened = data.get("tray-open").and_then(Value::as_bool)?;
            let reason = if opened { TrayChangeReason::Opened } else { TrayChangeReason::Closed };
            Notice::TrayChange { device: named(&["id", "device"]), reason: reason as i32 }
        }
        "WAKEUP" => Notice::PmWakeup,
        "SUSPEND" => Notice::PmSuspend,
        "SUSPEND_DISK" => Notice::PmSuspendDisk,
        "BALLOON_CHANGE" => Notice::BalloonChange { kib: data.get("actual").and_then(Value::as_u64)? / 1024 },
        _ => return None,
    })
}

fn watchdog_action(word: &str) -> Option<WatchdogEventAction> {
    WatchdogEventAction::ALL.iter().copied().find(|action| action.name() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_qemu_tells_has_libvirts_numbers() {
        let parts = |name, data: Value| from_event(name, &data).map(|notice| notice.into_parts());
        let read = |name, data| parts(name, data).map(|parts| (parts.kind, parts.number));
        assert_eq!(read("RESET", json!({"guest": true, "reason": "guest-reset"})), Some((1, 0)));
        assert_eq!(read("RTC_CHANGE", json!({"offset": -78, "qom-path": "/machine/rtc"})), Some((2, -78)));
        for (word, number) in [("none", 0), ("pause", 1), ("reset", 2), ("shutdown", 4), ("inject-nmi", 6)] {
            assert_eq!(read("WATCHDOG", json!({"action": word})), Some((3, number)));
        }
        for (word, number) in [("ignore", 0), ("stop", 1), ("report", 2)] {
            assert_eq!(read("BLOCK_IO_ERROR", json!({"action": word, "device": "a"})), Some((4, number)));
        }
        assert_eq!(read("WAKEUP", Value::Null), Some((11, 0)));
        assert_eq!(read("SUSPEND", Value::Null), Some((12, 0)));
        assert_eq!(read("BALLOON_CHANGE", json!({"actual": 1 << 26})), Some((13, 65_536)));
        assert_eq!(read("SUSPEND_DISK", Value::Null), Some((14, 0)));
        for (open, number) in [(true, 0), (false, 1)] {
            let data = json!({"device": "", "id": "ide-disk-hdc", "tray-open": open});
            assert_eq!(read("DEVICE_TRAY_MOVED", data.clone()), Some((10, number)));
            assert_eq!(parts("DEVICE_TRAY_MOVED", data).unwrap().texts, ["ide-disk-hdc"]);
        }
    }

    #[test]
    fn a_full_disk_has_a_reason_and_a_disk_a_name() {
        let told = |data| from_event("BLOCK_IO_ERROR", &data).unwrap();
        let full = json!({"device": "", "node-name": "disk0", "action": "stop", "nospace": true, "reason": "No space"});
        let Notice::IoError { path, device, reason, .. } = told(full) else { panic!() };
        assert_eq!((path.as_str(), device.as_str(), reason.as_str()), ("", "disk0", "enospc"));
        let other = json!({"device": "ide0", "action": "report", "reason": "Input/output error"});
        let Notice::IoError { device, reason, .. } = told(other) else { panic!() };
        assert_eq!((device.as_str(), reason.as_str()), ("ide0", ""));
    }

    #[test]
    fn what_is_not_understood_is_not_told() {
        for name in ["STOP", "RTC_CHANGE", "WATCHDOG", "BLOCK_IO_ERROR", "DEVICE_TRAY_MOVED", "BALLOON_CHANGE"] {
            assert_eq!(from_event(name, &json!({"action": "new", "actual": -1})), None, "{name}");
        }
    }
}
