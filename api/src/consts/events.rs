//! Events: what clients register for, and what a life-cycle event tells.

use super::numbers;

numbers! {
    /// The kinds of events of domains.
    DomainEventId {
        Lifecycle = 0 "lifecycle",
        Reboot = 1 "reboot",
        RtcChange = 2 "rtc-change",
        Watchdog = 3 "watchdog",
        IoError = 4 "io-error",
        Graphics = 5 "graphics",
        IoErrorReason = 6 "io-error-reason",
        ControlError = 7 "control-error",
        BlockJob = 8 "block-job",
        DiskChange = 9 "disk-change",
        TrayChange = 10 "tray-change",
        PmWakeup = 11 "pm-wakeup",
        PmSuspend = 12 "pm-suspend",
        BalloonChange = 13 "balloon-change",
        PmSuspendDisk = 14 "pm-suspend-disk",
        DeviceRemoved = 15 "device-removed",
        BlockJob2 = 16 "block-job-2",
        Tunable = 17 "tunable",
        AgentLifecycle = 18 "agent-lifecycle",
        DeviceAdded = 19 "device-added",
        MigrationIteration = 20 "migration-iteration",
        JobCompleted = 21 "job-completed",
        DeviceRemovalFailed = 22 "device-removal-failed",
        MetadataChange = 23 "metadata-change",
        BlockThreshold = 24 "block-threshold",
        MemoryFailure = 25 "memory-failure",
        MemoryDeviceSizeChange = 26 "memory-device-size-change",
        NicMacChange = 27 "nic-mac-change",
        VcpuRemoved = 28 "vcpu-removed",
        ChannelLifecycle = 29 "channel-lifecycle",
    }
}

numbers! {
    /// What happened to a domain.
    LifecycleEvent {
        Defined = 0 "Defined",
        Undefined = 1 "Undefined",
        Started = 2 "Started",
        Suspended = 3 "Suspended",
        Resumed = 4 "Resumed",
        Stopped = 5 "Stopped",
        Shutdown = 6 "Shutdown",
        PmSuspended = 7 "PMSuspended",
        Crashed = 8 "Crashed",
    }
}

numbers! {
    /// How a domain came to be defined.
    DefinedDetail {
        Added = 0 "Added",
        Updated = 1 "Updated",
        Renamed = 2 "Renamed",
        FromSnapshot = 3 "Snapshot",
    }
}

numbers! {
    /// How a definition went.
    UndefinedDetail {
        Removed = 0 "Removed",
        Renamed = 1 "Renamed",
    }
}

numbers! {
    /// How a domain started.
    StartedDetail {
        Booted = 0 "Booted",
        Migrated = 1 "Migrated",
        Restored = 2 "Restored",
        FromSnapshot = 3 "Snapshot",
        Wakeup = 4 "Event wakeup",
    }
}

numbers! {
    /// Why a domain stands still.
    SuspendedDetail {
        Paused = 0 "Paused",
        Migrated = 1 "Migrated",
        IoError = 2 "I/O Error",
        Watchdog = 3 "Watchdog",
        Restored = 4 "Restored",
        FromSnapshot = 5 "Snapshot",
        ApiError = 6 "API error",
        Postcopy = 7 "Post-copy",
        PostcopyFailed = 8 "Post-copy Error",
    }
}

numbers! {
    /// Why a domain goes on.
    ResumedDetail {
        Unpaused = 0 "Unpaused",
        Migrated = 1 "Migrated",
        FromSnapshot = 2 "Snapshot",
        Postcopy = 3 "Post-copy",
        PostcopyFailed = 4 "Post-copy Error",
    }
}

numbers! {
    /// How a domain ended.
    StoppedDetail {
        Shutdown = 0 "Shutdown",
        Destroyed = 1 "Destroyed",
        Crashed = 2 "Crashed",
        Migrated = 3 "Migrated",
        Saved = 4 "Saved",
        Failed = 5 "Failed",
        FromSnapshot = 6 "Snapshot",
    }
}

numbers! {
    /// Who wanted a shutdown that is done.
    ShutdownDetail {
        Finished = 0 "Finished",
        Guest = 1 "Guest request",
        Host = 2 "Host request",
    }
}

numbers! {
    /// Where a domain sleeps.
    PmSuspendedDetail {
        Memory = 0 "Memory",
        Disk = 1 "Disk",
    }
}

numbers! {
    /// How a domain crashed.
    CrashedDetail {
        Panicked = 0 "Panicked",
        Crashloaded = 1 "Crashloaded",
    }
}

numbers! {
    /// What is done when a watchdog has fired.
    WatchdogEventAction {
        None = 0 "none",
        Pause = 1 "pause",
        Reset = 2 "reset",
        Poweroff = 3 "poweroff",
        Shutdown = 4 "shutdown",
        Debug = 5 "debug",
        InjectNmi = 6 "inject-nmi",
    }
}

numbers! {
    /// What is done when a disk has failed.
    IoErrorAction {
        None = 0 "none",
        Pause = 1 "pause",
        Report = 2 "report",
    }
}

numbers! {
    /// What became of a drive's tray.
    TrayChangeReason {
        Opened = 0 "opened",
        Closed = 1 "closed",
    }
}

/// The word for a detail, which has a meaning only with its event.
pub fn lifecycle_detail_name(event: i32, detail: i32) -> &'static str {
    let Ok(event) = LifecycleEvent::try_from(event) else {
        return "unknown";
    };
    let name = match event {
        LifecycleEvent::Defined => DefinedDetail::try_from(detail).map(DefinedDetail::name),
        LifecycleEvent::Undefined => UndefinedDetail::try_from(detail).map(UndefinedDetail::name),
        LifecycleEvent::Started => StartedDetail::try_from(detail).map(StartedDetail::name),
        LifecycleEvent::Suspended => SuspendedDetail::try_from(detail).map(SuspendedDetail::name),
        LifecycleEvent::Resumed => ResumedDetail::try_from(detail).map(ResumedDetail::name),
        LifecycleEvent::Stopped => StoppedDetail::try_from(detail).map(StoppedDetail::name),
        LifecycleEvent::Shutdown => ShutdownDetail::try_from(detail).map(ShutdownDetail::name),
        LifecycleEvent::PmSuspended => PmSuspendedDetail::try_from(detail).map(PmSuspendedDetail::name),
        LifecycleEvent::Crashed => CrashedDetail::try_from(detail).map(CrashedDetail::name),
    };
    name.unwrap_or("unknown")
}
