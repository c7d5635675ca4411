//! One pass over the bytes of a document before a tree is built of it: the bounds of [`crate::limits`], and the path to
//! a byte of a document that is no tree.
//!
//! It knows just enough of XML to see where tags begin and end. Where a document is ill-formed it stops quietly: the
//! reader behind it stops at the same byte and says why.

use crate::error::{Place, XmlError, shorten};
use crate::limits::{MAX_ATTRIBUTES, MAX_BYTES, MAX_DEPTH, MAX_MARKUP, MAX_NAMESPACES, MAX_TAG_NAME_BYTES};

/// Refuses a document that breaks a bound.
pub(crate) fn check(xml: &str) -> Result<(), XmlError> {
    if xml.len() > MAX_BYTES {
        let place = Place { line: 1, column: 1, path: String::new() };
        return Err(XmlError::TooLarge { place, what: "bytes", limit: MAX_BYTES });
    }
    Scan::new(xml).run(xml.len())?;
    // A document below the bound cannot hold more of one character than it has bytes.
    if xml.len() > MAX_MARKUP {
        for (mark, what) in [('<', "'<'"), ('=', "'='")] {
            if let Some((offset, _)) = xml.match_indices(mark).nth(MAX_MARKUP) {
                let place = place_at(xml, offset, path_at(xml, offset));
                return Err(XmlError::TooLarge { place, what, limit: MAX_MARKUP });
            }
        }
    }
    Ok(())
}

/// The path of the elements that are open at `offset`.
pub(crate) fn path_at(xml: &str, offset: usize) -> String {
    let mut scan = Scan::new(xml);
    // What stops the scan early is on its way to being reported already.
    let _ = scan.run(offset);
    scan.path()
}

/// The place of a byte, by counting from the beginning.
pub(crate) fn place_at(xml: &str, offset: usize, path: String) -> Place {
    let before = xml.get(..offset).unwrap_or(xml);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    Place { line: saturate(line), column: saturate(column), path }
}

/// The byte at a line and column.
pub(crate) fn offset_of(xml: &str, line: u32, column: u32) -> usize {
    let before = match line.checked_sub(2) {
        Some(newlines) => match xml.match_indices('\n').nth(newlines as usize) {
            Some((newline, _)) => newline + 1,
            None => return xml.len(),
        },
        None => 0,
    };
    let within = xml[before..].char_indices().nth((column.max(1) - 1) as usize);
    within.map_or(xml.len(), |(offset, _)| before + offset)
}

pub(crate) fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

struct Scan<'a> {
    xml: &'a str,
    position: usize,
    open: Vec<&'a str>,
    namespaces: usize,
}

impl<'a> Scan<'a> {
    fn new(xml: &'a str) -> Self {
        Self { xml, position: 0, open: Vec::with_capacity(8), namespaces: 0 }
    }

    fn run(&mut self, until: usize) -> Result<(), XmlError> {
        while let Some(found) = self.xml[self.position..].find('<') {
            let start = self.position + found;
            if start >= until {
                break;
            }
            let rest = &self.xml[start..];
            let end = match rest.as_bytes().get(1) {
                Some(b'/') => {
                    self.open.pop();
                    past(rest, ">")
                }
                Some(b'?') => past(rest, "?>"),
                Some(b'!') if rest.starts_with("<!--") => past(&rest[4..], "-->").map(|n| n + 4),
                Some(b'!') if rest.starts_with("<![CDATA[") => past(rest, "]]>"),
                Some(b'!') if rest.starts_with("<!DOCTYPE") => {
                    return Err(XmlError::DocumentType { place: place_at(self.xml, start, self.path()) });
                }
                Some(b'!') | None => None,
                Some(_) => self.start_tag(start)?,
            };
            match end {
                Some(length) => self.position = start + length,
                None => break,
            }
        }
        Ok(())
    }

    /// Reads a start tag; its length, or `None` when it does not end.
    fn start_tag(&mut self, start: usize) -> Result<Option<usize>, XmlError> {
        let bytes = &self.xml.as_bytes()[start..];
        let name_end = bytes.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'>' | b'/'));
        let name_end = name_end.unwrap_or(bytes.len());
        self.bound(start, name_end, MAX_TAG_NAME_BYTES, "bytes in one name")?;
        let mut attributes = 0;
        let (mut at, mut word) = (name_end, name_end);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'>' => {
                    if bytes[at - 1] != b'/' {
                        self.enter(start, name_end)?;
                    }
                    return Ok(Some(at + 1));
                }
                b'"' | b'\'' => match bytes[at + 1..].iter().position(|b| b == byte) {
                    Some(length) => {
                        at += length + 1;
                        word = at + 1;
                    }
                    None => return Ok(None),
                },
                b'=' => {
                    attributes += 1;
                    self.bound(start, at - word, MAX_TAG_NAME_BYTES, "bytes in one name")?;
                    self.bound(start, attributes, MAX_ATTRIBUTES, "attributes on one element")?;
                }
                b'x' if bytes[at..].starts_with(b"xmlns") => {
                    self.namespaces += 1;
                    self.bound(start, self.namespaces, MAX_NAMESPACES, "namespace declarations")?;
                }
                b if b.is_ascii_whitespace() => {
                    self.bound(start, at - word, MAX_TAG_NAME_BYTES, "bytes in one name")?;
                    word = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(None)
    }

    fn enter(&mut self, start: usize, name_end: usize) -> Result<(), XmlError> {
        if self.open.len() == MAX_DEPTH {
            let place = place_at(self.xml, start, shorten(&self.path()));
            return Err(XmlError::TooDeep { place, limit: MAX_DEPTH });
        }
        self.open.push(self.xml.get(start + 1..start + name_end).unwrap_or(""));
        Ok(())
    }

    fn bound(&self, start: usize, count: usize, limit: usize, what: &'static str) -> Result<(), XmlError> {
        if count > limit {
            return Err(XmlError::TooLarge { place: place_at(self.xml, start, self.path()), what, limit });
        }
        Ok(())
    }

    fn path(&self) -> String {
        self.open.iter().map(|name| shorten(name)).collect::<Vec<_>>().join("/")
    }
}

/// The bytes up to and including `end`.
fn past(text: &str, end: &str) -> Option<usize> {
    text.find(end).map(|found| found + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_inside_comments_cdata_and_quotes_do_not_nest() {
        let xml = "<?xml version='1.0'?><a><!-- <b> --><![CDATA[<c>]]><d e='<>' f=\"/>\"><g/></d>X";
        assert_eq!(path_at(xml, xml.len()), "a");
        assert_eq!(path_at(xml, xml.find("<g/>").unwrap()), "a/d");
    }

    #[test]
    fn places_and_offsets_are_each_others_inverse() {
        let xml = "<ä>\n  <b/>\n</ä>";
        for (offset, _) in xml.char_indices() {
            let place = place_at(xml, offset, String::new());
            assert_eq!(offset_of(xml, place.line, place.column), offset);
        }
        assert_eq!(offset_of(xml, 9, 1), xml.len());
    }

    #[test]
    fn depth_is_counted_from_the_root() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(check(&nested(MAX_DEPTH)).is_ok());
        assert!(matches!(check(&nested(MAX_DEPTH + 1)), Err(XmlError::TooDeep { .. })));
    }
}
