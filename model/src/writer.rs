//! XML in libvirt's layout: two spaces a level, single quotes, an element without content closed at once. Elements of
//! applications have a layout of their own.

use std::borrow::Cow;

use crate::kept::{RawElement, Rest};
use crate::vocabulary::Vocabulary;

/// An element on its way out.
pub(crate) struct Element<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, Cow<'a, str>)>,
    children: Vec<Child<'a>>,
    text: Option<Cow<'a, str>>,
    open: bool,
    spaced: bool,
}

enum Child<'a> {
    Element(Element<'a>),
    Raw(&'a RawElement),
}

impl Child<'_> {
    fn name(&self) -> &str {
        match self {
            Child::Element(element) => element.name,
            Child::Raw(raw) => &raw.name,
        }
    }
}

impl<'a> Element<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self { name, attributes: Vec::new(), children: Vec::new(), text: None, open: false, spaced: false }
    }

    /// An element that holds text only.
    pub(crate) fn leaf(name: &'a str, text: impl Into<Cow<'a, str>>) -> Self {
        let mut element = Self::new(name);
        element.text = Some(text.into());
        element
    }

    pub(crate) fn attribute(mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub(crate) fn attribute_if(self, name: &'a str, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        match value {
            Some(value) => self.attribute(name, value),
            None => self,
        }
    }

    pub(crate) fn child(mut self, child: Element<'a>) -> Self {
        self.children.push(Child::Element(child));
        self
    }

    pub(crate) fn child_if(self, child: Option<Element<'a>>) -> Self {
        match child {
            Some(child) => self.child(child),
            None => self,
        }
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Element<'a>>) -> Self {
        self.children.extend(children.into_iter().map(Child::Element));
        self
    }

    pub(crate) fn leaf_if(self, name: &'a str, text: Option<impl Into<Cow<'a, str>>>) -> Self {
        // Empty text reads back as none.
        self.child_if(
            text.map(Into::into).filter(|text: &Cow<'a, str>| !text.is_empty()).map(|text| Self::leaf(name, text)),
        )
    }

    pub(crate) fn flag(self, name: &'a str, set: bool) -> Self {
        self.child_if(set.then(|| Self::new(name)))
    }

    pub(crate) fn raw(mut self, raw: impl IntoIterator<Item = &'a RawElement>) -> Self {
        self.children.extend(raw.into_iter().map(Child::Raw));
        self
    }

    /// Written with an end tag even when it is empty.
    pub(crate) fn always_open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Written with an empty line around each child, as libvirt writes capabilities.
    pub(crate) fn spaced(mut self) -> Self {
        self.spaced = true;
        self
    }

    /// Adds what is kept and brings everything into libvirt's order.
    pub(crate) fn complete(mut self, rest: &'a Rest, vocabulary: &Vocabulary) -> Self {
        self = self.raw(&rest.elements);
        for kept in &rest.attributes {
            match kept.element {
                None => self.attributes.push((&kept.name, Cow::Borrowed(&kept.value))),
                Some(leaf) => self.add_to_leaf(leaf, &kept.name, &kept.value),
            }
        }
        self.attributes.sort_by_key(|(name, _)| vocabulary.attribute_order(name));
        self.children.sort_by_key(|child| vocabulary.element_order(child.name()));
        for child in &mut self.children {
            if let Child::Element(leaf) = child
                && vocabulary.is_leaf(leaf.name)
            {
                let name = leaf.name;
                leaf.attributes.sort_by_key(|(attribute, _)| vocabulary.leaf_attribute_order(name, attribute));
            }
        }
        self
    }

    /// An attribute of a leaf that was taken out in code goes with it.
    fn add_to_leaf(&mut self, leaf: &str, name: &'a str, value: &'a str) {
        let found = self.children.iter_mut().find_map(|child| match child {
            Child::Element(element) if element.name == leaf => Some(element),
            _ => None,
        });
        if let Some(element) = found {
            element.attributes.push((name, Cow::Borrowed(value)));
        }
    }

    /// Whether it would say nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.children.is_empty() && self.text.is_none()
    }

    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(4096);
        self.render_at(&mut out, 0);
        out
    }

    fn render_at(&self, out: &mut String, depth: usize) {
        indent(out, depth);
        out.push('<');
        out.push_str(self.name);
        for (name, value) in &self.attributes {
            push_attribute(out, name, value);
        }
        if let Some(text) = &self.text {
            out.push('>');
            escape_text(out, text);
        } else if self.children.is_empty() && !self.open {
            out.push_str("/>\n");
            return;
        } else {
            self.render_children(out, depth);
        }
        out.push_str("</");
        out.push_str(self.name);
        out.push_str(">\n");
    }

    fn render_children(&self, out: &mut String, depth: usize) {
        out.push_str(if self.spaced { ">\n\n" } else { ">\n" });
        for child in &self.children {
            match child {
                Child::Element(element) => element.render_at(out, depth + 1),
                Child::Raw(raw) => {
                    indent(out, depth + 1);
                    out.push_str(&raw.xml);
                    out.push('\n');
                }
            }
            if self.spaced {
                out.push('\n');
            }
        }
        indent(out, depth);
    }
}

pub(crate) fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

pub(crate) fn push_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    for c in value.chars() {
        match c {
            // Written raw, a reader would turn them into spaces.
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            _ => push_escaped(out, c),
        }
    }
    out.push('\'');
}

/// An attribute of an application's element, as libvirt writes those: double quotes, and nothing but ASCII.
pub(crate) fn push_note_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\'' => out.push(c),
            _ if !c.is_ascii() => out.push_str(&format!("&#x{:X};", u32::from(c))),
            _ => push_escaped(out, c),
        }
    }
    out.push('"');
}

/// Text of an application's element, as libvirt writes it: quotes stand for themselves.
pub(crate) fn push_note_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\'' => out.push(c),
            _ => push_escaped(out, c),
        }
    }
}

pub(crate) fn escape_text(out: &mut String, text: &str) {
    if text.bytes().all(|b| matches!(b, b' '..=b'~' if !matches!(b, b'<' | b'>' | b'&' | b'\'' | b'"'))) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        push_escaped(out, c);
    }
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '&' => out.push_str("&amp;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&apos;"),
        '\r' => out.push_str("&#13;"),
        '\n' | '\t' => out.push(c),
        // XML has no way to write these, not even as a reference.
        '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped_as_libvirt_does() {
        let element =
            Element::new("a").attribute("b", "it's \"<&>\"\n\t").child(Element::leaf("c", "it's \"<&>\"\n\t\r\u{1}"));
        assert_eq!(
            element.render(),
            "<a b='it&apos;s &quot;&lt;&amp;&gt;&quot;&#10;&#9;'>\n  \
             <c>it&apos;s &quot;&lt;&amp;&gt;&quot;\n\t&#13;</c>\n</a>\n"
        );
    }

    #[test]
    fn empty_elements_are_closed_at_once_unless_told_otherwise() {
        assert_eq!(Element::new("a").render(), "<a/>\n");
        assert_eq!(Element::new("a").always_open().render(), "<a>\n</a>\n");
        assert_eq!(Element::leaf("a", "").render(), "<a></a>\n");
    }
}
