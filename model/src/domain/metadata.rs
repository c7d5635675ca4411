//! What applications note down in a domain: one element each, told apart by its namespace.
//!
//! An application hands its element in and gets it back without the prefix, as libvirt's API has it; in the document it
//! stands under `<metadata>` with the prefix that the application chose.

use roxmltree::{Document, Node, NodeType};
use thiserror::Error;

use super::{Domain, DumpOptions};
use crate::{
    error::XmlError,
    kept::RawElement,
    reader::trimmed,
    scan,
    writer::{self, escape_text, push_attribute},
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
        Writer { uri, prefix: None, plain: false }.element(&mut out, element, 0, &[]);
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
        if !elements.is_empty() {
            let mut text = String::from("<metadata>");
            for element in &elements {
                indent(&mut text, DEPTH);
                text.push_str(element);
            }
            indent(&mut text, DEPTH - 1);
            text.push_str("</metadata>");
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

    /// The elements of the other namespaces, byte for byte.
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
    Writer { uri, prefix: Some(prefix), plain: true }.element(&mut out, document.root_element(), DEPTH, &[]);
    Ok(out)
}

/// Writes an element with one namespace's prefix put in or left out.
struct Writer<'a> {
    uri: &'a str,
    /// The prefix for that namespace; none leaves its elements without.
    prefix: Option<&'a str>,
    /// Elements of no namespace belong to it too.
    plain: bool,
}

impl Writer<'_> {
    /// `declared` are the prefixes that hold around the element. The depth is bounded by [`crate::limits::MAX_DEPTH`].
    fn element(&self, out: &mut String, node: Node<'_, '_>, depth: usize, declared: &[(String, String)]) {
        let mut declared = declared.to_vec();
        let mut declarations = Vec::new();
        let name = self.name(node, &mut declared, &mut declarations);
        out.push('<');
        out.push_str(&name);
        let attributes: Vec<(String, &str)> = node
            .attributes()
            .map(|attribute| {
                let prefix = attribute.namespace().and_then(|uri| declare(node, uri, &mut declared, &mut declarations));
                (prefixed(prefix.as_deref(), attribute.name()), attribute.value())
            })
            .collect();
        for (prefix, uri) in &declarations {
            push_attribute(out, &format!("xmlns:{prefix}"), uri);
        }
        for (name, value) in &attributes {
            push_attribute(out, name, value);
        }
        if self.content(out, node, depth, &declared) {
            out.push_str(&format!("</{name}>"));
        } else {
            out.push_str("/>");
        }
    }

    fn name(
        &self,
        node: Node<'_, '_>,
        declared: &mut Vec<(String, String)>,
        new: &mut Vec<(String, String)>,
    ) -> String {
        let (name, namespace) = (node.tag_name().name(), node.tag_name().namespace());
        let ours = namespace == Some(self.uri) || (self.plain && namespace.is_none());
        match (ours, self.prefix, namespace) {
            (true, Some(prefix), _) => {
                let pair = (prefix.to_owned(), self.uri.to_owned());
                if !declared.contains(&pair) {
                    declared.push(pair.clone());
                    new.push(pair);
                }
                format!("{prefix}:{name}")
            }
            (true, None, _) | (false, _, None) => name.to_owned(),
            (false, _, Some(uri)) => prefixed(declare(node, uri, declared, new).as_deref(), name),
        }
    }

    /// Writes what is inside, the `>` before it first; false when there is nothing.
    fn content(&self, out: &mut String, node: Node<'_, '_>, depth: usize, declared: &[(String, String)]) -> bool {
        let told = |child: &Node<'_, '_>| child.is_text() && child.text().is_some_and(|text| !trimmed(text).is_empty());
        let mixed = node.children().any(|child| told(&child));
        let elements = node.children().any(|child| child.is_element());
        if !mixed && !elements {
            return false;
        }
        out.push('>');
        for child in node.children() {
            match child.node_type() {
                NodeType::Element => {
                    if !mixed {
                        indent(out, depth + 1);
                    }
                    self.element(out, child, depth + 1, declared);
                }
                NodeType::Text if mixed => escape_text(out, child.text().unwrap_or_default()),
                _ => {}
            }
        }
        if !mixed {
            indent(out, depth);
        }
        true
    }
}

/// Begins a line.
fn indent(out: &mut String, depth: usize) {
    out.push('\n');
    writer::indent(out, depth);
}

fn prefixed(prefix: Option<&str>, name: &str) -> String {
    prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}:{name}"))
}

/// The prefix of another namespace, which is declared where it is used first; none for XML's own, which needs none.
fn declare(
    node: Node<'_, '_>,
    uri: &str,
    declared: &mut Vec<(String, String)>,
    new: &mut Vec<(String, String)>,
) -> Option<String> {
    if uri == roxmltree::NS_XML_URI {
        return Some("xml".to_owned());
    }
    if let Some((prefix, _)) = declared.iter().find(|(_, known)| known == uri) {
        return Some(prefix.clone());
    }
    // An element in a default namespace has no prefix to keep, so it gets one.
    let prefix = node.lookup_prefix(uri).map_or_else(|| format!("ns{}", declared.len()), str::to_owned);
    let pair = (prefix.clone(), uri.to_owned());
    declared.push(pair.clone());
    new.push(pair);
    Some(prefix)
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
        assert_eq!(domain.metadata_of(URI).as_deref(), Some("<b q='1'>\n  <i/>\n</b>"));
        assert_eq!(domain.metadata_of("http://a.org/").as_deref(), Some("<x>\n  <y z='1'>q</y>\n</x>"));
        assert_eq!(domain.metadata_of("http://c.org/"), None);
        let xml = domain.to_xml(&DumpOptions::default());
        let expected = "  <metadata>\n    <a:x xmlns:a='http://a.org/'>\n      <a:y z='1'>q</a:y>\n    </a:x>\n    \
                        <bp:b xmlns:bp='http://b.org/' q='1'>\n      <bp:i/>\n    </bp:b>\n  </metadata>\n";
        assert!(xml.contains(expected), "{xml}");
        assert_eq!(Domain::parse(&xml).unwrap().value.metadata_of(URI), domain.metadata_of(URI));
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
