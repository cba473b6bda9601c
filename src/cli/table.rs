//! Tables whose rows stay on one line each, so that `grep` and `awk` work on them.

use clap::builder::styling::AnsiColor;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table as Layout, presets};

/// A table that is being filled.
pub(super) struct Table {
    layout: Layout,
    right: Vec<usize>,
}

/// A cell: text, already escaped, and its colour.
pub(super) type Text = (String, Option<AnsiColor>);

impl Table {
    pub(super) fn new<const N: usize>(header: [&str; N], colour: bool) -> Self {
        let mut layout = Layout::new();
        layout.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            layout.enforce_styling();
        } else {
            layout.force_no_tty();
        }
        layout.set_header(header);
        Table { layout, right: Vec::new() }
    }

    /// Aligns these columns to the right.
    pub(super) fn numbers<const N: usize>(mut self, columns: [usize; N]) -> Self {
        self.right = columns.to_vec();
        self
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Text; N]) {
        let cells = cells.into_iter().map(|(text, colour)| match colour.and_then(table_colour) {
            Some(colour) => Cell::new(text).fg(colour),
            None => Cell::new(text),
        });
        self.layout.add_row(cells.collect::<Vec<_>>());
    }

    /// Renders the table without trailing spaces.
    pub(super) fn render(mut self) -> String {
        for (index, column) in self.layout.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.layout.trim_fmt()
    }
}

/// Returns a cell without colour.
pub(super) fn plain(text: impl Into<String>) -> Text {
    (text.into(), None)
}

fn table_colour(colour: AnsiColor) -> Option<Color> {
    match colour {
        AnsiColor::Red => Some(Color::DarkRed),
        AnsiColor::Green => Some(Color::DarkGreen),
        AnsiColor::Yellow => Some(Color::DarkYellow),
        AnsiColor::Cyan => Some(Color::DarkCyan),
        AnsiColor::Magenta => Some(Color::DarkMagenta),
        AnsiColor::Black
        | AnsiColor::Blue
        | AnsiColor::White
        | AnsiColor::BrightBlack
        | AnsiColor::BrightRed
        | AnsiColor::BrightGreen
        | AnsiColor::BrightYellow
        | AnsiColor::BrightBlue
        | AnsiColor::BrightMagenta
        | AnsiColor::BrightCyan
        | AnsiColor::BrightWhite => None,
    }
}
