//! Where a container's output goes, and how much of it is kept.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::spec::size;

/// The most drivers a container may have at once.
pub const MAX_DRIVERS: usize = 2;

/// `--log-driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A file of `TIME STREAM F|P TEXT` lines, as kubelet and podman read it.
    K8sFile,
    /// A file of JSON objects, as Docker writes it.
    JsonFile,
    /// A file of the bytes as they are.
    Raw,
    /// The host's journal.
    Journald,
    /// Nowhere.
    None,
}

impl Driver {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::K8sFile, Self::JsonFile, Self::Raw, Self::Journald, Self::None];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::K8sFile => "k8s-file",
            Self::JsonFile => "json-file",
            Self::Raw => "raw",
            Self::Journald => "journald",
            Self::None => "none",
        }
    }

    /// The name of the file it writes, in the container's log directory; older ones have `.1`, `.2` …
    /// behind it.
    pub fn file(self) -> Option<&'static str> {
        match self {
            Self::K8sFile => Some("current.log"),
            Self::JsonFile => Some("current.json"),
            Self::Raw => Some("current.raw"),
            Self::Journald | Self::None => None,
        }
    }
}

impl FromStr for Driver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|driver| driver.name() == text).ok_or_else(|| {
            Error::usage(format!("--log-driver {text:?}"), "is none that podrun knows")
                .hint("k8s-file, json-file, raw, journald or none")
        })
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to output that cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// It waits, and with it, once the pipe is full, the container.
    #[default]
    Block,
    /// It is dropped, and counted.
    Drop,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// One or two different ones.
    pub drivers: Vec<Driver>,
    /// How many bytes a file may have; any number where absent.
    pub max_size: Option<u64>,
    /// How many files there may be, the current one included; at least one.
    pub max_files: u32,
    /// When the disk is full.
    pub on_full: OnFull,
}

impl Default for Logging {
    fn default() -> Self {
        Self { drivers: vec![Driver::K8sFile], max_size: None, max_files: 1, on_full: OnFull::Block }
    }
}

/// The smallest `max-size`: room for one record of the longest kind, 16 KiB of control characters in
/// JSON.
pub const MIN_SIZE: u64 = 128 << 10;

impl Logging {
    /// What `--log-driver` and `--log-opt`, each given any number of times, mean.
    pub fn parse<S: AsRef<str>>(drivers: &[S], options: &[S]) -> Result<Self> {
        let mut logging = Self::default();
        let list = |texts: &[S]| -> Vec<String> {
            texts.iter().flat_map(|text| text.as_ref().split(',').map(str::to_owned)).collect()
        };
        if !drivers.is_empty() {
            logging.drivers = list(drivers).iter().map(|text| text.parse()).collect::<Result<_>>()?;
        }
        for option in list(options) {
            logging.option(&option)?;
        }
        let wrong = |why: &str| Err(Error::usage("--log-driver", why));
        for (index, driver) in logging.drivers.iter().enumerate() {
            if logging.drivers[..index].contains(driver) {
                return wrong(&format!("{driver} is given twice"));
            }
        }
        if logging.drivers.len() > MAX_DRIVERS {
            return wrong("more than two at once");
        }
        if logging.drivers.len() > 1 && logging.drivers.contains(&Driver::None) {
            return wrong("none cannot be combined with another");
        }
        if logging.max_files > 1 && logging.max_size.is_none() {
            return Err(Error::usage("--log-opt max-file", "has no effect without max-size")
                .hint("--log-opt max-size=10m,max-file=3"));
        }
        Ok(logging)
    }

    fn option(&mut self, option: &str) -> Result<()> {
        let wrong = |why: String| {
            Error::usage(format!("--log-opt {option:?}"), why).hint("max-size=10m,max-file=3,mode=block|drop")
        };
        match option.split_once('=') {
            Some(("max-size", value)) => {
                let size = size::parse(value).map_err(|why| wrong(why.to_owned()))?;
                let size = u64::try_from(size).unwrap_or(0);
                if size < MIN_SIZE {
                    return Err(wrong(format!("is less than {}k", MIN_SIZE >> 10)));
                }
                self.max_size = Some(size);
            }
            Some(("max-file", value)) => {
                let files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                self.max_files =
                    files.ok_or_else(|| wrong("is not a number of files from 1 to 1000".to_owned()))?;
            }
            Some(("mode", "block")) => self.on_full = OnFull::Block,
            Some(("mode", "drop")) => self.on_full = OnFull::Drop,
            _ => return Err(wrong("is none that podrun knows".to_owned())),
        }
        Ok(())
    }

    /// The drivers as [`Logging::parse`] reads them; `None` where they are the default.
    pub fn driver_text(&self) -> Option<String> {
        let names: Vec<_> = self.drivers.iter().map(|driver| driver.name()).collect();
        (self.drivers != Self::default().drivers).then(|| names.join(","))
    }

    /// The options as [`Logging::parse`] reads them; `None` where they are the default.
    pub fn option_text(&self) -> Option<String> {
        let default = Self::default();
        let size = self.max_size.map(|size| format!("max-size={size}"));
        let files = (self.max_files != default.max_files).then(|| format!("max-file={}", self.max_files));
        let mode = (self.on_full == OnFull::Drop).then(|| "mode=drop".to_owned());
        let options: Vec<_> = [size, files, mode].into_iter().flatten().collect();
        (!options.is_empty()).then(|| options.join(","))
    }

    /// The relay, through which those who watch see what no log shows them: it holds so much, and what
    /// is too slow for it misses some.
    pub fn relay() -> Self {
        Self { max_size: Some(1 << 20), max_files: 8, on_full: OnFull::Drop, ..Self::default() }
    }

    /// The driver whose file `podrun logs` reads.
    pub fn readable(&self) -> Option<Driver> {
        [Driver::K8sFile, Driver::JsonFile, Driver::Raw]
            .into_iter()
            .find(|driver| self.drivers.contains(driver))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let parse = |drivers: &[&str], options: &[&str]| Logging::parse(drivers, options);
        for (drivers, options) in [
            (&["syslog"][..], &[][..]),
            (&["raw", "raw"], &[]),
            (&["raw", "none"], &[]),
            (&["raw", "k8s-file", "json-file"], &[]),
            (&[], &["max-size=1"]),
            (&[], &["max-size=1x"]),
            (&[], &["max-size=99999999999g"]),
            (&[], &["max-file=2"]),
            (&[], &["max-size=1m,max-file=0"]),
            (&[], &["mode=sometimes"]),
            (&[], &["colour=red"]),
        ] {
            assert!(parse(drivers, options).is_err(), "{drivers:?} {options:?}");
        }
        let logging = parse(&["raw", "journald"], &["max-size=10m,max-file=3", "mode=drop"]).unwrap();
        assert_eq!(logging.drivers, [Driver::Raw, Driver::Journald]);
        assert_eq!((logging.max_size, logging.max_files), (Some(10 << 20), 3));
        assert_eq!(logging.on_full, OnFull::Drop);
    }

    pub(crate) fn any_logging() -> impl Strategy<Value = Logging> {
        let drivers = prop::sample::subsequence(Driver::ALL[..4].to_vec(), 1..=2);
        (drivers, prop::option::of(MIN_SIZE..=i64::MAX.cast_unsigned()), 1..1000u32, any::<bool>()).prop_map(
            |(drivers, max_size, max_files, drop)| Logging {
                drivers,
                max_size,
                max_files: if max_size.is_some() { max_files } else { 1 },
                on_full: if drop { OnFull::Drop } else { OnFull::Block },
            },
        )
    }

    proptest! {
        #[test]
        fn settings_come_back_from_their_text(logging in any_logging()) {
            let (drivers, options) = (logging.driver_text(), logging.option_text());
            let back = Logging::parse(drivers.as_slice(), options.as_slice()).unwrap();
            prop_assert_eq!(back, logging);
        }
    }
}
