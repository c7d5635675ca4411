//! Flag bits.

use bitflags::bitflags;

bitflags! {
    /// Which domains a list holds. Bits of one pair or group are alternatives; none of a group means all.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ListDomains: u32 {
        /// That run.
        const ACTIVE = 0x1;
        /// That do not run.
        const INACTIVE = 0x2;
        /// That are defined.
        const PERSISTENT = 0x4;
        /// That vanish when they end.
        const TRANSIENT = 0x8;
        /// In state running.
        const RUNNING = 0x10;
        /// In state paused.
        const PAUSED = 0x20;
        /// In state shut off.
        const SHUTOFF = 0x40;
        /// In any other state.
        const OTHER = 0x80;
        /// With a managed save image.
        const MANAGEDSAVE = 0x100;
        /// Without a managed save image.
        const NO_MANAGEDSAVE = 0x200;
        /// That start with the host.
        const AUTOSTART = 0x400;
        /// That do not start with the host.
        const NO_AUTOSTART = 0x800;
        /// With a snapshot.
        const HAS_SNAPSHOT = 0x1000;
        /// Without a snapshot.
        const NO_SNAPSHOT = 0x2000;
        /// With a checkpoint.
        const HAS_CHECKPOINT = 0x4000;
        /// Without a checkpoint.
        const NO_CHECKPOINT = 0x8000;
    }

    /// How a domain is started.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct CreateFlags: u32 {
        /// Leave it paused.
        const PAUSED = 0x1;
        /// Destroy it when the connection ends.
        const AUTODESTROY = 0x2;
        /// Keep the save image out of the page cache.
        const BYPASS_CACHE = 0x4;
        /// Boot, whatever was saved.
        const FORCE_BOOT = 0x8;
        /// Check the document against the schema.
        const VALIDATE = 0x10;
        /// Start with a fresh NVRAM.
        const RESET_NVRAM = 0x20;
    }

    /// How a domain is defined.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct DefineFlags: u32 {
        /// Check the document against the schema.
        const VALIDATE = 0x1;
    }

    /// What goes with a definition.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct UndefineFlags: u32 {
        /// The managed save image.
        const MANAGED_SAVE = 0x1;
        /// What is known of snapshots.
        const SNAPSHOTS_METADATA = 0x2;
        /// The NVRAM.
        const NVRAM = 0x4;
        /// Keep the NVRAM.
        const KEEP_NVRAM = 0x8;
        /// What is known of checkpoints.
        const CHECKPOINTS_METADATA = 0x10;
        /// The TPM state.
        const TPM = 0x20;
        /// Keep the TPM state.
        const KEEP_TPM = 0x40;
    }

    /// How a domain is ended.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct DestroyFlags: u32 {
        /// Fail rather than kill by force.
        const GRACEFUL = 0x1;
        /// Its logs go too.
        const REMOVE_LOGS = 0x2;
    }

    /// Ways to shut down, tried in the order of the driver; none leaves the choice to it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ShutdownFlags: u32 {
        /// Press the ACPI power button.
        const ACPI_POWER_BTN = 0x1;
        /// Ask the guest agent.
        const GUEST_AGENT = 0x2;
        /// Use initctl in the container.
        const INITCTL = 0x4;
        /// Send a signal to its init.
        const SIGNAL = 0x8;
        /// Use the hypervisor's own way.
        const PARAVIRT = 0x10;
    }

    /// Ways to reboot, tried in the order of the driver; none leaves the choice to it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RebootFlags: u32 {
        /// Press the ACPI power button.
        const ACPI_POWER_BTN = 0x1;
        /// Ask the guest agent.
        const GUEST_AGENT = 0x2;
        /// Use initctl in the container.
        const INITCTL = 0x4;
        /// Send a signal to its init.
        const SIGNAL = 0x8;
        /// Use the hypervisor's own way.
        const PARAVIRT = 0x10;
    }

    /// What a dumped document holds.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct XmlFlags: u32 {
        /// Passwords too; a read-only connection may not ask.
        const SECURE = 0x1;
        /// What holds at the next start.
        const INACTIVE = 0x2;
        /// The processor as the host makes it.
        const UPDATE_CPU = 0x4;
        /// Fit for another host; a read-only connection may not ask.
        const MIGRATABLE = 0x8;
    }

    /// What a change changes; none means the running domain if it runs, else its definition.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ModificationImpact: u32 {
        /// The running domain.
        const LIVE = 0x1;
        /// The definition.
        const CONFIG = 0x2;
    }

    /// What a change of a device changes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct DeviceModifyFlags: u32 {
        /// The running domain.
        const LIVE = 0x1;
        /// The definition.
        const CONFIG = 0x2;
        /// Even against the guest.
        const FORCE = 0x4;
    }

    /// Which number of processors is meant.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VcpuFlags: u32 {
        /// The running domain's.
        const LIVE = 0x1;
        /// The definition's.
        const CONFIG = 0x2;
        /// The most there can be.
        const MAXIMUM = 0x4;
        /// What the guest itself says; a read-only connection may not ask.
        const GUEST = 0x8;
        /// Added ones can be taken away again.
        const HOTPLUGGABLE = 0x10;
    }

    /// Which size of memory is meant.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MemoryFlags: u32 {
        /// The running domain's.
        const LIVE = 0x1;
        /// The definition's.
        const CONFIG = 0x2;
        /// The most there can be.
        const MAXIMUM = 0x4;
    }

    /// How a console is opened.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ConsoleFlags: u32 {
        /// Put out whoever has it.
        const FORCE = 0x1;
        /// Only if nobody else can have it.
        const SAFE = 0x2;
        /// Watch, type nothing. Bulkhead's own, in domain_open_console of its program only.
        const READ_ONLY = crate::bulkhead::CONSOLE_READ_ONLY;
    }

    /// How a connection is opened.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ConnectFlags: u32 {
        /// It may only read.
        const RO = 0x1;
        /// The URI is no alias.
        const NO_ALIASES = 0x2;
    }

    /// The groups of a domain's statistics; none means all.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct DomainStats: u32 {
        /// State and its reason.
        const STATE = 0x1;
        /// Processor time.
        const CPU_TOTAL = 0x2;
        /// Memory.
        const BALLOON = 0x4;
        /// Virtual processors.
        const VCPU = 0x8;
        /// Network interfaces.
        const INTERFACE = 0x10;
        /// Block devices.
        const BLOCK = 0x20;
        /// The host's performance events.
        const PERF = 0x40;
        /// I/O threads.
        const IOTHREAD = 0x80;
        /// Memory bandwidth.
        const MEMORY = 0x100;
        /// How fast the guest writes to its memory.
        const DIRTYRATE = 0x200;
        /// What only the hypervisor tells.
        const VM = 0x400;
    }

    /// Whose statistics are asked for, and how.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct AllDomainStats: u32 {
        /// That run.
        const ACTIVE = 0x1;
        /// That do not run.
        const INACTIVE = 0x2;
        /// That are defined.
        const PERSISTENT = 0x4;
        /// That vanish when they end.
        const TRANSIENT = 0x8;
        /// In state running.
        const RUNNING = 0x10;
        /// In state paused.
        const PAUSED = 0x20;
        /// In state shut off.
        const SHUTOFF = 0x40;
        /// In any other state.
        const OTHER = 0x80;
        /// Only what can be told at once.
        const NOWAIT = 0x2000_0000;
        /// What images stand on, too.
        const BACKING = 0x4000_0000;
        /// Fail when a group is not there.
        const ENFORCE_STATS = 0x8000_0000;
    }

    /// Which messages about a domain are asked for; none means all.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MessageTypes: u32 {
        /// What will not be supported much longer.
        const DEPRECATION = 0x1;
        /// What was done to it that nobody answers for.
        const TAINTING = 0x2;
    }

    /// How a command for the monitor is meant.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MonitorFlags: u32 {
        /// It is the human monitor's.
        const HMP = 0x1;
    }
}
