//! States of a domain and why it is in them.

use super::numbers;

numbers! {
    /// What a domain is doing.
    DomainState {
        NoState = 0 "no state",
        Running = 1 "running",
        Blocked = 2 "idle",
        Paused = 3 "paused",
        Shutdown = 4 "in shutdown",
        Shutoff = 5 "shut off",
        Crashed = 6 "crashed",
        PmSuspended = 7 "pmsuspended",
    }
}

numbers! {
    /// Why there is no state.
    NostateReason {
        Unknown = 0 "unknown",
    }
}

numbers! {
    /// Why a domain runs.
    RunningReason {
        Unknown = 0 "unknown",
        Booted = 1 "booted",
        Migrated = 2 "migrated",
        Restored = 3 "restored",
        FromSnapshot = 4 "from snapshot",
        Unpaused = 5 "unpaused",
        MigrationCanceled = 6 "migration canceled",
        SaveCanceled = 7 "save canceled",
        Wakeup = 8 "event wakeup",
        Crashed = 9 "crashed",
        Postcopy = 10 "post-copy",
        PostcopyFailed = 11 "post-copy failed",
    }
}

numbers! {
    /// Why a domain is blocked.
    BlockedReason {
        Unknown = 0 "unknown",
    }
}

numbers! {
    /// Why a domain is paused.
    PausedReason {
        Unknown = 0 "unknown",
        User = 1 "user",
        Migration = 2 "migrating",
        Save = 3 "saving",
        Dump = 4 "dumping",
        IoError = 5 "I/O error",
        Watchdog = 6 "watchdog",
        FromSnapshot = 7 "from snapshot",
        ShuttingDown = 8 "shutting down",
        Snapshot = 9 "creating snapshot",
        Crashed = 10 "crashed",
        StartingUp = 11 "starting up",
        Postcopy = 12 "post-copy",
        PostcopyFailed = 13 "post-copy failed",
        ApiError = 14 "api error",
    }
}

numbers! {
    /// Why a domain is shutting down.
    ShutdownReason {
        Unknown = 0 "unknown",
        User = 1 "user",
    }
}

numbers! {
    /// Why a domain is off.
    ShutoffReason {
        Unknown = 0 "unknown",
        Shutdown = 1 "shutdown",
        Destroyed = 2 "destroyed",
        Crashed = 3 "crashed",
        Migrated = 4 "migrated",
        Saved = 5 "saved",
        Failed = 6 "failed",
        FromSnapshot = 7 "from snapshot",
        Daemon = 8 "daemon",
    }
}

numbers! {
    /// Why a domain has crashed.
    CrashedReason {
        Unknown = 0 "unknown",
        Panicked = 1 "panicked",
    }
}

numbers! {
    /// Why a domain sleeps.
    PmSuspendedReason {
        Unknown = 0 "unknown",
    }
}

numbers! {
    /// How the connection to a guest's monitor is.
    ControlState {
        Ok = 0 "ok",
        Job = 1 "background job",
        Occupied = 2 "occupied",
        Error = 3 "error",
    }
}

numbers! {
    /// What a virtual processor is doing.
    VcpuState {
        Offline = 0 "offline",
        Running = 1 "running",
        Blocked = 2 "blocked",
    }
}

numbers! {
    /// What kind of job a domain has.
    JobType {
        None = 0 "None",
        Bounded = 1 "Bounded",
        Unbounded = 2 "Unbounded",
        Completed = 3 "Completed",
        Failed = 4 "Failed",
        Cancelled = 5 "Cancelled",
    }
}

numbers! {
    /// Who is asked for a guest's addresses.
    InterfaceAddressesSource {
        Lease = 0 "lease",
        Agent = 1 "agent",
        Arp = 2 "arp",
    }
}

numbers! {
    /// What is noted down about a domain.
    MetadataType {
        Description = 0 "description",
        Title = 1 "title",
        Element = 2 "element",
    }
}

numbers! {
    /// libvirt's tags of memory statistics.
    MemoryStatTag {
        SwapIn = 0 "swap_in",
        SwapOut = 1 "swap_out",
        MajorFault = 2 "major_fault",
        MinorFault = 3 "minor_fault",
        Unused = 4 "unused",
        Available = 5 "available",
        ActualBalloon = 6 "actual",
        Rss = 7 "rss",
        Usable = 8 "usable",
        LastUpdate = 9 "last-update",
        DiskCaches = 10 "disk_caches",
        HugetlbPgalloc = 11 "hugetlb_pgalloc",
        HugetlbPgfail = 12 "hugetlb_pgfail",
    }
}

/// The word for a reason, which has a meaning only with its state.
pub fn reason_name(state: i32, reason: i32) -> &'static str {
    let Ok(state) = DomainState::try_from(state) else {
        return "unknown";
    };
    let name = match state {
        DomainState::NoState => NostateReason::try_from(reason).map(NostateReason::name),
        DomainState::Running => RunningReason::try_from(reason).map(RunningReason::name),
        DomainState::Blocked => BlockedReason::try_from(reason).map(BlockedReason::name),
        DomainState::Paused => PausedReason::try_from(reason).map(PausedReason::name),
        DomainState::Shutdown => ShutdownReason::try_from(reason).map(ShutdownReason::name),
        DomainState::Shutoff => ShutoffReason::try_from(reason).map(ShutoffReason::name),
        DomainState::Crashed => CrashedReason::try_from(reason).map(CrashedReason::name),
        DomainState::PmSuspended => PmSuspendedReason::try_from(reason).map(PmSuspendedReason::name),
    };
    name.unwrap_or("unknown")
}
