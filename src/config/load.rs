//! Resolution of file, environment and flags to settings, or to all faults at once.

use std::{
    ffi::{OsStr, OsString},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    addresses::{Address, CollectorUrl, Loopback},
    context::Context,
    declared::{QUEUE_KEYS, RETENTION_KEYS, check_times, kind_keys, kinds, queues, retention},
    document::{parse, read},
    entry::ResolvedSetting,
    environment::Environment,
    fault::{Fault, Faults, SettingSource, SourceText},
    kind_defaults::{BOUND_KEYS, RETRY_KEYS},
    limits::{self as job_limits, LIMIT_KEYS},
    network,
    paths::Folder,
    rules::{Bool, Choice, DurationIn, FloatIn, LogFilter, OrOff, Rule, SizeIn, quote},
    schedules::{self, CALENDAR_KEYS, SCHEDULE_KEYS},
    section::{Reading, Section},
};
use crate::settings::{
    DiskSettings, LogFormat, LogSettings, Settings, StoreSettings, TracesSettings, limits,
};

const ROOT_KEYS: [&str; 22] = [
    "listen",
    "hosts",
    "insecure",
    "data_dir",
    "memory",
    "drain_timeout",
    "metrics",
    "traces",
    "log",
    "tls",
    "auth",
    "audit",
    "grpc_web",
    "limits",
    "workers",
    "disk",
    "retention",
    "queues",
    "kinds",
    "limit",
    "calendar",
    "schedule",
];
const DISK_KEYS: [&str; 2] = ["ballast", "min_free"];
const TRACES_KEYS: [&str; 2] = ["endpoint", "sample_ratio"];
const METRICS_KEYS: [&str; 1] = ["listen"];
const LOG_KEYS: [&str; 2] = ["filter", "format"];
const LOG_FORMAT: Choice<LogFormat> = Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);

/// Command-line flags, as written. They override every other source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// `--config`: the configuration file.
    pub config: Option<PathBuf>,
    /// `--listen`: the address.
    pub listen: Option<OsString>,
    /// `--insecure`: listen beyond this machine without TLS or tokens.
    pub insecure: bool,
    /// `--data-dir`: the folder that keeps the jobs.
    pub data_dir: Option<PathBuf>,
    /// `--memory`: keep the jobs in memory.
    pub memory: bool,
    /// `--drain-timeout`: how long a stopping server waits.
    pub drain_timeout: Option<OsString>,
    /// `--metrics-listen`: the address of metrics and health.
    pub metrics_listen: Option<OsString>,
    /// `--traces-endpoint`: the URL of the collector of traces.
    pub traces_endpoint: Option<OsString>,
    /// `--log`: the filter of log lines.
    pub log: Option<OsString>,
    /// `--log-format`: the form of log lines.
    pub log_format: Option<OsString>,
}

/// A configuration that has been read and checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The server's settings.
    pub settings: Settings,
    /// The log's settings.
    pub log: LogSettings,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
    /// Every setting as resolved, with its source, in the order of the documentation.
    pub entries: Vec<ResolvedSetting>,
}

/// Reads and checks a configuration. Flags override variables, which override the file, which overrides defaults.
///
/// # Errors
/// All faults, including those in values that another source overrides.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, Faults> {
    let mut faults = Vec::new();
    let source = find_source(flags, environment).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    let document = source.as_ref().and_then(|source| parse(source, &mut faults));
    let base = source.as_ref().and_then(|source| source.path().parent());
    let mut reading = Reading::new(source.as_ref(), faults);
    let root = Section::open(String::new(), document.as_ref(), &ROOT_KEYS, &mut reading);
    let mut layers = Layers { environment, reading: &mut reading };

    let defaults = Settings::new(StoreSettings::Memory);
    let listen =
        Layered { key: "listen", variable: "JOBMILL_LISTEN", flag: ("--listen", flags.listen.as_deref()) };
    let listen = layers.setting(&root, listen, &Address, defaults.listen);
    let hosts = root.list_setting("hosts", limits::HOSTS_MAX, &network::Host, layers.reading);
    let insecure = layers.insecure(&root, flags);
    let context = Context { environment, base: base.unwrap_or(environment.current_dir()) };
    let store = layers.store(&root, flags, context.base);
    let drain_timeout = layers.drain_timeout(&root, flags, defaults.drain_timeout);
    let metrics_listen = layers.metrics(&root, flags);
    let traces = layers.traces(&root, flags);
    let log = layers.log(&root, flags);

    let tls = network::tls(&root, context.base, &mut reading);
    let tokens = network::auth(&root, context.base, &mut reading);
    let audit_file = network::audit(&root, context.base, &mut reading);
    let web_origins = network::grpc_web(&root, &mut reading);
    let limits = network::limits(&root, &mut reading);
    let workers = network::workers(&root, &mut reading);
    let disk = disk(&root, &mut reading);
    let retention = retention(&root, &mut reading);
    let queues = queues(&root, &mut reading);
    check_times(&root, retention, &queues, &mut reading);
    let kinds = kinds(&root, &context, &mut reading);
    let job_limits = job_limits::limits(&root, &mut reading);
    let (calendars, schedules) = schedules::read_all(&root, &context, &queues, &kinds, &mut reading);
    let settings = Settings {
        listen,
        hosts,
        insecure,
        store,
        drain_timeout,
        metrics_listen,
        traces,
        tls,
        tokens,
        audit_file,
        web_origins,
        limits,
        workers,
        disk,
        retention,
        queues,
        kinds,
        schedules,
        calendars,
        job_limits,
    };
    network::check_exposure(&settings, &mut reading);
    network::check_ports(&settings, &mut reading);
    let Reading { faults, entries, .. } = reading;
    Faults::check(faults)?;
    Ok(Loaded { settings, log, file: source.map(|source| source.path().to_owned()), entries })
}

fn disk(root: &Section<'_>, reading: &mut Reading<'_>) -> DiskSettings {
    let table = root.table("disk", reading);
    let section = Section::open("disk".to_owned(), table, &DISK_KEYS, reading);
    let DiskSettings { ballast_bytes, min_free_bytes, accept_loss, vfs } = DiskSettings::default();
    let mut size = |key, limits, default| section.setting(key, &SizeIn(limits), default, reading);
    DiskSettings {
        ballast_bytes: size("ballast", limits::BALLAST_BYTES, ballast_bytes),
        min_free_bytes: size("min_free", limits::MIN_FREE_BYTES, min_free_bytes),
        accept_loss,
        vfs,
    }
}

/// Returns every key that a file may have, with `NAME` for names that the operator chooses.
pub fn keys() -> impl Iterator<Item = String> {
    let root = ["listen", "hosts", "insecure", "data_dir", "memory", "drain_timeout"];
    let root = root.into_iter().map(str::to_owned);
    root.chain(METRICS_KEYS.into_iter().map(|key| format!("metrics.{key}")))
        .chain(TRACES_KEYS.into_iter().map(|key| format!("traces.{key}")))
        .chain(LOG_KEYS.into_iter().map(|key| format!("log.{key}")))
        .chain(network::TLS_KEYS.into_iter().map(|key| format!("tls.{key}")))
        .chain(["auth.tokens", "audit.file", "grpc_web.origins"].map(str::to_owned))
        .chain(network::LIMIT_KEYS.into_iter().map(|key| format!("limits.{key}")))
        .chain(network::WORKER_KEYS.into_iter().map(|key| format!("workers.{key}")))
        .chain(DISK_KEYS.into_iter().map(|key| format!("disk.{key}")))
        .chain(RETENTION_KEYS.into_iter().map(|key| format!("retention.{key}")))
        .chain(
            QUEUE_KEYS.into_iter().filter(|key| *key != "retention").map(|key| format!("queues.NAME.{key}")),
        )
        .chain(RETENTION_KEYS.into_iter().map(|key| format!("queues.NAME.retention.{key}")))
        .chain(
            kind_keys()
                .filter(|key| !matches!(*key, "retry" | "bounds"))
                .map(|key| format!("kinds.NAME.{key}")),
        )
        .chain(RETRY_KEYS.into_iter().map(|key| format!("kinds.NAME.retry.{key}")))
        .chain(BOUND_KEYS.into_iter().map(|key| format!("kinds.NAME.bounds.{key}")))
        .chain(LIMIT_KEYS.into_iter().map(|key| format!("limit.{key}")))
        .chain(CALENDAR_KEYS.into_iter().map(|key| format!("calendar.{key}")))
        .chain(SCHEDULE_KEYS.into_iter().filter(|key| *key != "retry").map(|key| format!("schedule.{key}")))
        .chain(RETRY_KEYS.into_iter().map(|key| format!("schedule.retry.{key}")))
}

/// Finds the configuration file. A named file must exist; the default file is optional.
fn find_source(flags: &Flags, environment: &Environment) -> Result<Option<SourceText>, Fault> {
    let named = |place, path: &Path| (place, environment.current_dir().join(path));
    let (place, path) = match (&flags.config, environment.variable("JOBMILL_CONFIG")) {
        (Some(path), _) => named(SettingSource::Flag("--config"), path),
        (None, Some(path)) => named(SettingSource::Environment("JOBMILL_CONFIG"), Path::new(path)),
        (None, None) => match environment.default_config_file() {
            Some(path) => (SettingSource::Default, path),
            None => return Ok(None),
        },
    };
    let fault = |message: String| Fault {
        place: place.clone(),
        key: "config".to_owned(),
        message: format!("{} {message}", quote(&path.to_string_lossy())),
    };
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && place == SettingSource::Default => {
            return Ok(None);
        }
        Err(error) => {
            return Err(fault(format!("can't be read: {error}; name a file that this user may read")));
        }
    };
    if bytes.len() as u64 > limits::FILE_BYTES_MAX {
        return Err(fault(format!(
            "is over the limit of {} bytes; name a smaller file",
            limits::FILE_BYTES_MAX
        )));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(SourceText::new(path, text))),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.into_bytes()[..at]).into_owned();
            let message = "the file is not UTF-8 from here on; save it as UTF-8".to_owned();
            Err(Fault { place: SourceText::new(path.clone(), text).place(at), key: String::new(), message })
        }
    }
}

/// A setting that file, environment and flags can give.
struct Layered<'a> {
    key: &'static str,
    variable: &'static str,
    flag: (&'static str, Option<&'a OsStr>),
}

struct Layers<'a, 's> {
    environment: &'a Environment,
    reading: &'a mut Reading<'s>,
}

impl Layers<'_, '_> {
    fn insecure(&mut self, root: &Section<'_>, flags: &Flags) -> bool {
        let insecure = Layered {
            key: "insecure",
            variable: "JOBMILL_INSECURE",
            flag: ("--insecure", flags.insecure.then_some(OsStr::new("true"))),
        };
        self.setting(root, insecure, &Bool, false)
    }

    fn drain_timeout(&mut self, root: &Section<'_>, flags: &Flags, default: Duration) -> Duration {
        let drain = Layered {
            key: "drain_timeout",
            variable: "JOBMILL_DRAIN_TIMEOUT",
            flag: ("--drain-timeout", flags.drain_timeout.as_deref()),
        };
        self.setting(root, drain, &DurationIn(limits::DRAIN_TIMEOUT), default)
    }

    fn setting<R: Rule>(
        &mut self,
        section: &Section<'_>,
        given: Layered<'_>,
        rule: &R,
        default: R::Value,
    ) -> R::Value {
        let key = section.key(given.key);
        let mut last = section.read(given.key, rule, self.reading);
        let (flag, flag_text) = given.flag;
        for (place, text) in [
            (SettingSource::Environment(given.variable), self.environment.variable(given.variable)),
            (SettingSource::Flag(flag), flag_text),
        ] {
            last = self.text(place, text, &key, rule).or(last);
        }
        let (value, place) = last.unwrap_or((default, SettingSource::Default));
        self.reading.entry(key, rule.show(&value), place);
        value
    }

    /// Reads the value of a variable or a flag.
    fn text<R: Rule>(
        &mut self,
        place: SettingSource,
        text: Option<&OsStr>,
        key: &str,
        rule: &R,
    ) -> Option<(R::Value, SettingSource)> {
        let text = text?;
        let read = match text.to_str() {
            Some(text) => rule.text(text),
            None => Err(format!("{} is not UTF-8; write {}", quote(&text.to_string_lossy()), rule.wanted())),
        };
        match read {
            Ok(value) => Some((value, place)),
            Err(message) => {
                self.reading.fault(place, key, message);
                None
            }
        }
    }

    fn metrics(&mut self, root: &Section<'_>, flags: &Flags) -> Option<SocketAddr> {
        let table = root.table("metrics", self.reading);
        let section = Section::open("metrics".to_owned(), table, &METRICS_KEYS, self.reading);
        let listen = Layered {
            key: "listen",
            variable: "JOBMILL_METRICS_LISTEN",
            flag: ("--metrics-listen", flags.metrics_listen.as_deref()),
        };
        self.setting(&section, listen, &OrOff(Loopback), None)
    }

    fn traces(&mut self, root: &Section<'_>, flags: &Flags) -> TracesSettings {
        // The second one is the variable of OpenTelemetry's own libraries.
        let (own, common) = ("JOBMILL_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let table = root.table("traces", self.reading);
        let section = Section::open("traces".to_owned(), table, &TRACES_KEYS, self.reading);
        let endpoint = Layered {
            key: "endpoint",
            variable: if self.environment.variable(own).is_some() { own } else { common },
            flag: ("--traces-endpoint", flags.traces_endpoint.as_deref()),
        };
        let default = TracesSettings::default();
        TracesSettings {
            endpoint: self.setting(&section, endpoint, &OrOff(CollectorUrl), default.endpoint),
            sample_ratio: section.setting(
                "sample_ratio",
                &FloatIn(limits::SAMPLE_RATIO),
                default.sample_ratio,
                self.reading,
            ),
        }
    }

    fn log(&mut self, root: &Section<'_>, flags: &Flags) -> LogSettings {
        let table = root.table("log", self.reading);
        let section = Section::open("log".to_owned(), table, &LOG_KEYS, self.reading);
        let default = LogSettings::default();
        let filter =
            Layered { key: "filter", variable: "JOBMILL_LOG", flag: ("--log", flags.log.as_deref()) };
        let format = Layered {
            key: "format",
            variable: "JOBMILL_LOG_FORMAT",
            flag: ("--log-format", flags.log_format.as_deref()),
        };
        LogSettings {
            filter: self.setting(&section, filter, &LogFilter, default.filter),
            format: self.setting(&section, format, &LOG_FORMAT, default.format),
        }
    }

    /// Reads the folder or memory, from the last source that gives either.
    fn store(&mut self, root: &Section<'_>, flags: &Flags, base: &Path) -> StoreSettings {
        let in_file = Folder { base, must_exist: false };
        let elsewhere = Folder { base: self.environment.current_dir(), must_exist: false };
        let variable = |name| (SettingSource::Environment(name), self.environment.variable(name));
        let (memory_place, memory) = variable("JOBMILL_MEMORY");
        let (dir_place, dir) = variable("JOBMILL_DATA_DIR");
        let flag_dir = flags.data_dir.as_ref().map(|dir| dir.as_os_str());
        let layers = [
            (root.read("memory", &Bool, self.reading), root.read("data_dir", &in_file, self.reading)),
            (
                self.text(memory_place, memory, "memory", &Bool),
                self.text(dir_place, dir, "data_dir", &elsewhere),
            ),
            (
                flags.memory.then_some((true, SettingSource::Flag("--memory"))),
                self.text(SettingSource::Flag("--data-dir"), flag_dir, "data_dir", &elsewhere),
            ),
        ];
        let mut memory = (false, SettingSource::Default);
        let mut folder = None;
        for layer in layers {
            if let (Some((true, place)), Some(_)) = &layer {
                let message = "`data_dir` is given as well; keep one of the two";
                self.reading.fault(place.clone(), "memory", message);
            }
            match (layer.0, &layer.1) {
                (Some(given), _) => memory = given,
                // A folder overrides memory that an earlier source asked for.
                (None, Some((_, place))) if memory.0 => memory = (false, place.clone()),
                (None, _) => {}
            }
            folder = layer.1.or(folder);
        }
        let (memory, memory_place) = memory;
        if memory {
            self.reading.entry("data_dir", serde_json::Value::Null, SettingSource::Default);
            self.reading.entry("memory", true.into(), memory_place);
            return StoreSettings::Memory;
        }
        let default = || self.environment.default_data_dir().map(|dir| (dir, SettingSource::Default));
        let Some((folder, place)) = folder.or_else(default) else {
            let message = "there is no default without HOME; write the path of a folder, or memory = true";
            self.reading.fault(SettingSource::Default, "data_dir", message);
            return StoreSettings::Memory;
        };
        self.reading.entry("data_dir", elsewhere.show(&folder), place);
        self.reading.entry("memory", false.into(), memory_place);
        StoreSettings::Folder(folder)
    }
}
