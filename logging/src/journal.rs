//! Lines for the journal of a service manager: a priority in front, and no time, which the journal adds itself.

use std::{env, fmt, io};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Full, Writer},
    },
    registry::LookupSpan,
};

/// Names the device and inode of a standard error that is the journal's.
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether standard error goes to the journal: the service manager's word, which holds only for the file that it names. A
/// process whose output was directed elsewhere has inherited the variable all the same.
pub fn is_stderr() -> bool {
    let Ok(stat) = fstat(io::stderr()) else { return false };
    env::var(VARIABLE).is_ok_and(|named| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The format. See the module's page.
pub struct Format(format::Format<Full, ()>);

impl Default for Format {
    fn default() -> Format {
        Format(format::format().without_time().with_ansi(false).with_level(false))
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog's number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_line_begins_with_its_priority() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || Sink(Arc::clone(&sink)))
            .event_format(Format::default())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("bad");
            tracing::info!(run = 3, "good");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>logging::journal::tests: bad\n<6>logging::journal::tests: good run=3\n");
    }
}
