//! What is kept although it is not modelled.

use crate::vocabulary::Vocabulary;

/// An element that is kept as it is.
///
/// Two of them are equal when they would be written the same; where they stood is only for messages.
#[derive(Clone, Debug, Default)]
pub struct RawElement {
    /// Its name, with the prefix if it has one: `interface`, `qemu:commandline`.
    pub name: String,
    /// Its XML: well-formed by itself but for prefixes that the root element declares, its inner lines indented for
    /// where it stands. Comments and processing instructions are gone, except inside `metadata`.
    pub xml: String,
    /// The line it was read from; 0 when it was made in code.
    pub line: u32,
    /// The column it was read from; 0 when it was made in code.
    pub column: u32,
}

impl RawElement {
    /// The value of one of its own attributes, for a driver that honours an element which is not modelled.
    pub fn attribute(&self, name: &str) -> Option<String> {
        // An element with a prefix is no document by itself; no driver has a use for one's attributes yet.
        let document = roxmltree::Document::parse(&self.xml).ok()?;
        document.root_element().attribute(name).map(str::to_owned)
    }
}

impl PartialEq for RawElement {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.xml == other.xml
    }
}

impl Eq for RawElement {}

/// An attribute that is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAttribute {
    /// The child that carries it when that child is itself modelled as a plain field (`memory`, `target`, …); `None`
    /// when the element does.
    pub element: Option<&'static str>,
    /// Its name, with the prefix if it has one.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A namespace that the root element declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The prefix.
    pub prefix: String,
    /// What it stands for.
    pub uri: String,
}

/// What an element holds beside its modelled fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Attributes, in the order in which they are written.
    pub attributes: Vec<KeptAttribute>,
    /// Elements, in the order in which they are written.
    pub elements: Vec<RawElement>,
}

impl Rest {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.elements.is_empty()
    }

    /// The value of an attribute of the element itself.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.element.is_none() && a.name == name).map(|a| a.value.as_str())
    }

    /// The first kept element of a name.
    pub fn element(&self, name: &str) -> Option<&RawElement> {
        self.elements.iter().find(|e| e.name == name)
    }

    /// Brings both lists into the order in which they are written, so that reading what was written gives them back.
    pub(crate) fn sort(&mut self, vocabulary: &Vocabulary) {
        if self.elements.len() > 1 {
            sort_elements(&mut self.elements, vocabulary);
        }
        if self.attributes.len() > 1 {
            self.attributes.sort_by_key(|a| match a.element {
                None => (0, vocabulary.attribute_order(&a.name)),
                Some(leaf) => (1 + vocabulary.element_order(leaf), vocabulary.leaf_attribute_order(leaf, &a.name)),
            });
        }
    }
}

/// Sorts kept elements into libvirt's order, those it does not know last.
pub(crate) fn sort_elements(elements: &mut [RawElement], vocabulary: &Vocabulary) {
    elements.sort_by_key(|e| vocabulary.element_order(&e.name));
}

#[cfg(test)]
mod tests {
    use super::RawElement;

    #[test]
    fn attributes_of_a_kept_element_can_be_read() {
        let raw = RawElement {
            name: "memballoon".into(),
            xml: "<memballoon model='no&amp;ne'/>".into(),
            ..Default::default()
        };
        assert_eq!(raw.attribute("model").as_deref(), Some("no&ne"));
        assert_eq!(raw.attribute("other"), None);
    }
}
