//! From the text of a table to a [`Program`]. Names are looked up as they are read, so a row can only use what stands
//! above it: no type can hold itself.

use super::scan::Scanner;
use super::table::{
    Access, Arm, Call, Const, Detail, EventId, Fault, Field, OfNone, Op, Program, Scalar, Type, TypeBody, TypeDef,
};

/// Reads one table. `earlier` are the programs whose types and limits it may use.
pub fn parse(file: &str, text: &str, earlier: &[Program]) -> Result<Program, Fault> {
    let rows = rows(file, text)?;
    let mut rows = rows.iter();
    let Some(first) = rows.next() else {
        return Err(Fault::new(file, 1, "the table is empty"));
    };
    let program = header(file, first)?;
    let mut parser = Parser { program, earlier, family: String::new(), part: String::new() };
    for row in rows {
        parser.row(row)?;
    }
    parser.program.ops.sort_by_key(|op| op.number);
    Ok(parser.program)
}

/// A row with the lines that carry it on, and the documentation above it.
struct Row {
    line: usize,
    text: String,
    docs: Vec<String>,
}

fn rows(file: &str, text: &str) -> Result<Vec<Row>, Fault> {
    let mut rows: Vec<Row> = Vec::new();
    let mut docs = Vec::new();
    let mut open = false;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        if let Some(doc) = raw.strip_prefix("##") {
            docs.push(doc.trim().to_owned());
            open = false;
        } else if raw.starts_with('#') || raw.trim().is_empty() {
            open = false;
        } else if raw.starts_with(char::is_whitespace) {
            match rows.last_mut().filter(|_| open) {
                Some(row) => {
                    row.text.push(' ');
                    row.text.push_str(raw.trim());
                }
                None => return Err(Fault::new(file, line, "an indented line carries on a row, but none stands above")),
            }
        } else {
            rows.push(Row { line, text: raw.trim().to_owned(), docs: std::mem::take(&mut docs) });
            open = true;
        }
    }
    if docs.is_empty() { Ok(rows) } else { Err(Fault::new(file, text.lines().count(), "documentation of no row")) }
}

fn header(file: &str, row: &Row) -> Result<Program, Fault> {
    let mut scan = Scanner::new(file, row.line, &row.text);
    if scan.name()? != "program" {
        return Err(scan.fault("the first row must be `program`"));
    }
    let name = scan.name()?.to_owned();
    let number = scan.number_u32()?;
    scan.expect("version")?;
    let version = scan.number_u32()?;
    end(&scan)?;
    Ok(Program { file: file.to_owned(), name, number, version, consts: vec![], types: vec![], ops: vec![] })
}

fn end(scan: &Scanner<'_>) -> Result<(), Fault> {
    if scan.at_end() { Ok(()) } else { Err(scan.fault("something follows the end of the row")) }
}

struct Parser<'a> {
    program: Program,
    earlier: &'a [Program],
    /// Of the calls below.
    family: String,
    /// The part of it.
    part: String,
}

impl Parser<'_> {
    fn row(&mut self, row: &Row) -> Result<(), Fault> {
        let file = self.program.file.clone();
        let mut scan = Scanner::new(&file, row.line, &row.text);
        match scan.name()? {
            "family" => {
                self.family = scan.name()?.to_owned();
                self.part.clear();
            }
            "part" => self.part = scan.name()?.to_owned(),
            "const" => {
                let value = self.constant(&mut scan)?;
                self.program.consts.push(value);
            }
            "struct" => self.type_row(&mut scan, row, |parser, scan| {
                let fields = parser.fields(scan, "{", "}")?;
                Ok(TypeBody::Struct(fields))
            })?,
            "union" => self.type_row(&mut scan, row, Self::union_body)?,
            "enum" => self.type_row(&mut scan, row, |_, scan| enum_body(scan))?,
            "call" => {
                let op = self.call(&mut scan, row)?;
                self.program.ops.push(op);
            }
            "event" => {
                let op = self.event(&mut scan, row)?;
                self.program.ops.push(op);
            }
            other => return Err(scan.fault(format!("`{other}` begins no row"))),
        }
        end(&scan)
    }

    fn constant(&self, scan: &mut Scanner<'_>) -> Result<Const, Fault> {
        let name = scan.name()?.to_owned();
        scan.expect("=")?;
        let value = scan.number()?;
        Ok(Const { name, value, line: scan.line() })
    }

    fn type_row(
        &mut self,
        scan: &mut Scanner<'_>,
        row: &Row,
        body: impl Fn(&Self, &mut Scanner<'_>) -> Result<TypeBody, Fault>,
    ) -> Result<(), Fault> {
        let name = scan.name()?.to_owned();
        let body = body(self, scan)?;
        self.program.types.push(TypeDef { name, docs: row.docs.clone(), line: row.line, body });
        Ok(())
    }

    fn union_body(&self, scan: &mut Scanner<'_>) -> Result<TypeBody, Fault> {
        let mut arms = Vec::new();
        scan.expect("{")?;
        while !scan.eat("}") {
            let number = scan.number_i32()?;
            let name = scan.name()?.to_owned();
            scan.expect(":")?;
            arms.push(Arm { number, name, ty: self.ty(scan)? });
            if !scan.eat(",") {
                scan.expect("}")?;
                break;
            }
        }
        Ok(TypeBody::Union(arms))
    }

    fn fields(&self, scan: &mut Scanner<'_>, open: &str, close: &str) -> Result<Vec<Field>, Fault> {
        let mut fields: Vec<Field> = Vec::new();
        scan.expect(open)?;
        while !scan.eat(close) {
            let name = scan.name()?.to_owned();
            if fields.iter().any(|field| field.name == name) {
                return Err(scan.fault(format!("field `{name}` stands twice")));
            }
            scan.expect(":")?;
            fields.push(Field { name, ty: self.ty(scan)? });
            if !scan.eat(",") {
                scan.expect(close)?;
                break;
            }
        }
        Ok(fields)
    }

    fn ty(&self, scan: &mut Scanner<'_>) -> Result<Type, Fault> {
        let mut ty = self.plain_type(scan)?;
        loop {
            if scan.eat("<") {
                let limit = self.limit(scan)?;
                scan.expect(">")?;
                ty = Type::List(Box::new(ty), limit);
            } else if scan.eat("[") {
                let length = self.limit(scan)?;
                scan.expect("]")?;
                ty = Type::Exact(Box::new(ty), length);
            } else if scan.eat("?") {
                ty = Type::Optional(Box::new(ty));
            } else {
                return Ok(ty);
            }
        }
    }

    fn plain_type(&self, scan: &mut Scanner<'_>) -> Result<Type, Fault> {
        let word = scan.name()?;
        let scalar = match word {
            "int" => Scalar::Int,
            "uint" => Scalar::Uint,
            "hyper" => Scalar::Hyper,
            "uhyper" => Scalar::Uhyper,
            "double" => Scalar::Double,
            "bool" => Scalar::Bool,
            "char" => Scalar::Char,
            "uchar" => Scalar::Uchar,
            "short" => Scalar::Short,
            "ushort" => Scalar::Ushort,
            "uuid" => return Ok(Type::Uuid),
            "string" => return Ok(Type::String(self.value_of("STRING_MAX", scan)?)),
            "opaque" => {
                scan.expect("<")?;
                let limit = self.limit(scan)?;
                scan.expect(">")?;
                return Ok(Type::Opaque(limit));
            }
            _ => return self.named_type(word, scan),
        };
        Ok(Type::Scalar(scalar))
    }

    fn named_type(&self, word: &str, scan: &mut Scanner<'_>) -> Result<Type, Fault> {
        let (program, name) = if scan.eat(".") { (word, scan.name()?) } else { (self.program.name.as_str(), word) };
        let known = if program == self.program.name {
            defines(&self.program, name)
        } else {
            self.earlier.iter().any(|other| other.name == program && defines(other, name))
        };
        if known {
            Ok(Type::Named { program: program.to_owned(), name: name.to_owned() })
        } else {
            Err(scan.fault(format!("no type `{program}.{name}` stands above this row")))
        }
    }

    /// A number, or the name of a constant above.
    fn limit(&self, scan: &mut Scanner<'_>) -> Result<u64, Fault> {
        let word = scan.name()?;
        self.value_of(word, scan)
    }

    fn value_of(&self, word: &str, scan: &Scanner<'_>) -> Result<u64, Fault> {
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return scan.parse_number(word);
        }
        let own = self.program.consts.iter();
        own.chain(self.earlier.iter().flat_map(|other| &other.consts))
            .find(|known| known.name == word)
            .map(|known| known.value)
            .ok_or_else(|| scan.fault(format!("no constant `{word}` stands above this row")))
    }

    fn event(&self, scan: &mut Scanner<'_>, row: &Row) -> Result<Op, Fault> {
        let number = scan.number_u32()?;
        let name = scan.name()?.to_owned();
        let args = self.fields(scan, "(", ")")?;
        let mut since = None;
        let mut id: Option<EventId> = None;
        while !scan.at_end() {
            let word = scan.word();
            match (word.split_once('='), word, &mut id) {
                (Some(("since", value)), _, _) => since = Some(value.to_owned()),
                (Some(("id", value)), _, _) => id = Some(event_id(scan, value)?),
                (None, "legacy", Some(id)) => id.legacy = true,
                _ => return Err(scan.fault(format!("`{word}` is no rule of an event"))),
            }
        }
        let since = since.ok_or_else(|| scan.fault("`since=` is missing"))?;
        let family = id.as_ref().map(|id| id.family.clone()).unwrap_or_default();
        let part = String::new();
        Ok(Op {
            number,
            name,
            docs: row.docs.clone(),
            line: row.line,
            args,
            since,
            family,
            part,
            detail: Detail::Event(id),
        })
    }

    fn call(&self, scan: &mut Scanner<'_>, row: &Row) -> Result<Op, Fault> {
        let number = scan.number_u32()?;
        let name = scan.name()?.to_owned();
        let args = self.fields(scan, "(", ")")?;
        scan.expect("->")?;
        let mut call = Call { ret: self.fields(scan, "(", ")")?, ..Call::default() };
        let mut since = None;
        let (mut family, mut part) = (self.family.clone(), self.part.clone());
        while !scan.at_end() {
            let word = scan.word();
            match word.split_once('=') {
                Some(("since", value)) => since = Some(value.to_owned()),
                Some(("family", value)) => (family, part) = (value.to_owned(), String::new()),
                Some(("part", value)) => part = value.to_owned(),
                Some((rule, value)) => self.rule(scan, &mut call, rule, value)?,
                None => mark(scan, &mut call, word)?,
            }
        }
        if call.access.is_none() {
            return Err(scan.fault("the access rule is missing: read, write or write_if="));
        }
        let since = since.ok_or_else(|| scan.fault("`since=` is missing"))?;
        let detail = Detail::Call(Box::new(call));
        Ok(Op { number, name, docs: row.docs.clone(), line: row.line, args, since, family, part, detail })
    }

    fn rule(&self, scan: &Scanner<'_>, call: &mut Call, rule: &str, value: &str) -> Result<(), Fault> {
        match rule {
            "write_if" => call.access = Some(self.condition(scan, value)?),
            "acl" if value == "none" => call.acl_none = true,
            "acl" => call.acl.extend(value.split(',').map(str::to_owned)),
            "filter" => call.filter = Some(value.to_owned()),
            "stream" => call.stream = Some(value.to_owned()),
            "sparse" => call.sparse = Some(self.value_of(value, scan)?),
            "fds_in" => call.fds_in = range(scan, value)?,
            "fds_out" => call.fds_out = range(scan, value)?,
            "api" => call.api = Some(value.to_owned()),
            "flags" => call.flags = Some(self.value_of(value, scan)?),
            "libvirt" => call.libvirt = value.split(',').map(str::to_owned).collect(),
            "none" if value == "empty" => call.none = Some(OfNone::Empty),
            "none" if value == "missing" => call.none = Some(OfNone::Missing),
            _ => return Err(scan.fault(format!("`{rule}=` is no rule of a call"))),
        }
        Ok(())
    }

    /// `FIELD&BITS` or `FIELD==VALUE`.
    fn condition(&self, scan: &Scanner<'_>, text: &str) -> Result<Access, Fault> {
        if let Some((field, value)) = text.split_once("==") {
            return Ok(Access::WriteIfValue { field: field.to_owned(), value: self.value_of(value, scan)? });
        }
        let Some((field, bits)) = text.split_once('&') else {
            return Err(scan.fault("write_if= needs FIELD&BITS or FIELD==VALUE"));
        };
        let mut mask = 0;
        for bit in bits.split('|') {
            mask |= self.value_of(bit, scan)?;
        }
        Ok(Access::WriteIfBits { field: field.to_owned(), mask })
    }
}

/// Does the program have this type, by a row of its own, as the message of an event or as the answer of a call?
fn defines(program: &Program, name: &str) -> bool {
    let is_msg = |event| program.events().any(|op| op.name == event);
    let is_ret = |called| program.calls().any(|(op, call)| op.name == called && !call.ret.is_empty());
    program.types.iter().any(|def| def.name == name)
        || name.strip_suffix("_msg").is_some_and(is_msg)
        || name.strip_suffix("_ret").is_some_and(is_ret)
}

fn enum_body(scan: &mut Scanner<'_>) -> Result<TypeBody, Fault> {
    let mut values = Vec::new();
    scan.expect("{")?;
    while !scan.eat("}") {
        let name = scan.name()?.to_owned();
        scan.expect("=")?;
        values.push((name, scan.number_i32()?));
        if !scan.eat(",") {
            scan.expect("}")?;
            break;
        }
    }
    Ok(TypeBody::Enum(values))
}

fn event_id(scan: &Scanner<'_>, value: &str) -> Result<EventId, Fault> {
    let Some((family, number)) = value.split_once(':') else {
        return Err(scan.fault("id= needs FAMILY:N"));
    };
    let number = scan.parse_number(number)?;
    let number = i32::try_from(number).map_err(|_| scan.fault(format!("{number} is too large")))?;
    Ok(EventId { family: family.to_owned(), number, legacy: false })
}

/// A rule that is one word.
fn mark(scan: &Scanner<'_>, call: &mut Call, word: &str) -> Result<(), Fault> {
    match word {
        "read" | "write" if call.access.is_some() => return Err(scan.fault("more than one access rule")),
        "read" => call.access = Some(Access::Read),
        "write" => call.access = Some(Access::Write),
        "high" => call.high = true,
        "no_auth" => call.no_auth = true,
        _ => return Err(scan.fault(format!("`{word}` is no rule of a call"))),
    }
    Ok(())
}

/// `N` or `N..M`.
fn range(scan: &Scanner<'_>, text: &str) -> Result<(u16, u16), Fault> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let bound = |word: &str| {
        let number = scan.parse_number(word)?;
        u16::try_from(number).map_err(|_| scan.fault(format!("{number} is too large")))
    };
    let (low, high) = (bound(low)?, bound(high)?);
    if low <= high { Ok((low, high)) } else { Err(scan.fault(format!("`{text}` is no range"))) }
}
