//! What can be wrong with a document, and how it is said.

use std::fmt;

/// Where in a document something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
    /// The way there from the root: `domain/devices/disk[2]/target/@dev`. Empty before the root element.
    pub path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "document" } else { &self.path };
        write!(f, "line {}, column {}: {}", self.line, self.column, path)
    }
}

/// A document that cannot be taken, with the place, what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// The text is not XML: a tag is not closed, `&` stands alone, a character is not allowed, …
    #[error("{place}: not well-formed; expected well-formed XML")]
    NotWellFormed {
        /// Where the reader gave up.
        place: Place,
        /// What the reader found there.
        #[source]
        source: roxmltree::Error,
    },
    /// A `<!DOCTYPE …>`: entities are how small documents become huge, so none is read.
    #[error("{place}: a document type declaration is refused; expected an element")]
    DocumentType {
        /// Where it stands.
        place: Place,
    },
    /// The document is of another kind.
    #[error("{place}: the root element is <{found}>; expected <{expected}>")]
    WrongRoot {
        /// Where the root element stands.
        place: Place,
        /// Its name.
        found: String,
        /// The name of the root element that was asked for.
        expected: &'static str,
    },
    /// An element that must be there is not.
    #[error("{place}: element <{element}> is missing; expected one")]
    MissingElement {
        /// The element that should hold it.
        place: Place,
        /// Its name.
        element: &'static str,
    },
    /// An attribute that must be there is not.
    #[error("{place}: attribute \"{attribute}\" is missing; expected one")]
    MissingAttribute {
        /// The element that should carry it.
        place: Place,
        /// Its name.
        attribute: &'static str,
    },
    /// A name that cannot name a domain (and its files).
    #[error(
        "{place}: \"{found}\" cannot be a name: it {reason}; expected 1 to 200 bytes without '/', control characters or a leading '.'"
    )]
    BadName {
        /// Where the name stands.
        place: Place,
        /// The name.
        found: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Text that is no UUID.
    #[error("{place}: \"{found}\" is not a UUID; expected 32 hexadecimal digits, not all zero")]
    BadUuid {
        /// Where it stands.
        place: Place,
        /// The text.
        found: String,
    },
    /// Text that is no number.
    #[error("{place}: \"{found}\" is not {what}; expected an unsigned integer")]
    BadNumber {
        /// Where it stands.
        place: Place,
        /// The text.
        found: String,
        /// What the number counts.
        what: &'static str,
    },
    /// A unit that is none of memory's.
    #[error(
        "{place}: \"{found}\" is not a unit of memory; expected b, bytes, KB, KiB, MB, MiB, GB, GiB, TB, TiB, PB, PiB, EB or EiB"
    )]
    BadUnit {
        /// Where it stands.
        place: Place,
        /// The text.
        found: String,
    },
    /// A number that is outside what it may be.
    #[error("{place}: {found} is out of range for {what}; expected {minimum} to {maximum}")]
    OutOfRange {
        /// Where it stands.
        place: Place,
        /// The number as it is written.
        found: String,
        /// The least that is accepted.
        minimum: u64,
        /// The most that is accepted.
        maximum: u64,
        /// What the number counts.
        what: &'static str,
    },
    /// A word that is none of a closed list.
    #[error("{place}: \"{found}\" is unknown; expected {}", Words(.accepted))]
    UnknownValue {
        /// Where it stands.
        place: Place,
        /// The word.
        found: String,
        /// The words that are accepted.
        accepted: &'static [&'static str],
    },
    /// A type of domain that libvirt does not know.
    #[error("{place}: domain type \"{found}\" is unknown; expected {}", Words(.accepted))]
    UnknownDomainType {
        /// Where it stands.
        place: Place,
        /// The type.
        found: String,
        /// The types that are accepted.
        accepted: &'static [&'static str],
    },
    /// A value that breaks a rule of its own.
    #[error("{place}: \"{found}\" is not accepted; expected {expected}")]
    BadValue {
        /// Where it stands.
        place: Place,
        /// The value.
        found: String,
        /// The rule.
        expected: &'static str,
    },
    /// An element inside one that holds text only.
    #[error("{place}: <{found}> inside an element that holds text only; expected text")]
    UnexpectedElement {
        /// Where it stands.
        place: Place,
        /// Its name.
        found: String,
    },
    /// An element for the second time where there may be one.
    #[error("{place}: a second <{element}>, the first is on line {first_line}; expected one")]
    DuplicateElement {
        /// Where the second stands.
        place: Place,
        /// Its name.
        element: String,
        /// The line of the first.
        first_line: u32,
    },
    /// Two disks at the same place of the guest.
    #[error("{place}: target \"{target}\" is taken by the disk on line {first_line}; expected a target of its own")]
    DuplicateTarget {
        /// Where the second stands.
        place: Place,
        /// The target.
        target: String,
        /// The line of the disk that has it.
        first_line: u32,
    },
    /// Elements nested deeper than any real document.
    #[error("{place}: nested too deep; expected at most {limit} levels")]
    TooDeep {
        /// The first element that is too deep; its path is cut.
        place: Place,
        /// The bound.
        limit: usize,
    },
    /// More of something than any real document has.
    #[error("{place}: too many {what}; expected at most {limit}")]
    TooLarge {
        /// Where the bound is crossed.
        place: Place,
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

impl XmlError {
    /// Where it is.
    pub fn place(&self) -> &Place {
        match self {
            Self::NotWellFormed { place, .. }
            | Self::DocumentType { place }
            | Self::WrongRoot { place, .. }
            | Self::MissingElement { place, .. }
            | Self::MissingAttribute { place, .. }
            | Self::BadName { place, .. }
            | Self::BadUuid { place, .. }
            | Self::BadNumber { place, .. }
            | Self::BadUnit { place, .. }
            | Self::OutOfRange { place, .. }
            | Self::UnknownValue { place, .. }
            | Self::UnknownDomainType { place, .. }
            | Self::BadValue { place, .. }
            | Self::UnexpectedElement { place, .. }
            | Self::DuplicateElement { place, .. }
            | Self::DuplicateTarget { place, .. }
            | Self::TooDeep { place, .. }
            | Self::TooLarge { place, .. } => place,
        }
    }

    /// The line, counted from 1.
    pub fn line(&self) -> u32 {
        self.place().line
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> u32 {
        self.place().column
    }

    /// The way from the root to what is wrong.
    pub fn path(&self) -> &str {
        &self.place().path
    }

    /// What was expected instead, as the message says it.
    pub fn expected(&self) -> String {
        let text = self.to_string();
        text.rsplit_once("; expected ").map_or_else(String::new, |(_, expected)| expected.to_owned())
    }

    /// How to mend it, where there is more to say than [`Self::expected`] does.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotWellFormed { source, .. } => well_formed_hint(source),
            Self::DocumentType { .. } => Some("remove the <!DOCTYPE …> and write out the entities".into()),
            Self::MissingElement { element, .. } => Some(format!("add <{element}>…</{element}>")),
            Self::MissingAttribute { attribute, .. } => Some(format!("add {attribute}='…'")),
            Self::BadUuid { .. } => Some("leave <uuid> out to have one made".into()),
            Self::BadNumber { found, .. } if found.ends_with(|c: char| c.is_ascii_alphabetic()) => {
                Some("a unit goes into the attribute: <memory unit='MiB'>512</memory>".into())
            }
            Self::UnknownValue { found, accepted, .. } | Self::UnknownDomainType { found, accepted, .. } => {
                nearest(found, accepted).map(|word| format!("did you mean \"{word}\"?"))
            }
            Self::DuplicateElement { element, .. } => Some(format!("remove one <{element}>")),
            Self::DuplicateTarget { .. } => Some("give each disk a target dev of its own: vda, vdb, …".into()),
            _ => None,
        }
    }
}

/// A found text as an error repeats it: never longer than a line.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn well_formed_hint(source: &roxmltree::Error) -> Option<String> {
    use roxmltree::Error;
    match source {
        Error::UnknownEntityReference(..) | Error::MalformedEntityReference(_) => {
            Some("write &amp; for &; the only entities are &amp; &lt; &gt; &quot; and &apos;".into())
        }
        Error::InvalidAttributeValue(_) | Error::InvalidChar(b'"' | b'\'', b'<', _) => {
            Some("write &lt; for < inside an attribute".into())
        }
        Error::UnexpectedCloseTag(expected, ..) => Some(format!("close <{expected}> first")),
        Error::UnknownNamespace(prefix, _) => Some(format!("declare the prefix: xmlns:{prefix}='…'")),
        _ => None,
    }
}

/// The accepted word that a typing error is closest to, when it is close.
fn nearest(found: &str, accepted: &'static [&'static str]) -> Option<&'static str> {
    let found = found.to_ascii_lowercase();
    accepted.iter().map(|word| (distance(&found, word), *word)).filter(|(d, _)| *d <= 2).min().map(|(_, word)| word)
}

fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// `a, b or c`.
struct Words<'a>(&'a &'static [&'static str]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.0.iter().enumerate() {
            let joint = match i {
                0 => "",
                _ if i + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{joint}{word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_have_a_nearest_word() {
        assert_eq!(nearest("Virtoi", &["ide", "virtio", "scsi"]), Some("virtio"));
        assert_eq!(nearest("floppy", &["ide", "virtio", "scsi"]), None);
    }

    #[test]
    fn found_text_is_cut_at_a_character() {
        let text = "ä".repeat(100);
        assert_eq!(shorten(&text), format!("{}…", "ä".repeat(64)));
        assert_eq!(shorten("short"), "short");
    }
}
