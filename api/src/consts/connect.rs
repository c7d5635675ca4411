//! Connections: what a server can do, why it goes, and the types of typed parameters.

use super::numbers;

/// The libvirt release whose behaviour clients may expect: 9.0.0.
pub const LIBVIRT_VERSION: u64 = 9_000_000;

numbers! {
    /// What connect_supports_feature asks for.
    Feature {
        MigrationV1 = 1 "migration-v1",
        Remote = 2 "remote",
        MigrationV2 = 3 "migration-v2",
        MigrationP2p = 4 "migration-p2p",
        MigrationDirect = 5 "migration-direct",
        MigrationV3 = 6 "migration-v3",
        MigrateChangeProtection = 7 "migrate-change-protection",
        FdPassing = 8 "fd-passing",
        TypedParamString = 9 "typed-param-string",
        ProgramKeepalive = 10 "program-keepalive",
        XmlMigratable = 11 "xml-migratable",
        MigrationOffline = 12 "migration-offline",
        MigrationParams = 13 "migration-params",
        RemoteEventCallback = 14 "remote-event-callback",
        RemoteCloseCallback = 15 "remote-close-callback",
        NetworkUpdateHasCorrectOrder = 16 "network-update-has-correct-order",
    }
}

numbers! {
    /// Why a connection ended.
    CloseReason {
        Error = 0 "error",
        Eof = 1 "end of file",
        Keepalive = 2 "keepalive",
        Client = 3 "client",
    }
}

numbers! {
    /// The types of typed parameters; the arms of [`TypedParamValue`](crate::remote::TypedParamValue).
    TypedParamType {
        Int = 1 "int",
        Uint = 2 "uint",
        Llong = 3 "llong",
        Ullong = 4 "ullong",
        Double = 5 "double",
        Boolean = 6 "boolean",
        String = 7 "string",
    }
}
