//! # logging: where the daemons' logs go
//!
//! Every process of a daemon writes to the standard error that it was started with: a terminal, a file, or the journal of the
//! service manager. A line needs nothing of the kernel but a write and a clock that the vDSO reads, so the workers' filters
//! have no rule for logging.
//!
//! The spans of a line name its cause: `client` (uid and pid), `call`, `run`, `job`. A line within the span of a client counts
//! against that client's user, up to `RATE`; root and the daemon itself have no limit. Without one an unprivileged peer could
//! fill the disk of the log.
#![forbid(unsafe_code)]

mod journal;
mod limit;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use limit::{LogLimiter, Rate, Verdict};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, Filter, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// The field of a span that names the user whom its lines count against.
const UID: &str = "uid";
/// How many lines a user may cause.
const RATE: Rate = Rate { burst: 100, refill: Duration::from_secs(1) };

/// Starts logging. `RUST_LOG` chooses what is logged; without it, everything from `info` up.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let limit = PerUser { limiter: Mutex::new(LogLimiter::new(RATE)) };
    let lines = tracing_subscriber::registry().with(filter);
    // A second start in one process, as in tests, keeps the first.
    let _ = if journal::is_stderr() {
        lines.with(stderr.event_format(journal::Format::default()).with_filter(limit)).try_init()
    } else {
        lines.with(stderr.with_filter(limit)).try_init()
    };
}

/// Lets through what a user may write.
struct PerUser {
    limiter: Mutex<LogLimiter<u32>>,
}

/// The user of a span.
struct User(u32);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Filter<S> for PerUser {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FindUid(None);
        attributes.record(&mut found);
        if let (Some(uid), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(User(uid));
        }
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let user =
            |span: tracing_subscriber::registry::SpanRef<'_, S>| span.extensions().get::<User>().map(|user| user.0);
        let uid = context.event_scope(event).and_then(|mut scope| scope.find_map(user));
        // Root can fill a disk without a daemon's help.
        let Some(uid) = uid.filter(|uid| *uid != 0) else { return true };
        let verdict = self.limiter.lock().unwrap_or_else(PoisonError::into_inner).count(&uid, Instant::now());
        match verdict {
            Verdict::Write { suppressed, of_others } => {
                // Not an event, which would come back here. A log that takes no line is no reason to stop.
                if suppressed > 0 {
                    let _ = writeln!(io::stderr(), "{suppressed} more lines of uid {uid} are left out");
                }
                if of_others > 0 {
                    let _ = writeln!(io::stderr(), "{of_others} lines of other users are left out");
                }
                true
            }
            Verdict::Suppress => false,
        }
    }
}

struct FindUid(Option<u32>);

impl Visit for FindUid {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == UID {
            self.0 = u32::try_from(value).ok();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_user_writes_a_burst_and_root_and_the_daemon_all_they_want() {
        let lines = Lines::default();
        let writer = lines.clone();
        let limit =
            PerUser { limiter: Mutex::new(LogLimiter::new(Rate { burst: 3, refill: Duration::from_secs(60) })) };
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(limit));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..10 {
                tracing::info_span!("client", uid = 1000_u32, pid = 7).in_scope(|| {
                    // What is written deeper within counts as well.
                    tracing::info_span!("call", op = "x").in_scope(|| tracing::info!("by a user"));
                });
                tracing::info_span!("client", uid = 0_u32).in_scope(|| tracing::info!("by root"));
                tracing::info!("by itself");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.ends_with(what)).count();
        assert_eq!((count("by a user"), count("by root"), count("by itself")), (3, 10, 10), "{text}");
        assert!(text.contains("client{uid=1000 pid=7}:call{op=\"x\"}"), "{text}");
    }
}
