//! The mock host: what it says of itself, and the guests that it starts with.

use std::{fs::File, io::Read, path::Path};

use api::{Error, ErrorCode, ErrorDomain};
use model::{
    Capabilities, Domain, DomainType, OsType,
    capabilities::{Cell, CellCpu, GuestArch, GuestFeature, Host, HostCpu, SecurityModel},
};

use crate::{Result, sources::not_understood};

/// The largest file of a host or guest.
const LARGEST: u64 = 8 << 20;

/// The most of anything that a host may have: its capabilities list every CPU.
const MOST: u32 = 8192;

/// What keeps its guests apart, with no domain of interpretation.
pub(crate) const SECURITY_MODEL: &str = "testSecurity";

/// The sizes of its pages in KiB.
const PAGES: [u64; 4] = [4, 8, 2048, 1 << 20];

/// The guest of `test:///default`: libvirt's, as `virsh -c test:///default dumpxml test` shows it.
const GUEST: &str = "\
<domain type='test'>
  <name>test</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu>2</vcpu>
  <os>
    <type arch='i686'>hvm</type>
    <boot dev='hd'/>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/guest/diskimage1'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='aa:bb:cc:dd:ee:ff'/>
      <source network='default'/>
      <target dev='testnet0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
    </interface>
    <memballoon model='virtio'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </memballoon>
  </devices>
</domain>
";

/// A host that does not exist.
pub(crate) struct Node {
    pub(crate) uri: String,
    pub(crate) model: String,
    pub(crate) memory_kib: u64,
    pub(crate) cpus: u32,
    pub(crate) mhz: u32,
    pub(crate) nodes: u32,
    pub(crate) sockets: u32,
    pub(crate) cores: u32,
    pub(crate) threads: u32,
    /// Its guests; they run from the beginning.
    pub(crate) guests: Vec<Domain>,
    guest_error: Option<Error>,
}

impl Node {
    /// libvirt's: 16 CPUs and 3 GiB.
    pub(crate) fn built_in() -> Node {
        let (guests, guest_error) = match Domain::parse(GUEST) {
            Ok(parsed) => (vec![parsed.value], None),
            Err(error) => (Vec::new(), Some(not_understood(error))),
        };
        Node { guests, guest_error, ..Node::bare("test:///default".into()) }
    }

    fn bare(uri: String) -> Node {
        Node {
            uri,
            model: "i686".into(),
            memory_kib: 3 << 20,
            cpus: 16,
            mhz: 1400,
            nodes: 2,
            sockets: 2,
            cores: 2,
            threads: 2,
            guests: Vec::new(),
            guest_error: None,
        }
    }

    /// The host of a file: `<node>` with `<cpu>`, `<memory>` and `<domain>`s, these in place or as `file='…'` relative to it.
    /// What the file does not say is as in the built-in one.
    pub(crate) fn read(path: &Path) -> Result<Node> {
        let text = read_text(path)?;
        let bad = |why: String| bad_file(path, why);
        let document = roxmltree::Document::parse(&text).map_err(|error| bad(error.to_string()))?;
        let root = document.root_element();
        if !root.has_tag_name("node") {
            return Err(bad(format!("the root element is <{}>; expected <node>", root.tag_name().name())));
        }
        let mut node = Node::bare(crate::uri::test_uri(path));
        for child in root.children().filter(roxmltree::Node::is_element) {
            match child.tag_name().name() {
                "cpu" => node.read_cpu(child).map_err(&bad)?,
                "memory" => node.memory_kib = number(child).map_err(&bad)?,
                "domain" => node.guests.push(guest(path, &text, child)?),
                _ => {}
            }
        }
        Ok(node)
    }

    fn read_cpu(&mut self, cpu: roxmltree::Node<'_, '_>) -> Result<(), String> {
        for child in cpu.children().filter(roxmltree::Node::is_element) {
            let field = match child.tag_name().name() {
                "model" => {
                    self.model = child.text().unwrap_or_default().trim().to_owned();
                    continue;
                }
                "active" => &mut self.cpus,
                "mhz" => &mut self.mhz,
                "nodes" => &mut self.nodes,
                "sockets" => &mut self.sockets,
                "cores" => &mut self.cores,
                "threads" => &mut self.threads,
                _ => continue,
            };
            *field = u32::try_from(number(child)?)
                .ok()
                .filter(|number| *number <= MOST)
                .ok_or_else(|| format!("<{}> is out of range", child.tag_name().name()))?;
        }
        Ok(())
    }

    /// Fails when a document that is built in is not understood: a fault of the build, told like any other.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.guest_error.take().map_or(Ok(()), Err)
    }

    /// What it and its guests can be.
    pub(crate) fn capabilities(&self) -> String {
        let cells = self.nodes.clamp(1, 128);
        let per_cell = self.cpus / cells;
        let cell = |id: u32| {
            let cpu = |core_id: u32| {
                let cpu = id * per_cell + core_id;
                CellCpu { id: cpu, socket_id: id, die_id: 0, core_id, siblings: cpu.to_string() }
            };
            // libvirt's cells have 2 GiB in pages of 4 KiB, 4 GiB in pages of 8 KiB, and so on.
            let (memory_kib, own) = (u64::from(id + 1) << 21, PAGES.get(id as usize).copied().unwrap_or(4));
            let pages = vec![(own, memory_kib / own), (2048, 0), (1 << 20, 0)];
            Cell { id, memory_kib, pages, cpus: (0..per_cell).map(cpu).collect() }
        };
        let feature = |name: &str| GuestFeature { name: name.into(), ..GuestFeature::default() };
        let host_cpu = HostCpu {
            arch: self.model.clone(),
            flags: vec!["pae".into(), "nonpae".into()],
            page_sizes_kib: PAGES.to_vec(),
            ..HostCpu::default()
        };
        let guest = |os_type| GuestArch {
            os_type,
            arch: self.model.clone(),
            wordsize: if self.model.contains("64") { 64 } else { 32 },
            emulator: Some("/usr/bin/test-hv".into()),
            machines: Vec::new(),
            domains: vec![DomainType::Test],
            features: vec![feature("pae"), feature("nonpae")],
        };
        let host = Host {
            cpu: host_cpu,
            cells: (0..cells).map(cell).collect(),
            security_models: vec![SecurityModel { model: SECURITY_MODEL.into(), doi: String::new() }],
            power_management: true,
            iommu: Some(false),
            ..Host::default()
        };
        Capabilities { host, guests: vec![guest(OsType::Hvm), guest(OsType::Xen)] }.to_xml()
    }
}

fn guest(path: &Path, text: &str, element: roxmltree::Node<'_, '_>) -> Result<Domain> {
    let own;
    let xml = match element.attribute("file") {
        Some(file) => {
            own = read_text(&path.parent().unwrap_or(Path::new("/")).join(file))?;
            own.as_str()
        }
        None => text.get(element.range()).unwrap_or_default(),
    };
    Ok(Domain::parse(xml).map_err(not_understood)?.value)
}

fn number(element: roxmltree::Node<'_, '_>) -> Result<u64, String> {
    let text = element.text().unwrap_or_default().trim();
    text.parse().map_err(|_| format!("<{}> is \"{text}\"; expected a number", element.tag_name().name()))
}

fn read_text(path: &Path) -> Result<String> {
    let failed = |source| {
        Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::TEST, format!("cannot read '{}'", path.display()))
            .with_cause(source)
            .with_hint("test:///default needs no file")
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(bad_file(path, format!("it is larger than {LARGEST} bytes")));
    }
    Ok(text)
}

fn bad_file(path: &Path, why: String) -> Error {
    let message = format!("XML error: '{}' does not describe a host", path.display());
    Error::new(ErrorCode::XML_ERROR, ErrorDomain::TEST, message).with_cause_text(why)
}
