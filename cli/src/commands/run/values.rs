//! The values of `run`'s options.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use model::{DiskFormat, scale_to_kib};
use uuid::Uuid;

use super::absolute;
use super::document::GuestDisk;
use crate::error::CliError;

/// The least that QEMU's firmware and a small kernel get along with.
const MEMORY_MIN_KIB: u64 = 1024;

/// The first bytes of a qcow2 image, up to the field that says whether its data is elsewhere.
const QCOW2_HEADER: usize = 80;
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
/// Bit of a qcow2 header's incompatible features: the data is in another file.
const QCOW2_EXTERNAL_DATA: u64 = 1 << 2;

/// An amount of memory in KiB.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = if unit.trim().is_empty() { "MiB" } else { unit.trim() };
    let number: u64 = number.parse().map_err(|_| "must begin with a whole number".to_owned())?;
    let kib = scale_to_kib(number, unit)
        .ok_or_else(|| format!("'{unit}' is no unit, or the amount is too large: write KiB, MiB, GiB or TiB"))?;
    if kib < MEMORY_MIN_KIB {
        return Err("is less than 1 MiB".to_owned());
    }
    Ok(kib)
}

/// A name that is not taken: `guest-` and four digits of a random number, more if all of those are taken.
pub(super) fn pick_name(taken: impl Fn(&str) -> bool) -> String {
    loop {
        let random = Uuid::new_v4().simple().to_string();
        let free = (4..=random.len()).map(|digits| format!("guest-{}", &random[..digits])).find(|name| !taken(name));
        if let Some(name) = free {
            return name;
        }
    }
}

/// `FILE[:ro][,format=FORMAT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskSpec {
    path: PathBuf,
    readonly: bool,
    format: Option<DiskFormat>,
}

impl DiskSpec {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (rest, format) = match text.rsplit_once(",format=") {
            Some((rest, word)) => (rest, Some(disk_format(word)?)),
            None => (text, None),
        };
        let (path, readonly) = match rest.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (rest, false),
        };
        if path.is_empty() {
            return Err("names no file".to_owned());
        }
        Ok(Self { path: PathBuf::from(path), readonly, format })
    }

    /// Looks at the image and makes it a disk of a document.
    pub(super) fn open(&self) -> Result<GuestDisk, CliError> {
        let role = "disk";
        let failed = |source| CliError::GuestFile { role, path: self.path.clone(), source };
        // As the guest will need it, so that a missing right is noticed here.
        let mut file = File::options().read(true).write(!self.readonly).open(&self.path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(CliError::NoFile { role, path: self.path.clone() });
        }
        let format = match self.format {
            Some(format) => format,
            None => detect(&mut file, &self.path)?,
        };
        Ok(GuestDisk {
            path: absolute(&self.path, role)?,
            block_device: kind.is_block_device(),
            readonly: self.readonly,
            format,
        })
    }
}

fn disk_format(word: &str) -> Result<DiskFormat, String> {
    match word {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        _ => Err(format!("'{word}' is no format of a disk: write raw or qcow2")),
    }
}

/// The format by the first bytes. They may be a guest's: one with a raw disk can write a qcow2 header into it that names a
/// file of the host, so an image that leads elsewhere is only taken at its owner's word.
fn detect(file: &mut File, path: &Path) -> Result<DiskFormat, CliError> {
    let failed = |source| CliError::GuestFile { role: "disk", path: path.to_owned(), source };
    let mut header = Vec::with_capacity(QCOW2_HEADER);
    let length = u64::try_from(QCOW2_HEADER).unwrap_or(u64::MAX);
    file.take(length).read_to_end(&mut header).map_err(failed)?;
    if !header.starts_with(QCOW2_MAGIC) {
        return Ok(DiskFormat::Raw);
    }
    if leads_elsewhere(&header) {
        return Err(CliError::ForeignBacking { path: path.to_owned() });
    }
    Ok(DiskFormat::Qcow2)
}

/// Whether a qcow2 header names a backing file or an external data file.
fn leads_elsewhere(header: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = header.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let version_3 = header.get(4..8).is_some_and(|version| version >= [0, 0, 0, 3].as_slice());
    word(8) != 0 || (version_3 && word(72) & QCOW2_EXTERNAL_DATA != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_mib_unless_a_unit_says_otherwise() {
        assert_eq!(memory("512"), Ok(512 * 1024));
        assert_eq!(memory("512MiB"), Ok(512 * 1024));
        assert_eq!(memory("2 G"), Ok(2 * 1024 * 1024));
        assert_eq!(memory("2048KiB"), Ok(2048));
    }

    #[test]
    fn memory_that_makes_no_sense_is_refused() {
        for text in ["", "lots", "-1", "1.5GiB", "0", "512KiB", "5XB", "99999999999999999999", "9999999EiB"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_is_a_path_with_at_most_a_mode_and_a_format() {
        let spec = |path: &str, readonly, format| Ok(DiskSpec { path: path.into(), readonly, format });
        assert_eq!(DiskSpec::parse("a.img"), spec("a.img", false, None));
        assert_eq!(DiskSpec::parse("a.img:ro"), spec("a.img", true, None));
        assert_eq!(DiskSpec::parse("a,b:c.img:ro,format=qcow2"), spec("a,b:c.img", true, Some(DiskFormat::Qcow2)));
        assert!(DiskSpec::parse("").is_err());
        assert!(DiskSpec::parse(":ro").is_err());
        assert!(DiskSpec::parse("a.img,format=vmdk").is_err());
    }

    #[test]
    fn a_taken_name_is_not_given_again() {
        let short = |name: &str| name.len() <= "guest-XXXX".len();
        let name = pick_name(short);
        assert!(name.starts_with("guest-") && !short(&name), "{name}");
        assert!(short(&pick_name(|_| false)));
    }

    #[test]
    fn a_header_that_names_another_file_is_noticed() {
        let mut header = vec![0; QCOW2_HEADER];
        header[..4].copy_from_slice(QCOW2_MAGIC);
        header[7] = 3;
        assert!(!leads_elsewhere(&header));
        header[79] = 4;
        assert!(leads_elsewhere(&header));
        header[79] = 0;
        header[15] = 0x70;
        assert!(leads_elsewhere(&header));
    }
}
