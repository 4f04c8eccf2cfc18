//! Rows of a CSV file, in bounded memory.
//!
//! Quoted fields may hold line ends, so one unclosed quote would swallow every row after it and count as one
//! broken row. Here it is an error that names its line. Everything else is parsed leniently, as other readers
//! do: quotes inside an unquoted field are text, and so is everything behind a closing quote on the same
//! line.

use std::io::BufRead;

/// Longest row that is read, and longest quoted field, bytes.
const LONGEST_ROW: u64 = 4 << 20;

/// An open file.
#[derive(Debug)]
pub struct Rows<R> {
    reader: R,
    delimiter: u8,
    /// The fields of the row, concatenated.
    text: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The current line, from 1.
    line: u64,
    /// Bytes read.
    offset: u64,
    /// Line and offset at which the last row began.
    start: (u64, u64),
}

/// The result of reading a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A row, whose fields are now available.
    Row,
    /// A row of more than 4 MiB, which was skipped.
    TooLong,
    /// The end of the file.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the row has been read.
    Row,
    /// Nothing of the field has been read.
    Field,
    Plain,
    Quoted,
    /// After a quote within a quoted field: its end, or the first of two that encode one quote.
    Quote,
}

impl<R: BufRead> Rows<R> {
    /// The rows from the reader's position on; a byte-order mark there is skipped.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn new(mut reader: R, delimiter: u8) -> std::io::Result<Rows<R>> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let mut offset = 0;
        if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
            offset = BYTE_ORDER_MARK.len() as u64;
        }
        Ok(Rows {
            reader,
            delimiter,
            text: Vec::new(),
            ends: Vec::new(),
            line: 1,
            offset,
            start: (1, offset),
        })
    }

    /// Number of fields of the last row.
    pub fn width(&self) -> usize {
        self.ends.len()
    }

    /// A field of the last row, by its number from 0.
    pub fn field(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end)
    }

    /// All fields of the last row.
    pub fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.width()).filter_map(|at| self.field(at))
    }

    /// The line on which the last row began, from 1.
    pub fn line(&self) -> u64 {
        self.start.0
    }

    /// Bytes between the reader's first position and the last row.
    pub fn offset(&self) -> u64 {
        self.start.1
    }

    /// Reads the next row; empty lines are skipped.
    ///
    /// # Errors
    /// Those of the reader, and [`InvalidData`](std::io::ErrorKind::InvalidData) that names the line of an
    /// unclosed quote.
    pub fn next_row(&mut self) -> std::io::Result<Next> {
        self.text.clear();
        self.ends.clear();
        let mut state = State::Row;
        let mut taken = 0u64;
        // Line and place at which the last quoted field began.
        let mut quote = (0u64, 0u64);
        loop {
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                return match state {
                    State::Row => Ok(Next::End),
                    State::Quoted => Err(unpaired(quote.0, "does not end before the end of the file")),
                    _ => Ok(ended(&self.text, &mut self.ends, taken)),
                };
            }
            let mut used = 0;
            for byte in chunk.iter().copied() {
                used += 1;
                let line = self.line;
                self.line += u64::from(byte == b'\n');
                let kept = taken <= LONGEST_ROW;
                taken += 1;
                if state == State::Row {
                    self.start = (line, self.offset + used as u64 - 1);
                }
                state = match (state, byte) {
                    (State::Quoted, b'"') => State::Quote,
                    (State::Quoted, _) => {
                        if taken - quote.1 > LONGEST_ROW {
                            return Err(unpaired(quote.0, "has not ended after 4 MiB"));
                        }
                        if kept {
                            self.text.push(byte);
                        }
                        State::Quoted
                    }
                    (State::Row, b'\n' | b'\r') => {
                        taken = 0;
                        State::Row
                    }
                    (_, b'\n' | b'\r') => {
                        self.reader.consume(used);
                        self.offset += used as u64;
                        return Ok(ended(&self.text, &mut self.ends, taken));
                    }
                    (_, byte) if byte == self.delimiter => {
                        if kept {
                            self.ends.push(self.text.len());
                        }
                        State::Field
                    }
                    (State::Row | State::Field, b'"') => {
                        quote = (line, taken);
                        State::Quoted
                    }
                    (State::Quote, byte) if byte != b'"' && quote.0 != line => {
                        return Err(unpaired(
                            quote.0,
                            &format!("holds line ends, and text follows its closing quote on line {line}"),
                        ));
                    }
                    (before, byte) => {
                        if kept {
                            self.text.push(byte);
                        }
                        match (before, byte) {
                            (State::Quote, b'"') => State::Quoted,
                            _ => State::Plain,
                        }
                    }
                };
            }
            self.reader.consume(used);
            self.offset += used as u64;
        }
    }
}

fn ended(text: &[u8], ends: &mut Vec<usize>, taken: u64) -> Next {
    if taken > LONGEST_ROW {
        return Next::TooLong;
    }
    ends.push(text.len());
    Next::Row
}

fn unpaired(line: u64, reason: &str) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!(
            "line {line}: a quoted field begins here and {reason}; a `\"` in a text is written `\"\"`, and the text within quotes"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(text: impl Into<Vec<u8>>) -> Result<Vec<Vec<String>>, String> {
        // Small buffers, so that every state also meets a buffer's end.
        let reader = std::io::BufReader::with_capacity(3, Cursor::new(text.into()));
        let mut rows = Rows::new(reader, b',').unwrap();
        let mut rows_read = Vec::new();
        loop {
            match rows.next_row().map_err(|error| error.to_string())? {
                Next::End => return Ok(rows_read),
                Next::TooLong => rows_read.push(vec!["too long".to_string()]),
                Next::Row => rows_read.push(
                    rows.fields()
                        .map(|field| String::from_utf8_lossy(field).into_owned())
                        .collect(),
                ),
            }
        }
    }

    #[test]
    fn rows_are_those_of_the_crate_csv() {
        for text in [
            "",
            "a",
            "a,b\nc,d",
            "a,b\r\nc,d\r\n",
            "a\rb\r",
            "\n\na,b\n\n\nc\n",
            ",,\n,\n",
            "\"a,b\",\"c\"\"d\",\"e\nf\"\ng\n",
            "a\"b,\"c\"d,\"\"\n\"\"\"\"\n",
            "\"a\"\r\n\"b\",\r\n",
            "\u{feff}\"a,b\",c\n",
        ] {
            let mut reader = csv::ReaderBuilder::new()
                .flexible(true)
                .has_headers(false)
                .from_reader(text.as_bytes());
            let expected: Vec<Vec<String>> = reader
                .records()
                .map(|record| record.unwrap().iter().map(str::to_string).collect())
                .collect();
            assert_eq!(read(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_rows_place_is_where_it_begins() {
        let text = "\u{feff}a,b\r\n\n\"c\nd\",e\n\nf\n";
        let reader = std::io::BufReader::with_capacity(4, Cursor::new(text));
        let mut rows = Rows::new(reader, b',').unwrap();
        let mut places = Vec::new();
        while rows.next_row().unwrap() != Next::End {
            assert_eq!(text.as_bytes()[rows.offset() as usize], b"a\"f"[places.len()]);
            places.push((rows.line(), rows.offset()));
        }
        assert_eq!(places, [(1, 3), (3, 9), (6, 18)]);
    }

    #[test]
    fn a_quote_without_its_partner_is_named() {
        let error = read("a,b\nc,\"d\ne,f\ng,h\n").unwrap_err();
        assert!(
            error.starts_with("line 2: a quoted field begins here and does not end before"),
            "{error}"
        );
        // Another quoted field ends it in the middle of a later row.
        let error = read("a,b\nc,\"d\ne,f\ng,\"h\"\ni,j\n").unwrap_err();
        assert!(
            error.starts_with("line 2:") && error.contains("closing quote on line 4"),
            "{error}"
        );
        let endless = format!("a,b\nc,\"d\n{}", "e,f\n".repeat(2 << 20));
        let error = read(endless).unwrap_err();
        assert!(error.starts_with("line 2:") && error.contains("4 MiB"), "{error}");
    }

    #[test]
    fn long_rows_are_told_and_those_after_them_read() {
        let text = format!("a\n{},b\n{}\nc\n", "x".repeat(5 << 20), ",".repeat(5 << 20));
        assert_eq!(read(text).unwrap(), [["a"], ["too long"], ["too long"], ["c"]]);
    }
}
