//! Keepalive: who pings when, and when a silent peer is dead.
//!
//! Without a clock or a socket of its own: the owner says what time it is and sends what comes out.

use std::time::{Duration, Instant};

use crate::frame::{Header, Kind, Status};

/// The program's number. It spells "keep".
pub const PROGRAM: u32 = 0x6b65_6570;
/// The program's version.
pub const VERSION: u32 = 1;
/// Are you there?
pub const PING: i32 = 1;
/// I am.
pub const PONG: i32 = 2;
/// A server pings after this much silence, if its owner does not say otherwise.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Pings without an answer after which a peer is dead.
pub const COUNT: u32 = 5;

/// The header of a ping.
pub const PING_HEADER: Header = header(PING);
/// The header of the answer to a ping.
pub const PONG_HEADER: Header = header(PONG);

const fn header(procedure: i32) -> Header {
    Header { program: PROGRAM, version: VERSION, procedure, kind: Kind::Message, serial: 0, status: Status::Ok }
}

/// Is it one of this program's frames?
#[must_use]
pub fn is_keepalive(header: &Header) -> bool {
    header.program == PROGRAM && header.version == VERSION && header.kind == Kind::Message
}

/// The answer that a frame wants: a pong for a ping, nothing for anything else.
#[must_use]
pub fn answer(header: &Header) -> Option<Header> {
    (is_keepalive(header) && header.procedure == PING).then_some(PONG_HEADER)
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until [`Keepalive::deadline`].
    Nothing,
    /// Send a ping.
    SendPing,
    /// The peer is dead.
    Dead,
}

/// One side's watch over the other.
#[derive(Clone, Debug)]
pub struct Keepalive {
    interval: Duration,
    count: u32,
    /// The last sign of life, or the last ping.
    since: Instant,
    unanswered: u32,
}

impl Keepalive {
    /// Begins to watch: a ping after each `interval` of silence, dead after `count` pings without an answer.
    #[must_use]
    pub fn new(interval: Duration, count: u32, now: Instant) -> Self {
        Self { interval: interval.max(Duration::from_millis(1)), count, since: now, unanswered: 0 }
    }

    /// Something came: whatever it is, the peer lives.
    pub fn on_received(&mut self, now: Instant) {
        self.since = now;
        self.unanswered = 0;
    }

    /// When [`Keepalive::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        // A moment too far away to express never comes; a day will do as well.
        self.since.checked_add(self.interval).unwrap_or_else(|| self.since + Duration::from_secs(86_400))
    }

    /// How many pings may stay without an answer.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What is due now. A ping that it asks for counts as sent.
    pub fn tick(&mut self, now: Instant) -> Action {
        if now < self.deadline() {
            return Action::Nothing;
        }
        if self.unanswered >= self.count {
            return Action::Dead;
        }
        self.unanswered += 1;
        self.since = now;
        Action::SendPing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_peer_is_dead_after_the_last_ping_had_its_interval() {
        let begin = Instant::now();
        let mut watch = Keepalive::new(INTERVAL, COUNT, begin);
        let actions: Vec<Action> = (1..=30).map(|second| watch.tick(begin + SECOND * second)).collect();
        let pings: Vec<usize> = (1..=30).filter(|second| actions[second - 1] == Action::SendPing).collect();
        assert_eq!(pings, [5, 10, 15, 20, 25]);
        assert_eq!(actions[29], Action::Dead);
        assert!(actions[..29].iter().all(|action| *action != Action::Dead));
    }

    #[test]
    fn any_sign_of_life_begins_anew() {
        let begin = Instant::now();
        let mut watch = Keepalive::new(SECOND, 1, begin);
        assert_eq!(watch.tick(begin + SECOND), Action::SendPing);
        watch.on_received(begin + SECOND * 3 / 2);
        assert_eq!(watch.tick(begin + SECOND * 2), Action::Nothing);
        assert_eq!(watch.deadline(), begin + SECOND * 5 / 2);
        assert_eq!(watch.tick(begin + SECOND * 5 / 2), Action::SendPing);
        assert_eq!(watch.tick(begin + SECOND * 7 / 2), Action::Dead);
    }

    #[test]
    fn without_a_count_the_first_silence_is_death() {
        let begin = Instant::now();
        assert_eq!(Keepalive::new(SECOND, 0, begin).tick(begin + SECOND), Action::Dead);
    }

    #[test]
    fn only_a_ping_is_answered() {
        assert_eq!(answer(&PING_HEADER), Some(PONG_HEADER));
        assert_eq!(answer(&PONG_HEADER), None);
        assert_eq!(answer(&header(3)), None);
        assert_eq!(answer(&Header { program: 0x2000_8086, ..PING_HEADER }), None);
        assert_eq!(answer(&Header { kind: Kind::Call, ..PING_HEADER }), None);
    }
}
