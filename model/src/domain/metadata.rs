//! What applications note down in a domain: one element each, told apart by its namespace.
//!
//! An application hands its element in and gets it back without the prefix, as libvirt's API has it; in the document it
//! stands under `<metadata>` with the prefix that the application chose.
//!
//! The layout is libvirt's, which leaves this part of a document to its XML library: double quotes around attributes, and
//! line breaks only in elements without text. Observed with virsh 9.0 on `test:///default`, by `define`, `dumpxml` and
//! `metadata`.

use roxmltree::{Document, Node, NodeId, NodeType};
use thiserror::Error;

use super::{Domain, DumpOptions};
use crate::{
    error::XmlError,
    kept::RawElement,
    reader::trimmed,
    scan,
    writer::{self, push_attribute, push_note_attribute, push_note_text},
};

/// How deep an application's element stands in the document.
const DEPTH: usize = 2;

/// Why an element is not taken.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// It is longer, deeper or wider than what is read.
    #[error("the element breaks a limit")]
    Limit(#[source] XmlError),
    /// It is no XML element.
    #[error("the element is not well-formed")]
    NotWellFormed(#[source] roxmltree::Error),
    /// The prefix is no name.
    #[error("'{0}' cannot be a prefix")]
    Prefix(String),
    /// With it the domain would not be one: a prefix is taken, or there is too much of something.
    #[error("the domain cannot be read with the element in it")]
    Domain(#[source] XmlError),
}

impl Domain {
    /// The element of a namespace, without its prefix.
    #[must_use]
    pub fn metadata_of(&self, uri: &str) -> Option<String> {
        let text = self.metadata_document()?;
        let document = Document::parse(&text).ok()?;
        let element = own_elements(&document).find(|element| element.tag_name().namespace() == Some(uri))?;
        let mut out = String::new();
        Writer::taking(uri).element(&mut out, element, Some(0));
        Some(out)
    }

    /// Puts an application's element in the place of the one of its namespace, or takes that out.
    ///
    /// # Errors
    /// When the element cannot stand in a document; the domain is as it was then.
    pub fn set_metadata_of(&mut self, prefix: &str, uri: &str, xml: Option<&str>) -> Result<(), MetadataError> {
        let added = xml.map(|xml| with_prefix(prefix, uri, xml)).transpose()?;
        let mut elements = self.metadata_but(uri);
        elements.extend(added);
        let before = self.metadata.take();
        let start = before.as_ref().map_or("<metadata>", |metadata| start_tag(&metadata.xml));
        // Without an element only its own attributes are worth keeping.
        if !elements.is_empty() || start.contains(' ') {
            let mut text = format!("{}>", start.trim_end_matches(['/', '>']));
            for element in &elements {
                indent(&mut text, DEPTH);
                text.push_str(element);
            }
            if elements.is_empty() {
                text.insert(text.len() - 1, '/');
            } else {
                indent(&mut text, DEPTH - 1);
                text.push_str("</metadata>");
            }
            self.metadata = Some(RawElement { name: "metadata".into(), xml: text, line: 0, column: 0 });
        }
        match Domain::parse(&self.to_xml(&DumpOptions::stored())) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.metadata = before;
                Err(MetadataError::Domain(error))
            }
        }
    }

    /// The elements of the other namespaces, as they stand in the document.
    fn metadata_but(&self, uri: &str) -> Vec<String> {
        let Some(text) = self.metadata_document() else { return Vec::new() };
        let Ok(document) = Document::parse(&text) else { return Vec::new() };
        let others = own_elements(&document).filter(|element| element.tag_name().namespace() != Some(uri));
        others.filter_map(|element| text.get(element.range()).map(str::to_owned)).collect()
    }

    /// `<metadata>` as a document by itself: under an element with the prefixes of the domain's root.
    fn metadata_document(&self) -> Option<String> {
        let metadata = self.metadata.as_ref()?;
        let mut text = String::from("<domain");
        for namespace in &self.namespaces {
            push_attribute(&mut text, &format!("xmlns:{}", namespace.prefix), &namespace.uri);
        }
        Some(text + ">" + &metadata.xml + "</domain>")
    }
}

/// The elements of the applications.
fn own_elements<'a, 'input>(document: &'a Document<'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    let metadata = document.root_element().first_element_child();
    metadata.into_iter().flat_map(|metadata| metadata.children().filter(Node::is_element).collect::<Vec<_>>())
}

fn with_prefix(prefix: &str, uri: &str, xml: &str) -> Result<String, MetadataError> {
    let first = |c: char| c.is_alphabetic() || c == '_';
    let other = |c: char| first(c) || c.is_numeric() || matches!(c, '-' | '.');
    let named = prefix.starts_with(first) && prefix.chars().all(other) && !prefix.to_lowercase().starts_with("xml");
    if !named {
        return Err(MetadataError::Prefix(prefix.chars().take(64).collect()));
    }
    scan::check(xml).map_err(MetadataError::Limit)?;
    let document = Document::parse(xml).map_err(MetadataError::NotWellFormed)?;
    let mut out = String::new();
    Writer::giving(prefix, uri).element(&mut out, document.root_element(), Some(DEPTH));
    Ok(out)
}

/// `<metadata>` of a document, in the layout that libvirt gives it.
///
/// Unlike libvirt, this keeps elements of no namespace and a second one of the same: they are lost to no one.
pub(super) fn read(node: Node<'_, '_>) -> String {
    let mut out = String::new();
    Writer::copying(node).element(&mut out, node, Some(DEPTH - 1));
    out
}

/// Writes an element with one namespace's prefix put in, left out or kept.
struct Writer<'a> {
    uri: Option<&'a str>,
    /// The prefix for that namespace; none leaves its elements without.
    prefix: Option<&'a str>,
    /// `<metadata>` itself, which has elements only.
    whole: Option<NodeId>,
}

impl<'a> Writer<'a> {
    /// Puts a prefix in, for elements of no namespace too.
    fn giving(prefix: &'a str, uri: &'a str) -> Self {
        Self { uri: Some(uri), prefix: Some(prefix), whole: None }
    }

    /// Leaves the prefix of a namespace out.
    fn taking(uri: &'a str) -> Self {
        Self { uri: Some(uri), prefix: None, whole: None }
    }

    /// Changes nothing but the layout of `<metadata>`.
    fn copying(metadata: Node<'_, '_>) -> Self {
        Self { uri: None, prefix: None, whole: Some(metadata.id()) }
    }

    /// Without a depth the element stands among text, where no line break may be added. The recursion is bounded by
    /// [`crate::limits::MAX_DEPTH`].
    fn element(&self, out: &mut String, node: Node<'_, '_>, depth: Option<usize>) {
        let name = self.name(node);
        out.push('<');
        out.push_str(&name);
        let outer = node.parent_element();
        let is_new =
            |n: &&roxmltree::Namespace<'_>| !outer.is_some_and(|o| o.namespaces().any(|known| std::ptr::eq(known, *n)));
        for namespace in node.namespaces().filter(is_new) {
            match namespace.name() {
                // XML's own needs no declaration, and ours is written below or not at all.
                Some("xml") => {}
                _ if Some(namespace.uri()) == self.uri => {}
                Some(prefix) => push_note_attribute(out, &format!("xmlns:{prefix}"), namespace.uri()),
                None => push_note_attribute(out, "xmlns", namespace.uri()),
            }
        }
        if let (Some(prefix), Some(uri), None) = (self.prefix, self.uri, outer) {
            push_note_attribute(out, &format!("xmlns:{prefix}"), uri);
        }
        for attribute in node.attributes() {
            let name = if attribute.namespace().is_some() && attribute.namespace() == self.uri {
                prefixed(self.prefix, attribute.name())
            } else {
                let source = node.document().input_text().get(attribute.range_qname());
                source.unwrap_or(attribute.name()).to_owned()
            };
            push_note_attribute(out, &name, attribute.value());
        }
        if self.content(out, node, depth) {
            out.push_str(&format!("</{name}>"));
        } else {
            out.push_str("/>");
        }
    }

    fn name(&self, node: Node<'_, '_>) -> String {
        let (name, namespace) = (node.tag_name().name(), node.tag_name().namespace());
        let ours = match namespace {
            Some(_) => namespace == self.uri,
            None => self.prefix.is_some(),
        };
        if ours {
            return prefixed(self.prefix, name);
        }
        let text = source(node).trim_start_matches('<');
        text.split([' ', '\t', '\r', '\n', '/', '>']).next().unwrap_or(name).to_owned()
    }

    /// Writes what is inside, the `>` before it first; false when there is nothing.
    fn content(&self, out: &mut String, node: Node<'_, '_>, depth: Option<usize>) -> bool {
        let children: Vec<Node<'_, '_>> = node.children().filter(|child| self.is_kept(*child)).collect();
        if children.is_empty() {
            return false;
        }
        let inner = depth.filter(|_| !children.iter().any(Node::is_text)).map(|depth| depth + 1);
        out.push('>');
        for child in children {
            if let Some(depth) = inner {
                indent(out, depth);
            }
            match child.node_type() {
                NodeType::Element => self.element(out, child, inner),
                NodeType::Text => text(out, child),
                _ => out.push_str(source(child)),
            }
        }
        if let Some(depth) = depth.filter(|_| inner.is_some()) {
            indent(out, depth);
        }
        true
    }

    /// Whether a child is written. Space is layout unless it is all there is or text comes first. libvirt decides the same
    /// when it reads a document; a call's argument it keeps as it is until then.
    fn is_kept(&self, child: Node<'_, '_>) -> bool {
        if child.is_element() {
            return true;
        }
        let parent = child.parent();
        if self.whole.is_some() && parent.map(|parent| parent.id()) == self.whole {
            return false;
        }
        let first = parent.and_then(|parent| parent.first_child());
        let is_alone = first == Some(child) && child.next_sibling().is_none();
        !is_blank(child) || is_alone || first.is_some_and(|first| first.is_text() && !is_blank(first))
    }
}

/// Whether a child is text of nothing but space.
fn is_blank(child: Node<'_, '_>) -> bool {
    child.is_text() && child.text().is_some_and(|text| trimmed(text).is_empty()) && !chunk(child).contains(CDATA)
}

/// How a section begins whose text is not escaped.
const CDATA: &str = "<![CDATA[";

/// Writes text; as it stands when there is an unescaped section in it.
fn text(out: &mut String, node: Node<'_, '_>) {
    let chunk = chunk(node);
    if chunk.contains(CDATA) {
        out.push_str(&chunk.replace("\r\n", "\n").replace('\r', "\n"));
    } else {
        push_note_text(out, node.text().unwrap_or_default());
    }
}

/// The source of an element, a comment or an instruction.
fn source<'input>(node: Node<'_, 'input>) -> &'input str {
    node.document().input_text().get(node.range()).unwrap_or_default()
}

/// The source of text: the reader joins pieces of it, so it is what stands between the nodes around it.
fn chunk<'input>(node: Node<'_, 'input>) -> &'input str {
    let Some(parent) = node.parent() else { return "" };
    let around = parent.range();
    let whole = source(parent);
    let start = node.prev_sibling().map_or(around.start + start_tag(whole).len(), |sibling| sibling.range().end);
    let end =
        node.next_sibling().map_or(around.start + whole.rfind("</").unwrap_or_default(), |next| next.range().start);
    node.document().input_text().get(start..end).unwrap_or_default()
}

/// The start tag that an element's source begins with.
fn start_tag(source: &str) -> &str {
    let mut quote = None;
    for (at, c) in source.char_indices() {
        match (quote, c) {
            (None, '>') => return source.get(..=at).unwrap_or(source),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    source
}

/// Begins a line.
fn indent(out: &mut String, depth: usize) {
    out.push('\n');
    writer::indent(out, depth);
}

fn prefixed(prefix: Option<&str>, name: &str) -> String {
    prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DomainType;

    const URI: &str = "http://b.org/";

    fn domain() -> Domain {
        let mut domain = Domain::new(DomainType::Qemu, "t", 1024, 1, "x86_64");
        domain.set_metadata_of("a", "http://a.org/", Some("<x><y z='1'>q</y></x>")).unwrap();
        domain
    }

    #[test]
    fn an_element_comes_back_as_it_was_given() {
        let mut domain = domain();
        domain.set_metadata_of("bp", URI, Some("<b q=\"1\"><i/></b>")).unwrap();
        assert_eq!(domain.metadata_of(URI).as_deref(), Some("<b q=\"1\">\n  <i/>\n</b>"));
        assert_eq!(domain.metadata_of("http://a.org/").as_deref(), Some("<x>\n  <y z=\"1\">q</y>\n</x>"));
        assert_eq!(domain.metadata_of("http://c.org/"), None);
        let xml = domain.to_xml(&DumpOptions::default());
        let expected = "  <metadata>\n    <a:x xmlns:a=\"http://a.org/\">\n      <a:y z=\"1\">q</a:y>\n    </a:x>\n    \
                        <bp:b xmlns:bp=\"http://b.org/\" q=\"1\">\n      <bp:i/>\n    </bp:b>\n  </metadata>\n";
        assert!(xml.contains(expected), "{xml}");
        assert_eq!(Domain::parse(&xml).unwrap().value.metadata_of(URI), domain.metadata_of(URI));
    }

    /// What virsh 9.0 shows of a guest that was defined, and of one whose definition libvirtd has read again.
    #[test]
    fn the_layout_is_that_of_libvirts_xml_library() {
        let cases = [
            ("<b><i/>text</b>", "<b><i/>text</b>"),
            ("<b>t<i><j/></i></b>", "<b>t<i><j/></i></b>"),
            ("<b>\n <i/>\n  <j>\n <k/></j></b>", "<b>\n  <i/>\n  <j>\n    <k/>\n  </j>\n</b>"),
            ("<b> </b>", "<b> </b>"),
            ("<b></b>", "<b/>"),
            ("<b>\n<!-- c -->\n<i/></b>", "<b>\n  <!-- c -->\n  <i/>\n</b>"),
            ("<b><?pi x?></b>", "<b>\n  <?pi x?>\n</b>"),
            ("<b>é&#xe9;&#9;&#13;\n</b>", "<b>éé\t&#13;\n</b>"),
            (
                "<b a='é€' z=\"it's\" y='a\"b' w='&lt;&amp;&gt;&#10;&#9;&#13;'/>",
                "<b a=\"&#xE9;&#x20AC;\" z=\"it's\" y=\"a&quot;b\" w=\"&lt;&amp;&gt;&#10;&#9;&#13;\"/>",
            ),
            ("<b xml:lang='en'> <i/> </b>", "<b xml:lang=\"en\">\n  <i/>\n</b>"),
            ("<b xmlns:o='urn:o'><o:i o:a='1'/></b>", "<b xmlns:o=\"urn:o\">\n  <o:i o:a=\"1\"/>\n</b>"),
            ("<b xmlns:unused='u'/>", "<b xmlns:unused=\"u\"/>"),
            ("<b><i xmlns='urn:i'><j/></i></b>", "<b>\n  <i xmlns=\"urn:i\">\n    <j/>\n  </i>\n</b>"),
            (
                "<b><c>te'x\"t &lt; &gt;</c><![CDATA[<x>]]><d></d></b>",
                "<b><c>te'x\"t &lt; &gt;</c><![CDATA[<x>]]><d/></b>",
            ),
        ];
        for (given, expected) in cases {
            let mut domain = domain();
            domain.set_metadata_of("bp", URI, Some(given)).unwrap();
            assert_eq!(domain.metadata_of(URI).as_deref(), Some(expected), "{given}");
            let again = Domain::parse(&domain.to_xml(&DumpOptions::stored())).unwrap().value;
            assert_eq!(again, domain, "{given}");
        }
        let cases = [
            (
                "\n <a:x xmlns:a='urn:a' q='1'><a:y/>\n</a:x>\n\n<b:y xmlns:b='urn:b'>  t <i/></b:y><!-- c -->",
                "\n    <a:x xmlns:a=\"urn:a\" q=\"1\">\n      <a:y/>\n    </a:x>\n    <b:y xmlns:b=\"urn:b\">  t <i/></b:y>\n  ",
            ),
            (
                "t<a:x xmlns:a='urn:a' a:z='1'>\n\n <a:y>\n </a:y> <!-- c -->\n</a:x>",
                "\n    <a:x xmlns:a=\"urn:a\" a:z=\"1\">\n      <a:y>\n </a:y>\n      <!-- c -->\n    </a:x>\n  ",
            ),
            ("<a:x xmlns:a='urn:a'><![CDATA[ ]]></a:x>", "\n    <a:x xmlns:a=\"urn:a\"><![CDATA[ ]]></a:x>\n  "),
            ("<a:x xmlns:a='urn:a'><a:j/> <a:k/> t</a:x>", "\n    <a:x xmlns:a=\"urn:a\"><a:j/><a:k/> t</a:x>\n  "),
            ("<x xmlns='urn:d'><y/></x>", "\n    <x xmlns=\"urn:d\">\n      <y/>\n    </x>\n  "),
        ];
        for (inside, expected) in cases {
            let xml = format!(
                "<domain type='qemu'><name>t</name><metadata a='1'>{inside}</metadata><memory>1024</memory><os><type>hvm</type>\
                 </os></domain>"
            );
            let domain = Domain::parse(&xml).unwrap().value;
            let written = domain.to_xml(&DumpOptions::stored());
            assert!(written.contains(&format!("  <metadata a=\"1\">{expected}</metadata>\n")), "{written}");
            assert_eq!(Domain::parse(&written).unwrap().value, domain);
        }
    }

    #[test]
    fn a_change_keeps_what_metadata_itself_declares() {
        let xml = "<domain type='qemu'><name>t</name><metadata xmlns:r='urn:r'><r:x/></metadata><memory>1024</memory>\
                   <os><type>hvm</type></os></domain>";
        let mut domain = Domain::parse(xml).unwrap().value;
        domain.set_metadata_of("bp", URI, Some("<b/>")).unwrap();
        assert_eq!(domain.metadata_of("urn:r").as_deref(), Some("<x/>"));
        domain.set_metadata_of("r", "urn:r", None).unwrap();
        domain.set_metadata_of("bp", URI, None).unwrap();
        assert!(domain.to_xml(&DumpOptions::stored()).contains("  <metadata xmlns:r=\"urn:r\"/>\n"));
    }

    #[test]
    fn what_only_looks_like_space_is_text() {
        let mut domain = domain();
        for text in ["\u{a0}", "\u{2003}", "\u{3000}x"] {
            let xml = format!("<b>{text}</b>");
            domain.set_metadata_of("bp", URI, Some(&xml)).unwrap();
            assert_eq!(domain.metadata_of(URI), Some(xml));
        }
    }

    #[test]
    fn a_namespace_has_one_element_which_can_be_replaced_and_removed() {
        let mut domain = domain();
        domain.set_metadata_of("one", URI, Some("<b/>")).unwrap();
        domain.set_metadata_of("two", URI, Some("<c>text &amp; more</c>")).unwrap();
        assert_eq!(domain.metadata_of(URI).as_deref(), Some("<c>text &amp; more</c>"));
        domain.set_metadata_of("two", URI, None).unwrap();
        assert_eq!(domain.metadata_of(URI), None);
        domain.set_metadata_of("a", "http://a.org/", None).unwrap();
        assert_eq!(domain.metadata, None, "nothing is left of it");
    }

    #[test]
    fn other_namespaces_inside_keep_their_prefixes() {
        let mut domain = domain();
        let xml = "<b xmlns:o='urn:o' o:at='1' xml:lang='en'><o:in/><d xmlns='urn:d'><e/></d></b>";
        domain.set_metadata_of("bp", URI, Some(xml)).unwrap();
        let read = domain.metadata_of(URI).unwrap();
        let document = Document::parse(&read).unwrap();
        let names: Vec<_> = document
            .descendants()
            .filter(Node::is_element)
            .map(|n| (n.tag_name().namespace(), n.tag_name().name()))
            .collect();
        assert_eq!(names, [(None, "b"), (Some("urn:o"), "in"), (Some("urn:d"), "d"), (Some("urn:d"), "e")]);
        assert_eq!(document.root_element().attribute(("urn:o", "at")), Some("1"));
    }

    #[test]
    fn what_cannot_stand_in_a_document_is_refused_and_changes_nothing() {
        let mut domain = domain();
        let before = domain.clone();
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        let nearly = "<a>".repeat(64) + &"</a>".repeat(64);
        assert!(matches!(domain.set_metadata_of("k", URI, Some("<b")), Err(MetadataError::NotWellFormed(_))));
        assert!(matches!(domain.set_metadata_of("k", URI, Some(&deep)), Err(MetadataError::Limit(_))));
        assert!(matches!(domain.set_metadata_of("k", URI, Some(&nearly)), Err(MetadataError::Domain(_))));
        for prefix in ["", "1", "a:b", "a b", "xmlns", "XML"] {
            assert!(
                matches!(domain.set_metadata_of(prefix, URI, Some("<b/>")), Err(MetadataError::Prefix(_))),
                "{prefix}"
            );
        }
        assert_eq!(domain, before);
    }

    #[test]
    fn a_prefix_of_the_root_is_known() {
        let xml = "<domain type='qemu' xmlns:r='urn:r'><name>t</name><memory>1024</memory><os><type>hvm</type></os>\
                   <metadata><r:x><r:y/></r:x></metadata></domain>";
        let domain = Domain::parse(xml).unwrap().value;
        assert_eq!(domain.metadata_of("urn:r").as_deref(), Some("<x>\n  <y/>\n</x>"));
    }
}
