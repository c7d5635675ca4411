//! The numbers of a stream of events: which is the last one that has come, and whether any is missing.

use api::bulkhead::EventsSubscribeRet;

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    last: Option<u64>,
    /// The first number that the log had not given when it was asked last. What is missing before it, its answer has said.
    live_from: u64,
    first_new: Option<u64>,
    lost: bool,
}

impl Numbers {
    /// Those of a stream that begins behind this one.
    pub(crate) fn since(since: Option<u64>) -> Numbers {
        Numbers { last: since, ..Numbers::default() }
    }

    /// The number of the last event that has come.
    pub(crate) fn last(&self) -> Option<u64> {
        self.last
    }

    /// The number of the first event that had not happened when the stream began.
    pub(crate) fn first_new(&self) -> u64 {
        self.first_new.unwrap_or_default()
    }

    /// Whether events are missing.
    pub(crate) fn lost(&self) -> bool {
        self.lost
    }

    /// Goes on in a log with numbers.
    pub(crate) fn resume(&mut self, answer: &EventsSubscribeRet) {
        // A log that ends before the last event that has come is another log, begun anew.
        let newest = answer.next.saturating_sub(1);
        let restarted = self.last.is_some_and(|last| newest < last);
        self.lost |= answer.lost || restarted;
        if self.last.is_none() || restarted {
            self.last = Some(newest);
        }
        self.live_from = answer.next;
        self.first_new.get_or_insert(answer.next);
    }

    /// Goes on where nobody gives numbers. What happened before is not to be had.
    pub(crate) fn count(&mut self) {
        self.lost |= self.last.is_some();
        let last = *self.last.get_or_insert(0);
        self.live_from = 0;
        self.first_new.get_or_insert(last.saturating_add(1));
    }

    /// The number of an event that comes without one.
    pub(crate) fn next(&self) -> u64 {
        self.last.unwrap_or_default().saturating_add(1)
    }

    /// Takes note of an event. False when it has come before.
    pub(crate) fn pass(&mut self, sequence: u64) -> bool {
        if let Some(last) = self.last {
            if sequence == last {
                return false;
            }
            // A daemon of ours leaves no number out without a loss, and one that goes back is another log's.
            self.lost |= sequence < last || sequence > last.saturating_add(1).max(self.live_from);
        }
        self.last = Some(sequence);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(next: u64, lost: bool) -> EventsSubscribeRet {
        EventsSubscribeRet { next, lost }
    }

    #[test]
    fn what_is_missing_in_the_past_is_the_answer_s_to_say() {
        let mut numbers = Numbers::since(Some(0));
        numbers.resume(&answer(10, false));
        assert!(numbers.pass(7) && numbers.pass(9) && numbers.pass(10) && !numbers.lost());
        assert_eq!((numbers.last(), numbers.first_new()), (Some(10), 10));
        let mut numbers = Numbers::since(Some(3));
        numbers.resume(&answer(10, true));
        assert!(numbers.lost());
    }

    #[test]
    fn what_is_missing_in_the_present_is_seen_here() {
        let mut numbers = Numbers::since(None);
        numbers.resume(&answer(10, false));
        assert!(numbers.pass(10) && !numbers.pass(10) && !numbers.lost());
        assert!(numbers.pass(12) && numbers.lost());
    }

    #[test]
    fn another_log_is_a_loss() {
        let mut numbers = Numbers::since(Some(20));
        numbers.resume(&answer(10, false));
        assert!(numbers.lost());
        assert_eq!(numbers.last(), Some(9));
    }
}
