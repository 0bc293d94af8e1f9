//! Plain tables: a line of headings, columns as wide as their widest cell, colours by tone.
//!
//! Used by the verbs for people's eyes. Text of peers cannot steer the terminal: control characters
//! are replaced.

/// What a cell means to the reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Less important.
    Dim,
}

impl Tone {
    /// The text in this tone.
    pub(crate) fn paint(self, text: &str, color: bool) -> String {
        let sequence = match self {
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Plain => return text.to_owned(),
        };
        if color { format!("\x1b[{sequence}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Good or bad.
    pub(crate) fn of(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = clean(&text.into());
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::new(text.as_str(), Tone::Plain)
    }
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines; every one ends with a newline.
    pub(crate) fn render(&self, color: bool) -> String {
        let wide = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let cells = cells.map(|cell| cell.text.chars().count());
            cells.chain(self.head.get(column).map(|h| h.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(wide).collect();
        let mut text = String::new();
        let head: Vec<Cell> = self.head.iter().map(|h| Cell::new(*h, Tone::Dim)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let last = row.len().saturating_sub(1);
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                text.push_str(&cell.tone.paint(&cell.text, color));
                if n < last {
                    let gap = width.saturating_sub(cell.text.chars().count()) + 2;
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Text without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Seconds for people: `0.4s`, `12s`, `3m`, `5h`, `2d`.
pub(crate) fn ago(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1}s"),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7_200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3_600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// The same of what may be unknown.
pub(crate) fn maybe_ago(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["ID", "STATE"]);
        table.row(["a-long-one".into(), Cell::new("up", Tone::Good)]);
        table.row(["b".into(), Cell::new("", Tone::Bad)]);
        assert_eq!(table.render(false), "ID          STATE\na-long-one  up\nb           -\n");
        assert!(table.render(true).contains("\x1b[32mup\x1b[0m"));
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        let mut table = Table::new(&["X"]);
        table.row(["\x1b[2Jx\r\n".into()]);
        assert_eq!(table.render(false), "X\n\u{fffd}[2Jx\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn ages_are_short() {
        let shown: Vec<String> = [0.42, 12.0, 180.0, 7_200.0, 200_000.0].into_iter().map(ago).collect();
        assert_eq!(shown, ["0.4s", "12s", "3m", "2h", "2d"]);
    }
}
