//! Why a call failed: texts that travel, and the chain of [`std::error::Error`] that programs walk.

use std::{error::Error, fmt, ops::Deref, sync::OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The causes of an error, from the nearest to the first one. It is read like a slice of texts.
#[derive(Default)]
pub struct Causes {
    texts: Vec<String>,
    /// The same as [`Error::source`] gives them, made when somebody asks: few do, and errors are copied and sent.
    chain: OnceLock<Option<Box<Cause>>>,
}

impl Causes {
    /// One more, below the others.
    pub(super) fn push(&mut self, text: String) {
        self.texts.push(text);
        self.chain.take();
    }

    /// The nearest cause; its source is the next one.
    pub(super) fn nearest(&self) -> Option<&(dyn Error + 'static)> {
        let chain = self.chain.get_or_init(|| {
            let link = |source, text: &String| Some(Box::new(Cause { text: text.clone(), source }));
            self.texts.iter().rev().fold(None, link)
        });
        chain.as_deref().map(|cause| cause as _)
    }
}

/// One cause in a chain.
#[derive(Debug)]
struct Cause {
    text: String,
    source: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

impl Drop for Cause {
    /// Link by link: a chain as long as a frame allows must not exhaust the stack.
    fn drop(&mut self) {
        let mut next = self.source.take();
        while let Some(mut cause) = next {
            next = cause.source.take();
        }
    }
}

impl Deref for Causes {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.texts
    }
}

impl<'a> IntoIterator for &'a Causes {
    type Item = &'a String;
    type IntoIter = std::slice::Iter<'a, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.texts.iter()
    }
}

impl Clone for Causes {
    fn clone(&self) -> Causes {
        Causes::from(self.texts.clone())
    }
}

impl From<Vec<String>> for Causes {
    fn from(texts: Vec<String>) -> Causes {
        Causes { texts, chain: OnceLock::new() }
    }
}

impl PartialEq for Causes {
    fn eq(&self, other: &Causes) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Causes {}

impl<S, const N: usize> PartialEq<[S; N]> for Causes
where
    String: PartialEq<S>,
{
    fn eq(&self, other: &[S; N]) -> bool {
        self.texts == *other
    }
}

impl fmt::Debug for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.texts.fmt(f)
    }
}

/// As the texts alone.
impl Serialize for Causes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Causes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Causes, D::Error> {
        Vec::deserialize(deserializer).map(Causes::from)
    }
}
