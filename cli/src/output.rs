//! Everything that is printed goes through [`Output`]: the standard output is locked and buffered once, a reader that goes
//! away is one quiet kind of failure, and messages that a program does not want are left out in one place.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};

use comfy_table::{ContentLineStyle, LineStyle, Table, TableStyle};
use serde::Serialize;

use crate::args::Format;

/// virsh's look: no border, one rule under the heads, three blanks between columns.
const RULED: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction(' '))
    .header_separator(LineStyle::none().fill('-').junction('-'))
    .content_lines(ContentLineStyle::none().junction(' '));

/// The standard output, and the form of what goes there.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Locks the standard output for as long as the program runs.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, stdout: BufWriter::new(io::stdout().lock()) }
    }

    /// Whether a program reads what is printed.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line.
    pub(crate) fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.stdout, "{line}")
    }

    /// A text that ends its last line itself, or is given the end that it lacks.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        if text.is_empty() || text.ends_with('\n') { Ok(()) } else { self.stdout.write_all(b"\n") }
    }

    /// One JSON document, indented for the eye that looks at it all the same.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value)?;
        self.stdout.write_all(b"\n")
    }

    /// One JSON document on one line, sent at once: an item of a flow.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.stdout.write_all(b"\n")?;
        self.flush()
    }

    /// A table under heads.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(RULED).set_header(heads.to_vec());
        for row in rows {
            table.add_row(row.clone());
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// `Key:  value` lines with the values in one column.
    pub(crate) fn pairs(&mut self, pairs: &[(String, String)]) -> io::Result<()> {
        let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        for (key, value) in pairs {
            self.line(format_args!("{:<width$}  {value}", format!("{key}:")))?;
        }
        Ok(())
    }

    /// Sends what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Bytes as they are: a console's.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdout.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// A line for the person on the standard error. If that is closed there is nobody to tell.
pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
