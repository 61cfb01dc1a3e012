//! Tables in Markdown, aligned so that they read well as plain text too.
use std::fmt;

/// A table whose first columns are text and whose others are numbers.
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    text: usize,
}

impl Table {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new(), text: 1 }
    }

    /// How many columns are text; 1 by default.
    pub fn left(self, text: usize) -> Self {
        Self { text, ..self }
    }

    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
        for (column, &width) in widths.iter().enumerate() {
            let cell = cells.get(column).map_or("", String::as_str);
            if column < self.text {
                write!(f, "| {cell:<width$} ")?;
            } else {
                write!(f, "| {cell:>width$} ")?;
            }
        }
        f.write_str("|\n")
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        (0..self.head.len()).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        self.line(f, &self.head, &widths)?;
        for (column, &width) in widths.iter().enumerate() {
            let rule = if column < self.text { format!("| {:-<width$} ", "") } else { format!("| {:->width$} ", ":") };
            f.write_str(&rule)?;
        }
        f.write_str("|\n")?;
        self.rows.iter().try_for_each(|row| self.line(f, row, &widths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(["peer", "calls/s"]);
        table.row(["callboard", "12"]);
        table.row(["raw"]);
        let expected =
            "| peer      | calls/s |\n| --------- | ------: |\n| callboard |      12 |\n| raw       |         |\n";
        assert_eq!(table.to_string(), expected);
    }
}
