//! Amounts of memory.

/// The most that an amount of memory may be in KiB: what a signed 64-bit count of bytes holds.
pub(crate) const MAX_KIB: u64 = i64::MAX as u64 / 1024;

/// The bytes in one of `unit`: upper and lower case count the same, a bare letter is the binary unit.
fn bytes_in(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
    }
    let (letter, base) = match unit.as_bytes() {
        [letter] | [letter, b'i', b'b'] => (*letter, 1024u64),
        [letter, b'b'] => (*letter, 1000),
        _ => return None,
    };
    let power = 1 + b"kmgtpe".iter().position(|l| *l == letter)?;
    base.checked_pow(u32::try_from(power).ok()?)
}

/// Why an amount is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleError {
    Unit,
    Overflow,
}

pub(crate) fn scale(value: u64, unit: &str) -> Result<u64, ScaleError> {
    let scale = bytes_in(unit).ok_or(ScaleError::Unit)?;
    let kib = (u128::from(value) * u128::from(scale)).div_ceil(1024);
    u64::try_from(kib).ok().filter(|kib| *kib <= MAX_KIB).ok_or(ScaleError::Overflow)
}

/// An amount in a unit that libvirt knows, in KiB, rounded up as libvirt does. `None` for an unknown unit or an amount
/// that is too large.
pub fn scale_to_kib(value: u64, unit: &str) -> Option<u64> {
    scale(value, unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_libvirts() {
        let cases = [
            (1, "b", Ok(1)),
            (1025, "bytes", Ok(2)),
            (1, "KB", Ok(1)),
            (1024, "KB", Ok(1000)),
            (7, "k", Ok(7)),
            (7, "KiB", Ok(7)),
            (1, "M", Ok(1024)),
            (1, "MB", Ok(977)),
            (2, "gib", Ok(2 * 1024 * 1024)),
            (1, "T", Ok(1 << 30)),
            (1, "PiB", Ok(1 << 40)),
            (1, "E", Ok(1 << 50)),
            (8, "EiB", Err(ScaleError::Overflow)),
            (u64::MAX, "b", Err(ScaleError::Overflow)),
            (1, "", Err(ScaleError::Unit)),
            (1, "KiBB", Err(ScaleError::Unit)),
            (1, "x", Err(ScaleError::Unit)),
            (1, "pages", Err(ScaleError::Unit)),
        ];
        for (value, unit, kib) in cases {
            assert_eq!(scale(value, unit), kib, "{value} {unit}");
        }
    }
}
