//! Live view of jobs for people: progress bars on a terminal, lines elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{describe, exit::Failure, text, ui::Ui};
use jobmill::proto::v1::{Job, JobState, OutputLine};

/// Limit of the rows with bars: they must fit on a small terminal, because indicatif can't redraw rows that have
/// scrolled away.
const ROWS_MAX: usize = 16;
const BAR_STEPS: u64 = 1_000;
const TICK: Duration = Duration::from_millis(120);

/// Destination of lines where there are no bars. Bars are always on stderr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineTarget {
    Stdout,
    Stderr,
}

/// A live view of jobs.
pub(super) struct Live<'u> {
    ui: &'u Ui,
    lines: LineTarget,
    bars: Option<Bars>,
    /// The last line shown for each job that has not ended, so that none is printed twice.
    last: BTreeMap<String, String>,
}

struct Bars {
    multi: MultiProgress,
    rows: BTreeMap<String, ProgressBar>,
    /// Jobs that have not ended and have no row.
    others: BTreeSet<String>,
    footer: Option<ProgressBar>,
}

impl<'u> Live<'u> {
    pub(super) fn new(ui: &'u Ui, lines: LineTarget) -> Self {
        // Another program that reads stdout needs the lines even where stderr is a terminal.
        let bars = ui.bars && (lines == LineTarget::Stderr || ui.stdout_is_terminal);
        Live { ui, lines, bars: bars.then(Bars::new), last: BTreeMap::new() }
    }

    /// Shows the present state of a job.
    pub(super) fn job(&mut self, job: &Job) -> Result<(), Failure> {
        let line = line(job, self.ui);
        if self.last.get(&job.id) == Some(&line) {
            return Ok(());
        }
        match &mut self.bars {
            Some(bars) if job.done => bars.ended(&job.id, &line),
            Some(bars) => bars.goes_on(job, &line),
            None => self.write(&line)?,
        }
        if job.done {
            self.last.remove(&job.id);
        } else {
            self.last.insert(job.id.clone(), line);
        }
        Ok(())
    }

    /// Shows that a job has left the view before its end.
    pub(super) fn left(&mut self, id: &str, why: &str) -> Result<(), Failure> {
        self.last.remove(id);
        let line = format!("{}  {why}", text::escape(id));
        match &mut self.bars {
            Some(bars) => bars.ended(id, &line),
            None => self.write(&line)?,
        }
        Ok(())
    }

    /// Shows a line that an attempt has written.
    pub(super) fn output(&mut self, line: &OutputLine) -> Result<(), Failure> {
        self.say(&format!("{}  | {}", text::escape(&line.id), text::escape(&line.text)))
    }

    /// Shows a message about the watch itself.
    pub(super) fn note(&mut self, note: &str) {
        match &self.bars {
            Some(bars) => bars.multi.suspend(|| self.ui.note(note)),
            None => self.ui.note(note),
        }
    }

    /// Removes the bars from the terminal.
    pub(super) fn finish(&mut self) {
        if let Some(bars) = self.bars.take() {
            // An error means that the terminal is gone.
            let _ = bars.multi.clear();
        }
    }

    fn say(&self, line: &str) -> Result<(), Failure> {
        match &self.bars {
            Some(bars) => bars.multi.suspend(|| self.write(line)),
            None => self.write(line),
        }
    }

    fn write(&self, line: &str) -> Result<(), Failure> {
        match self.lines {
            LineTarget::Stdout => self.ui.print(line),
            LineTarget::Stderr => {
                self.ui.note(line);
                Ok(())
            }
        }
    }
}

/// Formats a job in one line.
fn line(job: &Job, ui: &Ui) -> String {
    let state = format!("{:<12}", text::state(job.state));
    let state = if ui.colour { text::coloured(&state, text::state_colour(job.state)) } else { state };
    let details = describe::state_details(job, ui.clock.now());
    format!("{}  {state} {details}", text::escape(&job.id)).trim_end().to_owned()
}

impl Bars {
    fn new() -> Self {
        Bars {
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            rows: BTreeMap::new(),
            others: BTreeSet::new(),
            footer: None,
        }
    }

    fn goes_on(&mut self, job: &Job, line: &str) {
        if !self.rows.contains_key(&job.id) {
            if self.rows.len() >= ROWS_MAX {
                self.others.insert(job.id.clone());
                self.count_others();
                return;
            }
            if self.others.remove(&job.id) {
                self.count_others();
            }
            let row = match &self.footer {
                Some(footer) => self.multi.insert_before(footer, ProgressBar::new(BAR_STEPS)),
                None => self.multi.add(ProgressBar::new(BAR_STEPS)),
            };
            row.set_style(style("{bar:20.cyan/dim} {wide_msg}"));
            row.enable_steady_tick(TICK);
            self.rows.insert(job.id.clone(), row);
        }
        if let Some(row) = self.rows.get(&job.id) {
            let running =
                matches!(JobState::try_from(job.state), Ok(JobState::Running | JobState::Cancelling));
            let progress = job.progress.as_ref().filter(|_| running);
            let fraction = progress.and_then(|progress| progress.fraction).unwrap_or(0.0);
            row.set_position((fraction.clamp(0.0, 1.0) * BAR_STEPS as f64) as u64);
            row.set_message(line.to_owned());
        }
    }

    /// Prints an ended job's line above the rows, and frees its row for a job that goes on.
    fn ended(&mut self, id: &str, line: &str) {
        if let Some(row) = self.rows.remove(id) {
            row.finish_and_clear();
            self.multi.remove(&row);
        }
        if self.others.remove(id) {
            self.count_others();
        }
        // An error means that the terminal is gone.
        let _ = self.multi.println(line);
    }

    fn count_others(&mut self) {
        if self.others.is_empty() {
            if let Some(footer) = self.footer.take() {
                footer.finish_and_clear();
                self.multi.remove(&footer);
            }
            return;
        }
        let footer = self.footer.get_or_insert_with(|| {
            let footer = self.multi.add(ProgressBar::new_spinner());
            footer.set_style(style("{msg}"));
            footer
        });
        footer.set_message(format!("… and {} more", self.others.len()));
    }
}

/// Returns the style of a template, or the default style if the template is invalid.
pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        describe::tests::{at, failed_job},
        ui::Format,
    };
    use jobmill::clock::{Clock, ManualClock};

    #[test]
    fn a_job_in_one_line() {
        let mut ui = Ui::new(Format::Text, true);
        ui.colour = false;
        ui.clock = Clock::Manual(ManualClock::new(at(0)));
        insta::assert_snapshot!(line(&failed_job(), &ui), @r"
        06g3k5m0v4000  FAILED       attempt 2 of 2: disk \x1b]0;owned\x07 full (exit code 1)
        ");
        ui.colour = true;
        assert!(line(&failed_job(), &ui).contains("\u{1b}[31mFAILED"));
    }
}
