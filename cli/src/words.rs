//! Words and numbers as they are printed: what is not the library's business because it is only for the eye.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use libclient::State;

/// One word for a state, for programs: virsh's word without its blank.
pub(crate) fn state_token(state: State) -> &'static str {
    match state {
        State::NoState => "nostate",
        State::Shutoff => "shutoff",
        other => other.name(),
    }
}

/// An id, or virsh's dash for a domain that has none.
pub(crate) fn id_or_dash(id: Option<u32>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// `yes` or `no`.
pub(crate) fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// libvirt's `major * 1000000 + minor * 1000 + micro` as people write it.
pub(crate) fn dotted_version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

/// A time by the clock on the wall, to the millisecond, in virsh's form.
pub(crate) fn local_time(time: SystemTime) -> String {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: SystemTime, zone: TimeZone) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S.%3f%z").to_string()
}

/// A time for programs: RFC 3339 in UTC.
pub(crate) fn utc_time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_version_is_taken_apart_in_thousands() {
        assert_eq!(dotted_version(7_002_022), "7.2.22");
    }

    #[test]
    fn a_time_is_shown_to_the_millisecond_with_its_offset() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_123_456_789);
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(in_zone(time, zone), "2017-07-14 04:40:00.123+0200");
        assert_eq!(utc_time(time), "2017-07-14T02:40:00.123456789Z");
    }
}
