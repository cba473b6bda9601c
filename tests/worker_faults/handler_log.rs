//! A file in which handlers write down when they start and end, and the largest number that ran at once.
//!
//! Each line is appended by one write, so that the order of the lines is the order in which it happened. A handler's
//! start is written after its lease was granted, and its end before that is reported: what the file shows as running had
//! a lease at that time. Commands write the number of the server's process that runs them. A command that is killed with
//! its server writes no end: it has ended at the line `kill`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

use jobmill::execute::Attempt;

/// The command that writes such lines to the file, its `$0`: it runs for as long as the payload says.
pub(crate) const SCRIPT: &str = r#"
    read -r nap how || :
    echo "start $GENERATION $JOBMILL_LEASE $JOBMILL_JOB_ID $JOBMILL_LABELS" >> "$0"
    sleep "$nap"
    echo "end $GENERATION $JOBMILL_LEASE" >> "$0"
    [ "$how$JOBMILL_ATTEMPT" != fail1 ] || exit 1
    printf %s "$JOBMILL_LEASE"
"#;

/// What stands in place of a generation for handlers that outlive the server.
const FAR: &str = "far";

/// The writing end of the file.
#[derive(Clone)]
pub(crate) struct HandlerLog(Arc<File>);

impl HandlerLog {
    pub(crate) fn new(path: &Path) -> Self {
        HandlerLog(Arc::new(OpenOptions::new().create(true).append(true).open(path).unwrap()))
    }

    fn write(&self, line: &str) {
        (&*self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Writes the start of a remote worker's attempt. Its end is written when the value is dropped.
    pub(crate) fn starts(&self, attempt: &Attempt) -> Started {
        let lease = attempt.lease().as_i64();
        let labels = serde_json::to_string(attempt.labels()).unwrap();
        self.write(&format!("start {FAR} {lease} {} {labels}", attempt.id()));
        Started { log: self.clone(), lease, how: "stop" }
    }

    /// Writes that the server was killed, and with it the commands of this generation and those before.
    pub(crate) fn killed(&self, generation: u64) {
        self.write(&format!("kill {generation}"));
    }
}

/// An attempt that runs in a remote worker.
pub(crate) struct Started {
    log: HandlerLog,
    lease: i64,
    how: &'static str,
}

impl Started {
    /// Writes that the attempt has done its work.
    pub(crate) fn ends(mut self) {
        self.how = "end";
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.log.write(&format!("{} {FAR} {}", self.how, self.lease));
    }
}

/// What a handler takes a place of: the limit's name and the value, with its weight and the largest one allowed.
pub(crate) struct Place {
    pub(crate) of: (&'static str, String),
    pub(crate) weight: u64,
    pub(crate) max: u64,
}

/// Returns the places of a handler, by its labels and whether it is a command.
pub(crate) type PlacesOf = fn(&BTreeMap<String, String>, bool) -> Vec<Place>;

/// A handler that runs.
struct Run {
    is_command: bool,
    job: String,
    places: Vec<Place>,
}

/// The reading end of the file: it counts what runs at once.
pub(crate) struct Running {
    file: File,
    offset: u64,
    places_of: PlacesOf,
    /// Number of the kills so far, and whether a command has started since the last of them.
    kills: u64,
    has_command: bool,
    runs: HashMap<i64, Run>,
    weights: HashMap<(&'static str, String), u64>,
    leases: HashSet<i64>,
    /// The leases with which each job has done its work.
    pub(crate) done: HashMap<String, HashSet<i64>>,
    /// The largest weight that was seen under each limit, and the value.
    pub(crate) largest: BTreeMap<&'static str, (u64, String)>,
    /// Number of the attempts that a kill, or the silence of the server, has ended.
    pub(crate) cut_off: usize,
}

impl Running {
    pub(crate) fn new(path: &Path, places_of: PlacesOf) -> Self {
        Running {
            file: File::open(path).unwrap(),
            offset: 0,
            places_of,
            kills: 0,
            has_command: false,
            runs: HashMap::new(),
            weights: HashMap::new(),
            leases: HashSet::new(),
            done: HashMap::new(),
            largest: BTreeMap::new(),
            cut_off: 0,
        }
    }

    /// Returns the number of attempts so far.
    pub(crate) fn attempts(&self) -> usize {
        self.leases.len()
    }

    /// Returns the number of handlers that run.
    pub(crate) fn now(&self) -> usize {
        self.runs.len()
    }

    /// Reads what was written meanwhile. Panics if more ran at once than a limit allows.
    pub(crate) fn read(&mut self) {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(self.offset)).unwrap();
        self.file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        for line in text[..whole].lines() {
            self.line(line);
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(5, ' ').collect();
        if let ["kill", generation] = words[..] {
            assert_eq!(generation, self.kills.to_string());
            self.kills += 1;
            self.has_command = false;
            let dead: Vec<_> =
                self.runs.iter().filter(|(_, run)| run.is_command).map(|(lease, _)| *lease).collect();
            self.cut_off += dead.len();
            dead.into_iter().for_each(|lease| self.ends(lease, false));
            return;
        }
        let is_command = words[1] != FAR;
        if is_command && words[1] != self.kills.to_string() {
            // It is being killed. The next server's commands start after that.
            assert!(!self.has_command, "a command has outlived its server: {line}");
            return;
        }
        let lease = words[2].parse().unwrap();
        match words[0] {
            "start" => {
                self.has_command |= is_command;
                assert!(self.leases.insert(lease), "a lease was used twice: {line}");
                let places = (self.places_of)(&serde_json::from_str(words[4]).unwrap(), is_command);
                self.starts(lease, Run { is_command, job: words[3].to_owned(), places }, line);
            }
            "end" => self.ends(lease, true),
            "stop" => {
                self.cut_off += 1;
                self.ends(lease, false);
            }
            _ => panic!("{line}"),
        }
    }

    fn starts(&mut self, lease: i64, run: Run, line: &str) {
        for Place { of, weight, max } in &run.places {
            let now = self.weights.entry(of.clone()).or_default();
            *now += weight;
            assert!(*now <= *max, "{now} run at once under {of:?}, and {max} may: {line}");
            let largest = self.largest.entry(of.0).or_default();
            if *now > largest.0 {
                *largest = (*now, of.1.clone());
            }
        }
        self.runs.insert(lease, run);
    }

    fn ends(&mut self, lease: i64, has_done_its_work: bool) {
        let run = self.runs.remove(&lease).expect("a handler that ends has started");
        for Place { of, weight, .. } in run.places {
            *self.weights.get_mut(&of).unwrap() -= weight;
        }
        if has_done_its_work {
            self.done.entry(run.job).or_default().insert(lease);
        }
    }
}
