//! How much of a document is read before it is refused.
//!
//! The reader builds a tree, and some of its work grows faster than the text does (an element's attributes are compared
//! with each other, namespace declarations are inherited). One pass over the bytes checks these bounds first, so the
//! tree is never begun for a document that breaks them.

/// The longest document, in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The deepest nesting of elements; the root counts as 1.
pub const MAX_DEPTH: usize = 64;
/// The most `<` and the most `=` in a document: they bound its nodes and attributes before any is allocated.
pub const MAX_MARKUP: usize = 128 * 1024;
/// The most attributes on one element.
pub const MAX_ATTRIBUTES: usize = 256;
/// The longest name of an element or attribute in bytes.
pub const MAX_TAG_NAME_BYTES: usize = 1024;
/// The most namespace declarations in a document.
pub const MAX_NAMESPACES: usize = 64;
/// The longest name of a domain in bytes, so that a file named after it (with a suffix) fits every file system.
pub const MAX_NAME_BYTES: usize = 200;
