//! A pickle machine that builds data and nothing else: it imports no module and calls no function.
//!
//! A pickle is a program for a stack machine. This machine stores the program's objects in a list of
//! [`Node`]s that refer to each other by index, so that deep, shared or self-containing objects cost neither
//! stack nor copies. Python would look up a name and call it; here a table of [`Names`] defines its meaning
//! in a checkpoint of weights, and rejects all other names.
//!
//! Opcodes and their meaning: CPython's `Lib/pickletools.py`, protocols 1 to 5. Protocol 0 is supported
//! except for its storage names, which every checkpoint needs.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::value::{Array, Bytes, Made, Names, Node, Persistent, Pickle, Value};
use crate::format::error::{CheckpointError, MAX_NAME, damaged, long_name, unsupported};
use crate::hint::SaveAs;

/// Longest pickle to read. That of a full checkpoint of a ViT-g is below 1 MB, because tensors are stored
/// outside.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// Maximum steps of the machine. Each creates one value or copies one entry, so this bounds memory too. A
/// tensor takes about 30 steps.
const MAX_STEPS: usize = 1 << 21;

/// Longest line of a text opcode.
const MAX_LINE: u64 = 1 << 20;

/// Longest text of Python 2 that is kept; a longer one is the bytes of an array.
const MAX_SHORT_TEXT: u64 = MAX_NAME as u64;

/// The input of successive pickles; it counts the bytes read.
pub(crate) struct Input<R> {
    reader: R,
    taken: u64,
    /// Of these, bytes that were skipped: those of arrays.
    skipped: u64,
    limit: u64,
    available: u64,
}

impl<R: BufRead> Input<R> {
    /// The reader has at most `available` bytes.
    pub(crate) fn new(reader: R, available: u64) -> Self {
        let limit = available.min(MAX_BYTES);
        Self {
            reader,
            taken: 0,
            skipped: 0,
            limit,
            available,
        }
    }

    /// Bytes read so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that may still be read and kept.
    fn left(&self) -> u64 {
        let kept = self.taken - self.skipped;
        (self.limit.saturating_sub(kept)).min(self.available.saturating_sub(self.taken))
    }

    /// Passes over bytes, and returns where they begin.
    fn skip(&mut self, count: u64) -> Result<u64, CheckpointError> {
        let start = self.taken;
        if count > self.available.saturating_sub(self.taken) {
            return Err(damaged("the pickle ends early"));
        }
        let passed = std::io::copy(&mut self.reader.by_ref().take(count), &mut std::io::sink())?;
        self.taken += passed;
        self.skipped += passed;
        if passed < count {
            return Err(damaged("the pickle ends early"));
        }
        Ok(start)
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, CheckpointError> {
        // The count comes from the file: nothing is allocated for missing bytes.
        if count > self.left() {
            return Err(if self.limit == MAX_BYTES {
                CheckpointError::Limit(format!("its pickle is longer than {} MiB", MAX_BYTES >> 20))
            } else {
                damaged("the pickle ends early")
            });
        }
        let mut bytes = vec![];
        self.reader.by_ref().take(count).read_to_end(&mut bytes)?;
        self.taken += bytes.len() as u64;
        if (bytes.len() as u64) < count {
            return Err(damaged("the pickle ends early"));
        }
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        if N as u64 > self.left() {
            return Err(damaged("the pickle ends early"));
        }
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => damaged("the pickle ends early"),
                _ => error.into(),
            })?;
        self.taken += N as u64;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String, CheckpointError> {
        let most = MAX_LINE.min(self.left());
        let mut line = vec![];
        self.reader.by_ref().take(most).read_until(b'\n', &mut line)?;
        self.taken += line.len() as u64;
        if line.pop() != Some(b'\n') {
            return Err(damaged("a line of the pickle does not end"));
        }
        String::from_utf8(line).map_err(|_| not_utf8())
    }
}

fn not_utf8() -> CheckpointError {
    damaged("a text of the pickle is not UTF-8")
}

/// Builds the data that the next pickle of `input` describes; `names` defines its names.
pub(crate) fn read<R: BufRead>(input: &mut Input<R>, names: &Names) -> Result<Pickle, CheckpointError> {
    let mut machine = Machine {
        input,
        names,
        nodes: vec![],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        steps: 0,
    };
    let root = machine.run()?;
    Ok(Pickle {
        nodes: machine.nodes,
        root,
    })
}

struct Machine<'a, R> {
    input: &'a mut Input<R>,
    names: &'a Names,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    steps: usize,
}

impl<R: BufRead> Machine<'_, R> {
    fn run(&mut self) -> Result<Value, CheckpointError> {
        loop {
            self.step(1)?;
            let [code] = self.input.array()?;
            match code {
                b'.' => return self.pop(),
                // Protocol and frames do not affect the values.
                0x80 => {
                    let [protocol] = self.input.array()?;
                    if protocol > 5 {
                        return Err(damaged(format!(
                            "a pickle of protocol {protocol}, expected at most 5"
                        )));
                    }
                }
                0x95 => {
                    self.input.array::<8>()?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    // A mark above the last value is popped instead.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                b'1' => {
                    self.pop_mark()?;
                }
                b'2' => {
                    let top = self.top()?.clone();
                    self.stack.push(top);
                }
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'F' | b'G' => self.number(code)?,
                b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d => self.string(code)?,
                b'B' | b'C' | 0x8e | 0x96 => self.raw_bytes(code)?,
                b']' | b')' | 0x8f => self.push_node(Node::List(vec![])),
                b'}' => self.push_node(Node::Dict(vec![])),
                b'l' | b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push_node(Node::List(items));
                }
                0x85..=0x87 => {
                    let mut items = vec![];
                    for _ in 0x84..code {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push_node(Node::List(items));
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push_node(Node::Dict(pairs(items)?));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.assign(vec![(key, value)])?;
                }
                b'u' => {
                    let items = pairs(self.pop_mark()?)?;
                    self.assign(items)?;
                }
                b'g' | b'h' | b'j' => {
                    let index = self.index(code)?;
                    let value = self.memo.get(&index).cloned();
                    self.stack
                        .push(value.ok_or_else(|| damaged("the pickle recalls what it never kept"))?);
                }
                b'p' | b'q' | b'r' => {
                    let index = self.index(code)?;
                    self.keep(index)?;
                }
                0x94 => self.keep(self.memo.len() as u64)?,
                b'c' => {
                    let (module, name) = (self.input.line()?, self.input.line()?);
                    self.push_name(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err(damaged("the pickle imports something that is not a text"));
                    };
                    self.push_name(&module, &name)?;
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(&function, &arguments)?;
                }
                // INST and OBJ call a class with arguments, like REDUCE.
                b'i' => {
                    let (module, name) = (self.input.line()?, self.input.line()?);
                    let arguments = self.pop_mark()?;
                    let arguments = self.node(Node::List(arguments));
                    self.push_name(&module, &name)?;
                    let function = self.pop()?;
                    self.call(&function, &arguments)?;
                }
                b'o' => {
                    let mut arguments = self.pop_mark()?;
                    if arguments.is_empty() {
                        return Err(damaged("the pickle makes an object of no class"));
                    }
                    let function = arguments.remove(0);
                    let arguments = self.node(Node::List(arguments));
                    self.call(&function, &arguments)?;
                }
                // NEWOBJ and NEWOBJ_EX create an object of a class without its constructor.
                0x81 | 0x92 => {
                    for _ in 0x81..=code.min(0x82) {
                        self.pop()?;
                    }
                    let Value::Name(class) = self.pop()? else {
                        return Err(damaged("the pickle makes an object of no class"));
                    };
                    self.push_node((self.names.instance)(class));
                }
                b'b' => {
                    let state = self.pop()?;
                    self.build(state)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    match (self.names.persistent)(&self.nodes, &id)? {
                        Persistent::Storage(storage) => self.push_node(Node::Storage(storage)),
                        Persistent::Value(value) => self.stack.push(value),
                    }
                }
                b'P' => {
                    return Err(unsupported("a pickle of protocol 0, the oldest", SaveAs::Default));
                }
                other => {
                    return Err(damaged(format!(
                        "opcode {other:#04x} in its pickle, which weights do not need"
                    )));
                }
            }
        }
    }

    fn step(&mut self, count: usize) -> Result<(), CheckpointError> {
        self.steps += count;
        if self.steps > MAX_STEPS {
            return Err(CheckpointError::Limit(format!(
                "its pickle takes more than {MAX_STEPS} steps"
            )));
        }
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<(), CheckpointError> {
        let value = match code {
            b'K' => Value::Int(i128::from(self.input.array::<1>()?[0])),
            b'M' => Value::Int(i128::from(u16::from_le_bytes(self.input.array()?))),
            b'J' => Value::Int(i128::from(i32::from_le_bytes(self.input.array()?))),
            0x8a | 0x8b => {
                let length = match code {
                    0x8a => u64::from(self.input.array::<1>()?[0]),
                    _ => u64::from(u32::from_le_bytes(self.input.array()?)),
                };
                let bytes = self.input.bytes(length)?;
                match little_endian(&bytes) {
                    Some(value) => Value::Int(value),
                    None => self.object("int"),
                }
            }
            b'I' | b'L' => {
                let line = self.input.line()?;
                match (code, line.as_str()) {
                    (b'I', "00") => Value::Bool(false),
                    (b'I', "01") => Value::Bool(true),
                    _ => match line.trim_end_matches('L').parse() {
                        Ok(value) => Value::Int(value),
                        Err(_) => return Err(damaged("a number of the pickle cannot be read")),
                    },
                }
            }
            b'F' => match self.input.line()?.parse() {
                Ok(value) => Value::Float(value),
                Err(_) => return Err(damaged("a number of the pickle cannot be read")),
            },
            _ => Value::Float(f64::from_be_bytes(self.input.array()?)),
        };
        self.stack.push(value);
        Ok(())
    }

    fn string(&mut self, code: u8) -> Result<(), CheckpointError> {
        let value = match code {
            b'V' => self.input.line()?,
            b'S' => {
                let line = self.input.line()?;
                let quoted = |mark| line.strip_prefix(mark)?.strip_suffix(mark);
                let inner = quoted('\'')
                    .or_else(|| quoted('"'))
                    .filter(|inner| !inner.contains('\\'));
                inner
                    .ok_or_else(|| damaged("a quoted text of the pickle cannot be read"))?
                    .to_owned()
            }
            _ => {
                let length = match code {
                    b'U' | 0x8c => u64::from(self.input.array::<1>()?[0]),
                    0x8d => u64::from_le_bytes(self.input.array()?),
                    _ => u64::from(u32::from_le_bytes(self.input.array()?)),
                };
                let of_python_2 = matches!(code, b'T' | b'U');
                if of_python_2 && length > MAX_SHORT_TEXT {
                    return self.skip_bytes(length);
                }
                let start = self.input.taken();
                let bytes = self.input.bytes(length)?;
                match String::from_utf8(bytes) {
                    Ok(text) => text,
                    // Python 2's `str`, which may also hold a number's bytes.
                    Err(_) if of_python_2 => {
                        self.push_node(Node::Bytes(Bytes::At { start, length }));
                        return Ok(());
                    }
                    Err(_) => return Err(not_utf8()),
                }
            }
        };
        self.stack.push(Value::Text(value.into()));
        Ok(())
    }

    fn raw_bytes(&mut self, code: u8) -> Result<(), CheckpointError> {
        let length = match code {
            b'C' => u64::from(self.input.array::<1>()?[0]),
            b'B' => u64::from(u32::from_le_bytes(self.input.array()?)),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        self.skip_bytes(length)
    }

    /// Bytes stay in the file; an array reads them there.
    fn skip_bytes(&mut self, length: u64) -> Result<(), CheckpointError> {
        let start = self.input.skip(length)?;
        self.push_node(Node::Bytes(Bytes::At { start, length }));
        Ok(())
    }

    fn index(&mut self, code: u8) -> Result<u64, CheckpointError> {
        Ok(match code {
            b'h' | b'q' => u64::from(self.input.array::<1>()?[0]),
            b'j' | b'r' => u64::from(u32::from_le_bytes(self.input.array()?)),
            _ => match self.input.line()?.parse() {
                Ok(index) => index,
                Err(_) => return Err(damaged("a number of the pickle cannot be read")),
            },
        })
    }

    fn keep(&mut self, index: u64) -> Result<(), CheckpointError> {
        let value = self.top()?.clone();
        self.memo.insert(index, value);
        Ok(())
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<(), CheckpointError> {
        let Value::Name(name) = function else {
            return Err(CheckpointError::Hostile(
                "something that it does not name".to_owned(),
            ));
        };
        let arguments = match arguments {
            Value::Node(index) => match &self.nodes[*index] {
                Node::List(items) => items,
                _ => return Err(damaged("arguments of a call are no tuple")),
            },
            _ => return Err(damaged("arguments of a call are no tuple")),
        };
        match (self.names.call)(&self.nodes, name, arguments)? {
            Made::Value(value) => self.stack.push(value),
            Made::Node(node) => {
                match &node {
                    Node::Dict(entries) => self.step(entries.len())?,
                    Node::Tensor(view) => self.step(view.shape.len())?,
                    Node::Bytes(Bytes::Copy(copy)) => self.step(copy.len())?,
                    _ => {}
                }
                self.push_node(node);
            }
        }
        Ok(())
    }

    /// BUILD: attributes for the object on top.
    fn build(&mut self, attributes: Value) -> Result<(), CheckpointError> {
        if let Value::Name(name) = self.top()? {
            return Err(CheckpointError::Hostile(format!("a change of `{name}` itself")));
        }
        // Attributes of a dictionary or tensor (`_metadata` of a state dict) are not weights.
        match self.target()? {
            Node::Object { state, .. } | Node::ArrayType { state, .. } => *state = Some(attributes),
            Node::Array(array) => *array = Array::State(attributes),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), CheckpointError> {
        match self.target()? {
            Node::List(list) => list.extend(items),
            Node::Object { .. } => {}
            _ => return Err(damaged("the pickle appends to what is no list")),
        }
        Ok(())
    }

    fn assign(&mut self, items: Vec<(Value, Value)>) -> Result<(), CheckpointError> {
        match self.target()? {
            Node::Dict(dict) => dict.extend(items),
            Node::Object { .. } => {}
            _ => return Err(damaged("the pickle assigns into what is no dictionary")),
        }
        Ok(())
    }

    fn target(&mut self) -> Result<&mut Node, CheckpointError> {
        match self.top()? {
            Value::Node(index) => {
                let index = *index;
                Ok(&mut self.nodes[index])
            }
            _ => Err(damaged("the pickle adds to a plain value")),
        }
    }

    fn push_name(&mut self, module: &str, name: &str) -> Result<(), CheckpointError> {
        // Both may be texts that the pickle stores once and uses a million times.
        if module.len() + name.len() >= MAX_NAME {
            return Err(long_name());
        }
        let full = format!("{module}.{name}");
        if (self.names.is_forbidden)(module, name) {
            return Err(CheckpointError::Hostile(format!("`{full}`")));
        }
        self.stack.push(Value::Name(full.into()));
        Ok(())
    }

    fn object(&mut self, class: &str) -> Value {
        self.node(Node::Object {
            class: class.into(),
            state: None,
        })
    }

    fn node(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value::Node(self.nodes.len() - 1)
    }

    fn push_node(&mut self, node: Node) {
        let value = self.node(node);
        self.stack.push(value);
    }

    fn top(&self) -> Result<&Value, CheckpointError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(value) if self.stack.len() > floor => Ok(value),
            _ => Err(damaged("the pickle takes from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Value, CheckpointError> {
        self.top()?;
        self.stack
            .pop()
            .ok_or_else(|| damaged("the pickle takes from an empty stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, CheckpointError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| damaged("the pickle takes to a mark that it never set"))?;
        Ok(self.stack.split_off(mark))
    }
}

fn pairs(items: Vec<Value>) -> Result<Vec<(Value, Value)>, CheckpointError> {
    if !items.len().is_multiple_of(2) {
        return Err(damaged("a dictionary of the pickle has a key without a value"));
    }
    let mut items = items.into_iter();
    let mut pairs = vec![];
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// A two's complement number of any length; `None` if it needs more than 128 bits.
fn little_endian(bytes: &[u8]) -> Option<i128> {
    if bytes.len() > 16 {
        return None;
    }
    let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) {
        0xff
    } else {
        0
    };
    let mut all = [fill; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    Some(i128::from_le_bytes(all))
}
