//! From the text of a cron expression to the local times that it names. A fault says where it is, what was expected
//! there, and, where the text is another program's dialect, what to write instead.

use super::cron::{Cron, Days};

/// Longest expression, in bytes.
pub(super) const BYTES_MAX: usize = 256;

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * SUN"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Parses an expression.
///
/// # Errors
///
/// The fault, in one sentence that begins with the expression.
pub(super) fn parse(text: &str) -> Result<Cron, String> {
    if text.len() > BYTES_MAX {
        let bytes = text.len();
        return Err(format!("an expression of {bytes} bytes is too long: at most {BYTES_MAX}"));
    }
    let trimmed = text.trim_ascii();
    if trimmed.starts_with('@') {
        return nickname(text, trimmed);
    }
    parse_fields(text).map_err(|fault| fault.told(text))
}

fn nickname(text: &str, trimmed: &str) -> Result<Cron, String> {
    if let Some((_, meaning)) = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(trimmed)) {
        return parse_fields(meaning).map_err(|fault| fault.told(text));
    }
    let expected = if trimmed.to_ascii_lowercase().starts_with("@every") {
        "five or six fields; a fixed distance is not a cron expression: give it as `every`"
    } else if trimmed.eq_ignore_ascii_case("@reboot") {
        "times; a schedule does not run at a start of the server"
    } else {
        "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, or five or six fields"
    };
    Err(Fault { at: text.find('@').unwrap_or(0), expected: expected.to_owned(), found: None }.told(text))
}

/// A fault at a byte of the text.
#[derive(Debug)]
struct Fault {
    at: usize,
    expected: String,
    /// What is there instead, if it is not the text from that byte up to the next separator.
    found: Option<String>,
}

impl Fault {
    fn told(&self, text: &str) -> String {
        let character = text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        let rest = text.get(self.at..).unwrap_or_default();
        let found = self.found.clone().unwrap_or_else(|| {
            let word = rest.split([',', ' ', '\t', '\n', '\r']).next().unwrap_or_default();
            // A separator where a value was expected is itself what was found.
            match (word, rest.trim_ascii()) {
                ("", "") => "the end".to_owned(),
                ("", rest) => rest.chars().take(1).map(|found| format!("`{found}`")).collect(),
                (word, _) => format!("`{}`", word.escape_debug()),
            }
        });
        let expected = &self.expected;
        format!("`{}`, character {character}: expected {expected}; found {found}", text.escape_debug())
    }
}

/// One of the six fields.
struct Field {
    /// Plural.
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// What a fault offers.
    values: &'static str,
}

const SECONDS: Field = Field { name: "seconds", min: 0, max: 59, names: &[], values: "0-59" };
const MINUTES: Field = Field { name: "minutes", min: 0, max: 59, names: &[], values: "0-59" };
const HOURS: Field = Field { name: "hours", min: 0, max: 23, names: &[], values: "0-23" };
const DAYS: Field =
    Field { name: "days of the month", min: 1, max: 31, names: &[], values: "1-31, `L`, `L-3`, `15W`, `LW`" };
const MONTH: Field = Field { name: "months", min: 1, max: 12, names: &MONTHS, values: "1-12 or JAN-DEC" };
const DAYS_OF_WEEK: Field = Field {
    name: "days of the week",
    min: 0,
    max: 7,
    names: &WEEKDAYS,
    values: "0-7 or SUN-SAT (0 and 7 are SUN), `FRI#2`, `FRI#L`",
};

/// A set of values; bit *n* stands for the value *n*.
type Set = u64;

fn parse_fields(text: &str) -> Result<Cron, Fault> {
    let fields = split(text)?;
    let (seconds, fields) = match fields.as_slice() {
        [seconds, rest @ ..] if rest.len() == 5 => (Some(*seconds), rest),
        rest => (None, rest),
    };
    let &[minutes, hours, of_month, months, of_week] = fields else {
        return Err(Fault { at: text.len(), expected: "five or six fields".to_owned(), found: None });
    };
    let cursor = |(from, to), field| Cursor { text, at: from, to, field };
    let plain = |range, field| cursor(range, field).list(Cursor::item);
    // From left to right, so that the first fault is told.
    let seconds_set = seconds.map_or(Ok(1), |seconds| plain(seconds, &SECONDS))?;
    let minutes_set = plain(minutes, &MINUTES)?;
    let hours = plain(hours, &HOURS)?;
    let mut days = Days::default();
    cursor(of_month, &DAYS).list(|cursor| cursor.day(&mut days))?;
    let months = plain(months, &MONTH)?;
    let together = text[of_week.0..].starts_with('+');
    let quartz = seconds.is_some() && text[of_month.0..of_month.1].contains('?');
    let weekdays = (of_week.0 + usize::from(together), of_week.1);
    cursor(weekdays, &DAYS_OF_WEEK).list(|cursor| cursor.weekday(&mut days, quartz))?;
    let begins_with_star = |(from, _): (usize, usize)| text[from..].starts_with(['*', '?']);
    days.either = !together && !begins_with_star(of_month) && !begins_with_star(of_week);
    Ok(Cron {
        seconds: seconds_set,
        minutes: minutes_set,
        minutes_step: text[minutes.0..minutes.1].contains(['*', '/']),
        hours: u32::try_from(hours).unwrap_or(0),
        months: u16::try_from(months).unwrap_or(0),
        days,
    })
}

/// Returns the byte ranges of the fields: five or six.
fn split(text: &str) -> Result<Vec<(usize, usize)>, Fault> {
    let mut fields = Vec::with_capacity(6);
    let mut start = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        match start {
            None if !byte.is_ascii_whitespace() => start = Some(at),
            Some(from) if byte.is_ascii_whitespace() => {
                fields.push((from, at));
                start = None;
            }
            None | Some(_) => {}
        }
    }
    let fault =
        |at, expected: &str, found: Option<String>| Err(Fault { at, expected: expected.into(), found });
    match fields.len() {
        5 | 6 => Ok(fields),
        0 => fault(0, "five or six fields, such as `30 2 * * *`", Some("nothing".to_owned())),
        7 => fault(
            fields[6].0,
            "the end after six fields; there is no field for years: give a start and an end",
            None,
        ),
        count @ 1..5 => {
            let expected =
                "five fields (minute, hour, day of month, month, day of week), or six with the second first";
            fault(text.trim_ascii_end().len(), expected, Some(format!("the end after {count}")))
        }
        count => fault(fields[6].0, "the end after six fields", Some(format!("{count} fields"))),
    }
}

/// A position in one field.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    to: usize,
    field: &'static Field,
}

impl Cursor<'_> {
    /// Parses items with commas between them.
    fn list(mut self, mut item: impl FnMut(&mut Self) -> Result<Set, Fault>) -> Result<Set, Fault> {
        let mut set = item(&mut self)?;
        while self.at < self.to {
            if !self.eat(b',') {
                return Err(self.fault("`,` or the end of the field"));
            }
            set |= item(&mut self)?;
        }
        Ok(set)
    }

    /// Parses `*`, a value, a range, or one of them with a step.
    fn item(&mut self) -> Result<Set, Fault> {
        let open_max = if self.field.max == 7 { 6 } else { self.field.max };
        if self.eat(b'*') {
            let step = self.step()?.unwrap_or(1);
            return Ok(set(self.field.min, open_max, step));
        }
        let start = self.at;
        let (first, _) = self.value()?;
        if self.eat(b'-') {
            let (mut last, named) = self.value()?;
            if self.field.max == 7 && named && last == 0 && first > 0 {
                last = 7;
            }
            if last < first {
                return Err(self.downward(start, first, last, open_max));
            }
            let step = self.step()?.unwrap_or(1);
            return Ok(set(first, last, step));
        }
        Ok(match self.step()? {
            Some(step) => set(first, open_max.max(first), step),
            None => set(first, first, 1),
        })
    }

    /// Parses an item of the days of the month.
    fn day(&mut self, days: &mut Days) -> Result<Set, Fault> {
        let narrow = |set: Set| u32::try_from(set >> 1).unwrap_or(0);
        if self.eat(b'?') {
            days.of_month = u32::MAX;
        } else if self.eat(b'L') {
            let mut before = 0;
            if self.eat(b'-') {
                let start = self.at;
                let number = self.number().filter(|before| (1..=30).contains(before));
                let expected = "how many days before the month's last day, 1-30";
                before = number.ok_or_else(|| self.fault_at(start, expected))?;
            }
            let days = if self.eat(b'W') { &mut days.nearest_last } else { &mut days.before_last };
            *days |= 1 << before;
        } else if self.peek() == Some(b'W') {
            return Err(self
                .fault("a day before `W`: `15W` is the working day nearest to the 15th, `LW` the last one"));
        } else {
            let start = self.at;
            let set = self.item()?;
            if self.peek() == Some(b'W') {
                if set.count_ones() > 1 {
                    return Err(self.fault_at(start, "one day before `W`, such as `15W`"));
                }
                self.at += 1;
                days.nearest |= narrow(set);
            } else {
                days.of_month |= narrow(set);
            }
        }
        Ok(0)
    }

    /// Parses an item of the days of the week. With `quartz`, the expression looks like one of Quartz, which counts
    /// weekdays from 1.
    fn weekday(&mut self, days: &mut Days, quartz: bool) -> Result<Set, Fault> {
        if self.eat(b'?') {
            days.weekdays = 0x7f;
            return Ok(0);
        }
        let start = self.at;
        if quartz && self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.fault(
                "the names SUN-SAT beside a `?`: in Quartz, weekdays are numbered from 1 (SUN), and here from 0",
            ));
        }
        if self.peek() == Some(b'L') {
            return Err(self.fault(
                "a weekday; `L` alone is Saturday in Quartz and nothing in cron: write `SAT`, or `FRI#L` for the \
                 month's last Friday",
            ));
        }
        let set = self.item()?;
        // 7 is Sunday, as 0 is.
        let weekdays = u8::try_from((set | set >> 7) & 0x7f).unwrap_or(0);
        let hash = self.eat(b'#');
        if !hash && self.peek() != Some(b'L') {
            days.weekdays |= weekdays;
            return Ok(0);
        }
        if set.count_ones() > 1 {
            return Err(self.fault_at(
                start,
                "one weekday before `#` or `L`, such as `FRI#2`, `MON#2,FRI#2` or `FRI#L`",
            ));
        }
        if self.eat(b'L') {
            days.last |= weekdays;
            return Ok(0);
        }
        let at = self.at;
        let which = self.number().and_then(|nth| days.nth.get_mut((nth as usize).wrapping_sub(1)));
        let Some(nth) = which else {
            return Err(self.fault_at(at, "which one of the month, 1-5, or `L` for the last"));
        };
        *nth |= weekdays;
        Ok(0)
    }

    /// Parses a number or a name, and returns whether it is a name.
    fn value(&mut self) -> Result<(u32, bool), Fault> {
        let start = self.at;
        if let Some(number) = self.number() {
            if number < self.field.min || number > self.field.max {
                return Err(self.expected_value(start));
            }
            return Ok((number, false));
        }
        let word = self.text.get(self.at..(self.at + 3).min(self.to)).unwrap_or_default();
        let Some(place) = self.field.names.iter().position(|name| name.eq_ignore_ascii_case(word)) else {
            return Err(self.expected_value(start));
        };
        self.at += word.len();
        let goes_on = self.peek().is_some_and(|byte| byte.is_ascii_alphabetic());
        // `FRIL` is the last Friday.
        if goes_on && !(self.field.max == 7 && self.peek() == Some(b'L') && self.at + 1 == self.item_end()) {
            return Err(self.expected_value(start));
        }
        Ok((u32::try_from(place).unwrap_or(0) + self.field.min, true))
    }

    /// Parses `/` and a step, if there is one.
    fn step(&mut self) -> Result<Option<u32>, Fault> {
        if !self.eat(b'/') {
            return Ok(None);
        }
        let start = self.at;
        let max = self.field.max;
        match self.number() {
            Some(step) if (1..=max).contains(&step) => Ok(Some(step)),
            Some(step) if step > max => {
                let name = self.field.name;
                let expected = format!(
                    "a step of 1-{max}, since a step counts within the {name} and begins anew with each round; for a \
                     longer distance give `every`"
                );
                Err(self.fault_at(start, &expected))
            }
            Some(_) | None => Err(self.fault_at(start, &format!("a step of 1-{max}"))),
        }
    }

    /// Parses digits. A number that is too large for a field stays too large.
    fn number(&mut self) -> Option<u32> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes()[..self.to].get(self.at).map(u8::to_ascii_uppercase)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn item_end(&self) -> usize {
        self.text[self.at..self.to].find(',').map_or(self.to, |comma| self.at + comma)
    }

    fn expected_value(&self, at: usize) -> Fault {
        let Field { name, values, .. } = self.field;
        self.fault_at(at, &format!("{name}: {values}, `*`, a range or a step"))
    }

    /// The fault of a range that goes downward, with the two ranges that are meant.
    fn downward(&self, at: usize, first: u32, last: u32, max: u32) -> Fault {
        let show = |value: u32| {
            let name = self.field.names.get(value.wrapping_sub(self.field.min) as usize);
            name.map_or_else(|| value.to_string(), |name| (*name).to_owned())
        };
        let range = |from: u32, to: u32| match from == to {
            true => show(from),
            false => format!("{}-{}", show(from), show(to)),
        };
        let instead = format!("{},{}", range(first, max), range(self.field.min, last));
        self.fault_at(at, &format!("a range that goes upward; write `{instead}`"))
    }

    fn fault(&self, expected: &str) -> Fault {
        self.fault_at(self.at, expected)
    }

    fn fault_at(&self, at: usize, expected: &str) -> Fault {
        // At the end of the field, what follows is another field.
        let found = (at >= self.to && self.to < self.text.trim_ascii_end().len())
            .then(|| "the end of the field".to_owned());
        Fault { at, expected: expected.to_owned(), found }
    }
}

fn set(first: u32, last: u32, step: u32) -> Set {
    (first..=last).step_by(step as usize).fold(0, |set, value| set | 1 << value)
}
