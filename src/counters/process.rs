//! Metrics of the process, under Prometheus' standard names. `prometheus` has a collector of these, which counts
//! processor time in whole seconds and depends on a second copy of rustix.

use std::{fs, io};

use parking_lot::Mutex;
use prometheus::{
    Counter, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use super::factory::{MetricFactory, MetricsError};

/// Collects the metrics from `/proc` each time that the page is requested.
#[derive(Debug)]
struct ProcessCollector {
    cpu: Counter,
    max_fds: IntGauge,
    open_fds: IntGauge,
    resident: IntGauge,
    start_time: IntGauge,
    threads: IntGauge,
    virtual_memory: IntGauge,
    /// Held while the values are read: two pages may be requested at a time.
    reading: Mutex<()>,
}

/// Registers the metrics of this process.
pub(super) fn register(factory: &MetricFactory) -> Result<(), MetricsError> {
    let collector = ProcessCollector {
        cpu: Counter::new("process_cpu_seconds_total", "Processor time of the process, in seconds.")?,
        max_fds: IntGauge::new("process_max_fds", "Limit of its open file descriptors.")?,
        open_fds: IntGauge::new("process_open_fds", "Its open file descriptors.")?,
        resident: IntGauge::new("process_resident_memory_bytes", "Its resident memory, in bytes.")?,
        start_time: IntGauge::new("process_start_time_seconds", "Its start time, in seconds since 1970.")?,
        threads: IntGauge::new("process_threads", "Its threads.")?,
        virtual_memory: IntGauge::new("process_virtual_memory_bytes", "Its virtual memory, in bytes.")?,
        reading: Mutex::new(()),
    };
    // Read once: the boot time moves when the clock is set.
    collector.start_time.set(start_time().unwrap_or_default());
    factory.0.register(Box::new(collector))?;
    Ok(())
}

impl ProcessCollector {
    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.max_fds,
            &self.open_fds,
            &self.resident,
            &self.start_time,
            &self.threads,
            &self.virtual_memory,
        ]
    }

    fn read(&self) -> io::Result<()> {
        if let Some(stat) = Stat::parse(&fs::read_to_string("/proc/self/stat")?) {
            self.cpu.inc_by((stat.cpu_seconds() - self.cpu.get()).max(0.0));
            self.threads.set(stat.threads);
            self.virtual_memory.set(stat.virtual_bytes);
            self.resident.set(stat.resident_pages * page_size() as i64);
        }
        // Without the one that this reads the folder by.
        self.open_fds.set(fs::read_dir("/proc/self/fd")?.count() as i64 - 1);
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            self.max_fds.set(limit as i64);
        }
        Ok(())
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _reading = self.reading.lock();
        match self.read() {
            Ok(()) => self.all().into_iter().flat_map(Collector::collect).collect(),
            // Without `/proc`, as in some sandboxes, there are no such metrics.
            Err(_) => Vec::new(),
        }
    }
}

/// Fields of `/proc/self/stat`; see `proc_pid_stat(5)`.
#[derive(Debug, PartialEq)]
struct Stat {
    user_ticks: i64,
    system_ticks: i64,
    threads: i64,
    start_ticks: i64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field, the program's name in parentheses, may contain spaces and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Stat {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn cpu_seconds(&self) -> f64 {
        (self.user_ticks + self.system_ticks) as f64 / clock_ticks_per_second() as f64
    }
}

/// The start time of the process, in seconds since 1970.
fn start_time() -> Option<i64> {
    let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(boot + stat.start_ticks / clock_ticks_per_second() as i64)
}

/// The boot time in `/proc/stat`, in seconds since 1970.
fn boot_time(stat: &str) -> Option<i64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn fields_are_found_behind_any_name_of_the_program() {
        let fields: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        for name in ["jobmill", "a b", "a) S (b"] {
            let stat = Stat::parse(&format!("77 ({name}) S {}\n", fields.join(" "))).unwrap();
            let expected = Stat {
                user_ticks: 14,
                system_ticks: 15,
                threads: 20,
                start_ticks: 22,
                virtual_bytes: 23,
                resident_pages: 24,
            };
            assert_eq!(stat, expected, "{name}");
        }
        assert_eq!(Stat::parse("77 (jobmill) S 4 5"), None);
        assert_eq!(Stat::parse(""), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }

    #[test]
    fn the_process_is_measured() {
        let factory = MetricFactory(Registry::new());
        register(&factory).unwrap();
        let read = |name: &str| {
            let families = factory.0.gather();
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        let start = read("process_start_time_seconds");
        assert!(start > 1_600_000_000.0, "{start}");
        assert!(read("process_threads") >= 1.0);
        assert!(read("process_resident_memory_bytes") > 100_000.0);
        assert!(read("process_virtual_memory_bytes") > read("process_resident_memory_bytes"));
        assert!(read("process_max_fds") >= read("process_open_fds"));
        // Tests of other threads may open files meanwhile, but not this many.
        let before = read("process_open_fds");
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(read("process_open_fds") >= before + 100.0);
        drop(files);
        let cpu = read("process_cpu_seconds_total");
        let is_later = |_| read("process_cpu_seconds_total") >= cpu + 0.02;
        assert!((0..1_000_000).any(is_later), "processor time stands still");
    }
}
