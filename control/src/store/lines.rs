//! The journal's file, as the store's thread writes it: lines are added, and when it has grown long it is written anew from
//! those of its lines that are still kept.
//!
//! Lines that a full disk does not take wait in memory, up to a limit, and are tried again with the next line or after a while.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::journal::MAX_LINE;

/// A file longer than this is written anew.
const COMPACT_AT: u64 = 8 << 20;
/// Bytes that wait at most for a disk that takes none.
const UNWRITTEN_MAX: usize = 4 << 20;

/// The file of one journal.
pub struct Lines {
    path: PathBuf,
    /// None until it is needed, and after a failure.
    file: Option<File>,
    length: u64,
    /// Beyond this length the file is written anew.
    compact_at: u64,
    /// The file ends within a line: a write was cut off.
    torn: bool,
    /// Lines that the disk has not taken yet.
    unwritten: Vec<u8>,
}

/// How the file is after a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Lines wait for the disk: try again after a while.
    pub failing: bool,
    /// It is long: give it the numbers that are kept, for [`Lines::compact`].
    pub long: bool,
}

/// All that is read of a line when the file is written anew.
#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

impl Lines {
    /// The file of a journal that has been read.
    #[must_use]
    pub fn new(path: &Path, length: u64, torn: bool) -> Lines {
        Lines { path: path.to_path_buf(), file: None, length, compact_at: COMPACT_AT, torn, unwritten: Vec::new() }
    }

    /// Adds a line; it has no end of line yet.
    pub fn append(&mut self, line: Vec<u8>) -> Condition {
        let failing = !self.unwritten.is_empty();
        if self.unwritten.len() + line.len() > UNWRITTEN_MAX {
            // The next daemon finds the gap in the numbers and reports the loss.
            tracing::error!("the newest events are not in the journal {}", self.path.display());
            self.unwritten.clear();
        }
        self.unwritten.extend(line);
        self.unwritten.push(b'\n');
        self.write(failing)
    }

    /// Tries again to write what waits.
    pub fn retry(&mut self) -> Condition {
        self.write(true)
    }

    fn write(&mut self, failing: bool) -> Condition {
        match self.try_write() {
            Ok(()) if failing => tracing::info!("the journal {} is written again", self.path.display()),
            Ok(()) => {}
            Err(error) => {
                self.file = None;
                if !failing {
                    tracing::error!(
                        "the journal {} cannot be written: {error}; events go on without it",
                        self.path.display()
                    );
                }
            }
        }
        Condition { failing: !self.unwritten.is_empty(), long: self.length > self.compact_at }
    }

    fn try_write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?),
        };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut written = 0;
        let result = loop {
            match self.unwritten.get(written..) {
                None | Some([]) => break Ok(()),
                Some(rest) => match file.write(rest) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.length += u64::try_from(written).unwrap_or_default();
        // A line that was cut off is written whole again; its beginning is a torn line then.
        let whole = self.unwritten.iter().take(written).rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.torn = written > whole;
        self.unwritten.drain(..whole);
        result
    }

    /// Writes the file anew from those of its lines whose numbers are kept. When that fails, the file is as it was, and is
    /// tried again when it has grown by as much.
    ///
    /// # Errors
    /// When a file cannot be read, written or replaced.
    pub fn compact(&mut self, kept: &HashSet<u64>) -> io::Result<()> {
        self.compact_at = COMPACT_AT.max(self.length.saturating_mul(2));
        let temporary = self.path.with_extension("new");
        let length = self.copy_kept(&temporary, kept).inspect_err(|_| {
            // A partial copy would only take room from the next lines.
            let _ = fs::remove_file(&temporary);
        })?;
        fs::rename(&temporary, &self.path)?;
        (self.file, self.torn, self.length) = (None, false, length);
        // Where much is kept, it is not written anew with every event.
        self.compact_at = COMPACT_AT.max(length.saturating_mul(2));
        Ok(())
    }

    fn copy_kept(&self, to: &Path, kept: &HashSet<u64>) -> io::Result<u64> {
        let mut input = BufReader::new(File::open(&self.path)?);
        let output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
        let mut output = BufWriter::new(output);
        let (mut line, mut length) = (Vec::new(), 0);
        loop {
            line.clear();
            if (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                output.flush()?;
                return Ok(length);
            }
            let number = serde_json::from_slice::<Numbered>(&line).map(|line| line.sequence);
            if line.ends_with(b"\n") && number.is_ok_and(|number| kept.contains(&number)) {
                output.write_all(&line)?;
                length += u64::try_from(line.len()).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u64) -> Vec<u8> {
        format!("{{\"sequence\":{sequence}}}").into_bytes()
    }

    #[test]
    fn what_a_disk_does_not_take_is_written_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let (place, path) = (dir.path().join("place"), dir.path().join("place/events"));
        let mut lines = Lines::new(&path, 0, false);
        assert_eq!(lines.append(line(1)), Condition { failing: true, long: false });
        assert!(lines.append(line(2)).failing && lines.retry().failing);
        fs::create_dir(place).unwrap();
        assert_eq!(lines.retry(), Condition::default());
        lines.append(line(3));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"sequence\":1}\n{\"sequence\":2}\n{\"sequence\":3}\n");
    }

    #[test]
    fn a_journal_that_cannot_be_written_anew_still_takes_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut lines = Lines::new(&path, 0, false);
        lines.append(line(1));
        lines.compact_at = 0;
        assert!(lines.append(line(2)).long);
        // A directory in the place of the new file.
        fs::create_dir(path.with_extension("new")).unwrap();
        assert!(lines.compact(&HashSet::from([2])).is_err());
        assert_eq!(lines.append(line(3)), Condition::default(), "and is not tried again at once");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        fs::remove_dir(path.with_extension("new")).unwrap();
        lines.compact(&HashSet::from([2, 3])).unwrap();
        lines.append(line(4));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"sequence\":2}\n{\"sequence\":3}\n{\"sequence\":4}\n");
    }

    #[test]
    fn what_waits_for_a_disk_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(&dir.path().join("no/such/place"), 0, false);
        for number in 0..200_u64 {
            lines.append(vec![b'x'; 60_000]);
            assert!(lines.unwritten.len() <= UNWRITTEN_MAX, "{number}");
        }
    }
}
