//! Settings of a [`Resilient`](super::Resilient) registry.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use crate::{RegistryError, RegistryUri};

/// When a list that shrinks is not believed.
///
/// If of the instances of a service more than so many per cent are missing in the first list after
/// a fault of the registry, or three or more and so many per cent lapse within ten seconds, then
/// it is more likely that the registry is wrong than that they are gone. They are kept for a while,
/// which the log and [`Snapshot::source`](crate::Snapshot::source) say; then the registry is
/// believed. Those that leave in order are gone at once in any case.
///
/// At most [`max_kept`](Self::max_kept) instances of a service are kept, those that were listed for
/// longest. So a mass of short-lived registrations is not kept completely and does not displace
/// older instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Protection {
    /// How many per cent of a list may be missing. Default 50; 100: no protection.
    pub percent: u8,
    /// How long the missing are kept. Default 5 minutes.
    pub hold: Duration,
    /// Maximum missing instances of a service that are kept. Default 20,000.
    pub max_kept: usize,
}

impl Default for Protection {
    fn default() -> Self {
        Self { percent: 50, hold: Duration::from_secs(300), max_kept: 20_000 }
    }
}

impl Protection {
    /// Everything is believed.
    pub fn off() -> Self {
        Self { percent: 100, ..Self::default() }
    }

    /// Another share of a list may be missing, in per cent.
    pub fn with_percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    /// The missing are kept for another time.
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets the maximum of missing instances of a service that are kept.
    pub fn with_max_kept(mut self, instances: usize) -> Self {
        self.max_kept = instances;
        self
    }

    pub(super) fn is_much(&self, gone: usize, known: usize) -> bool {
        gone.saturating_mul(100) > known.saturating_mul(self.percent.into())
    }
}

/// What a [`Resilient`](crate::Resilient) registry adds to its back end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResilientSettings {
    /// When a list is not believed.
    pub protection: Protection,
    /// The folder of the cache files; `None`, the default: nothing is remembered across processes.
    pub cache: Option<PathBuf>,
    /// Whose cache it is. Empty, the default: the name of the program.
    pub application: String,
}

impl ResilientSettings {
    /// The names of the parameters that [`from_uri`](Self::from_uri) understands.
    pub const PARAMS: [&'static str; 5] =
        ["cache", "app", "protect_percent", "protect_ms", "protect_max"];

    /// Reads them from a registry's URI:
    ///
    /// | parameter | value |
    /// | --- | --- |
    /// | `cache=` | the folder of the cache file, or `off`; default `rpc-registry` in the user's cache folder (`$XDG_CACHE_HOME`, `$HOME/.cache`; none if neither is set) |
    /// | `app=` | the application whose cache it is; default the program's name |
    /// | `protect_percent=` | [`Protection::percent`], 0 to 100, default 50 |
    /// | `protect_ms=` | [`Protection::hold`] in milliseconds, 0 to 86400000, default 300000 |
    /// | `protect_max=` | [`Protection::max_kept`], 0 to 1000000, default 20000 |
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` for a value out of range.
    pub fn from_uri(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let percent = uri.number("protect_percent", 50, 0..=100)?;
        let hold = uri.number("protect_ms", 300_000, 0..=86_400_000)?;
        let max_kept = uri.number("protect_max", 20_000, 0..=1_000_000)?;
        let protection = Protection {
            percent: u8::try_from(percent).unwrap_or(u8::MAX),
            hold: Duration::from_millis(hold),
            max_kept: usize::try_from(max_kept).unwrap_or(usize::MAX),
        };
        let cache = match uri.param("cache") {
            None => default_cache(),
            Some("off") => None,
            Some("") => return Err(uri.wrong("the parameter \"cache\" names no folder")),
            Some(folder) => Some(PathBuf::from(folder)),
        };
        let application = uri.param("app").unwrap_or_default().to_owned();
        Ok(Self { protection, cache, application })
    }

    /// The cache file for the registry with this URI.
    pub(super) fn cache_file(&self, uri: &str) -> Option<PathBuf> {
        let folder = self.cache.as_ref()?;
        let application = match self.application.as_str() {
            "" => program()?,
            named => named.to_owned(),
        };
        let readable = application.chars().take(80).map(|c| match c {
            c if c.is_ascii_alphanumeric() || "-_".contains(c) => c,
            _ => '-',
        });
        // Registries are told apart by where they are, not by how they are used.
        let place = uri.split_once('?').map_or(uri, |(place, _)| place);
        let mut hasher = DefaultHasher::new();
        (place, &application).hash(&mut hasher);
        let name = format!("{}-{:016x}.json", readable.collect::<String>(), hasher.finish());
        Some(folder.join(name))
    }
}

fn default_cache() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("rpc-registry"))
}

fn program() -> Option<String> {
    let path = env::current_exe().ok()?;
    Some(path.file_stem()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Result<ResilientSettings, RegistryError> {
        ResilientSettings::from_uri(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn every_parameter_has_its_effect() {
        let protected = "protect_percent=80&protect_ms=1000&protect_max=7";
        let read = settings(&format!("etcd://h?cache=/c&app=shop&{protected}")).unwrap();
        assert_eq!(read.protection.percent, 80);
        assert_eq!(read.protection.hold, Duration::from_secs(1));
        assert_eq!(read.protection.max_kept, 7);
        assert_eq!((read.cache, read.application.as_str()), (Some("/c".into()), "shop"));
        assert_eq!(settings("etcd://h?cache=off").unwrap().cache, None);
        for bad in ["protect_percent=101", "protect_ms=x", "cache="] {
            assert!(settings(&format!("etcd://h?{bad}")).unwrap_err().is_invalid_uri(), "{bad}");
        }
    }

    #[test]
    fn each_registry_and_application_has_a_file_of_its_own() {
        let of = |app: &str, uri: &str| {
            let cache = Some("/c".into());
            let application = app.to_owned();
            ResilientSettings { cache, application, ..Default::default() }.cache_file(uri).unwrap()
        };
        let one = of("shop", "etcd://h/p?ttl=5");
        assert_eq!(one, of("shop", "etcd://h/p?ttl=9"));
        assert_ne!(one, of("shop", "etcd://h/q"));
        assert_ne!(one, of("till", "etcd://h/p"));
        let odd = of("../x y", "etcd://h/p");
        assert_eq!(odd.parent(), Some("/c".as_ref()));
        assert!(ResilientSettings::default().cache_file("etcd://h").is_none());
    }
}
