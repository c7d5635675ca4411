//! What becomes of a guest when QEMU tells something, when somebody asks for something, and when QEMU ends: one table,
//! without a file descriptor in it.

use serde_json::Value;
use supervisor::{
    lifecycle::{Kind, State},
    protocol::Action,
};

/// What a guest's document says about its end.
#[derive(Clone, Copy, Debug)]
pub struct Actions {
    /// When it powers off.
    pub on_poweroff: Action,
    /// When it reboots.
    pub on_reboot: Action,
    /// When its kernel crashes.
    pub on_crash: Action,
}

/// What QEMU tells that matters to a guest's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The virtual CPUs have stopped.
    Stop,
    /// The virtual CPUs run again.
    Resume,
    /// The machine has been reset.
    Reset {
        /// By the guest itself.
        by_guest: bool,
    },
    /// The guest has powered off, or reset itself when that counts as powering off.
    Shutdown {
        /// On its own initiative; unknown when QEMU does not say.
        by_guest: Option<bool>,
        /// It was a reboot.
        reboot: bool,
        /// QEMU is on its way out by itself: nothing needs to be sent to it, and nothing can be.
        leaving: bool,
    },
    /// The guest's kernel has crashed, and the virtual CPUs have stopped.
    Panicked,
    /// The guest's kernel has crashed and started another one.
    CrashLoaded,
    /// The guest sleeps in memory.
    Suspended,
    /// The guest saves itself to disk, and powers off then.
    SuspendedToDisk,
    /// The guest woke up.
    Wakeup,
    /// A disk failed and QEMU is about to stop the virtual CPUs.
    DiskFailed,
    /// The watchdog fired and QEMU is about to stop the virtual CPUs.
    Watchdog,
}

impl Told {
    /// Reads an event of QMP; none when it does not matter to the guest's life.
    #[must_use]
    pub fn from_event(name: &str, data: &Value) -> Option<Told> {
        let text = |key: &str| data.get(key).and_then(Value::as_str);
        match name {
            "STOP" => Some(Told::Stop),
            "RESUME" => Some(Told::Resume),
            "RESET" => Some(Told::Reset { by_guest: data.get("guest").and_then(Value::as_bool).unwrap_or(false) }),
            "SHUTDOWN" => {
                let reason = text("reason").unwrap_or_default();
                Some(Told::Shutdown {
                    by_guest: data.get("guest").and_then(Value::as_bool),
                    reboot: matches!(reason, "guest-reset" | "host-qmp-system-reset"),
                    leaving: matches!(reason, "host-qmp-quit" | "host-signal"),
                })
            }
            "GUEST_PANICKED" => (text("action") != Some("run")).then_some(Told::Panicked),
            "GUEST_CRASHLOADED" => Some(Told::CrashLoaded),
            "SUSPEND" => Some(Told::Suspended),
            "SUSPEND_DISK" => Some(Told::SuspendedToDisk),
            "WAKEUP" => Some(Told::Wakeup),
            "BLOCK_IO_ERROR" => (text("action") == Some("stop")).then_some(Told::DiskFailed),
            "WATCHDOG" => (text("action") == Some("pause")).then_some(Told::Watchdog),
            _ => None,
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Reset the machine.
    Reset,
    /// Let the virtual CPUs run.
    Continue,
    /// Let QEMU write what it still has, and end.
    Quit,
}

/// How QEMU ended, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With exit code 0.
    Cleanly,
    /// With another exit code, or by a signal.
    Otherwise,
}

/// What a step brings: events, with the state after each, and what is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Events in order.
    pub events: Vec<(Kind, State)>,
    /// Orders in order.
    pub orders: Vec<Order>,
}

/// Why QEMU is ending, when it was the guest or somebody who wanted that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    PoweredOff,
    Crashed,
    Destroyed,
}

/// The life of one guest. See the module's page.
#[derive(Debug)]
pub struct Machine {
    actions: Actions,
    state: State,
    started: bool,
    /// The power button was pressed to reboot.
    reboot: bool,
    /// Somebody has asked to stop the virtual CPUs, and QEMU has not said yet that they have.
    stopping: bool,
    /// A reset has been ordered, and the virtual CPUs are to run after it.
    restarting: bool,
    ending: Option<Ending>,
    /// QEMU has ended. A run ends once.
    over: bool,
}

impl Machine {
    /// A guest whose QEMU has just been started.
    #[must_use]
    pub fn new(actions: Actions) -> Machine {
        Machine {
            actions,
            state: State::PAUSED_STARTING_UP,
            started: false,
            reboot: false,
            stopping: false,
            restarting: false,
            ending: None,
            over: false,
        }
    }

    /// How the guest is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the guest has got as far as having virtual CPUs.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether it is on its way out.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// QEMU has answered how the guest is: the first answer starts its life, a later one mends what was missed while QEMU
    /// did not speak.
    pub fn status(&mut self, status: &str) -> Step {
        let mut step = Step::default();
        if !self.started {
            self.started = true;
            self.become_with(&mut step, Kind::STARTED_BOOTED, State::RUNNING_BOOTED);
        }
        match status {
            "running" => self.resumed(&mut step),
            "paused" | "prelaunch" => self.paused(&mut step, Kind::SUSPENDED_PAUSED, State::PAUSED_USER),
            "io-error" => self.paused(&mut step, Kind::SUSPENDED_IOERROR, State::PAUSED_IOERROR),
            "watchdog" => self.paused(&mut step, Kind::SUSPENDED_WATCHDOG, State::PAUSED_WATCHDOG),
            "shutdown" => self.shutdown(&mut step, None, false, false),
            "guest-panicked" => self.panicked(&mut step),
            "suspended" => self.slept(&mut step, Kind::PMSUSPENDED_MEMORY),
            _ => self.paused(&mut step, Kind::SUSPENDED_PAUSED, State::PAUSED_UNKNOWN),
        }
        step
    }

    /// QEMU has told something.
    pub fn told(&mut self, told: Told) -> Step {
        let mut step = Step::default();
        if !self.started {
            // The answer to the status query, which is under way, has it all; only an end can't wait.
            match told {
                Told::Shutdown { .. } | Told::Panicked => step = self.status("running"),
                _ => return step,
            }
        }
        match told {
            Told::Stop => {
                let state = if self.stopping { State::PAUSED_USER } else { State::PAUSED_UNKNOWN };
                self.stopping = false;
                self.paused(&mut step, Kind::SUSPENDED_PAUSED, state);
            }
            Told::Resume => self.resumed(&mut step),
            Told::Reset { .. } => self.was_reset(&mut step),
            Told::Shutdown { by_guest, reboot, leaving } => self.shutdown(&mut step, by_guest, reboot, leaving),
            Told::Panicked => self.panicked(&mut step),
            Told::CrashLoaded => step.events.push((Kind::CRASHED_CRASHLOADED, self.state)),
            Told::Suspended => self.slept(&mut step, Kind::PMSUSPENDED_MEMORY),
            Told::SuspendedToDisk => self.slept(&mut step, Kind::PMSUSPENDED_DISK),
            Told::Wakeup if self.state == State::PMSUSPENDED_UNKNOWN => {
                self.become_with(&mut step, Kind::STARTED_WAKEUP, State::RUNNING_WAKEUP);
            }
            Told::Wakeup => {}
            Told::DiskFailed => self.paused(&mut step, Kind::SUSPENDED_IOERROR, State::PAUSED_IOERROR),
            Told::Watchdog => self.paused(&mut step, Kind::SUSPENDED_WATCHDOG, State::PAUSED_WATCHDOG),
        }
        step
    }

    /// The virtual CPUs are about to be stopped on request.
    pub fn stopping(&mut self) {
        self.stopping = true;
    }

    /// QEMU has done so, or refused to.
    pub fn stopping_is_over(&mut self) {
        self.stopping = false;
    }

    /// The power button is about to be pressed, for a reboot or for good.
    pub fn button(&mut self, reboot: bool) {
        self.reboot = reboot;
    }

    /// QEMU is about to be killed because somebody wants that.
    pub fn destroyed(&mut self) {
        self.ending = Some(Ending::Destroyed);
    }

    /// QEMU was asked to end because somebody wanted that, and has not.
    pub fn lives_on(&mut self) {
        if self.ending == Some(Ending::Destroyed) {
            self.ending = None;
        }
    }

    /// QEMU has ended.
    pub fn exited(&mut self, ended: Ended) -> Step {
        let mut step = Step::default();
        if std::mem::replace(&mut self.over, true) {
            return step;
        }
        let (kind, state) = match self.ending {
            Some(Ending::Destroyed) => (Kind::STOPPED_DESTROYED, State::SHUTOFF_DESTROYED),
            _ if !self.started => (Kind::STOPPED_FAILED, State::SHUTOFF_FAILED),
            Some(Ending::PoweredOff) => (Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN),
            Some(Ending::Crashed) => (Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED),
            None if ended == Ended::Cleanly => (Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN),
            None => (Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED),
        };
        self.become_with(&mut step, kind, state);
        step
    }

    fn become_with(&mut self, step: &mut Step, kind: Kind, state: State) {
        self.state = state;
        step.events.push((kind, state));
    }

    /// The virtual CPUs have stopped. Nothing new when they stood still already, for a better reason.
    fn paused(&mut self, step: &mut Step, kind: Kind, state: State) {
        if self.state.is_running() {
            self.become_with(step, kind, state);
        }
    }

    fn resumed(&mut self, step: &mut Step) {
        if self.state.is_running() || self.ending.is_some() {
            return;
        }
        let state = match self.state {
            State::CRASHED_PANICKED => State::RUNNING_CRASHED,
            _ if self.restarting => State::RUNNING_BOOTED,
            _ => State::RUNNING_UNPAUSED,
        };
        self.restarting = false;
        self.become_with(step, Kind::RESUMED_UNPAUSED, state);
    }

    fn was_reset(&mut self, step: &mut Step) {
        if self.restarting {
            step.orders.push(Order::Continue);
            return;
        }
        // Somebody reset a guest that had been kept to be looked at: it waits now, to be let run.
        match self.state {
            State::CRASHED_PANICKED => self.become_with(step, Kind::SUSPENDED_PAUSED, State::PAUSED_CRASHED),
            State::SHUTTING_DOWN => self.become_with(step, Kind::SUSPENDED_PAUSED, State::PAUSED_USER),
            _ => {}
        }
    }

    fn shutdown(&mut self, step: &mut Step, by_guest: Option<bool>, reboot: bool, leaving: bool) {
        if self.state == State::SHUTTING_DOWN || self.ending.is_some() {
            // QEMU says so once more when it is told to quit.
            return;
        }
        let kind = match by_guest {
            Some(true) => Kind::SHUTDOWN_GUEST,
            Some(false) => Kind::SHUTDOWN_HOST,
            None => Kind::SHUTDOWN_FINISHED,
        };
        self.become_with(step, kind, State::SHUTTING_DOWN);
        if leaving {
            self.ending = Some(Ending::PoweredOff);
            return;
        }
        let action = if reboot { self.actions.on_reboot } else { self.actions.on_poweroff };
        match action {
            _ if self.reboot => self.restart(step),
            Action::Restart => self.restart(step),
            Action::Destroy => {
                self.ending = Some(Ending::PoweredOff);
                step.orders.push(Order::Quit);
            }
            Action::Preserve => {}
        }
    }

    fn panicked(&mut self, step: &mut Step) {
        if self.state == State::CRASHED_PANICKED || self.ending.is_some() {
            return;
        }
        self.become_with(step, Kind::CRASHED_PANICKED, State::CRASHED_PANICKED);
        match self.actions.on_crash {
            Action::Restart => self.restart(step),
            Action::Destroy => {
                self.ending = Some(Ending::Crashed);
                step.orders.push(Order::Quit);
            }
            Action::Preserve => {}
        }
    }

    /// A machine that has stopped for good must be reset before it can run; that it has been is told by QEMU.
    fn restart(&mut self, step: &mut Step) {
        self.reboot = false;
        self.restarting = true;
        step.orders.push(Order::Reset);
    }

    fn slept(&mut self, step: &mut Step, kind: Kind) {
        if self.state.is_running() {
            self.become_with(step, kind, State::PMSUSPENDED_UNKNOWN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DESTROY: Actions =
        Actions { on_poweroff: Action::Destroy, on_reboot: Action::Destroy, on_crash: Action::Destroy };
    const RESTART: Actions =
        Actions { on_poweroff: Action::Restart, on_reboot: Action::Restart, on_crash: Action::Restart };
    const PRESERVE: Actions =
        Actions { on_poweroff: Action::Preserve, on_reboot: Action::Preserve, on_crash: Action::Preserve };
    const RESET: Told = Told::Reset { by_guest: false };
    const POWEROFF: Told = Told::Shutdown { by_guest: Some(true), reboot: false, leaving: false };
    const REBOOT: Told = Told::Shutdown { by_guest: Some(true), reboot: true, leaving: false };
    const QUIT: Told = Told::Shutdown { by_guest: Some(false), reboot: false, leaving: true };

    fn running(actions: Actions) -> Machine {
        let mut machine = Machine::new(actions);
        let step = machine.status("running");
        assert_eq!(step.events, [(Kind::STARTED_BOOTED, State::RUNNING_BOOTED)]);
        machine
    }

    /// One row of the table: what happens to a running guest, and what comes of it.
    fn check(actions: Actions, told: &[Told], events: &[(Kind, State)], orders: &[Order]) -> Machine {
        let mut machine = running(actions);
        let mut all = Step::default();
        for told in told {
            let step = machine.told(*told);
            all.events.extend(step.events);
            all.orders.extend(step.orders);
        }
        assert_eq!((all.events.as_slice(), all.orders.as_slice()), (events, orders), "{told:?}");
        machine
    }

    #[test]
    fn pauses_have_the_reason_that_came_first() {
        use Told::*;
        let user = [(Kind::SUSPENDED_PAUSED, State::PAUSED_UNKNOWN)];
        let disk = [(Kind::SUSPENDED_IOERROR, State::PAUSED_IOERROR)];
        let watchdog = [(Kind::SUSPENDED_WATCHDOG, State::PAUSED_WATCHDOG)];
        check(DESTROY, &[Stop], &user, &[]);
        check(DESTROY, &[DiskFailed, Stop], &disk, &[]);
        check(DESTROY, &[DiskFailed, DiskFailed, Stop], &disk, &[]);
        check(DESTROY, &[Watchdog, Stop], &watchdog, &[]);
        let resumed = (Kind::RESUMED_UNPAUSED, State::RUNNING_UNPAUSED);
        check(DESTROY, &[Stop, Resume, Resume], &[user[0], resumed], &[]);
        check(DESTROY, &[Resume, RESET, CrashLoaded], &[(Kind::CRASHED_CRASHLOADED, State::RUNNING_BOOTED)], &[]);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_the_users() {
        let mut machine = running(DESTROY);
        machine.stopping();
        assert_eq!(machine.told(Told::Stop).events, [(Kind::SUSPENDED_PAUSED, State::PAUSED_USER)]);
        machine.told(Told::Resume);
        assert_eq!(machine.told(Told::Stop).events, [(Kind::SUSPENDED_PAUSED, State::PAUSED_UNKNOWN)]);

        let mut machine = running(DESTROY);
        machine.stopping();
        machine.told(Told::DiskFailed);
        machine.told(Told::Stop);
        machine.stopping_is_over();
        assert_eq!(machine.state(), State::PAUSED_IOERROR);
    }

    #[test]
    fn power_off_follows_the_document() {
        let off = [(Kind::SHUTDOWN_GUEST, State::SHUTTING_DOWN)];
        let mut machine = check(DESTROY, &[POWEROFF, Told::Stop, QUIT], &off, &[Order::Quit]);
        assert_eq!(machine.exited(Ended::Cleanly).events, [(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN)]);

        let again = (Kind::RESUMED_UNPAUSED, State::RUNNING_BOOTED);
        let told = [POWEROFF, Told::Stop, RESET, Told::Resume];
        check(RESTART, &told, &[off[0], again], &[Order::Reset, Order::Continue]);

        let mut machine = check(PRESERVE, &[POWEROFF, Told::Stop], &off, &[]);
        assert_eq!(machine.told(RESET).events, [(Kind::SUSPENDED_PAUSED, State::PAUSED_USER)]);
    }

    #[test]
    fn reboot_follows_the_document() {
        let off = [(Kind::SHUTDOWN_GUEST, State::SHUTTING_DOWN)];
        let actions = Actions { on_poweroff: Action::Restart, ..DESTROY };
        check(actions, &[REBOOT], &off, &[Order::Quit]);
        let actions = Actions { on_reboot: Action::Restart, ..DESTROY };
        check(actions, &[REBOOT], &off, &[Order::Reset]);
    }

    #[test]
    fn a_button_for_a_reboot_turns_one_power_off_into_a_reset() {
        let mut machine = running(DESTROY);
        machine.button(true);
        assert_eq!(machine.told(POWEROFF).orders, [Order::Reset]);
        assert_eq!(machine.told(RESET).orders, [Order::Continue]);
        machine.told(Told::Resume);
        assert_eq!(machine.state(), State::RUNNING_BOOTED);
        assert_eq!(machine.told(POWEROFF).orders, [Order::Quit], "only the first power-off");

        let mut machine = running(DESTROY);
        machine.button(true);
        machine.button(false);
        assert_eq!(machine.told(POWEROFF).orders, [Order::Quit], "a later button is for good");
    }

    #[test]
    fn crash_follows_the_document() {
        let crashed = [(Kind::CRASHED_PANICKED, State::CRASHED_PANICKED)];
        let mut machine = check(DESTROY, &[Told::Panicked, Told::Stop, QUIT], &crashed, &[Order::Quit]);
        assert_eq!(machine.exited(Ended::Cleanly).events, [(Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED)]);
        let again = (Kind::RESUMED_UNPAUSED, State::RUNNING_CRASHED);
        let told = [Told::Panicked, Told::Stop, RESET, Told::Resume];
        check(RESTART, &told, &[crashed[0], again], &[Order::Reset, Order::Continue]);
        let mut machine = check(PRESERVE, &[Told::Panicked, Told::Stop], &crashed, &[]);
        assert_eq!(machine.told(RESET).events, [(Kind::SUSPENDED_PAUSED, State::PAUSED_CRASHED)]);
    }

    #[test]
    fn sleep_and_wakeup() {
        let asleep = (Kind::PMSUSPENDED_MEMORY, State::PMSUSPENDED_UNKNOWN);
        let awake = (Kind::STARTED_WAKEUP, State::RUNNING_WAKEUP);
        check(DESTROY, &[Told::Suspended, Told::Wakeup, Told::Wakeup], &[asleep, awake], &[]);
        let to_disk = (Kind::PMSUSPENDED_DISK, State::PMSUSPENDED_UNKNOWN);
        let off = (Kind::SHUTDOWN_GUEST, State::SHUTTING_DOWN);
        check(DESTROY, &[Told::SuspendedToDisk, POWEROFF], &[to_disk, off], &[Order::Quit]);
    }

    #[test]
    fn the_first_status_starts_the_life() {
        let started = (Kind::STARTED_BOOTED, State::RUNNING_BOOTED);
        let mut machine = Machine::new(DESTROY);
        assert_eq!(machine.told(Told::Resume), Step::default());
        let step = machine.status("prelaunch");
        assert_eq!(step.events, [started, (Kind::SUSPENDED_PAUSED, State::PAUSED_USER)]);

        let mut machine = Machine::new(DESTROY);
        let step = machine.told(POWEROFF);
        assert_eq!(step.events, [started, (Kind::SHUTDOWN_GUEST, State::SHUTTING_DOWN)]);
        assert_eq!(machine.status("shutdown"), Step::default(), "the answer adds nothing");

        let mut machine = Machine::new(DESTROY);
        let step = machine.status("shutdown");
        assert_eq!(step.events, [started, (Kind::SHUTDOWN_FINISHED, State::SHUTTING_DOWN)]);
        assert_eq!(step.orders, [Order::Quit]);
    }

    #[test]
    fn a_later_status_mends_what_was_missed() {
        let mut machine = running(DESTROY);
        assert_eq!(machine.status("running"), Step::default());
        assert_eq!(machine.status("paused").events, [(Kind::SUSPENDED_PAUSED, State::PAUSED_USER)]);
        assert_eq!(machine.status("paused"), Step::default());
        assert_eq!(machine.status("running").events, [(Kind::RESUMED_UNPAUSED, State::RUNNING_UNPAUSED)]);
    }

    #[test]
    fn ends_that_nobody_announced() {
        let stopped = |mut machine: Machine, ended| machine.exited(ended).events[0].0;
        assert_eq!(stopped(running(DESTROY), Ended::Otherwise), Kind::STOPPED_CRASHED);
        assert_eq!(stopped(running(DESTROY), Ended::Cleanly), Kind::STOPPED_SHUTDOWN);
        assert_eq!(stopped(Machine::new(DESTROY), Ended::Otherwise), Kind::STOPPED_FAILED);
        assert_eq!(stopped(Machine::new(DESTROY), Ended::Cleanly), Kind::STOPPED_FAILED);
        for mut machine in [running(DESTROY), Machine::new(DESTROY)] {
            machine.destroyed();
            assert_eq!(stopped(machine, Ended::Otherwise), Kind::STOPPED_DESTROYED);
        }
    }

    #[test]
    fn a_run_ends_once() {
        let mut machine = running(DESTROY);
        assert_eq!(machine.exited(Ended::Otherwise).events.len(), 1);
        assert_eq!(machine.exited(Ended::Otherwise), Step::default());
    }

    #[test]
    fn events_of_qmp_are_told_apart_by_their_data() {
        let shutdown = |reason| Told::from_event("SHUTDOWN", &json!({"guest": true, "reason": reason}));
        assert_eq!(shutdown("guest-shutdown"), Some(POWEROFF));
        assert_eq!(shutdown("guest-reset"), Some(REBOOT));
        assert_eq!(Told::from_event("SHUTDOWN", &json!({"guest": false, "reason": "host-qmp-quit"})), Some(QUIT));
        assert_eq!(Told::from_event("BLOCK_IO_ERROR", &json!({"action": "report"})), None);
        assert_eq!(Told::from_event("BLOCK_IO_ERROR", &json!({"action": "stop"})), Some(Told::DiskFailed));
        assert_eq!(Told::from_event("GUEST_PANICKED", &json!({"action": "run"})), None);
        assert_eq!(Told::from_event("GUEST_PANICKED", &json!({"action": "pause"})), Some(Told::Panicked));
        assert_eq!(Told::from_event("WATCHDOG", &json!({"action": "none"})), None);
        assert_eq!(Told::from_event("RTC_CHANGE", &json!({"offset": 1})), None);
        assert_eq!(Told::from_event("STOP", &Value::Null), Some(Told::Stop));
    }
}
