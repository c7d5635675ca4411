//! Reading: the walk over a parsed tree with places, notices and what is kept.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use crate::error::{Place, XmlError, shorten};
use crate::kept::{KeptAttribute, Namespace, RawElement, Rest};
use crate::limits::MAX_MARKUP;
use crate::scan::{self, saturate};
use crate::text_enum::TextEnum;
use crate::units::{self, MAX_KIB, ScaleError};
use crate::vocabulary::{DOMAIN_NAMESPACES, Vocabulary};
use crate::writer::{escape_text, indent, push_attribute};

pub(crate) type Node<'a> = roxmltree::Node<'a, 'a>;

/// Something in a document that is understood nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The way to it from the root, as in [`Place::path`].
    pub path: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
    /// What it is and what becomes of it.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}: {}", self.line, self.column, self.path, self.text)
    }
}

/// A document that was read, and what in it is understood nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The document.
    pub value: T,
    /// What to tell its author.
    pub notices: Vec<Notice>,
}

/// Reads a document whose root element is `root` with `read`.
pub(crate) fn read<T>(
    xml: &str,
    root: &'static str,
    read: impl FnOnce(&mut Reader<'_>, Node<'_>) -> Result<T, XmlError>,
) -> Result<Parsed<T>, XmlError> {
    scan::check(xml)?;
    let options =
        roxmltree::ParsingOptions { nodes_limit: 4 * saturate(MAX_MARKUP), ..roxmltree::ParsingOptions::default() };
    let document =
        roxmltree::Document::parse_with_options(xml, options).map_err(|source| not_well_formed(xml, source))?;
    let mut reader = Reader::new(xml);
    let node = document.root_element();
    if node.tag_name().name() != root || node.tag_name().namespace().is_some() {
        let found = shorten(reader.name(node));
        return Err(XmlError::WrongRoot { place: reader.place(node), found, expected: root });
    }
    reader.namespaces = namespaces(node);
    let value = read(&mut reader, node)?;
    Ok(Parsed { value, notices: reader.notices })
}

fn not_well_formed(xml: &str, source: roxmltree::Error) -> XmlError {
    use roxmltree::Error;
    // These carry no position of their own: what is missing is missing at the end.
    let offset = match source {
        Error::UnclosedRootNode | Error::UnexpectedEndOfStream | Error::NoRootNode => xml.len(),
        _ => {
            let at = source.pos();
            scan::offset_of(xml, at.row, at.col)
        }
    };
    let place = scan::place_at(xml, offset, scan::path_at(xml, offset));
    XmlError::NotWellFormed { place, source: shorten_source(source) }
}

/// Names in the reader's message may be as long as the document.
fn shorten_source(source: roxmltree::Error) -> roxmltree::Error {
    use roxmltree::Error;
    match source {
        Error::DuplicatedNamespace(name, at) => Error::DuplicatedNamespace(shorten(&name), at),
        Error::UnknownNamespace(name, at) => Error::UnknownNamespace(shorten(&name), at),
        Error::UnexpectedCloseTag(expected, found, at) => {
            Error::UnexpectedCloseTag(shorten(&expected), shorten(&found), at)
        }
        Error::UnknownEntityReference(name, at) => Error::UnknownEntityReference(shorten(&name), at),
        Error::DuplicatedAttribute(name, at) => Error::DuplicatedAttribute(shorten(&name), at),
        other => other,
    }
}

fn namespaces(node: Node<'_>) -> Vec<Namespace> {
    node.namespaces()
        .map(|n| Namespace { prefix: n.name().unwrap_or_default().to_owned(), uri: n.uri().to_owned() })
        .collect()
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
}

pub(crate) struct Reader<'a> {
    xml: &'a str,
    line_starts: Vec<usize>,
    /// Where columns were last counted: the start of the line, an offset in it, the characters between.
    counted: Cell<(usize, usize, usize)>,
    pub(crate) namespaces: Vec<Namespace>,
    notices: Vec<Notice>,
}

impl<'a> Reader<'a> {
    fn new(xml: &'a str) -> Self {
        let mut line_starts = Vec::with_capacity(64);
        line_starts.push(0);
        line_starts.extend(xml.match_indices('\n').map(|(newline, _)| newline + 1));
        Self { xml, line_starts, counted: Cell::default(), namespaces: Vec::new(), notices: Vec::new() }
    }

    // --- places ---

    fn line_column(&self, offset: usize) -> (u32, u32) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        // The walk goes forward, so counting goes on where it stopped: a document of one long line costs no more.
        let (from, before) = match self.counted.get() {
            (same, at, characters) if same == start && at <= offset => (at, characters),
            _ => (start, 0),
        };
        let characters = before + self.xml.get(from..offset).map_or(0, |between| between.chars().count());
        self.counted.set((start, offset, characters));
        (saturate(line), saturate(characters + 1))
    }

    fn place_at(&self, offset: usize, path: String) -> Place {
        let (line, column) = self.line_column(offset);
        Place { line, column, path }
    }

    pub(crate) fn line(&self, node: Node<'_>) -> u32 {
        self.line_column(node.range().start).0
    }

    /// The place of an element's start tag.
    pub(crate) fn place(&self, node: Node<'_>) -> Place {
        self.place_at(node.range().start, self.path(node))
    }

    /// The place of the text of an element.
    pub(crate) fn place_of_text(&self, node: Node<'_>) -> Place {
        let text = node.children().find(|child| child.is_text() && !is_blank(child.text().unwrap_or("")));
        let offset = text.map_or(node.range().start, |text| {
            let range = text.range();
            let source = self.xml.get(range.clone()).unwrap_or("");
            range.start + (source.len() - source.trim_start().len())
        });
        self.place_at(offset, self.path(node))
    }

    /// The place of an attribute, of its element when it is not there.
    pub(crate) fn place_of_attribute(&self, node: Node<'_>, name: &str) -> Place {
        match node.attribute_node(name) {
            Some(attribute) => self.place_at(attribute.range().start, format!("{}/@{name}", self.path(node))),
            None => self.place(node),
        }
    }

    fn path(&self, node: Node<'_>) -> String {
        let mut steps: Vec<String> = node.ancestors().filter(Node::is_element).map(|n| self.step(n)).collect();
        steps.reverse();
        steps.join("/")
    }

    /// A name in a path, with its number where it has siblings of the same name.
    fn step(&self, node: Node<'_>) -> String {
        let same = |n: &Node<'_>| n.is_element() && n.tag_name() == node.tag_name();
        let before = node.prev_siblings().skip(1).filter(same).count();
        let alone = before == 0 && !node.next_siblings().skip(1).any(|n| same(&n));
        let name = shorten(self.name(node));
        if alone { name } else { format!("{name}[{}]", before + 1) }
    }

    // --- names and values ---

    /// The name of an element as it is written, with its prefix.
    pub(crate) fn name<'n>(&self, node: Node<'n>) -> &'n str
    where
        'a: 'n,
    {
        if node.tag_name().namespace().is_none() {
            return node.tag_name().name();
        }
        let start = node.range().start + 1;
        let local = node.tag_name().name();
        let source = self.xml.get(start..node.range().end).unwrap_or(local);
        let end = source.find(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '/')).unwrap_or(source.len());
        &source[..end]
    }

    /// The value of an attribute.
    pub(crate) fn attribute<'n>(&self, node: Node<'n>, name: &str) -> Option<&'n str> {
        node.attribute(name)
    }

    /// The value of an attribute that must be there.
    pub(crate) fn required<'n>(&self, node: Node<'n>, name: &'static str) -> Result<&'n str, XmlError> {
        self.attribute(node, name)
            .ok_or_else(|| XmlError::MissingAttribute { place: self.place(node), attribute: name })
    }

    /// The value of an attribute as one of a list of words.
    pub(crate) fn word<T: TextEnum>(&self, node: Node<'_>, name: &str) -> Result<Option<T>, XmlError> {
        self.attribute(node, name).map(|text| known(text, || self.place_of_attribute(node, name))).transpose()
    }

    /// The text of an element as one of a list of words.
    pub(crate) fn text_word<T: TextEnum>(&self, node: Node<'_>, text: &str) -> Result<T, XmlError> {
        known(trimmed(text), || self.place_of_text(node))
    }

    /// The value of an attribute as a number.
    pub(crate) fn number(
        &self,
        node: Node<'_>,
        name: &str,
        minimum: u32,
        what: &'static str,
    ) -> Result<Option<u32>, XmlError> {
        self.attribute(node, name)
            .map(|text| self.unsigned(text, minimum, what, || self.place_of_attribute(node, name)))
            .transpose()
    }

    /// A number that fits 32 bits.
    pub(crate) fn unsigned(
        &self,
        text: &str,
        minimum: u32,
        what: &'static str,
        place: impl Fn() -> Place,
    ) -> Result<u32, XmlError> {
        let wide = digits(text, what, minimum.into(), u32::MAX.into(), &place)?;
        u32::try_from(wide).ok().filter(|n| *n >= minimum).ok_or_else(|| XmlError::OutOfRange {
            place: place(),
            found: shorten(trimmed(text)),
            minimum: minimum.into(),
            maximum: u32::MAX.into(),
            what,
        })
    }

    /// An amount of memory: the text of an element, scaled by its attribute `unit`.
    pub(crate) fn memory(&self, node: Node<'_>, text: &str) -> Result<u64, XmlError> {
        let place = || self.place_of_text(node);
        let value = digits(text, "a number of memory units", 1, MAX_KIB, &place)?;
        let unit = self.attribute(node, "unit").unwrap_or("KiB");
        units::scale(value, unit).map_err(|error| match error {
            ScaleError::Unit => {
                XmlError::BadUnit { place: self.place_of_attribute(node, "unit"), found: shorten(unit) }
            }
            ScaleError::Overflow => out_of_range(place(), text, MAX_KIB),
        })
    }

    // --- walking ---

    /// Refuses an element that has an elder sibling of the same name.
    pub(crate) fn single(&self, node: Node<'_>) -> Result<(), XmlError> {
        let first = node.prev_siblings().skip(1).filter(|n| n.is_element() && n.tag_name() == node.tag_name()).last();
        match first {
            None => Ok(()),
            Some(first) => Err(XmlError::DuplicateElement {
                place: self.place(node),
                element: shorten(self.name(node)),
                first_line: self.line(first),
            }),
        }
    }

    /// Keeps the attributes of an element but those that are `modelled`.
    pub(crate) fn attributes(&mut self, node: Node<'_>, modelled: &[&str], vocabulary: &Vocabulary) -> Rest {
        let mut rest = Rest::default();
        self.keep_attributes(&mut rest, node, None, modelled, vocabulary.attributes);
        rest
    }

    /// Begins an element: its attributes but those that are `modelled` are kept, text beside its elements is reported.
    pub(crate) fn enter(&mut self, node: Node<'_>, modelled: &[&str], vocabulary: &Vocabulary) -> Rest {
        let rest = self.attributes(node, modelled, vocabulary);
        for text in node.children().filter(|child| child.is_text() && !is_blank(child.text().unwrap_or(""))) {
            self.notice(text.range().start, |reader| {
                (reader.path(node), "text between elements has no meaning here and is dropped".into())
            });
        }
        rest
    }

    /// Reads an element that holds text only and stands once; its attributes but those that are `modelled` are kept.
    pub(crate) fn leaf<'n>(
        &mut self,
        node: Node<'n>,
        rest: &mut Rest,
        modelled: &[&str],
        vocabulary: &Vocabulary,
    ) -> Result<Cow<'n, str>, XmlError> {
        self.single(node)?;
        self.keep_leaf_attributes(node, rest, modelled, vocabulary);
        self.text(node)
    }

    /// Reads an element that holds text only and stands once, and says nothing without any: it is kept as it is then if it
    /// carries attributes, because no field is left to keep them with.
    pub(crate) fn text_leaf(
        &mut self,
        node: Node<'_>,
        rest: &mut Rest,
        vocabulary: &Vocabulary,
    ) -> Result<Option<String>, XmlError> {
        self.single(node)?;
        let text = self.text(node)?.into_owned();
        let mut own = Rest::default();
        self.keep_leaf_attributes(node, &mut own, &[], vocabulary);
        if !text.is_empty() {
            rest.attributes.append(&mut own.attributes);
            return Ok(Some(text));
        }
        if !own.attributes.is_empty() {
            rest.elements.push(self.verbatim(node));
        }
        Ok(None)
    }

    /// The text of an element that may hold nothing else.
    pub(crate) fn text<'n>(&self, node: Node<'n>) -> Result<Cow<'n, str>, XmlError> {
        let mut text = Cow::Borrowed("");
        for child in node.children() {
            if child.is_element() {
                let found = shorten(self.name(child));
                return Err(XmlError::UnexpectedElement { place: self.place(child), found });
            }
            if let Some(more) = child.text().filter(|_| child.is_text()) {
                if text.is_empty() {
                    text = Cow::Borrowed(more);
                } else {
                    text.to_mut().push_str(more);
                }
            }
        }
        Ok(text)
    }

    /// Keeps the attributes of a child that is modelled as a plain field but may stand more than once.
    pub(crate) fn keep_leaf_attributes(
        &mut self,
        node: Node<'_>,
        rest: &mut Rest,
        modelled: &[&str],
        vocabulary: &Vocabulary,
    ) {
        if let Some((name, known)) = vocabulary.leaf(node.tag_name().name()) {
            self.keep_attributes(rest, node, Some(name), modelled, known);
        }
    }

    /// Keeps a child element that no field models, and reports it when libvirt does not know it either.
    pub(crate) fn keep(&mut self, elements: &mut Vec<RawElement>, node: Node<'_>, vocabulary: &Vocabulary) {
        let known = match node.tag_name().namespace() {
            None => vocabulary.elements.contains(&node.tag_name().name()),
            Some(uri) => DOMAIN_NAMESPACES.contains(&uri),
        };
        if !known {
            self.notice(node.range().start, |reader| {
                let name = shorten(reader.name(node));
                (reader.path(node), format!("element <{name}> is not understood; it is kept as it is"))
            });
        }
        elements.push(self.raw(node));
    }

    fn keep_attributes(
        &mut self,
        rest: &mut Rest,
        node: Node<'_>,
        element: Option<&'static str>,
        modelled: &[&str],
        known: &[&str],
    ) {
        for attribute in node.attributes() {
            let plain = attribute.namespace().is_none();
            if plain && modelled.contains(&attribute.name()) {
                continue;
            }
            let name = self.attribute_name(&attribute);
            if !(plain && known.contains(&attribute.name())) {
                self.notice(attribute.range().start, |reader| {
                    let name = shorten(name);
                    let text = format!("attribute \"{name}\" is not understood; it is kept as it is");
                    (format!("{}/@{name}", reader.path(node)), text)
                });
            }
            rest.attributes.push(KeptAttribute { element, name: name.to_owned(), value: attribute.value().to_owned() });
        }
    }

    fn attribute_name<'n>(&self, attribute: &roxmltree::Attribute<'n, 'n>) -> &'n str
    where
        'a: 'n,
    {
        let local = attribute.name();
        if attribute.namespace().is_none() {
            return local;
        }
        self.xml.get(attribute.range_qname()).filter(|name| name.ends_with(local)).unwrap_or(local)
    }

    fn notice(&mut self, offset: usize, path_and_text: impl FnOnce(&Self) -> (String, String)) {
        // A document of nothing but unknown elements must not become as many messages.
        const MOST: usize = 256;
        if self.notices.len() < MOST {
            let (path, text) = path_and_text(self);
            let (line, column) = self.line_column(offset);
            self.notices.push(Notice { path, line, column, text });
        }
    }

    // --- copying ---

    /// An element as it will be written back.
    pub(crate) fn raw(&self, node: Node<'_>) -> RawElement {
        let (line, column) = self.line_column(node.range().start);
        let mut xml = String::with_capacity(node.range().len());
        let depth = node.ancestors().filter(Node::is_element).count() - 1;
        self.copy(&mut xml, node, node.document().root_element(), depth);
        RawElement { name: self.name(node).to_owned(), xml, line, column }
    }

    /// An element byte for byte.
    pub(crate) fn verbatim(&self, node: Node<'_>) -> RawElement {
        self.noted(node, self.xml.get(node.range()).unwrap_or("").to_owned())
    }

    /// An element in a layout of its own.
    pub(crate) fn noted(&self, node: Node<'_>, xml: String) -> RawElement {
        let (line, column) = self.line_column(node.range().start);
        RawElement { name: self.name(node).to_owned(), xml, line, column }
    }

    /// Writes an element without its own indentation; the namespaces of the element `around` hold where it will stand.
    /// The depth is bounded by [`crate::limits::MAX_DEPTH`], so the recursion is.
    fn copy(&self, out: &mut String, node: Node<'_>, around: Node<'_>, depth: usize) {
        let name = self.name(node);
        out.push('<');
        out.push_str(name);
        // The reader holds equal declarations once, so the same one is the same reference.
        for namespace in node.namespaces().filter(|n| !around.namespaces().any(|known| std::ptr::eq(known, *n))) {
            match namespace.name() {
                None => push_attribute(out, "xmlns", namespace.uri()),
                Some(prefix) => push_attribute(out, &format!("xmlns:{prefix}"), namespace.uri()),
            }
        }
        for attribute in node.attributes() {
            push_attribute(out, self.attribute_name(&attribute), attribute.value());
        }
        if self.copy_content(out, node, depth) {
            out.push_str("</");
            out.push_str(name);
            out.push('>');
        } else {
            out.push_str("/>");
        }
    }

    /// Writes what is inside an element, its `>` first; `false` when there is nothing.
    fn copy_content(&self, out: &mut String, node: Node<'_>, depth: usize) -> bool {
        let has_elements = node.children().any(|child| child.is_element());
        let has_text = node.children().any(|child| {
            // A line break and what surrounds it is layout; blanks alone in an element may be its value.
            child.is_text() && child.text().is_some_and(|t| !is_blank(t) || (!has_elements && !t.contains('\n')))
        });
        if !has_elements && !has_text {
            return false;
        }
        out.push('>');
        for child in node.children() {
            if child.is_element() {
                if !has_text {
                    out.push('\n');
                    indent(out, depth + 1);
                }
                self.copy(out, child, node, depth + 1);
            } else if child.is_text() && has_text {
                escape_text(out, child.text().unwrap_or(""));
            }
        }
        if !has_text {
            out.push('\n');
            indent(out, depth);
        }
        true
    }
}

fn known<T: TextEnum>(text: &str, place: impl FnOnce() -> Place) -> Result<T, XmlError> {
    T::from_text(text).ok_or_else(|| XmlError::UnknownValue {
        place: place(),
        found: shorten(text),
        accepted: T::ACCEPTED,
    })
}

/// Text without the space around it, which is XML's: what only looks like space may be part of a name.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

fn out_of_range(place: Place, text: &str, maximum: u64) -> XmlError {
    let what = "an amount of memory in KiB";
    XmlError::OutOfRange { place, found: shorten(trimmed(text)), minimum: 1, maximum, what }
}

/// Digits as a number; what has too many of them is out of range rather than no number.
fn digits(
    text: &str,
    what: &'static str,
    minimum: u64,
    maximum: u64,
    place: &impl Fn() -> Place,
) -> Result<u64, XmlError> {
    let text = trimmed(text);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(XmlError::BadNumber { place: place(), found: shorten(text), what });
    }
    text.parse().map_err(|_| XmlError::OutOfRange { place: place(), found: shorten(text), minimum, maximum, what })
}
