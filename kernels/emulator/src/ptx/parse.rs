//! Tokens to declarations, functions and statements.

use super::PtxError;
use super::element::Element;
use super::lex::{Kind, Token, tokens};
use super::syntax::{Declared, Function, Guard, Initial, Literal, Operand, Raw, Space, Statement, Unit, literal};

/// A cursor over the tokens of a text.
struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// Reads a whole text.
pub(super) fn unit(text: &str) -> Result<Unit, PtxError> {
    let mut reader = Reader { tokens: tokens(text)?, at: 0 };
    let mut unit = Unit::default();
    while let Some(word) = reader.next_word()? {
        match word {
            ".version" | ".address_size" => reader.skip(1),
            ".target" => unit.target = reader.target()?,
            ".file" => reader.skip_line(),
            ".section" => reader.skip_section()?,
            ".visible" | ".weak" | ".extern" | ".common" => {}
            ".entry" => unit.functions.push(reader.function(true)?),
            ".func" => unit.functions.push(reader.function(false)?),
            ".global" | ".const" | ".shared" => unit.variables.push(reader.variable(word)?),
            other => return Err(reader.error(format!("the directive '{other}' is not supported"))),
        }
    }
    Ok(unit)
}

impl<'a> Reader<'a> {
    fn line(&self) -> u32 {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(0, |token| token.line)
    }

    fn error(&self, what: impl Into<String>) -> PtxError {
        PtxError::new(self.line(), what)
    }

    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    fn skip(&mut self, tokens: usize) {
        self.at += tokens;
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
    }

    fn skip_section(&mut self) -> Result<(), PtxError> {
        while self.peek().is_some() && !self.take('}') {
            self.at += 1;
        }
        Ok(())
    }

    fn next_word(&mut self) -> Result<Option<&'a str>, PtxError> {
        match self.peek() {
            None => Ok(None),
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(Some(word))
            }
            Some(Kind::Sign(';')) => {
                self.at += 1;
                self.next_word()
            }
            Some(other) => Err(self.error(format!("{other:?} where a word was expected"))),
        }
    }

    fn word(&mut self) -> Result<&'a str, PtxError> {
        self.next_word()?.ok_or_else(|| self.error("the text ends where a word was expected"))
    }

    fn take(&mut self, sign: char) -> bool {
        let here = self.peek() == Some(Kind::Sign(sign));
        self.at += usize::from(here);
        here
    }

    fn expect(&mut self, sign: char) -> Result<(), PtxError> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.error(format!("{:?} where '{sign}' was expected", self.peek())))
    }

    fn number(&mut self) -> Result<Literal, PtxError> {
        let negative = self.take('-');
        let Some(Kind::Number(text)) = self.peek() else {
            return Err(self.error(format!("{:?} where a number was expected", self.peek())));
        };
        let value = literal(text, self.line())?;
        self.at += 1;
        Ok(match (value, negative) {
            (Literal::Integer(value), true) => Literal::Integer(-value),
            (Literal::Single(bits), true) => Literal::Single(bits ^ (1 << 31)),
            (Literal::Double(bits), true) => Literal::Double(bits ^ (1 << 63)),
            (value, false) => value,
        })
    }

    fn integer(&mut self) -> Result<i64, PtxError> {
        match self.number()? {
            Literal::Integer(value) => Ok(value as i64),
            other => Err(self.error(format!("{other:?} where an integer was expected"))),
        }
    }

    fn target(&mut self) -> Result<String, PtxError> {
        let name = self.word()?.to_owned();
        while self.take(',') {
            self.word()?;
        }
        Ok(name)
    }

    /// What follows `.global`, `.param` and so on, up to the name's initializer.
    fn declared(&mut self, space: &str) -> Result<Declared, PtxError> {
        let space = match space {
            ".global" => Space::Global,
            ".const" => Space::Constant,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" | ".reg" => Space::Parameter,
            other => return Err(self.error(format!("a variable in '{other}' is not supported"))),
        };
        let (mut element, mut align, mut vector) = (None, 0, 1);
        let line = self.line();
        let name = loop {
            match self.word()? {
                ".align" => align = self.integer()? as u32,
                ".ptr" => {
                    // The pointer's space and alignment only help compilers.
                    while let Some(Kind::Word(".global" | ".shared" | ".const" | ".local" | ".align")) = self.peek() {
                        if self.word()? == ".align" {
                            self.integer()?;
                        }
                    }
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" => return Err(self.error("variables with attributes are not supported")),
                word if word.starts_with('.') => {
                    let found = Element::named(&word[1..]);
                    element = Some(found.ok_or_else(|| self.error(format!("the type '{word}' is not supported")))?);
                }
                name => break name.to_owned(),
            }
        };
        let element = element.ok_or_else(|| self.error(format!("'{name}' has no type")))?;
        let mut bytes = Some(u64::from(element.bytes() * vector));
        while self.take('[') {
            if self.take(']') {
                bytes = None;
                continue;
            }
            let count = self.integer()? as u64;
            bytes = bytes.map(|bytes| bytes * count);
            self.expect(']')?;
        }
        let align = if align == 0 { element.bytes() * vector } else { align };
        Ok(Declared { name, space, element, align, bytes, initial: Vec::new(), line })
    }

    fn variable(&mut self, space: &str) -> Result<Declared, PtxError> {
        let mut declared = self.declared(space)?;
        if self.take('=') {
            self.initial(&mut declared.initial)?;
            if declared.bytes.is_none() {
                declared.bytes = Some(declared.initial.len() as u64 * u64::from(declared.element.bytes()));
            }
        }
        self.expect(';')?;
        Ok(declared)
    }

    fn initial(&mut self, pieces: &mut Vec<Initial>) -> Result<(), PtxError> {
        if self.take('{') {
            while !self.take('}') {
                self.initial(pieces)?;
                self.take(',');
            }
            return Ok(());
        }
        if let Some(Kind::Word(word)) = self.peek() {
            self.at += 1;
            let name = if word == "generic" {
                self.expect('(')?;
                let name = self.word()?;
                self.expect(')')?;
                name
            } else {
                word
            };
            let offset = if self.take('+') { self.integer()? } else { 0 };
            pieces.push(Initial::Address(name.to_owned(), offset));
            return Ok(());
        }
        pieces.push(Initial::Literal(self.number()?));
        Ok(())
    }

    fn declared_list(&mut self) -> Result<Vec<Declared>, PtxError> {
        let mut list = Vec::new();
        if self.take('(') {
            while !self.take(')') {
                let space = self.word()?;
                list.push(self.declared(space)?);
                self.take(',');
            }
        }
        Ok(list)
    }

    fn function(&mut self, entry: bool) -> Result<Function, PtxError> {
        let line = self.line();
        let returns = self.declared_list()?;
        let name = self.word()?.to_owned();
        let parameters = self.declared_list()?;
        let mut function = Function { name, entry, returns, parameters, body: None, max_threads: None, line };
        loop {
            match self.peek() {
                Some(Kind::Sign(';')) => {
                    self.at += 1;
                    return Ok(function);
                }
                Some(Kind::Sign('{')) => {
                    self.at += 1;
                    function.body = Some(self.statements()?);
                    return Ok(function);
                }
                Some(Kind::Word(".maxntid" | ".reqntid")) => {
                    self.at += 1;
                    function.max_threads = Some(self.extents()?);
                }
                Some(Kind::Word(".minnctapersm" | ".maxnctapersm" | ".maxnreg")) => self.at += 2,
                Some(Kind::Word(".noreturn")) => self.at += 1,
                other => return Err(self.error(format!("{other:?} after the head of '{}' is not supported", function.name))),
            }
        }
    }

    fn extents(&mut self) -> Result<[u32; 3], PtxError> {
        let mut extents = [1; 3];
        for (axis, extent) in extents.iter_mut().enumerate() {
            if axis > 0 && !self.take(',') {
                break;
            }
            *extent = self.integer()? as u32;
        }
        Ok(extents)
    }

    /// Everything up to the closing brace.
    fn statements(&mut self) -> Result<Vec<Statement>, PtxError> {
        let mut list = Vec::new();
        loop {
            match self.peek() {
                None => return Err(self.error("the text ends inside a function")),
                Some(Kind::Sign('}')) => {
                    self.at += 1;
                    return Ok(list);
                }
                Some(Kind::Sign('{')) => {
                    self.at += 1;
                    list.push(Statement::Scope(self.statements()?));
                }
                Some(Kind::Sign(';')) => self.at += 1,
                Some(Kind::Sign('@')) => list.push(Statement::Instruction(self.instruction()?)),
                Some(Kind::Word(word)) => self.statement(word, &mut list)?,
                Some(other) => return Err(self.error(format!("{other:?} where a statement was expected"))),
            }
        }
    }

    fn statement(&mut self, word: &'a str, list: &mut Vec<Statement>) -> Result<(), PtxError> {
        match word {
            ".reg" => {
                self.at += 1;
                list.push(self.registers()?);
            }
            ".loc" | ".file" => self.skip_line(),
            ".pragma" => {
                self.at += 2;
                self.expect(';')?;
            }
            ".local" | ".shared" | ".param" | ".global" | ".const" => {
                self.at += 1;
                list.push(Statement::Variable(self.variable(word)?));
            }
            _ if self.tokens.get(self.at + 1).map(|token| token.kind) == Some(Kind::Sign(':')) => {
                self.at += 2;
                if self.peek() == Some(Kind::Word(".branchtargets")) {
                    self.at += 1;
                    let mut targets = vec![self.word()?.to_owned()];
                    while self.take(',') {
                        targets.push(self.word()?.to_owned());
                    }
                    self.expect(';')?;
                    list.push(Statement::Targets(word.to_owned(), targets));
                } else {
                    list.push(Statement::Label(word.to_owned()));
                }
            }
            _ if word.starts_with('.') => return Err(self.error(format!("the directive '{word}' is not supported"))),
            _ => list.push(Statement::Instruction(self.instruction()?)),
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<Statement, PtxError> {
        let word = self.word()?;
        let element = word.strip_prefix('.').and_then(Element::named);
        let element = element.ok_or_else(|| self.error(format!("registers of type '{word}' are not supported")))?;
        let mut names = Vec::new();
        loop {
            let name = self.word()?.to_owned();
            let count = if self.take('<') {
                let count = self.integer()? as u32;
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            names.push((name, count));
            if !self.take(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers { element, names })
    }

    fn instruction(&mut self) -> Result<Raw, PtxError> {
        let guard = if self.take('@') {
            let negated = self.take('!');
            Some(Guard { predicate: self.word()?.to_owned(), negated })
        } else {
            None
        };
        let line = self.line();
        let opcode = self.word()?.to_owned();
        let mut operands = Vec::new();
        while !self.take(';') {
            operands.push(self.operand()?);
            if !self.take(',') && self.peek() != Some(Kind::Sign(';')) {
                return Err(self.error(format!("{:?} where ',' or ';' was expected", self.peek())));
            }
        }
        Ok(Raw { guard, opcode, operands, line })
    }

    fn operand(&mut self) -> Result<Operand, PtxError> {
        let first = self.single()?;
        if self.take('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.single()?)));
        }
        Ok(first)
    }

    fn list(&mut self, close: char) -> Result<Vec<Operand>, PtxError> {
        let mut parts = Vec::new();
        while !self.take(close) {
            parts.push(self.operand()?);
            self.take(',');
        }
        Ok(parts)
    }

    fn single(&mut self) -> Result<Operand, PtxError> {
        match self.peek() {
            Some(Kind::Sign('{')) => {
                self.at += 1;
                Ok(Operand::Vector(self.list('}')?))
            }
            Some(Kind::Sign('(')) => {
                self.at += 1;
                Ok(Operand::Group(self.list(')')?))
            }
            Some(Kind::Sign('[')) => {
                self.at += 1;
                self.address()
            }
            Some(Kind::Sign('!')) => {
                self.at += 1;
                Ok(Operand::Not(self.word()?.to_owned()))
            }
            Some(Kind::Word("WARP_SZ")) => {
                self.at += 1;
                Ok(Operand::Literal(Literal::Integer(32)))
            }
            Some(Kind::Word(_)) => {
                let name = self.word()?.to_owned();
                if self.take('+') {
                    return Ok(Operand::Sum(name, self.integer()?));
                }
                Ok(Operand::Name(name))
            }
            _ => Ok(Operand::Literal(self.number()?)),
        }
    }

    fn address(&mut self) -> Result<Operand, PtxError> {
        let base = match self.peek() {
            Some(Kind::Word(_)) => Some(self.word()?.to_owned()),
            _ => None,
        };
        let has_offset = self.take('+') || base.is_none() || self.peek() == Some(Kind::Sign('-'));
        let offset = if has_offset { self.integer()? } else { 0 };
        self.expect(']')?;
        Ok(Operand::Address(base, offset))
    }
}
