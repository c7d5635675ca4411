//! The four messages of SCRAM: fields of one letter, in a fixed order, between commas.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{MAX_MESSAGE, ScramError};

/// A client's head: no channel binding, and acting for nobody else.
pub(super) const HEAD: &str = "n,,";

/// A name with what the syntax needs for itself written out.
fn escaped(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// The other way; `None` if an equal sign stands for nothing.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (char, rest) = part.split_at_checked(2)?;
        match char {
            "2C" => name.push(','),
            "3D" => name.push('='),
            _ => return None,
        }
        name.push_str(rest);
    }
    Some(name)
}

fn text(message: &[u8]) -> Option<&str> {
    std::str::from_utf8(message).ok().filter(|text| text.len() <= MAX_MESSAGE && !text.contains('\0'))
}

/// The value of the next field, which must have this letter.
fn field<'a>(fields: &mut impl Iterator<Item = &'a str>, letter: &str) -> Option<&'a str> {
    fields.next()?.strip_prefix(letter)?.strip_prefix('=')
}

fn nonce(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}

pub(super) fn client_first_bare(name: &str, nonce: &str) -> String {
    format!("n={},r={nonce}", escaped(name))
}

pub(super) fn client_final_without_proof(head: &str, nonce: &str) -> String {
    format!("c={},r={nonce}", BASE64.encode(head))
}

pub(super) fn server_first(nonce: &str, salt: &[u8], iterations: u32) -> String {
    format!("r={nonce},s={},i={iterations}", BASE64.encode(salt))
}

/// What a client begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    /// The message up to what is proved as the beginning of the exchange.
    pub(super) head: &'a str,
    /// The rest of it.
    pub(super) bare: &'a str,
    /// For whom the client wants to act.
    pub(super) other: Option<String>,
    pub(super) name: String,
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let text = text(message)?;
        let (binding, rest) = text.split_once(',')?;
        let (other, bare) = rest.split_once(',')?;
        // "y": the client could bind the exchange to TLS and sees that this server does not offer it, which is right.
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let other = if other.is_empty() { None } else { Some(unescaped(other.strip_prefix("a=")?)?) };
        let mut fields = bare.split(',');
        let name = unescaped(field(&mut fields, "n")?).filter(|name| !name.is_empty())?;
        let nonce = nonce(field(&mut fields, "r")?)?;
        let head = text.get(..text.len() - bare.len())?;
        Some(Self { head, bare, other, name, nonce })
    }
}

/// What a server answers to that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    /// The whole message.
    pub(super) text: &'a str,
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let text = text(message)?;
        let mut fields = text.split(',');
        let nonce = nonce(field(&mut fields, "r")?)?;
        let salt = BASE64.decode(field(&mut fields, "s")?).ok()?;
        let iterations = field(&mut fields, "i")?.parse().ok().filter(|count| *count > 0)?;
        Some(Self { text, nonce, salt, iterations })
    }
}

/// A client's proof.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    /// The head of its first message, once more.
    pub(super) head: Vec<u8>,
    pub(super) nonce: &'a str,
    pub(super) proof: [u8; 32],
    /// The message without the proof.
    pub(super) without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let text = text(message)?;
        // The proof is the last field; there may be others before it that nobody needs to know.
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut fields = without_proof.split(',');
        let head = BASE64.decode(field(&mut fields, "c")?).ok()?;
        let nonce = nonce(field(&mut fields, "r")?)?;
        Some(Self { head, nonce, proof: BASE64.decode(proof).ok()?.try_into().ok()?, without_proof })
    }
}

/// A server's proof, or why there is none.
pub(super) fn server_final(message: &[u8]) -> Result<[u8; 32], ScramError> {
    let text = text(message).ok_or(ScramError::Message)?;
    let first = text.split(',').next().unwrap_or_default();
    if let Some(error) = first.strip_prefix("e=") {
        return Err(ScramError::Refused(error.escape_debug().to_string()));
    }
    let proof = first.strip_prefix("v=").and_then(|proof| BASE64.decode(proof).ok()?.try_into().ok());
    proof.ok_or(ScramError::Message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_the_syntax_uses() {
        let bare = client_first_bare("a,b=c", "x");
        assert_eq!(bare, "n=a=2Cb=3Dc,r=x");
        let message = format!("y,a=d=2C,{bare},ext=1");
        let first = ClientFirst::parse(message.as_bytes()).unwrap();
        assert_eq!((first.head, first.name.as_str(), first.nonce), ("y,a=d=2C,", "a,b=c", "x"));
        assert_eq!(first.other.as_deref(), Some("d,"));
        assert_eq!(first.bare, "n=a=2Cb=3Dc,r=x,ext=1");
    }

    #[test]
    fn what_is_no_first_message_is_refused() {
        for message in [
            "",
            ",",
            "n",
            "n,",
            "n,,",
            "n,,r=x",
            "n,,n=,r=x",
            "n,,n=u",
            "n,,n=u,r=",
            "n,,n=u=,r=x",
            "n,,n=u=2,r=x",
            "n,,n=u=2c,r=x",
            "n,,m=1,n=u,r=x",
            "x,,n=u,r=x",
            "n,u,n=u,r=x",
            "n,,n=u\0,r=x",
            "n,,n=u,r=\u{e9}",
        ] {
            assert_eq!(ClientFirst::parse(message.as_bytes()), None, "{message}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=x"), None);
        for message in
            ["", "r=x", "r=x,s=YQ==", "r=x,s=YQ,i=1", "r=x,s=YQ==,i=0", "r=x,s=YQ==,i=-1", "m=1,r=x,s=YQ==,i=1"]
        {
            assert_eq!(ServerFirst::parse(message.as_bytes()), None, "{message}");
        }
        for message in ["", "c=biws", "c=biws,r=x", "c=biws,r=x,p=", "c=biws,r=x,p=YQ==", "r=x,c=biws,p=YQ=="] {
            assert_eq!(ClientFinal::parse(message.as_bytes()), None, "{message}");
        }
    }
}
