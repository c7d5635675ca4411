//! The guest's log: the supervisor's own lines and QEMU's, on descriptor 2.

use std::io::{self, Write};

/// The log. It can't fail: a line that can't be written is lost, and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Log {
    /// Writes a line of the supervisor's own.
    pub fn line(&mut self, text: &str) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = self.write_all(format!("supervisor: {text}\n").as_bytes());
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
