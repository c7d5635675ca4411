//! Ending a guest at once, whatever state it is in: up, being started, unreachable, or ending already.
//!
//! The answer "destroyed" waits for the launcher to report, on the kernel's word, that no process of the run is left. If that
//! does not come by a deadline, the call fails.

use std::time::Duration;

use api::{Answer, Error, Outcome, Reply, remote};
use ipc::server::PeerKey;
use registry::Destroy;
use supervisor::protocol::Request;

use super::{
    Control, Then,
    driver::Asked,
    errors,
    guests::{Ended, GuestError, SupervisorReply},
};

/// How long a supervisor may take to end its guest before it is killed with it.
const POLITE: Duration = Duration::from_secs(2);
/// How long processes that were killed may take to end. They wait for the kernel then, for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long QEMU may take to end when it is only asked to.
const GRACE: Duration = Duration::from_secs(15);

impl Control {
    /// Ends a guest at once. Waits for no job: it is what helps when a job does not end.
    pub(super) fn destroy(&mut self, cx: &Asked, dom: &remote::Domain, reply: fn(()) -> Reply) -> Answer<()> {
        let uuid = self.known(dom)?;
        let how = self.objects.destroy(&uuid).map_err(|refusal| errors::refusal(&refusal))?;
        let name = self.objects.get(&uuid).map(|object| object.name().to_owned()).unwrap_or_default();
        let over = self.at_end(cx.later(), errors::undying(&name, PATIENCE), reply);
        match how {
            Destroy::Cancel(ticket) => self.give_up_start(ticket, over),
            Destroy::Kill(run) => {
                self.on_end(run.0, over);
                self.end_run(run.0);
            }
        }
        Ok(Outcome::Pending)
    }

    /// Asks QEMU to end, which writes back what it has in memory of its disks. One that does not do so in time is not killed.
    pub(super) fn destroy_gracefully(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let run = self.running(dom)?;
        let name = self.guests.get(&run).map(|guest| guest.name.clone()).unwrap_or_default();
        let asked = cx.later();
        let then = move |control: &mut Control, said: SupervisorReply| match said {
            // Without an answer of its supervisor the guest may be ending all the same; the launcher reports the end.
            Ok(_) | Err(GuestError::Unreachable | GuestError::Gone(_)) => {
                let over = control.at_end(asked, errors::not_ended(&name, PATIENCE), reply);
                control.on_end(run, over);
            }
            Err(error @ GuestError::Silent(_)) => {
                let known = errors::guest("destroy", &name, &error);
                control.answer(&asked, Err(known.with_hint(errors::MAY_STILL_END)));
            }
            Err(error) => control.answer(&asked, Err(errors::guest("destroy", &name, &error))),
        };
        let within_ms = u32::try_from(GRACE.as_millis()).unwrap_or(u32::MAX);
        let request = Request::End { graceful: true, within_ms };
        self.ask_guest_within(run, &request, Vec::new(), GRACE + POLITE, Box::new(then));
        Ok(Outcome::Pending)
    }

    /// What answers a call when a run or start is over; `late` answers it by its deadline.
    fn at_end(&mut self, asked: Asked, late: Error, reply: fn(()) -> Reply) -> Then<Ended> {
        let due = self.due(asked, PATIENCE, late);
        Box::new(move |control: &mut Control, ended: Ended| control.answer_due(&due, ended.map(reply)))
    }

    /// Does something when a run is over, or when it cannot be ended.
    fn on_end(&mut self, run: u32, then: Then<Ended>) {
        match self.guests.get_mut(&run) {
            Some(guest) => guest.on_end.push(then),
            None => then(self, Ok(())),
        }
    }

    /// Ends the runs that lived for a connection which is over.
    pub(super) fn end_runs_of(&mut self, owner: PeerKey) {
        for run in self.owned.remove(&owner).unwrap_or_default() {
            self.end_run(run);
        }
    }

    /// Ends a run: by its supervisor, which reports the end best, and without it if it does not do so soon.
    pub(super) fn end_run(&mut self, run: u32) {
        // One that has ended by itself was not destroyed.
        let Some(guest) = self.guests.get_mut(&run).filter(|guest| !guest.over) else { return };
        guest.destroyed = true;
        let uuid = guest.uuid;
        if self.up(&uuid).is_none() {
            return self.kill_run(run);
        }
        let then = move |control: &mut Control, reply: SupervisorReply| match reply {
            // It leaves by itself now; a supervisor that stays is killed.
            Ok(_) => {
                control.ending(run);
                control.after(POLITE, Box::new(move |control, ()| control.kill_run(run)));
            }
            Err(_) => control.kill_run(run),
        };
        self.ask_guest_within(run, &Request::Destroy, Vec::new(), POLITE, Box::new(then));
    }
}
