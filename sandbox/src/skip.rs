//! How a test says that it cannot run here: shared by the unit tests and by `tests/confine`.

use std::io::Write;

/// Says that a test cannot run here and why: on standard error, and for the summary in the file that `BULKHEAD_SKIP_LOG` names.
pub fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    eprint!("SKIPPED: {line}");
    if let Some(log) = std::env::var_os("BULKHEAD_SKIP_LOG") {
        let written = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .and_then(|mut log| log.write_all(line.as_bytes()));
        assert!(written.is_ok(), "the skipped test {test} cannot be written down: {written:?}");
    }
}
