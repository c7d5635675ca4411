//! A cursor over one row of a table.

use super::table::Fault;

/// Reads words and marks from left to right; every complaint knows its place.
pub struct Scanner<'a> {
    file: &'a str,
    line: usize,
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub fn new(file: &'a str, line: usize, text: &'a str) -> Self {
        Self { file, line, rest: text.trim() }
    }

    pub fn line(&self) -> usize {
        self.line
    }

    pub fn fault(&self, text: impl Into<String>) -> Fault {
        Fault::new(self.file, self.line, text)
    }

    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `mark` if it comes next.
    pub fn eat(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    pub fn expect(&mut self, mark: &str) -> Result<(), Fault> {
        if self.eat(mark) { Ok(()) } else { Err(self.fault(format!("`{mark}` expected before `{}`", self.rest))) }
    }

    /// A name: letters, digits and underscores.
    pub fn name(&mut self) -> Result<&'a str, Fault> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return Err(self.fault(format!("a name expected before `{}`", self.rest)));
        }
        self.rest = rest.trim_start();
        Ok(name)
    }

    pub fn number(&mut self) -> Result<u64, Fault> {
        let word = self.name()?;
        self.parse_number(word)
    }

    pub fn number_u32(&mut self) -> Result<u32, Fault> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| self.fault(format!("{number} is too large")))
    }

    pub fn number_i32(&mut self) -> Result<i32, Fault> {
        let number = self.number()?;
        i32::try_from(number).map_err(|_| self.fault(format!("{number} is too large")))
    }

    pub fn parse_number(&self, word: &str) -> Result<u64, Fault> {
        let parsed = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        parsed.map_err(|_| self.fault(format!("`{word}` is no number")))
    }

    /// What comes up to the next blank.
    pub fn word(&mut self) -> &'a str {
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }
}
