//! The documents of the house: libvirt's domain XML and capabilities XML.
//!
//! `model` stands at the bottom, beside `api`: `qemud` reads definitions with it, `cli` and `libclient` build and show
//! documents with it, the gateway and the Xen drivers will translate through it. It turns text into types and types
//! into text and does nothing else: no file is opened, no process is started, no clock is read here, so that it may run
//! in any process, the one that owns nothing included.
//!
//! # Promises
//! - What libvirt accepts is accepted; what [`Domain::to_xml`] writes reads back as the same [`Domain`], and a document
//!   in libvirt's own layout is written back byte for byte.
//! - Nothing is lost silently. What is modelled is a field. What libvirt knows and this crate does not model yet is kept
//!   as a [`RawElement`] or a [`KeptAttribute`], so a driver can refuse by name what it cannot honour. What is understood
//!   nowhere is kept as well and reported as a [`Notice`].
//! - Every [`XmlError`] names line, column, path, what was found and what was expected.
//! - A hostile document costs a bounded amount of time and memory: see [`limits`].
#![forbid(unsafe_code)]

pub mod capabilities;
mod domain;
mod error;
mod kept;
pub mod limits;
mod reader;
mod scan;
mod text_enum;
mod units;
mod vocabulary;
mod writer;

pub use capabilities::Capabilities;
pub use domain::{
    BackingStore, BootDevice, BootMenu, Chardev, ChardevSource, ChardevTarget, ChardevType, Clock, ClockOffset, Cpu,
    CpuCheck, CpuMode, CpuModel, CpuTopology, CrashAction, Devices, Disk, DiskBus, DiskCache, DiskDevice, DiskDiscard,
    DiskDriver, DiskFormat, DiskIo, DiskSource, DiskTarget, DiskType, Domain, DomainType, DumpOptions, Features,
    Firmware, LifecycleAction, Live, Loader, LoaderType, MaxMemory, MetadataError, Nvram, Os, OsType, Source,
    SourceKind, Switch, VcpuPlacement, Vcpus, check_name, fast_identity,
};
pub use error::{Place, XmlError};
pub use kept::{KeptAttribute, Namespace, RawElement, Rest};
pub use reader::{Notice, Parsed};
pub use units::scale_to_kib;
